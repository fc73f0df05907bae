"""What each known upstream does with a prompt cache key: a table of facts with their sources.

A new provider is one row here, one in its test and one in docs/upstreams.md.
"""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Literal, NamedTuple

# gpt-5-2025-08-07 is 5, gpt-5.6.1-mini is 5.6, gpt-5.10 is later, ft:gpt-6:team is 6.
_GPT = re.compile(r"(?:ft:)?gpt-([0-9]{1,3})(?:[.]([0-9]{1,3}))?(?![0-9])")

# Azure takes the name of a deployment for the model; by default it is the model's own.
_BY_OPENAI = re.compile(r"(?<![a-z])(chatgpt|codex|gpt-?[0-9]|model-router|o[0-9])", re.IGNORECASE)
_BY_OTHERS = re.compile(
    r"claude|codestral|cohere|command|deepseek|glm|grok|jamba|kimi|llama|minimax|ministral|mistral"
    r"|nemotron|phi-|qwen",
    re.IGNORECASE,
)


class Upstream(NamedTuple):
    """What is known of an upstream; the defaults hold where nothing is."""

    name: str = ""
    """Short, for people; empty: nothing is known."""
    source: str = ""
    """The page that says so."""
    since: str = ""
    """The month from which on it is known, such as `2026-07`."""
    domains: tuple[str, ...] = ()
    """Where it is: each stands for itself and for all names below it; `*` for any characters."""
    path: str = ""
    """Which requests it is about: a regular expression that is searched in path and query."""
    model: Callable[[str], object] | None = None
    """Whether it is about a model; None: about all."""
    rejects: bool = False
    """It answers 400 or 422 because of the field."""
    scope: Literal["session", "user"] = "session"
    """Who shares a key, if one goes by its documentation."""
    headers: tuple[str, ...] = ()
    """What it routes by besides the key, or in place of it."""
    retention: int = 600
    """Seconds for which a prefix is kept without use."""
    reports: bool = True
    """It says how many tokens it has read from its cache."""
    is_limited: bool = False
    """More than 15 requests a minute with one key go to other machines."""
    diagnoses: bool = False
    """It understands `prompt_cache_options.comparison_response_id`, and says why it missed."""
    is_anthropic: bool = False
    """It is Anthropic's own: `cache_control` decides what is kept, and for how long."""


def upstream_of(host: str, path: str, model: str, asked_for: str = "") -> Upstream:
    """Return what is known of where a request goes: the first row of the table that matches.

    The path may have a query, a host a dot or a port at its end. Where nothing is known of the host
    that is connected to, the one that is `asked_for` counts, as behind a tunnel.
    """
    for each in (host, asked_for) if asked_for not in ("", host) else (host,):
        for row in _rows_at(each):
            if re.search(row.path, path) and (not row.model or row.model(model)):
                return row
    return Upstream()


def is_gpt_5_6_or_later(model: str) -> bool:
    """Whether a model of OpenAI's is one whose requests OpenAI routes by itself."""
    version = _GPT.match(model)
    return version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)


def _is_not_openai(model: str) -> bool:
    return not _BY_OPENAI.search(model)


@lru_cache(maxsize=256)
def _rows_at(host: str) -> tuple[Upstream, ...]:
    name = "." + host.lower().partition(":")[0].removesuffix(".")
    return tuple(
        row for row in UPSTREAMS if any(fnmatchcase(name, f"*.{each}") for each in row.domains)
    )


_OPENAI = "https://developers.openai.com/api/docs/guides/prompt-caching"
_CODEX = "https://github.com/openai/codex/issues/44716"
_AZURE = "https://learn.microsoft.com/azure/foundry/openai/how-to/prompt-caching"
_AZURE_ERROR = "https://github.com/vectorize-io/hindsight/issues/3518"
_XAI = "https://docs.x.ai/developers/advanced-api-usage/prompt-caching/maximizing-cache-hits"
_FIREWORKS = "https://docs.fireworks.ai/guides/prompt-caching"
_WORKERS = "https://developers.cloudflare.com/workers-ai/features/prompt-caching"
_OPENCODE = "https://opencode.ai/docs/go/"
_OPENROUTER = "https://openrouter.ai/docs/guides/best-practices/prompt-caching"
_MOONSHOT = "https://platform.moonshot.ai/docs/api/chat"
_MISTRAL = "https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching"
_DEEPINFRA = "https://docs.deepinfra.com/chat/prompt-caching"
_DEEPSEEK = "https://api-docs.deepseek.com/guides/kv_cache"
_TOGETHER = "https://docs.together.ai/docs/serverless/overview"
_CLAUDE = "https://platform.claude.com/docs/en/api/messages"
_GEMINI_ERROR = "https://github.com/leookun/cursor-byok/issues/112"
_ERRORS = "https://github.com/zed-industries/zed/issues/36215"  # of Groq and Cerebras
_NIM_ERROR = "https://github.com/sipeed/picoclaw/issues/1019"

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

