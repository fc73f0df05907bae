"""Each known upstream gets what the table says, by its real name: through a regular proxy."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID, uuid4

import pytest
from lib.client import Client, request_body, without_key
from lib.dialects import DIALECTS
from lib.messages import Request
from lib.mitmdump import Mitmdump
from lib.recordings import conversations, encoded
from lib.rules import pieces_of
from lib.server import Server
from live.proxied import CHAT, SESSION_HEADER
from prompt_cache_key.upstreams import UPSTREAMS
from unit.test_upstreams import REQUESTS

MESSAGES = "/v1/messages"

To = tuple[str, str, str]
"""Host, path, model."""

# One request to each row of the table, by the row's name.
ROWS: dict[str, To] = {name: (host, path, model) for name, host, path, model in reversed(REQUESTS)}
REJECTING = [row.name for row in UPSTREAMS if row.rejects]
KEYED = [row.name for row in UPSTREAMS if not row.rejects]
NAMES = {
    "Codex backend of ChatGPT": "session-id",
    "GitHub Copilot": "x-interaction-id",
    "xAI Chat": "x-grok-conv-id",
    "Fireworks": "x-session-affinity",
    "Cloudflare Workers AI": "x-session-affinity",
    "OpenCode Zen and Go": "x-opencode-session",
    "OpenRouter": "x-session-id",
    "Tencent TokenHub": "x-session-id",
    "Z.ai (GLM), header doubtful": "x-session-id",
}
LOOKALIKES = [
    (domain.replace("*", "us-east-1"), *ROWS[row.name][1:])
    for row in UPSTREAMS
    for domain in row.domains
]

FIREWORKS = ROWS["Fireworks"]
GATEWAY = ("gateway.test", MESSAGES, "gpt-6")
OLD, NEW = ("api.openai.com", CHAT, "gpt-5.4"), ("api.openai.com", CHAT, "gpt-6")

ATTRIBUTION = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.9a2; a=b;"}
SYSTEM = {"type": "text", "text": "You are ✓"}


def user_id(user: str, session: str) -> dict[str, str]:
    ids = {"device_id": user * 64, "account_uuid": str(UUID(user * 32)), "session_id": session}
    return {"user_id": json.dumps(ids)}


def ask(
    port: int, server: Server, to: To, session: str = "", user: str = "a", **members: object
) -> Request:
    """Send a session's request to a host, path and model; return what arrived."""
    host, path, model = to
    session = session or str(uuid4())
    members = {"model": model, "metadata": user_id(user, session), **members}
    return send(port, server, (host, path), request_body(session, **members))


def send(
    port: int, server: Server, to: tuple[str, str], body: bytes, *headers: tuple[str, str]
) -> Request:
    """Send a body to a host and path; return what arrived."""
    host, path = to
    with Client(port) as client:
        answer = client.send("POST", f"http://{host}{path}", [("Host", host), *headers], body)
    assert answer.status == 200
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


@pytest.mark.parametrize("name", KEYED)
def test_a_key_and_the_header_that_an_upstream_routes_by(
    proxy: Mitmdump, server: Server, name: str
) -> None:
    request = ask(proxy.port, server, ROWS[name])
    assert UUID(request.key)
    headers = routing_headers(request)
    assert [*headers] == ([NAMES[name]] if name in NAMES else [])
    assert all(UUID(value) for value in headers.values())
    if name != "OpenRouter":
        assert {*headers.values()} <= {request.key}


@pytest.mark.parametrize("name", REJECTING)
def test_what_rejects_the_field_gets_what_was_sent(
    proxy: Mitmdump, server: Server, name: str
) -> None:
    host, path, model = ROWS[name]
    body = request_body(str(uuid4()), model=model, system=[ATTRIBUTION, SYSTEM])
    request = send(proxy.port, server, (host, path), body)
    assert request.body == body
    assert sorted(name.lower() for name, _ in request.headers) == ["content-length", "host"]


@pytest.mark.parametrize("to", [GATEWAY, *dict.fromkeys(LOOKALIKES)])
def test_a_host_that_only_looks_like_one_is_any_host(
    proxy: Mitmdump, server: Server, to: To
) -> None:
    for form in ("x{}", "evil-{}", "{}.evil.test"):
        host = form.format(to[0])
        body = request_body(str(uuid4()), model=to[2], system=[ATTRIBUTION, SYSTEM])
        request = send(proxy.port, server, (host, to[1]), body)
        assert UUID(request.key)
        assert without_key(request.body) == body
        assert routing_headers(request) == {}
        assert "scope=user" not in proxy.find(f"key={request.key} ").string


