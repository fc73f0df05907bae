"""Do no harm, through a real mitmdump: what is not ours arrives as it was sent, and no user pays.

Streamed bodies are in test_streamed, random orders of requests in test_any_order, the page is in
test_page, and large or costly input in test_bounded.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client, request_body
from lib.dialects import DIALECTS
from lib.messages import Headers, Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import CHAT, SESSION_HEADER, assert_sound, is_keyed, script
from live.test_page import ask

Json = dict[str, Any]

RESPONSES = "/v1/responses"
UUID = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
DEVICE = "0123456789abcdef" * 4
TYPE = ("Content-Type", "application/json")

# Options change while the proxy runs, by a request that this script answers.
_CONTROL = """
import json
from mitmproxy import ctx, http

def request(flow):
    if flow.request.path == "/set":
        ctx.options.update(**json.loads(flow.request.content))
        flow.response = http.Response.make(204)
"""


class Setup:
    """One mitmdump with three listeners: before each of two servers, and a regular one."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.a, self.b = stack.enter_context(Server()), stack.enter_context(Server())
        modes = f"reverse:{self.a.url}", f"reverse:{self.b.url}", "regular"
        scripts = [script(folder, "control", _CONTROL), ADDON]
        self.proxy = stack.enter_context(Mitmdump(*modes, scripts=scripts, flow_detail="0"))

    def send(
        self, body: bytes, *headers: tuple[str, str], target: str = MESSAGES, at: int = 0
    ) -> Request:
        """Send a request to a listener; return what arrived."""
        with Client(self.proxy.ports[at]) as client:
            client.send("POST", target, headers, body)
        (request,) = self.a.take() + self.b.take()
        return request

    def send_to_openai(self, body: bytes, *headers: tuple[str, str]) -> Request:
        """Send a request for OpenAI through the regular listener; return what arrived."""
        target = f"{self.a.url}{RESPONSES}"
        return self.send(body, ("Host", "api.openai.com"), *headers, target=target, at=2)

    @contextmanager
    def options(self, **options: object) -> Iterator[None]:
        """Change options, and back to the default."""
        defaults = {"prompt_cache_keys": "random", "prompt_cache_diagnose": False}
        for values in (options, {name: defaults[name] for name in options}):
            with Client(self.proxy.port) as client:
                client.send("POST", "/set", (), json.dumps(values).encode())
            if values is options:
                yield


@pytest.fixture(scope="module")
def all_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with ExitStack() as stack:
        setup = Setup(stack, tmp_path_factory.mktemp("scripts"))
        yield setup
        assert setup.a.broken + setup.b.broken == []
    assert_sound(setup.proxy)


@pytest.fixture
def setup(all_tests: Setup) -> Setup:
    for server in (all_tests.a, all_tests.b):
        server.take()
        server.respond = lambda _: Reply()
    return all_tests


@contextmanager
def raw_post(
    port: int, target: str, body: bytes, *headers: tuple[str, str]
) -> Iterator[socket.socket]:
    """Send a request, and break the connection off at the end."""
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    with socket.create_connection((LOOPBACK, port), TIMEOUT) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield client


def shown(session: str) -> tuple[str, str]:
    return SESSION_HEADER, session


def encoded(**members: object) -> bytes:
    return json.dumps({"model": "m", "messages": []} | members).encode()


# --- an unknown user is not a user ----------------------------------------------------------------

NO_USER: list[object] = [
    None,
    {},
    {"user_id": "alice"},
    {"user_id": json.dumps({"device_id": "", "account_uuid": ""})},
    {"user_id": json.dumps({"device_id": 7, "account_uuid": None})},
    {"user_id": "user__account__session_a"},
]


@pytest.mark.parametrize("keys", ["random", "derived"])
@pytest.mark.parametrize("metadata", NO_USER, ids=str)
def test_sessions_of_unknown_users_share_no_key(setup: Setup, keys: str, metadata: object) -> None:
    body = encoded(model="gpt-6", metadata=metadata)
    with setup.options(prompt_cache_keys=keys):
        got = [setup.send_to_openai(body, shown(str(uuid4()))).key for _ in range(2)]
    assert all(got)
    assert got[0] != got[1]


def test_sessions_of_a_known_user_share_a_key(setup: Setup) -> None:
    bodies = [
        encoded(model="gpt-6", metadata={"user_id": user_id})
        for user_id in (TEXT_ID, JSON_ID, TEXT_ID.replace("0", "1"))
    ]
    one, same, other = [setup.send_to_openai(body, shown(str(uuid4()))).key for body in bodies]
    assert one == same != other


