import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import flowfilter
from mitmproxy.http import Request
from mitmproxy.test import tflow
from prompt_cache_key.upstreams import (
    DEFAULT_FILTER,
    GENERATIONS,
    MAX_HOST,
    REJECTING,
    UPSTREAMS,
    RoutingHeader,
    Upstream,
    is_gpt_5_6_or_later,
    upstream_of,
)

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages?beta=true"
WORKERS = "/client/v4/accounts/0123abc"
AZURE = "/openai/v1/responses"
RUNTIME, MANTLE = "bedrock-runtime.us-east-1.amazonaws.com", "bedrock-mantle.eu-west-1.api.aws"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:inference-profile"

# For each row of the table, in its order: requests of which it is said.
REQUESTS = [
    ("OpenAI Responses, GPT-5.6 and later", "api.openai.com", RESPONSES, "gpt-6"),
    ("OpenAI Responses, GPT-5.6 and later", "api.openai.com", f"{RESPONSES}?stream=true", "gpt-6"),
    ("OpenAI, GPT-5.6 and later", "api.openai.com", CHAT, "gpt-6.1-mini"),
    ("OpenAI, before GPT-5.6", "api.openai.com", RESPONSES, "gpt-5.4"),
    ("OpenAI, before GPT-5.6", "api.openai.com", CHAT, "o3"),
    ("OpenAI, before GPT-5.6", "api.openai.com", CHAT, ""),
    ("Codex backend of ChatGPT", "chatgpt.com", "/backend-api/codex/responses", "gpt-6"),
    *(
        ("Azure Foundry, not OpenAI's models", "x.services.ai.azure.com", AZURE, model)
        for model in ("DeepSeek-V4", "claude-opus-5", "gpt-oss-120b", "pro1", "")
    ),
    ("Azure OpenAI, others' models", "x.openai.azure.com", AZURE, "DeepSeek-V4"),
    ("Azure OpenAI, others' models", "x.cognitiveservices.azure.com", AZURE, "Kimi-K2.7-Code"),
    ("Azure, GPT-5.6 and later", "x.services.ai.azure.com", AZURE, "gpt-6"),
    ("Azure, GPT-5.6 and later", "x.openai.azure.com", AZURE, "gpt-5.6-sol"),
    *(
        ("Azure, OpenAI's models before", "x.services.ai.azure.com", AZURE, model)
        for model in ("gpt-5.4", "team-GPT5", "o4-mini")
    ),
    ("Azure, OpenAI's models before", "x.openai.azure.com", AZURE, "production"),
    ("Azure, OpenAI's models before", "x.cognitiveservices.azure.com", AZURE, ""),
    *(
        ("Amazon Bedrock, GPT-5.6 and later", host, path, model)
        for host in (RUNTIME, MANTLE, "bedrock-runtime-fips.us-gov-west-1.amazonaws.com")
        for path in ("/openai/v1/responses", "/openai/v1/chat/completions?x=1")
        for model in ("openai.gpt-5.6-sol", "us.openai.gpt-6", f"{PROFILE}/us-gov.openai.gpt-6.1")
    ),
    ("Amazon Bedrock, GPT-5.6 and later", MANTLE, RESPONSES, "openai.gpt-5.6-sol"),
    ("Amazon Bedrock, OpenAI's models before", MANTLE, CHAT, "openai.gpt-oss-120b"),
    ("Amazon Bedrock, OpenAI's models before", RUNTIME, "/openai/v1/responses", "openai.gpt-5.4"),
    *(
        ("Amazon Bedrock, Claude and others", host, path, model)
        for host in (RUNTIME, MANTLE, "vpce-1-x.bedrock-runtime.us-east-1.vpce.amazonaws.com")
        for path, model in (
            ("/anthropic/v1/messages", "anthropic.claude-opus-5-5"),
            ("/anthropic/v1/messages", "openai.gpt-6"),
            (MESSAGES, "us.anthropic.claude-opus-5-5"),
            (CHAT, "deepseek.v4"),
            (CHAT, f"{PROFILE}/x1y2"),
            (CHAT, ""),
        )
    ),
    ("GitHub Copilot", "api.githubcopilot.com", "/chat/completions", "claude-opus-5.5"),
    ("GitHub Copilot", "api.business.githubcopilot.com", "/responses", "gpt-5.6-codex"),
    ("xAI Chat", "api.x.ai", CHAT, "grok-5"),
    ("xAI Chat", "eu-west-1.api.x.ai", CHAT, "grok-5"),
    ("xAI Responses", "api.x.ai", RESPONSES, "grok-5"),
    ("Fireworks", "api.fireworks.ai", "/inference/v1/chat/completions", "accounts/x/models/y"),
    ("Cloudflare Workers AI", "api.cloudflare.com", f"{WORKERS}/ai/v1/chat/completions", "@cf/m"),
    ("OpenCode Zen and Go", "opencode.ai", "/zen/go/v1/chat/completions", "glm-5.3"),
    ("OpenRouter", "openrouter.ai", "/api/v1/chat/completions", "openai/gpt-6"),
    ("Moonshot, Kimi K3 and later", "api.moonshot.ai", CHAT, "kimi-k3"),
    ("Moonshot, Kimi K3 and later", "api.moonshot.cn", CHAT, "kimi-k3.1-pro"),
    ("Moonshot, Kimi K3 and later", "api.moonshot.ai", "/anthropic/v1/messages", "kimi-k10"),
    ("Moonshot, before Kimi K3", "api.moonshot.ai", CHAT, "kimi-k2.7-code"),
    ("Moonshot, before Kimi K3", "api.kimi.com", "/coding/v1/messages", "kimi-for-coding"),
    ("Mistral", "api.mistral.ai", CHAT, "devstral-2512"),
    ("DeepInfra", "api.deepinfra.com", "/v1/openai/chat/completions", "zai-org/GLM-5"),
    ("DeepSeek Messages", "api.deepseek.com", "/anthropic/v1/messages", "deepseek-v4-pro"),
    ("DeepSeek", "api.deepseek.com", "/chat/completions", "deepseek-v4-pro"),
    ("DeepSeek", "api.deepseek.com", f"{CHAT}?x=/anthropic/", "deepseek-v4-pro"),
    ("Together", "api.together.ai", CHAT, "m"),
    ("Together", "api.together.xyz", CHAT, "m"),
    ("Tencent TokenHub", "tokenhub.tencentmaas.com", CHAT, "hy3"),
    ("Z.ai (GLM), header doubtful", "api.z.ai", "/api/anthropic/v1/messages", "glm-5.3"),
    ("Z.ai (GLM), header doubtful", "open.bigmodel.cn", "/api/paas/v4/chat/completions", "glm-5"),
    ("Nebius", "api.tokenfactory.nebius.com", CHAT, "deepseek-ai/DeepSeek-V4"),
    ("Nebius", "api.studio.nebius.com", CHAT, "m"),
    ("Ollama Cloud", "ollama.com", CHAT, "glm-5.3:cloud"),
    ("DashScope (Qwen)", "dashscope.aliyuncs.com", "/compatible-mode/v1/responses", "qwen4-max"),
    ("DashScope (Qwen)", "dashscope-intl.aliyuncs.com", "/apps/anthropic/v1/messages", "qwen4"),
    ("DashScope (Qwen)", "dashscope-us.aliyuncs.com", CHAT, "qwen4-max"),
    ("Claude API", "api.anthropic.com", MESSAGES, "claude-opus-5-5"),
    ("Claude API", "claude.ai", MESSAGES, "m"),
    ("Claude API", "platform.claude.com", MESSAGES, "m"),
    ("Vertex AI, Gemini", "europe-west1-aiplatform.googleapis.com", MESSAGES, "m"),
    ("Groq", "api.groq.com", "/openai/v1/chat/completions", "m"),
    ("Cerebras", "api.cerebras.ai", CHAT, "gpt-oss-120b"),
    ("NVIDIA NIM", "integrate.api.nvidia.com", CHAT, "z-ai/glm4.7"),
    ("Volcengine Ark", "ark.cn-beijing.volces.com", "/api/v3/responses", "doubao-seed-2-1"),
    ("Baseten", "inference.baseten.co", CHAT, "zai-org/GLM-5"),
]


