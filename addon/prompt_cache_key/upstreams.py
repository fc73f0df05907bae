"""What each known upstream does with a prompt cache key: a table of facts with their sources.

A new upstream is one row here, one in `REQUESTS` of its test and one in docs/upstreams.md.

Everything in a host, path or model is chosen by a client: hosts over 253 characters (the longest
that DNS has) and hosts that are not ASCII match no row, of a model the first 256 characters count,
and each regular expression takes linear time.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal, NamedTuple

# gpt-5-2025-08-07 is 5, gpt-5.6.1-mini is 5.6, gpt-5.10 is later, ft:gpt-6:team is 6. At Bedrock
# openai.gpt-5.6-sol, us.openai.gpt-5.6-sol, or the ARN of an inference profile that ends so.
_GPT = re.compile(
    r"(?:ft:|(?:arn:[a-z0-9:-]{1,128}/)?(?:[a-z-]{2,12}[.])?openai[.])?"
    r"gpt-([0-9]{1,3})(?:[.]([0-9]{1,3}))?(?![0-9])"
)
_BY_OPENAI_AT_BEDROCK = re.compile(r"(?:arn:[a-z0-9:-]{1,128}/)?(?:[a-z-]{2,12}[.])?openai[.]")
_KIMI_K3 = re.compile(r"kimi-k(?:[3-9]|[1-9][0-9])")

# Azure takes the name of a deployment for the model; by default it is the model's own.
_BY_OPENAI = re.compile(r"(?<![a-z])(chatgpt|codex|gpt-?[0-9]|model-router|o[0-9])", re.IGNORECASE)
_BY_OTHERS = re.compile(
    r"claude|codestral|cohere|command|deepseek|glm|grok|jamba|kimi|llama|minimax|ministral|mistral"
    r"|nemotron|phi-|qwen",
    re.IGNORECASE,
)

MAX_HOST: Final = 253
MAX_MODEL: Final = 256


class RoutingHeader(NamedTuple):
    """A header by which an upstream finds the machine or provider that has a prompt cached."""

    name: str
    scope: Literal["key", "session"] = "key"
    """Whether it carries the request's key, or one that each session has of its own."""
    pattern: re.Pattern[str] = re.compile(r"[!-~]([ -~]*[!-~])?")
    """What the whole value has to match."""
    max_length: int = 256

    def takes(self, value: str) -> bool:
        """Return whether a value keeps to the upstream's limits."""
        return len(value) <= self.max_length and bool(self.pattern.fullmatch(value))


class Upstream(NamedTuple):
    """What is known of an upstream; the defaults hold where nothing is."""

    name: str = ""
    """Short, for people; empty: nothing is known."""
    source: str = ""
    """The page that says so."""
    since: str = ""
    """The month from which on it is known, such as `2026-07`."""
    domains: tuple[str, ...] = ()
    """Where it is: each stands for itself and for all names below it; `*` is any one label."""
    path: str = ""
    """Which requests it is about: a regular expression that is searched in the path."""
    model: Callable[[str], object] | None = None
    """Whether it is about a model; None: about all."""
    rejects: bool = False
    """It answers 400 or 422 because of the field: such requests are only observed."""
    scope: Literal["session", "user"] = "session"
    """Who shares a key with `prompt_cache_scope=auto`."""
    headers: tuple[RoutingHeader, ...] = ()
    """What it routes by besides the key, or in place of it."""
    retention: int = 600
    """Seconds for which a prefix is kept without use."""
    reports: bool = True
    """It says how many tokens it has read from its cache."""
    is_limited: bool = False
    """More than 15 requests a minute with one key go to other machines."""
    diagnoses: bool = False
    """It understands `prompt_cache_options.comparison_response_id`, and says why it missed."""
    strip: tuple[str, ...] = ()
    """The texts that cost hits there: what `prompt_cache_strip=auto` removes."""
    is_anthropic: bool = False
    """It is Anthropic's: attribution costs no hits, `cache_control` decides the retention."""


def upstream_of(host: str, path: str, model: str, asked_for: str = "") -> Upstream:
    """Return what is known of where a request goes: the first row of the table that matches.

    The path may have a query, a host a dot or a port at its end. Where nothing is known of the host
    that is connected to, the one that is `asked_for` counts, as behind a tunnel.
    """
    path, model = re.split("[?#]", path, maxsplit=1)[0], model[:MAX_MODEL]
    for each in (host, asked_for):
        for row in _rows_at(_bare(each)):
            if re.search(row.path, path) and (not row.model or row.model(model)):
                return row
    return Upstream()