# --- recognisers ----------------------------------------------------------------------------------

TEXT_ID = f"user_{DEVICE}_account_{UUID}_session_{UUID}"
JSON_ID = json.dumps({"device_id": DEVICE, "account_uuid": UUID, "session_id": UUID})
NO_SESSIONS = [
    "alice_session_1",
    f"_session_{UUID}",
    f"alice_session_{UUID}",
    TEXT_ID[:128],
    TEXT_ID[:-1],
    f"{TEXT_ID} ",
    TEXT_ID.upper(),
    '{"session_id":"1"}',
    json.dumps({"session_id": [UUID]}),
    json.dumps([{"session_id": UUID}]),
    JSON_ID[:-2],
    UUID,
    f"{DEVICE}{UUID}",
]
OWN_KEYS = [
    '{"tenant":1}',
    "{",
    "{}",
    f"user_{DEVICE}",
    f"user_{DEVICE}_session_{UUID}",
    '{"session_id":"1"}',
    json.dumps({"session_id": UUID}),
    "alice_session_1",
    UUID,
    "\ud800",
    7,
    ["a"],
    {"a": 1},
]


@pytest.mark.parametrize("user", NO_SESSIONS)
def test_a_user_that_shows_no_whole_session_gets_no_key(setup: Setup, user: str) -> None:
    body = encoded(user=user)
    assert setup.send(body).body == body


@pytest.mark.parametrize("key", OWN_KEYS, ids=repr)
@pytest.mark.parametrize("headers", [[], [shown(UUID)]], ids=["no session", "session"])
def test_a_key_that_only_looks_like_a_user_id_stays(
    setup: Setup, key: object, headers: Headers
) -> None:
    body = encoded(prompt_cache_key=key)
    assert setup.send(body, *headers).body == body


@pytest.mark.parametrize("user_id", [TEXT_ID, JSON_ID])
def test_whole_user_ids_are_recognised(setup: Setup, user_id: str) -> None:
    body = encoded(user=user_id)
    assert is_keyed(setup.send(body).body, body)
    assert setup.send(encoded(prompt_cache_key=user_id)).key != user_id


def test_two_blank_keys_are_both_replaced_by_the_key_that_is_logged(setup: Setup) -> None:
    session = str(uuid4())
    blank = b'{"prompt_cache_key":"","model":"m","prompt_cache_key":" "}'
    got = setup.send(blank, shown(session))
    assert got.body.count(json.dumps(got.key).encode()) == 2
    setup.proxy.find(rf"key={got.key} session={session} .* state=new")


# --- the bridge -----------------------------------------------------------------------------------