def test_each_row_is_found_and_has_its_source() -> None:
    assert list(dict.fromkeys(name for name, *_ in REQUESTS)) == [row.name for row in UPSTREAMS]
    for name, *request in REQUESTS:
        row = upstream_of(*request)
        assert row.name == name, request
        assert re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]+/\S+", row.source), row
        assert re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])", row.since), row


def of(field: str) -> dict[str, object]:
    """Return what the rows say that differ in a field from what holds by default."""
    default = getattr(Upstream(), field)
    return {row.name: each for row in UPSTREAMS if (each := getattr(row, field)) != default}


NEWEST = ["OpenAI Responses, GPT-5.6 and later", "OpenAI, GPT-5.6 and later"]
NEWEST_ELSEWHERE = ["Azure, GPT-5.6 and later", "Amazon Bedrock, GPT-5.6 and later"]
CLAUDE_AT_BEDROCK = "Amazon Bedrock, Claude and others"
WHOLE_HOSTS = [
    *("Claude API", "Vertex AI, Gemini", "Groq", "Cerebras", "NVIDIA NIM"),
    *("Volcengine Ark", "Baseten"),
]


def test_what_the_rows_say() -> None:
    assert of("scope") == dict.fromkeys(NEWEST + NEWEST_ELSEWHERE, "user")
    assert of("diagnoses") == {NEWEST[0]: True}
    assert of("retention") == {
        **dict.fromkeys([*NEWEST, *NEWEST_ELSEWHERE, "OpenAI, before GPT-5.6"], 1800),
        **dict.fromkeys(["DeepSeek Messages", "DeepSeek", "Groq"], 7200),
        **dict.fromkeys(["Claude API", CLAUDE_AT_BEDROCK, "Cerebras"], 300),
        "Moonshot, Kimi K3 and later": 300,
    }
    assert of("reports") == {"NVIDIA NIM": False}
    limited = ["OpenAI, before GPT-5.6", "Azure, OpenAI's models before"]
    assert of("is_limited") == dict.fromkeys(limited, True)
    azure = ["Azure Foundry, not OpenAI's models", "Azure OpenAI, others' models"]
    assert of("rejects") == dict.fromkeys([*azure, CLAUDE_AT_BEDROCK, *WHOLE_HOSTS], True)
    assert of("is_anthropic") == {"Claude API": True}


