"""Each known upstream gets what the table says, by its real name: through a regular proxy."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID, uuid4

import pytest
from lib.client import Client, request_body
from lib.messages import Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import CHAT

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
CODEX = "/backend-api/codex/responses"
WORKERS = "/client/v4/accounts/0123abc/ai/v1/chat/completions"

To = tuple[str, str, str]
"""Host, path, model."""

FIREWORKS = ("api.fireworks.ai", "/inference/v1/chat/completions", "m")
GATEWAY = ("gateway.test", MESSAGES, "gpt-6")
OLD, NEW = ("api.openai.com", CHAT, "gpt-5.4"), ("api.openai.com", CHAT, "gpt-6")
NAMES = {
    ("chatgpt.com", CODEX, "gpt-5.4"): "session-id",
    ("api.x.ai", CHAT, "grok-5"): "x-grok-conv-id",
    FIREWORKS: "x-session-affinity",
    ("api.cloudflare.com", WORKERS, "@cf/m"): "x-session-affinity",
    ("opencode.ai", "/zen/v1/chat/completions", "glm-5.3"): "x-opencode-session",
}
KEYED = [
    OLD,
    NEW,
    GATEWAY,
    ("chatgpt.com", RESPONSES, "gpt-5.4"),
    ("api.x.ai", RESPONSES, "grok-5"),
    ("x.services.ai.azure.com", "/openai/v1/responses", "gpt-6"),
    ("openrouter.ai", "/api/v1/chat/completions", "openai/gpt-6"),
]
REJECTING = [
    ("x.openai.azure.com", "/openai/v1/chat/completions", "DeepSeek-V4"),
    ("bedrock-runtime.eu-west-1.amazonaws.com", MESSAGES, "m"),
    ("api.anthropic.com", MESSAGES, "claude-opus-5-5"),
    ("api.cerebras.ai", CHAT, "m"),
]
LOOKALIKES = [
    *NAMES,
    NEW,
    REJECTING[-1],
    ("anthropic.com", MESSAGES, "m"),
    ("services.ai.azure.com", CHAT, "DeepSeek-V4"),
    ("my-gateway.eu-west-1.elb.amazonaws.com", MESSAGES, "m"),
]


def user_id(user: str, session: str) -> dict[str, str]:
    ids = {"device_id": user * 64, "account_uuid": str(UUID(user * 32)), "session_id": session}
    return {"user_id": json.dumps(ids)}


def ask(port: int, server: Server, to: To, session: str = "", user: str = "a") -> Request:
    """Send a session's request to a host, path and model; return what arrived."""
    host, path, model = to
    session = session or str(uuid4())
    body = request_body(session, model=model, metadata=user_id(user, session))
    with Client(port) as client:
        assert client.send("POST", f"http://{host}{path}", [("Host", host)], body).status == 200
    (request,) = server.take()
    return request


def routing_headers(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers if name.lower() in NAMES.values()}


@contextmanager
def proxies(server: Server, number: int, *settings: str) -> Iterator[list[Mitmdump]]:
    """Run regular proxies with `--set` settings; the server stands for every host."""
    settings = (f"map_remote=|^http://[^/]+|{server.url}", *settings)
    args = [arg for setting in settings for arg in ("--set", setting)]
    with ExitStack() as stack:
        yield [stack.enter_context(Mitmdump("regular", args=args)) for _ in range(number)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[Mitmdump]:
    with proxies(server, 1) as (proxy,):
        yield proxy


@pytest.mark.parametrize("to", [*NAMES, *KEYED])
def test_a_key_and_the_header_that_a_host_routes_by(
    proxy: Mitmdump, server: Server, to: To
) -> None:
    request = ask(proxy.port, server, to)
    assert UUID(request.key)
    assert routing_headers(request) == ({NAMES[to]: request.key} if to in NAMES else {})


@pytest.mark.parametrize("to", REJECTING)
def test_nothing(proxy: Mitmdump, server: Server, to: To) -> None:
    request = ask(proxy.port, server, to)
    assert request.key is None
    assert routing_headers(request) == {}


@pytest.mark.parametrize("to", LOOKALIKES)
def test_a_host_that_only_looks_like_one_is_any_host(
    proxy: Mitmdump, server: Server, to: To
) -> None:
    for form in ("x{}", "evil-{}", "{}.evil.test"):
        request = ask(proxy.port, server, (form.format(to[0]), *to[1:]))
        assert UUID(request.key)
        assert routing_headers(request) == {}
        assert "scope=user" not in proxy.find(f"key={request.key} ").string


@pytest.mark.parametrize("setting", ["prompt_cache_headers=x-route", "prompt_cache_headers"])
def test_a_list_of_headers_replaces_the_known_ones_and_an_empty_one_is_none(
    server: Server, setting: str
) -> None:
    with proxies(server, 1, setting) as (proxy,):
        request = ask(proxy.port, server, FIREWORKS)
    assert UUID(request.key)
    assert request.header("x-route") == (request.key if "=" in setting else None)
    assert routing_headers(request) == {}


# --- who shares a key -----------------------------------------------------------------------------

BY_USER, BY_SESSION = 2, 4


def count_keys(running: list[Mitmdump], server: Server, to: To) -> int:
    """Return how many keys two users with two sessions each get; all proxies have to agree."""
    speakers = [(str(uuid4()), user) for user in ("a", "b") for _ in range(2)]
    keys = []
    for each in running:
        keys.append([ask(each.port, server, to, *identity).key for identity in speakers])
        sessions = "|".join(session for session, _ in speakers)
        mappings = each.find_all(f"key=.* session=({sessions}) .* source=", 4)
        assert {"scope=user" in line.string for line in mappings} == {len({*keys[0]}) == BY_USER}
    assert all(of_one == keys[0] for of_one in keys)
    first_user, second_user = {*keys[0][:2]}, {*keys[0][2:]}
    assert not first_user & second_user
    return len(first_user | second_user)


@pytest.mark.parametrize(
    ("scope", "counts"),
    [
        ("auto", {NEW: BY_USER, OLD: BY_SESSION, GATEWAY: BY_SESSION}),
        ("session", {NEW: BY_SESSION, OLD: BY_SESSION, GATEWAY: BY_SESSION}),
        ("user", {NEW: BY_USER, OLD: BY_USER, GATEWAY: BY_USER}),
    ],
)
def test_two_users_with_two_sessions_each(
    server: Server, scope: str, counts: dict[To, int]
) -> None:
    with proxies(server, 1, f"prompt_cache_scope={scope}") as running:
        assert {to: count_keys(running, server, to) for to in counts} == counts


def test_derived_keys_are_the_same_on_two_proxies(server: Server) -> None:
    with proxies(server, 2, "prompt_cache_keys=derived") as running:
        assert count_keys(running, server, NEW) == BY_USER
        assert count_keys(running, server, OLD) == BY_SESSION