def conversation(text: str, call_id: str) -> Json:
    """Return a request of Claude Code's with one tool call."""
    call = {"type": "tool_use", "id": call_id, "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": call_id, "content": f"of {text}"}
    return {
        "model": "kimi-k2",
        "system": f"You are an agent that is good at {text}.",
        "messages": [
            {"role": "user", "content": f"help me with {text}"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
        "metadata": {"user_id": ""},
        "tools": [{"name": "Bash", "description": text, "input_schema": {}}],
    }


def call_of(body: Json) -> bytes:
    """Return a translator's call for a request, in which nothing shows the session."""
    call = DIALECTS["chat"].translate(body)
    del call["user"]
    return json.dumps(call).encode()


@pytest.mark.parametrize("call_id", ["functions.Bash:0", "call_1", f"toolu_{'x9' * 12}"])
def test_tool_call_ids_alone_give_nobody_a_key(setup: Setup, call_id: str) -> None:
    own, other = (conversation(text, call_id) for text in ("boats", "taxes"))
    got: list[Request] = []
    called = threading.Event()

    def translate(_: Request) -> Reply:
        for body in (other, own):
            with Client(setup.proxy.ports[1]) as client:
                client.send("POST", CHAT, (), call_of(body))
        got.extend(setup.b.take())
        called.set()
        return Reply()

    setup.a.respond = translate
    with Client(setup.proxy.port) as client:
        client.send("POST", MESSAGES, [shown(UUID)], json.dumps(own).encode())
    assert called.wait(TIMEOUT)
    strange, bridged = got
    assert strange.body == call_of(other)
    assert bridged.key
    setup.a.take()


@pytest.mark.parametrize("had_call", [False, True])
def test_a_retry_for_a_client_that_has_gone_gets_no_key(setup: Setup, had_call: bool) -> None:
    body = conversation(f"ships {had_call}", "call_1")
    steps = {name: threading.Event() for name in ("called", "gone")}
    got: list[Request] = []

    def call() -> None:
        with Client(setup.proxy.ports[1]) as client:
            client.send("POST", CHAT, (), call_of(body))
        got.extend(setup.b.take())

    def translate(request: Request) -> Reply:
        if request.header(SESSION_HEADER) == "gone":
            if had_call:
                call()
            steps["called"].set()
            assert steps["gone"].wait(TIMEOUT)
        else:
            call()  # the retry of the one that has gone: it may be either's
        return Reply()

    setup.a.respond = translate
    since, content = len(setup.proxy.lines), json.dumps(body).encode()
    with raw_post(setup.proxy.port, MESSAGES, content, shown("gone")):
        assert steps["called"].wait(TIMEOUT)
    setup.proxy.find("client disconnect", since)
    with Client(setup.proxy.port) as client:
        client.send("POST", MESSAGES, [shown("look-alike")], content)
    steps["gone"].set()
    assert [bool(request.key) for request in got] == [True, False][not had_call :]


# --- the live page --------------------------------------------------------------------------------


def test_no_name_is_ours(setup: Setup) -> None:
    """A page under a name of its own could be read by whoever answers DNS for it."""
    for name in ("prompt-cache.internal", "prompt-cache", "mitm.it.prompt-cache.internal"):
        answer = ask(setup.proxy.ports[2], f"{setup.a.url}/", host=name)
        assert answer.body == b"{}"
    assert [request.target for request in setup.a.take()] == ["/"] * 3


# --- signed bodies --------------------------------------------------------------------------------

SIGNATURES = [
    ("x-amz-content-sha256", "0" * 64),
    ("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD"),
    ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
    ("Digest", "sha-256=x"),
    ("Content-Digest", "sha-256=:x:"),
    ("Repr-Digest", "sha-256=:x:"),
    ("Authorization", "AWS4-HMAC-SHA256 Credential=x"),
    ("authorization", " AWS4-ECDSA-P256-SHA256 Credential=x"),
    ("x-tos-content-sha256", "0" * 64),
]


@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
def test_a_request_that_vouches_for_its_body_is_as_it_was_sent(
    setup: Setup, signature: tuple[str, str]
) -> None:
    body = request_body(UUID, model="gpt-6", prompt_cache_key=TEXT_ID, system="x-anthropic-")
    headers = [shown(UUID), TYPE, signature, ("session-id", "mine")]
    got = setup.send_to_openai(body, *headers)
    assert got.body == body
    assert got.headers == [
        ("Host", "api.openai.com"),
        *((name, value.strip()) for name, value in headers),
        ("Content-Length", str(len(body))),
    ]


# --- endpoints ------------------------------------------------------------------------------------

REJECTION = Reply(400, body=b'{"error":{"message":"Unknown parameter: \'prompt_cache_key\'"}}')


def test_a_host_header_turns_nothing_off_for_another_gateway(setup: Setup) -> None:
    setup.b.respond = lambda request: REJECTION if request.key else Reply()
    own, path = encoded(), "/one-gateway/v1/messages"
    named = ("Host", setup.a.url.removeprefix("http://"))
    for at, target in ((1, path), (2, f"{setup.b.url}{path}")):
        setup.send(own, named, shown(UUID), target=target, at=at)
    assert setup.send(own, shown(UUID), target=path, at=1).body == own
    for at, target in ((0, path), (2, f"{setup.a.url}{path}")):
        assert setup.send(own, named, shown(UUID), target=target, at=at).key


def test_a_clients_own_bad_member_disarms_no_diagnosis(setup: Setup) -> None:
    words = "Unknown parameter: 'prompt_cache_options'"
    usage = {"input_tokens": 5000, "input_tokens_details": {"cached_tokens": 0}}

    def respond(request: Request) -> Reply:
        if request.json.get("prompt_cache_options") == "bad":
            return Reply(400, body=json.dumps({"error": {"message": words}}).encode())
        return Reply(
            body=json.dumps({"id": "resp_1", "object": "response", "usage": usage}).encode()
        )

    setup.a.respond = respond

    def ask_openai(session: str, **members: object) -> Any:
        body = encoded(model="gpt-6", input=[], **members)
        return setup.send_to_openai(body, shown(session)).json.get("prompt_cache_options")

    with setup.options(prompt_cache_diagnose=True):
        for _ in range(4):
            assert ask_openai("one", prompt_cache_options="bad") == "bad"
        assert [ask_openai("two") for _ in range(2)] == [
            None,
            {"comparison_response_id": "resp_1"},
        ]