def test_attribution_goes_everywhere_but_at_anthropic_and_the_session_at_deepseek() -> None:
    others = [row.name for row in UPSTREAMS if row.name != "Claude API"]
    assert of("strip") == {
        **dict.fromkeys(others, ("attribution",)),
        "DeepSeek Messages": ("attribution", "session"),
    }


def test_the_headers_that_upstreams_route_by() -> None:
    found = {row.name: header for row in UPSTREAMS for header in row.headers}
    assert {name: (header.name, header.scope) for name, header in found.items()} == {
        "Codex backend of ChatGPT": ("session-id", "key"),
        "GitHub Copilot": ("x-interaction-id", "key"),
        "xAI Chat": ("x-grok-conv-id", "key"),
        "Fireworks": ("x-session-affinity", "key"),
        "Cloudflare Workers AI": ("x-session-affinity", "key"),
        "OpenCode Zen and Go": ("x-opencode-session", "key"),
        "OpenRouter": ("x-session-id", "session"),
        "Tencent TokenHub": ("x-session-id", "key"),
        "Z.ai (GLM), header doubtful": ("x-session-id", "key"),
    }
    assert all(len(row.headers) <= 1 for row in UPSTREAMS)


@pytest.mark.parametrize(
    ("value", "by_copilot", "by_others"),
    [
        *((value, True, True) for value in ("a", "3f6c1c1e-6d0b-4d0e", "A.b_c-9", "a" * 128)),
        *((value, False, True) for value in ("a b", "user:1", "{}", "a" * 129, "a" * 256, "~!")),
        *((value, False, False) for value in ("", " ", " a", "a ", "a\n", "a\0", "é", "a" * 257)),
        *(("\u0660", False, False), ("a\r\nb: c", False, False), ("a\tb", False, False)),
    ],
)
def test_the_limits_of_a_header(value: str, by_copilot: bool, by_others: bool) -> None:
    (copilot,) = upstream_of("api.githubcopilot.com", CHAT, "m").headers
    (router,) = upstream_of("openrouter.ai", CHAT, "m").headers
    assert copilot.takes(value) is by_copilot
    assert router.takes(value) is RoutingHeader("x").takes(value) is by_others


def test_nothing_is_known_of_others() -> None:
    known = {name: default for name, default in Upstream()._asdict().items() if default}
    assert known == {"scope": "session", "retention": 600, "reports": True}
    for host in ["", ".", "gateway.test", "127.0.0.1", "127.0.0.1:8080", "::1", "[::1]:4000", "ü"]:
        for path in ["", *(path for _, _, path, _ in REQUESTS)]:
            assert upstream_of(host, path, "gpt-6") == Upstream()


