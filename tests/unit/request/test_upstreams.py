import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import flowfilter
from mitmproxy.http import Request
from mitmproxy.test import tflow
from prompt_cache_key.request.upstreams import (
    DEFAULT_FILTER,
    GENERATIONS,
    REJECTING,
    UPSTREAMS,
    Upstream,
    is_gpt_5_6_or_later,
    upstream_of,
)

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages?beta=true"
CODEX = "/backend-api/codex/responses"
WORKERS = "/client/v4/accounts/0123abc/ai/v1/chat/completions"
AZURE = "/openai/v1/responses"

# For each row of the table, in its order: requests of which it is said.
REQUESTS = {
    "OpenAI Responses, GPT-5.6 and later": [
        ("api.openai.com", RESPONSES, "gpt-6"),
        ("eu.api.openai.com", RESPONSES, "gpt-5.6-2026-08-01"),
        ("api.openai.com", RESPONSES + "?stream=true", "gpt-6"),
    ],
    "OpenAI, GPT-5.6 and later": [("api.openai.com", CHAT, "gpt-6.1-mini")],
    "OpenAI, before GPT-5.6": [
        ("api.openai.com", RESPONSES, "gpt-5.4"),
        ("api.openai.com", CHAT, "o3"),
        ("api.openai.com", CHAT, ""),
    ],
    "Codex backend of ChatGPT": [("chatgpt.com", CODEX, "gpt-6"), ("chatgpt.com", CODEX, "")],
    "Azure Foundry, not OpenAI's models": [
        ("x.services.ai.azure.com", AZURE, "DeepSeek-V4"),
        ("x.services.ai.azure.com", "/anthropic/v1/messages", "claude-opus-5"),
        ("x.services.ai.azure.com", AZURE, "gpt-oss-120b"),
        ("x.services.ai.azure.com", AZURE, "pro1"),
        ("x.services.ai.azure.com", AZURE, ""),
    ],
    "Azure OpenAI, others' models": [
        ("x.openai.azure.com", AZURE, "DeepSeek-V4"),
        ("x.cognitiveservices.azure.com", AZURE, "Kimi-K2.7-Code"),
    ],
    "Azure, OpenAI's models": [
        ("x.services.ai.azure.com", AZURE, "gpt-6"),
        ("x.services.ai.azure.com", AZURE, "team-GPT5"),
        ("x.services.ai.azure.com", AZURE, "o4-mini"),
        ("x.openai.azure.com", AZURE, "gpt-4.1"),
        ("x.openai.azure.com", AZURE, "production"),
        ("x.cognitiveservices.azure.com", AZURE, ""),
    ],
    "xAI Chat": [("api.x.ai", CHAT, "grok-5"), ("eu-west-1.api.x.ai", CHAT, "grok-5")],
    "xAI Responses": [("api.x.ai", RESPONSES, "grok-5")],
    "Fireworks": [("api.fireworks.ai", "/inference/v1/chat/completions", "accounts/x/models/y")],
    "Cloudflare Workers AI": [("api.cloudflare.com", WORKERS, "@cf/moonshotai/kimi-k2.6")],
    "OpenCode Zen and Go": [("opencode.ai", "/zen/go/v1/chat/completions", "glm-5.3")],
    "OpenRouter": [("openrouter.ai", "/api/v1/chat/completions", "openai/gpt-6")],
    "Moonshot (Kimi)": [
        ("api.moonshot.ai", CHAT, "kimi-k3.1-pro"),
        ("api.moonshot.cn", CHAT, "kimi-k3.1-pro"),
        ("api.kimi.com", "/coding/v1/messages", "kimi-for-coding"),
    ],
    "Mistral": [("api.mistral.ai", CHAT, "devstral-2512")],
    "DeepInfra": [("api.deepinfra.com", "/v1/openai/chat/completions", "zai-org/GLM-5")],
    "DeepSeek": [("api.deepseek.com", "/chat/completions", "deepseek-v4-pro")],
    "Together": [("api.together.ai", CHAT, "m"), ("api.together.xyz", CHAT, "m")],
    "Claude API": [
        ("api.anthropic.com", MESSAGES, "claude-opus-5-5"),
        ("claude.ai", MESSAGES, "m"),
        ("platform.claude.com", MESSAGES, "m"),
    ],
    "Amazon Bedrock": [("bedrock-runtime.eu-west-1.amazonaws.com", MESSAGES, "gpt-6")],
    "Vertex AI, Gemini": [
        ("europe-west1-aiplatform.googleapis.com", MESSAGES, "m"),
        ("generativelanguage.googleapis.com", "/v1beta/openai/chat/completions", "m"),
    ],
    "Groq": [("api.groq.com", "/openai/v1/chat/completions", "m")],
    "Cerebras": [("api.cerebras.ai", CHAT, "gpt-oss-120b")],
    "NVIDIA NIM": [("integrate.api.nvidia.com", CHAT, "z-ai/glm4.7")],
}