def is_gpt_5_6_or_later(model: str) -> bool:
    """Whether a model of OpenAI's is one whose requests OpenAI routes by itself."""
    version = _GPT.match(model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)


def _is_not_openai(model: str) -> bool:
    return not _BY_OPENAI.search(model)


def _bare(host: str) -> str:
    """Return a host in lower case, without port and final dot; empty if it can be none."""
    name = host[: MAX_HOST + 7].partition(":")[0].removesuffix(".")
    return name.lower() if name.isascii() and len(name) <= MAX_HOST else ""


@lru_cache(maxsize=256)
def _rows_at(host: str) -> tuple[Upstream, ...]:
    labels = host.split(".")
    return tuple(
        row for row in UPSTREAMS if any(_is_at(labels, domain.split(".")) for domain in row.domains)
    )


def _is_at(labels: list[str], domain: list[str]) -> bool:
    last = labels[-len(domain) :]
    return len(last) == len(domain) and all(
        label and wanted in ("*", label) for label, wanted in zip(last, domain, strict=True)
    )


_OPENAI = "https://developers.openai.com/api/docs/guides/prompt-caching"
_CODEX = "https://github.com/openai/codex/issues/44716"
_AZURE = "https://learn.microsoft.com/azure/foundry/openai/how-to/prompt-caching"
_AZURE_ERROR = "https://github.com/vectorize-io/hindsight/issues/3518"
_BEDROCK = "https://docs.aws.amazon.com/bedrock/latest/userguide/inference-responses-api.html"
_BEDROCK_CACHE = "https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html"
_COPILOT = "https://github.com/github/gh-aw-firewall/issues/7544"
_XAI = "https://docs.x.ai/developers/advanced-api-usage/prompt-caching/maximizing-cache-hits"
_FIREWORKS = "https://docs.fireworks.ai/guides/prompt-caching"
_WORKERS = "https://developers.cloudflare.com/workers-ai/features/prompt-caching"
_OPENCODE = "https://opencode.ai/docs/go/"
_OPENROUTER = "https://openrouter.ai/docs/guides/best-practices/prompt-caching"
_KIMI_K3_CACHE = "https://forum.moonshot.ai/t/context-caching-upgrade-5-min-1-hour-ttl-options/613"
_MOONSHOT = "https://platform.kimi.ai/docs/api/chat"
_MISTRAL = "https://docs.mistral.ai/inference/conversations/advanced/prompt-caching"
_DEEPINFRA = "https://docs.deepinfra.com/chat/prompt-caching"
_DEEPSEEK_USER = "https://api-docs.deepseek.com/quick_start/rate_limit"
_DEEPSEEK = "https://api-docs.deepseek.com/guides/kv_cache"
_TOGETHER = "https://docs.together.ai/docs/serverless/overview"
_TENCENT = "https://cloud.tencent.com/document/product/1823/131410"
_ZAI = "https://github.com/openclaw/openclaw/pull/68079"
_NEBIUS = "https://docs.tokenfactory.nebius.com/api-reference/introduction"
_OLLAMA = "https://docs.ollama.com/api/openai-compatibility"
_DASHSCOPE = "https://www.alibabacloud.com/help/en/model-studio/context-cache"
_CLAUDE = "https://platform.claude.com/docs/en/api/messages"
_GEMINI_ERROR = "https://github.com/leookun/cursor-byok/issues/112"
_ERRORS = "https://github.com/zed-industries/zed/issues/36215"  # of Groq and Cerebras
_NIM_ERROR = "https://github.com/ILoveBingLu/CipherTalk/issues/353"
_ARK_ERROR = "https://github.com/dirge-code/dirge/pull/732"
_BASETEN = "https://docs.baseten.co/inference/model-apis/overview"