@pytest.mark.parametrize(
    "host",
    [
        *("bedrock-runtime.amazonaws.com", "bedrock-mantle.test"),
        *("my-gateway.eu-west-1.elb.amazonaws.com", "amazonaws.com", "s3.us-east-1.amazonaws.com"),
        *("bedrock-runtime-1.us-east-1.elb.amazonaws.com", "bedrock.us-east-1.amazonaws.com"),
        *("x-bedrock-runtime.us-east-1.amazonaws.com", "bedrock-mantle.us-east-1.amazonaws.com"),
        *("bedrock-runtime.a.b.amazonaws.com", "bedrock-runtime.us-east-1.amazonaws.com.test"),
        *("bedrock-mantle.x.y.api.aws", "bedrock-mantle.api.aws", "api.aws"),
    ],
)
def test_a_star_is_one_label(host: str) -> None:
    assert upstream_of(host, MESSAGES, "m") == Upstream()
    assert matches(DEFAULT_FILTER, host, MESSAGES)


def test_hosts_that_are_none() -> None:
    assert upstream_of("bedrock-runtime..amazonaws.com", MESSAGES, "m") == Upstream()
    for form in ("{}.api.openai.com", "{}.api.openai.com.", "{}.api.openai.com.:8443"):
        length = MAX_HOST - len(".api.openai.com")
        assert upstream_of(form.format("a" * length), CHAT, "gpt-6").name == NEWEST[1]
        for name in ("a" * (length + 1), "a." * 30_000, "ä", "\u212a"):
            assert upstream_of(form.format(name), CHAT, "gpt-6") == Upstream()
    # The Kelvin sign is a k in lower case.
    assert upstream_of("api.deepsee\u212a.com", CHAT, "m") == Upstream()
    assert upstream_of("\uff41pi.openai.com", CHAT, "m") == Upstream()
    assert upstream_of("api\u3002openai.com", CHAT, "m") == Upstream()


def test_of_a_long_model_the_beginning_counts() -> None:
    assert upstream_of("api.openai.com", CHAT, "gpt-6" + "-" * 100_000).name == NEWEST[1]
    azure = upstream_of("x.services.ai.azure.com", AZURE, "-" * 100_000 + "gpt-6")
    assert azure.name == "Azure Foundry, not OpenAI's models"


DOMAINS = {each.replace("*", "eu-west-1") for row in UPSTREAMS for each in row.domains}


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_a_host_in_each_spelling_and_what_only_looks_like_it(domain: str) -> None:
    (path, model) = next(
        (path, model)
        for _, host, path, model in REQUESTS
        if f".{re.sub('us(-gov)?-(ea|we)st-1', 'eu-west-1', host)}".endswith(f".{domain}")
    )
    known = upstream_of(domain, path, model)
    assert domain in [each.replace("*", "eu-west-1") for each in known.domains]
    upper = domain.upper()
    for host in [f"x.y.{domain}", f"{domain}.", upper, f"{upper}:443", f"{domain}.:8443"]:
        assert upstream_of(host, path, model) == known
    first, _, rest = domain.partition(".")
    for host in [
        *(f"x{domain}", f"evil-{domain}", f"{domain}.evil.test", f"{domain}x", f"{domain}.."),
        *(f"{first}-{rest}", f"{first}{rest}", f"evil.test:{domain}", f"evil.test/{domain}"),
    ]:
        assert upstream_of(host, path, model) == Upstream(), host


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("chatgpt.com", "/backend-api/conversation", ""),
        ("chatgpt.com", "/backend-api/codexes/responses", ""),
        ("chatgpt.com", "/v1/responses?x=/backend-api/codex/", ""),
        ("api.cloudflare.com", f"{WORKERS}/workers/ai/", ""),
        ("api.cloudflare.com", "/client/v4/accounts//ai/", ""),
        ("api.cloudflare.com", f"/v1{WORKERS}/ai/v1/chat/completions", ""),
        ("api.x.ai", MESSAGES, "xAI Responses"),
        ("api.x.ai", f"{CHAT}/1", "xAI Responses"),
        ("api.x.ai", f"{CHAT}s", "xAI Responses"),
        ("api.x.ai", f"/v1/messages?x={CHAT}", "xAI Responses"),
        ("api.x.ai", f"/v1/messages#{CHAT}", "xAI Responses"),
        ("api.openai.com", f"{RESPONSES}/compact", "OpenAI, GPT-5.6 and later"),
        ("api.openai.com", f"{RESPONSES}.json", "OpenAI, GPT-5.6 and later"),
    ],
)
def test_another_path_of_a_host(host: str, path: str, name: str) -> None:
    assert upstream_of(host, path, "gpt-6").name == name


