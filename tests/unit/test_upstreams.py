import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import flowfilter
from mitmproxy.http import Request
from mitmproxy.test import tflow
from prompt_cache_key.upstreams import (
    DEFAULT_FILTER,
    GENERATIONS,
    REJECTING,
    UPSTREAMS,
    Upstream,
    is_gpt_5_6_or_later,
    upstream_of,
)

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages?beta=true"
WORKERS = "/client/v4/accounts/0123abc"
AZURE = "/openai/v1/responses"

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
    *(
        ("Azure, OpenAI's models", "x.services.ai.azure.com", AZURE, model)
        for model in ("gpt-6", "team-GPT5", "o4-mini")
    ),
    ("Azure, OpenAI's models", "x.openai.azure.com", AZURE, "production"),
    ("Azure, OpenAI's models", "x.cognitiveservices.azure.com", AZURE, ""),
    ("xAI Chat", "api.x.ai", CHAT, "grok-5"),
    ("xAI Chat", "eu-west-1.api.x.ai", CHAT, "grok-5"),
    ("xAI Responses", "api.x.ai", RESPONSES, "grok-5"),
    ("Fireworks", "api.fireworks.ai", "/inference/v1/chat/completions", "accounts/x/models/y"),
    ("Cloudflare Workers AI", "api.cloudflare.com", f"{WORKERS}/ai/v1/chat/completions", "@cf/m"),
    ("OpenCode Zen and Go", "opencode.ai", "/zen/go/v1/chat/completions", "glm-5.3"),
    ("OpenRouter", "openrouter.ai", "/api/v1/chat/completions", "openai/gpt-6"),
    ("Moonshot (Kimi)", "api.moonshot.ai", CHAT, "kimi-k3.1-pro"),
    ("Moonshot (Kimi)", "api.moonshot.cn", CHAT, "kimi-k3.1-pro"),
    ("Moonshot (Kimi)", "api.kimi.com", "/coding/v1/messages", "kimi-for-coding"),
    ("Mistral", "api.mistral.ai", CHAT, "devstral-2512"),
    ("DeepInfra", "api.deepinfra.com", "/v1/openai/chat/completions", "zai-org/GLM-5"),
    ("DeepSeek", "api.deepseek.com", "/chat/completions", "deepseek-v4-pro"),
    ("Together", "api.together.ai", CHAT, "m"),
    ("Together", "api.together.xyz", CHAT, "m"),
    ("Claude API", "api.anthropic.com", MESSAGES, "claude-opus-5-5"),
    ("Claude API", "claude.ai", MESSAGES, "m"),
    ("Claude API", "platform.claude.com", MESSAGES, "m"),
    ("Amazon Bedrock", "bedrock-runtime.eu-west-1.amazonaws.com", MESSAGES, "gpt-6"),
    ("Vertex AI, Gemini", "europe-west1-aiplatform.googleapis.com", MESSAGES, "m"),
    ("Groq", "api.groq.com", "/openai/v1/chat/completions", "m"),
    ("Cerebras", "api.cerebras.ai", CHAT, "gpt-oss-120b"),
    ("NVIDIA NIM", "integrate.api.nvidia.com", CHAT, "z-ai/glm4.7"),
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


CLOUDS = ("Claude API", "Amazon Bedrock", "Vertex AI, Gemini", "Groq", "Cerebras", "NVIDIA NIM")


def test_what_the_rows_say() -> None:
    newest = ["OpenAI Responses, GPT-5.6 and later", "OpenAI, GPT-5.6 and later"]
    assert of("scope") == dict.fromkeys(newest, "user")
    assert of("diagnoses") == {newest[0]: True}
    assert of("headers") == {
        "Codex backend of ChatGPT": ("session-id",),
        "xAI Chat": ("x-grok-conv-id",),
        "Fireworks": ("x-session-affinity",),
        "Cloudflare Workers AI": ("x-session-affinity",),
        "OpenCode Zen and Go": ("x-opencode-session",),
    }
    assert of("retention") == {
        **dict.fromkeys([*newest, "OpenAI, before GPT-5.6"], 1800),
        **dict.fromkeys(["DeepSeek", "Groq"], 7200),
        **dict.fromkeys(["Claude API", "Amazon Bedrock", "Cerebras"], 300),
    }
    assert of("reports") == {"NVIDIA NIM": False}
    limited = ["OpenAI, before GPT-5.6", "Azure, OpenAI's models"]
    assert of("is_limited") == dict.fromkeys(limited, True)
    azure = ["Azure Foundry, not OpenAI's models", "Azure OpenAI, others' models"]
    assert of("rejects") == dict.fromkeys([*azure, *CLOUDS], True)


def test_nothing_is_known_of_others() -> None:
    assert Upstream() == (
        "",
        "",
        "",
        (),
        "",
        None,
        False,
        "session",
        (),
        600,
        True,
        False,
        False,
        False,
    )
    for host in ["", ".", "gateway.test", "127.0.0.1", "127.0.0.1:8080", "::1", "[::1]:4000", "ü"]:
        for path in ["", *(path for _, _, path, _ in REQUESTS)]:
            assert upstream_of(host, path, "gpt-6") == Upstream()


def test_a_wildcard() -> None:
    for host in ["bedrock.us-east-1.amazonaws.com", "x.bedrock-runtime.eu-west-1.amazonaws.com"]:
        assert upstream_of(host, MESSAGES, "m").rejects
    for host in ["my-gateway.eu-west-1.elb.amazonaws.com", "amazonaws.com", "bedrock.test"]:
        assert upstream_of(host, MESSAGES, "m") == Upstream()
        assert matches(DEFAULT_FILTER, host, MESSAGES)


DOMAINS = {each for row in UPSTREAMS for each in row.domains if "*" not in each}


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_a_host_in_each_spelling_and_what_only_looks_like_it(domain: str) -> None:
    (path, model) = next(
        (path, model) for _, host, path, model in REQUESTS if f".{host}".endswith(f".{domain}")
    )
    known = upstream_of(domain, path, model)
    assert domain in known.domains
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
        *["gpt-10", "gpt-50", "gpt-6o", "ft:gpt-6-mini:team::id"],
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
    assert [*REJECTING] == [each for row in UPSTREAMS if row.name in CLOUDS for each in row.domains]


@pytest.mark.parametrize("host", [each.replace("*", "-runtime.eu-west-1") for each in REJECTING])
def test_default_filter_leaves_out_what_rejects_the_field(host: str) -> None:
    for each in [host, f"x.{host}", f"{host.upper()}.:8443"]:
        assert upstream_of(each, CHAT, "m").rejects
        assert matches(GENERATIONS, each, CHAT)
        assert not matches(DEFAULT_FILTER, each, CHAT)
        assert not matches(DEFAULT_FILTER, "127.0.0.1", CHAT, header=each)
        assert not matches(DEFAULT_FILTER, each, CHAT, header="127.0.0.1")


@pytest.mark.parametrize(
    ("host", "path"),
    [(host, path) for _, host, path, _ in REQUESTS]
    + [("127.0.0.1:8080", MESSAGES), ("[::1]:4000", MESSAGES), ("xanthropic.com", MESSAGES)],
)
def test_default_filter_takes_all_others(host: str, path: str) -> None:
    excluded = any(fnmatchcase(f".{host}", f"*.{each}") for each in REJECTING)
    assert matches(DEFAULT_FILTER, host, path) is not excluded


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models", "/?x=/v1/messages"])
def test_default_filter_takes_no_other_path(path: str) -> None:
    assert not matches(DEFAULT_FILTER, "gateway.test", path)