def test_each_row_is_found() -> None:
    assert [*REQUESTS] == [row.name for row in UPSTREAMS]
    for name, requests in REQUESTS.items():
        for request in requests:
            assert upstream_of(*request).name == name, request


def of(field: str) -> dict[str, object]:
    """Return what the rows say that differ in a field from what holds by default."""
    default = getattr(Upstream(), field)
    return {row.name: each for row in UPSTREAMS if (each := getattr(row, field)) != default}


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
    assert of("keep") == {
        **dict.fromkeys([*newest, "OpenAI, before GPT-5.6"], 1800),
        **dict.fromkeys(["DeepSeek", "Groq"], 7200),
        **dict.fromkeys(["Claude API", "Amazon Bedrock", "Cerebras"], 300),
    }
    assert of("reports") == {"NVIDIA NIM": False}
    limited = ["OpenAI, before GPT-5.6", "Azure, OpenAI's models"]
    assert of("is_limited") == dict.fromkeys(limited, True)
    azure = ["Azure Foundry, not OpenAI's models", "Azure OpenAI, others' models"]
    clouds = ["Claude API", "Amazon Bedrock", "Vertex AI, Gemini", "Groq", "Cerebras", "NVIDIA NIM"]
    assert of("rejects") == dict.fromkeys([*azure, *clouds], True)


def test_each_row_has_its_source() -> None:
    for row in UPSTREAMS:
        assert re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]+/\S+", row.source), row
        assert re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])", row.since), row


def test_nothing_is_known_of_others() -> None:
    assert Upstream() == ("", "", "", (), "", None, False, "session", (), 600, True, False, False)
    for host in ["", ".", "gateway.test", "127.0.0.1", "127.0.0.1:8080", "::1", "[::1]:4000", "ü"]:
        for path in ["", CHAT, RESPONSES, CODEX, WORKERS]:
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
        (path, model)
        for requests in REQUESTS.values()
        for host, path, model in requests
        if f".{host}".endswith(f".{domain}")
    )
    known = upstream_of(domain, path, model)
    assert domain in known.domains
    upper = domain.upper()
    for host in [f"x.y.{domain}", f"{domain}.", upper, f"{upper}:443", f"{domain}.:8443"]:
        assert upstream_of(host, path, model) == known
    first, _, rest = domain.partition(".")
    for host in [
        f"x{domain}",
        f"evil-{domain}",
        f"{domain}.evil.test",
        f"{domain}x",
        f"{domain}..",
        f"{first}-{rest}",
        f"{first}{rest}",
        f"evil.test:{domain}",
        f"evil.test/{domain}",
    ]:
        assert upstream_of(host, path, model) == Upstream(), host


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("chatgpt.com", "/backend-api/conversation"),
        ("chatgpt.com", "/backend-api/codexes/responses"),
        ("chatgpt.com", "/v1/responses?x=/backend-api/codex/"),
        ("api.cloudflare.com", "/client/v4/accounts/0123abc/workers/ai/"),
        ("api.cloudflare.com", "/client/v4/accounts//ai/"),
        ("api.cloudflare.com", "/v1/client/v4/accounts/0123abc/ai/v1/chat/completions"),
    ],
)
def test_another_path_of_a_host(host: str, path: str) -> None:
    assert upstream_of(host, path, "m") == Upstream()


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, "/v1/chat/completions/1", f"/v1{CHAT}s"])
def test_xai_routes_by_its_header_in_chat_only(path: str) -> None:
    assert not upstream_of("api.x.ai", path, "grok-5").headers