UPSTREAMS: Final = (
    _GPT_5_6._replace(
        name="OpenAI Responses, GPT-5.6 and later",
        source=f"{_OPENAI}/diagnostics",
        path=r"/responses([?]|$)",
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
        headers=("session-id",),
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
    Upstream(
        "Azure, OpenAI's models",
        _AZURE,
        "2026-11",
        ("services.ai.azure.com", *_AZURE_HOSTS),
        is_limited=True,
    ),
    Upstream(
        "xAI Chat",
        _XAI,
        "2026-11",
        ("api.x.ai",),
        r"/chat/completions([?]|$)",
        headers=("x-grok-conv-id",),
    ),
    Upstream("xAI Responses", _XAI, "2026-11", ("api.x.ai",)),
    Upstream(
        "Fireworks",
        _FIREWORKS,
        "2026-11",
        ("api.fireworks.ai",),
        headers=("x-session-affinity",),
    ),
    Upstream(
        "Cloudflare Workers AI",
        _WORKERS,
        "2026-11",
        ("api.cloudflare.com",),
        "^/client/v4/accounts/[^/]+/ai/",
        headers=("x-session-affinity",),
    ),
    Upstream(
        "OpenCode Zen and Go",
        _OPENCODE,
        "2026-09",
        ("opencode.ai",),
        headers=("x-opencode-session",),
    ),
    Upstream("OpenRouter", _OPENROUTER, "2026-11", ("openrouter.ai",)),
    Upstream("Moonshot (Kimi)", _MOONSHOT, "2026-11", ("moonshot.ai", "moonshot.cn", "kimi.com")),
    Upstream("Mistral", _MISTRAL, "2026-05", ("api.mistral.ai",)),
    Upstream("DeepInfra", _DEEPINFRA, "2026-09", ("api.deepinfra.com",)),
    # What is not used goes after "a few hours to a few days".
    Upstream("DeepSeek", _DEEPSEEK, "2026-06", ("api.deepseek.com",), retention=7200),
    Upstream("Together", _TOGETHER, "2026-09", ("api.together.ai", "api.together.xyz")),
    Upstream(
        "Claude API",
        _CLAUDE,
        "2026-11",
        ("anthropic.com", "claude.ai", "claude.com"),
        rejects=True,
        retention=300,
    ),
    Upstream(
        "Amazon Bedrock",
        _CLAUDE,
        "2026-11",
        ("bedrock*.amazonaws.com",),
        rejects=True,
        retention=300,
    ),
    Upstream("Vertex AI, Gemini", _GEMINI_ERROR, "2026-06", ("googleapis.com",), rejects=True),
    Upstream("Groq", _ERRORS, "2025-08", ("groq.com",), rejects=True, retention=7200),
    Upstream("Cerebras", _ERRORS, "2025-08", ("api.cerebras.ai",), rejects=True, retention=300),
    Upstream(
        "NVIDIA NIM",
        _NIM_ERROR,
        "2026-03",
        ("integrate.api.nvidia.com",),
        rejects=True,
        reports=False,
    ),
)

REJECTING: Final = tuple(
    domain
    for row in UPSTREAMS
    if row.rejects and not row.path and not row.model
    for domain in row.domains
)
"""The domains that reject the field whatever the path and the model."""

# In a filter expression a quoted string eats backslashes, hence [.] and [?].
_REJECTING = "|".join(REJECTING).replace(".", "[.]").replace("*", "[^/]*")
GENERATIONS: Final = '~m ^POST$ & ~u "^[^?#]*/(messages|responses|chat/completions)([?#]|$)"'
"""The filter expression for requests that let a model speak."""
DEFAULT_FILTER: Final = f'{GENERATIONS} & !~d "(^|[.])({_REJECTING})[.]?$"'
"""The same without those domains."""