@pytest.mark.parametrize(
    "model",
    [
        *["gpt-5.6", "gpt-5.6-2026-08-01", "gpt-5.6-codex", "gpt-5.6.1", "gpt-5.9-mini"],
        *["gpt-5.10", "gpt-5.10-2026-12-01", "gpt-6", "gpt-6-mini", "gpt-6.1", "gpt-6-2027-01-01"],
        *["gpt-10", "gpt-50", "gpt-6o", "ft:gpt-6-mini:team::id", "openai.gpt-5.6-sol"],
        *["us.openai.gpt-5.6-sol", "global.openai.gpt-6", "us-gov.openai.gpt-5.6"],
        f"{PROFILE}/eu.openai.gpt-5.6-sol-v1:0",
    ],
)
def test_gpt_5_6_or_later(model: str) -> None:
    assert is_gpt_5_6_or_later(model)


@pytest.mark.parametrize(
    "model",
    [
        *["gpt-5", "gpt-5-mini", "gpt-5-2025-08-07", "gpt-5-codex", "gpt-5-6", "gpt-5.", "gpt-5.4"],
        *["gpt-5.5", "gpt-5.5-2026-06-06", "gpt-4.1", "gpt-4.60", "gpt-4o-2024-08-06", "gpt-"],
        *["ft:gpt-4.1:gpt-6::id", "gpt-oss-120b", "gpt6", "gpt-\u0666", "chatgpt-6", "my-gpt-6"],
        *["openai.gpt-oss-120b", "us.openai.gpt-5.5", "my.us.openai.gpt-6", "xopenai.gpt-6"],
        *[
            f"{PROFILE}/x/openai.gpt-6",
            "arn:" + "a" * 5000 + "/openai.gpt-6",
        ],
        *["openai/gpt-6", "o3", "claude-opus-5-6", "", "gpt-2026", "gpt-5.2026"],
        *["gpt-" + "9" * 5000, "gpt-5." + "9" * 5000],
    ],
)
def test_not_gpt_5_6_or_later(model: str) -> None:
    assert not is_gpt_5_6_or_later(model)


@given(st.tuples(st.integers(0, 999), st.integers(0, 999)), st.sampled_from(["", "-x", "-2026-1"]))
def test_versions_are_numbers(version: tuple[int, int], suffix: str) -> None:
    assert is_gpt_5_6_or_later(f"gpt-{version[0]}.{version[1]}{suffix}") == (version >= (5, 6))


@given(st.text(), st.text(), st.text())
def test_any_text_has_an_answer(host: str, path: str, model: str) -> None:
    assert upstream_of(host, path, model) in (Upstream(), *UPSTREAMS)


def matches(filter_: str, host: str, path: str, header: str = "") -> bool:
    flow = tflow.tflow()
    flow.request = Request.make("POST", f"https://{host}{path}")
    if header:
        flow.request.headers["Host"] = header
    return bool(flowfilter.parse(filter_)(flow))


def test_rejecting() -> None:
    hosts = [each for row in UPSTREAMS if row.name in WHOLE_HOSTS for each in row.domains]
    assert [*REJECTING] == hosts
    assert not any("*" in each for each in REJECTING)


@pytest.mark.parametrize("host", REJECTING)
def test_default_filter_leaves_out_what_rejects_the_field(host: str) -> None:
    for each in [host, f"x.{host}", f"{host.upper()}.:8443"]:
        assert upstream_of(each, CHAT, "m").rejects
        assert matches(GENERATIONS, each, CHAT)
        assert not matches(DEFAULT_FILTER, each, CHAT)
        assert not matches(DEFAULT_FILTER, "127.0.0.1", CHAT, header=each)
        assert not matches(DEFAULT_FILTER, each, CHAT, header="127.0.0.1")


@pytest.mark.parametrize(
    ("name", "host", "path"),
    [(name, host, path) for name, host, path, _ in REQUESTS]
    + [("", "127.0.0.1:8080", MESSAGES), ("", "[::1]:4000", MESSAGES)]
    + [("", host, MESSAGES) for host in ("xanthropic.com", "anthropic.com.test", "my-groq.com")],
)
def test_default_filter_takes_all_others(name: str, host: str, path: str) -> None:
    assert matches(DEFAULT_FILTER, host, path) is (name not in WHOLE_HOSTS)


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models", "/?x=/v1/messages"])
def test_default_filter_takes_no_other_path(path: str) -> None:
    assert not matches(DEFAULT_FILTER, "gateway.test", path)