@pytest.mark.parametrize("path", [CHAT, "/v1/responses/compact", "/responses.json"])
def test_openai_diagnoses_responses_only(path: str) -> None:
    assert not upstream_of("api.openai.com", path, "gpt-6").diagnoses


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "later"),
    [
        ("gpt-5.6", True),
        ("gpt-5.6-2026-08-01", True),
        ("gpt-5.6-codex", True),
        ("gpt-5.6.1", True),
        ("gpt-5.9-mini", True),
        ("gpt-5.10", True),
        ("gpt-5.10-2026-12-01", True),
        ("gpt-6", True),
        ("gpt-6-mini", True),
        ("gpt-6.1", True),
        ("gpt-6-2027-01-01", True),
        ("gpt-10", True),
        ("gpt-50", True),
        ("gpt-6o", True),
        ("ft:gpt-6-mini:team::id", True),
        ("gpt-5", False),
        ("gpt-5-mini", False),
        ("gpt-5-2025-08-07", False),
        ("gpt-5-codex", False),
        ("gpt-5-6", False),
        ("gpt-5.", False),
        ("gpt-5.4", False),
        ("gpt-5.5", False),
        ("gpt-5.5-2026-06-06", False),
        ("gpt-4.1", False),
        ("gpt-4.60", False),
        ("gpt-4o-2024-08-06", False),
        ("gpt-3.5-turbo-16k", False),
        ("ft:gpt-4.1:gpt-6::id", False),
        ("gpt-oss-120b", False),
        ("gpt-", False),
        ("gpt6", False),
        ("gpt-\u0666", False),
        ("chatgpt-6", False),
        ("my-gpt-6", False),
        ("openai/gpt-6", False),
        ("o3", False),
        ("claude-opus-5-6", False),
        ("", False),
        ("gpt-2026", False),
        ("gpt-5.2026", False),
        ("gpt-" + "9" * 5000, False),
        ("gpt-5." + "9" * 5000, False),
    ],
)
def test_gpt_5_6_or_later(model: str, later: bool) -> None:
    assert is_gpt_5_6_or_later(model) is later


@given(st.tuples(st.integers(0, 999), st.integers(0, 999)), st.sampled_from(["", "-x", "-2026-1"]))
def test_versions_are_numbers(version: tuple[int, int], suffix: str) -> None:
    assert is_gpt_5_6_or_later(f"gpt-{version[0]}.{version[1]}{suffix}") == (version >= (5, 6))


@given(st.text(), st.text(), st.text())
def test_any_text_has_an_answer(host: str, path: str, model: str) -> None:
    assert upstream_of(host, path, model) in (Upstream(), *UPSTREAMS)


# --- the default filter ---------------------------------------------------------------------------


def matches(filter_: str, host: str, path: str, header: str = "") -> bool:
    flow = tflow.tflow()
    flow.request = Request.make("POST", f"https://{host}{path}")
    if header:
        flow.request.headers["Host"] = header
    return bool(flowfilter.parse(filter_)(flow))


def test_rejecting() -> None:
    assert REJECTING == (
        "anthropic.com",
        "claude.ai",
        "claude.com",
        "bedrock*.amazonaws.com",
        "googleapis.com",
        "groq.com",
        "api.cerebras.ai",
        "integrate.api.nvidia.com",
    )


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
    [(host, path) for requests in REQUESTS.values() for host, path, _ in requests]
    + [("127.0.0.1:8080", MESSAGES), ("[::1]:4000", MESSAGES), ("xanthropic.com", MESSAGES)],
)
def test_default_filter_takes_all_others(host: str, path: str) -> None:
    excluded = any(fnmatchcase(f".{host}", f"*.{each}") for each in REJECTING)
    assert matches(DEFAULT_FILTER, host, path) is not excluded


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models", "/?x=/v1/messages"])
def test_default_filter_takes_no_other_path(path: str) -> None:
    assert not matches(DEFAULT_FILTER, "gateway.test", path)