# --- what is removed ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYED)
def test_the_attribution_is_removed(proxy: Mitmdump, server: Server, name: str) -> None:
    request = ask(proxy.port, server, ROWS[name], system=[ATTRIBUTION, SYSTEM])
    assert UUID(request.key)
    assert request.json["system"] == [SYSTEM]
    ids = json.loads(request.json["metadata"]["user_id"])
    assert ("session_id" in ids) is (name != "DeepSeek Messages")
    assert ids["device_id"]
    assert ids["account_uuid"]


def dialect_of(path: str) -> str:
    return next(name for name in ("messages", "responses", "chat") if name in path)


TO = {(name, dialect_of(path)): (host, path, model) for name, host, path, model in REQUESTS}


@pytest.mark.parametrize(("name", "dialect"), [each for each in TO if each[0] in KEYED])
def test_conversations_of_a_project_begin_with_the_same_bytes(
    proxy: Mitmdump, server: Server, name: str, dialect: str
) -> None:
    """Two recorded ones, unshortened: nothing but the named text is gone."""
    host, path, model = TO[name, dialect]
    beginnings, were = set(), set()
    for record in conversations()[:2]:
        body = DIALECTS[dialect].translate(record["body"] | {"model": model})
        sent = encoded(body)
        arrived = send(proxy.port, server, (host, path), sent)
        assert UUID(arrived.key)
        line = record["body"]["system"][0]["text"]
        block = encoded({"type": "text", "text": line}) + b","
        gone = block if dialect == "messages" else line.encode() + rb"\n"
        expected = sent.replace(gone, b"", 1)
        assert len(expected) == len(sent) - len(gone)
        if name == "DeepSeek Messages":
            session = record["headers"]["x-claude-code-session-id"]
            expected = expected.replace(rb",\"session_id\":\"%b\"" % session.encode(), b"")
        is_same = without_key(arrived.body) == expected  # a bool: the bodies are large
        assert is_same
        beginnings.add(pieces_of(arrived.json)[0])
        were.add(pieces_of(body)[0])
    assert (len(were), len(beginnings)) == (2, 1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_that_grows_over_4_mb_is_stripped_as_before(
    proxy: Mitmdump, server: Server, dialect: str
) -> None:
    body = conversations()[0]["body"] | {"model": "gpt-6"}
    to = ("api.openai.com", DIALECTS[dialect].path)
    beginnings = set()
    for size in (1, 3_900_000, 4_300_000, 9_000_000):
        grown = {"role": "user", "content": 'say "✓", and [so on], ' * (size // 24)}
        sent = DIALECTS[dialect].translate(body | {"messages": [*body["messages"], grown]})
        arrived = send(proxy.port, server, to, encoded(sent), (SESSION_HEADER, "large"))
        assert UUID(arrived.key)
        beginnings.add(pieces_of(arrived.json)[0])
    (beginning,) = beginnings
    assert "x-anthropic-billing-header" not in beginning


def test_an_empty_list_removes_nothing(server: Server) -> None:
    with proxies(server, 1, "prompt_cache_strip") as (proxy,):
        host, path, model = ROWS["DeepSeek Messages"]
        body = request_body(str(uuid4()), model=model, system=[ATTRIBUTION, SYSTEM])
        assert without_key(send(proxy.port, server, (host, path), body).body) == body


def test_attribution_by_hand_before_a_gateway(server: Server) -> None:
    with proxies(server, 1, "prompt_cache_strip=attribution") as (proxy,):
        request = ask(proxy.port, server, GATEWAY, system=[ATTRIBUTION, SYSTEM])
        assert UUID(request.key)
        assert request.json["system"] == [SYSTEM]


# --- headers --------------------------------------------------------------------------------------


def test_a_header_of_the_session_beside_a_key_of_the_user(server: Server) -> None:
    with proxies(server, 1, "prompt_cache_scope=user") as (proxy,):
        sessions = [str(uuid4()), str(uuid4())]
        asked = [ask(proxy.port, server, ROWS["OpenRouter"], each) for each in sessions * 2]
    assert len({request.key for request in asked}) == 1
    values = [request.header("x-session-id") for request in asked]
    assert values[:2] == values[2:]
    assert len({*values}) == 2
    assert asked[0].key not in values


def test_a_header_that_its_client_changes_again_and_again_is_replaced(server: Server) -> None:
    with proxies(server, 1) as (proxy,):
        session, (host, path, model) = str(uuid4()), FIREWORKS
        body, name = request_body(session, model=model), "X-Session-Affinity"
        arrived = [send(proxy.port, server, (host, path), body, (name, v)) for v in "aabcd"]
        proxy.find_all("usage|key=", 5)
    key = arrived[0].key
    assert [each.header("x-session-affinity") for each in arrived] == ["a", "a", "b", key, key]
    warnings = [line for line in proxy.lines if "x-session-affinity" in line and "WARN" in line]
    assert len(warnings) == 1


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