_GPT_5_6 = Upstream(
    "OpenAI, GPT-5.6 and later",
    _OPENAI,
    "2026-10",
    ("api.openai.com",),
    model=is_gpt_5_6_or_later,
    scope="user",
    retention=1800,
)
_AZURE_HOSTS = ("openai.azure.com", "cognitiveservices.azure.com")
_BEDROCK_HOSTS = (
    "bedrock-runtime.*.amazonaws.com",
    "bedrock-runtime-fips.*.amazonaws.com",
    "bedrock-runtime.*.vpce.amazonaws.com",
    "bedrock-mantle.*.api.aws",
)
_BEDROCK_OPENAI = "^(/openai)?/v1/(responses|chat/completions)$"
_MOONSHOT_HOSTS = ("moonshot.ai", "moonshot.cn", "kimi.com")

_ROWS: Final = (
    _GPT_5_6._replace(
        name="OpenAI Responses, GPT-5.6 and later",
        source=f"{_OPENAI}/diagnostics",
        path="/responses$",
        diagnoses=True,
    ),
    _GPT_5_6,
    # With Zero Data Retention it is 5 to 10 minutes.
    Upstream(
        "OpenAI, before GPT-5.6",
        _OPENAI,
        "2026-10",
        ("api.openai.com",),
        retention=1800,
        is_limited=True,
    ),
    Upstream(
        "Codex backend of ChatGPT",
        _CODEX,
        "2026-06",
        ("chatgpt.com",),
        "^/backend-api/codex(/|$)",
        headers=(RoutingHeader("session-id"),),
    ),
    Upstream(
        "Azure Foundry, not OpenAI's models",
        _AZURE_ERROR,
        "2026-08",
        ("services.ai.azure.com",),
        model=_is_not_openai,
        rejects=True,
    ),
    Upstream(
        "Azure OpenAI, others' models",
        _AZURE_ERROR,
        "2026-08",
        _AZURE_HOSTS,
        model=_BY_OTHERS.search,
        rejects=True,
    ),
    _GPT_5_6._replace(
        name="Azure, GPT-5.6 and later",
        source=_AZURE,
        since="2026-11",
        domains=("services.ai.azure.com", *_AZURE_HOSTS),
    ),
    Upstream(
        "Azure, OpenAI's models before",
        _AZURE,
        "2026-11",
        ("services.ai.azure.com", *_AZURE_HOSTS),
        is_limited=True,
    ),
    _GPT_5_6._replace(
        name="Amazon Bedrock, GPT-5.6 and later",
        source=_BEDROCK,
        since="2026-11",
        domains=_BEDROCK_HOSTS,
        path=_BEDROCK_OPENAI,
    ),
    Upstream(
        "Amazon Bedrock, OpenAI's models before",
        _BEDROCK,
        "2026-11",
        _BEDROCK_HOSTS,
        _BEDROCK_OPENAI,
        model=_BY_OPENAI_AT_BEDROCK.match,
    ),
    # Claude rejects the field; of the other models there nothing is known.
    Upstream(
        "Amazon Bedrock, Claude and others",
        _BEDROCK_CACHE,
        "2026-11",
        _BEDROCK_HOSTS,
        rejects=True,
        retention=300,
    ),
    # Responses take the key; of Chat and Messages nothing is known.
    Upstream(
        "GitHub Copilot",
        _COPILOT,
        "2026-08",
        ("githubcopilot.com",),
        headers=(RoutingHeader("x-interaction-id", "key", re.compile(r"[A-Za-z0-9_.-]+"), 128),),
    ),
    Upstream(
        "xAI Chat",
        _XAI,
        "2026-11",
        ("api.x.ai",),
        "/chat/completions$",
        headers=(RoutingHeader("x-grok-conv-id"),),
    ),
    Upstream("xAI Responses", _XAI, "2026-11", ("api.x.ai",)),
    Upstream(
        "Fireworks",
        _FIREWORKS,
        "2026-11",
        ("api.fireworks.ai",),
        headers=(RoutingHeader("x-session-affinity"),),
    ),
    Upstream(
        "Cloudflare Workers AI",
        _WORKERS,
        "2026-11",
        ("api.cloudflare.com",),
        "^/client/v4/accounts/[^/]+/ai/",
        headers=(RoutingHeader("x-session-affinity"),),
    ),
    Upstream(
        "OpenCode Zen and Go",
        _OPENCODE,
        "2026-09",
        ("opencode.ai",),
        headers=(RoutingHeader("x-opencode-session"),),
    ),
    # With the key alone a request goes to the provider of the last one only "after a cache hit".
    Upstream(
        "OpenRouter",
        _OPENROUTER,
        "2026-11",
        ("openrouter.ai",),
        headers=(RoutingHeader("x-session-id", "session"),),
    ),
    # Five minutes unless the tier of one hour is asked for.
    Upstream(
        "Moonshot, Kimi K3 and later",
        _KIMI_K3_CACHE,
        "2026-10",
        _MOONSHOT_HOSTS,
        model=_KIMI_K3.match,
        retention=300,
    ),
    Upstream("Moonshot, before Kimi K3", _MOONSHOT, "2026-11", _MOONSHOT_HOSTS),
    Upstream("Mistral", _MISTRAL, "2026-11", ("api.mistral.ai",)),
    Upstream("DeepInfra", _DEEPINFRA, "2026-09", ("api.deepinfra.com",)),
    # A cache of its own for each `metadata.user_id`, in which Claude Code puts the session.
    Upstream(
        "DeepSeek Messages",
        _DEEPSEEK_USER,
        "2026-11",
        ("api.deepseek.com",),
        "^/anthropic/",
        retention=7200,
        strip=("session",),
    ),
    # What is not used goes after "a few hours to a few days".
    Upstream("DeepSeek", _DEEPSEEK, "2026-06", ("api.deepseek.com",), retention=7200),
    Upstream("Together", _TOGETHER, "2026-09", ("api.together.ai", "api.together.xyz")),
    Upstream(
        "Tencent TokenHub",
        _TENCENT,
        "2026-05",
        ("tokenhub.tencentmaas.com",),
        headers=(RoutingHeader("x-session-id"),),
    ),
    # Measured by one user, neither documented nor merged: 52 to 96 % with the header.
    Upstream(
        "Z.ai (GLM), header doubtful",
        _ZAI,
        "2026-11",
        ("api.z.ai", "open.bigmodel.cn"),
        headers=(RoutingHeader("x-session-id"),),
    ),
    Upstream("Nebius", _NEBIUS, "2026-11", ("tokenfactory.nebius.com", "studio.nebius.com")),
    Upstream("Ollama Cloud", _OLLAMA, "2026-11", ("ollama.com",)),
    # It ignores the key.
    Upstream(
        "DashScope (Qwen)",
        _DASHSCOPE,
        "2026-11",
        ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com"),
    ),
    Upstream(
        "Claude API",
        _CLAUDE,
        "2026-11",
        ("anthropic.com", "claude.ai", "claude.com"),
        rejects=True,
        retention=300,
        is_anthropic=True,
    ),
    Upstream("Vertex AI, Gemini", _GEMINI_ERROR, "2026-06", ("googleapis.com",), rejects=True),
    Upstream("Groq", _ERRORS, "2025-08", ("groq.com",), rejects=True, retention=7200),
    Upstream("Cerebras", _ERRORS, "2025-08", ("api.cerebras.ai",), rejects=True, retention=300),
    Upstream(
        "NVIDIA NIM",
        _NIM_ERROR,
        "2026-08",
        ("integrate.api.nvidia.com",),
        rejects=True,
        reports=False,
    ),
    Upstream("Volcengine Ark", _ARK_ERROR, "2026-11", ("volces.com",), rejects=True),
    Upstream("Baseten", _BASETEN, "2026-11", ("inference.baseten.co",), rejects=True),
)

UPSTREAMS: Final = tuple(
    row if row.is_anthropic else row._replace(strip=("attribution", *row.strip)) for row in _ROWS
)
"""All rows. The attribution block means something to Anthropic alone; everywhere else it differs
in each conversation and stands in front of all that could be read from the cache."""

_TAKING: Final = {domain for row in UPSTREAMS if not row.rejects for domain in row.domains}
REJECTING: Final = tuple(
    domain
    for row in UPSTREAMS
    if row.rejects and not row.path and not row.model
    for domain in row.domains
    if domain not in _TAKING
)
"""The domains that reject the field whatever the path and the model."""

# In a filter expression a quoted string eats backslashes, hence [.] and [?].
_REJECTING = "|".join(REJECTING).replace(".", "[.]")
GENERATIONS: Final = '~m ^POST$ & ~u "^[^?#]*/(messages|responses|chat/completions)([?#]|$)"'
"""The filter expression for requests that let a model speak."""
DEFAULT_FILTER: Final = f'{GENERATIONS} & !~d "(^|[.])({_REJECTING})[.]?$"'
"""The same without those domains."""
