"""Translators before and behind a real mitmdump: who gets which key, and what of a body arrives."""

import json
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from h2.connection import H2Connection  # type: ignore[import-untyped, unused-ignore]
from h2.events import StreamEnded  # type: ignore[import-untyped, unused-ignore]
from lib import LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client, request_body, without_key
from lib.messages import Reply, Request, header
from lib.mitmdump import Mitmdump
from lib.recordings import records
from lib.server import Server
from live.http2 import Http2Client

SESSION_HEADER = "X-Claude-Code-Session-Id"
CHAT = "/v1/chat/completions"
SHOWN = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
KEY = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"

Json = dict[str, Any]

# --- a translator that strips everything, between two listeners ---------------------------------

REMINDER = "<system-reminder>\nToday is Sunday.\nAnswer in short.\n</system-reminder>"
TOOLS = ["Agent", "Bash", "Edit", "Read"]


def says(role: str, *texts: str) -> Json:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


def tool_turn(output: str) -> list[Json]:
    """Return a tool's call and its result, such as any session may have."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": output}
    return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


def claude_request(messages: list[Json], tools: list[str] = TOOLS) -> Json:
    return {
        "model": "claude-opus-5-5",
        "messages": messages,
        "system": [{"type": "text", "text": "You are Claude Code.\nBe careful."}],
        "tools": [{"name": name, "description": name, "input_schema": {}} for name in tools],
    }


def translated(body: Json) -> Json:
    """Translate to Chat Completions, with nothing left that shows the session."""
    messages: list[Json] = [{"role": "system", "content": body["system"][0]["text"]}]
    for message in body["messages"]:
        texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        for block in message["content"]:
            if block["type"] == "tool_use":
                call = {"id": "call_1", "type": "function", "function": {"name": block["name"]}}
                messages.append({"role": "assistant", "tool_calls": [call]})
            if block["type"] == "tool_result":
                content = block["content"]
                messages.append({"role": "tool", "tool_call_id": "call_1", "content": content})
        if texts:
            messages.append({"role": message["role"], "content": "\n".join(texts)})
    functions = [{"type": "function", "function": {"name": t["name"]}} for t in body["tools"]]
    return {"model": "gpt-5.4", "messages": messages, "tools": functions}


class Chain:
    """Client, mitmdump, translator, mitmdump again, upstream.

    `before_call` is run before each call of the translator, `before_answer` before each answer of
    the upstream, each with the translated body.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.upstream = stack.enter_context(Server(self._answer))
        self.translator = stack.enter_context(Server(self._translate))
        self.proxy = stack.enter_context(
            Mitmdump(f"reverse:{self.translator.url}", f"reverse:{self.upstream.url}")
        )
        self.front, self.back = self.proxy.ports
        self.before_call: Callable[[Json], object] = id
        self.before_answer: Callable[[Json], object] = id

    def _translate(self, request: Request) -> Reply:
        call = translated(json.loads(request.body))
        self.before_call(call)
        with Client(self.back) as client:
            answer = client.send("POST", CHAT, body=json.dumps(call).encode())
        return Reply(answer.status, body=answer.body)

    def _answer(self, request: Request) -> Reply:
        call = json.loads(request.body)
        self.before_answer(call)
        return Reply(body=json.dumps(call | {"usage": {"prompt_tokens": 10}}).encode())

    def send(self, session: str, body: Json) -> Json:
        """Send a session's request; return the body that its upstream call arrived with."""
        headers = [(SESSION_HEADER, session)] if session else []
        with Client(self.front) as client:
            answer = client.send("POST", MESSAGES, headers, json.dumps(body).encode())
        assert answer.status == 200
        called: Json = json.loads(answer.body)
        called.pop("usage", None)
        return called


@pytest.fixture
def chain() -> Iterator[Chain]:
    with ExitStack() as stack:
        chain = Chain(stack)
        yield chain
        assert chain.upstream.broken == []
        assert not [line for line in chain.proxy.lines if "Addon error" in line]


def conversations(count: int) -> Iterator[list[list[Json]]]:
    """Yield turn after turn: the conversations of so many sessions, which have much in common."""
    opening = [
        says("user", REMINDER, "look around"),
        *tool_turn("a.py"),
        says("assistant", "Well."),
    ]
    grown = [[*opening, says("user", f"fix bug {number}")] for number in range(count)]
    yield grown
    for turn, output in enumerate(["1 passed", "a.py", "ok"]):
        grown = [conversation + tool_turn(output) for conversation in grown]
        yield grown
        if turn == 0:  # from here on each second one is a fork of the one before it
            grown = [grown[number - number % 2] for number in range(count)]
        grown = [
            [*conversation, says("assistant", "Done."), says("user", f"go on {turn} {number}")]
            for number, conversation in enumerate(grown)
        ]
        yield grown


def strangers(in_flight: list[Json]) -> list[Json]:
    """Return requests that no session made, as like to those in flight as they can be."""
    alike = in_flight[0]["messages"]
    prompt = alike[-1]["content"][-1].get("text", "hi")
    return [
        claude_request([says("user", "hi")]),
        claude_request([says("user", "hi")], tools=[]),
        claude_request([says("user", REMINDER, "look around")]),
        claude_request([*alike, says("assistant", "Done."), says("user", "write a poem")]),
        claude_request([*alike[:-1], says("user", "write a poem")]),
        claude_request(alike, tools=["Search"]),
        claude_request(alike, tools=[]) | {"system": [{"type": "text", "text": "Be helpful."}]},
        claude_request([says("user", prompt)]),
        claude_request([]),
    ]


def send_all_at_once(chain: Chain, requests: dict[str, Json], order: list[str]) -> dict[str, Json]:
    """Send a request for each session, all in flight when the first call is made, in this order.

    Strangers come in between. Return what of each arrived at the upstream.
    """
    sessions = {json.dumps(translated(body)): session for session, body in requests.items()}
    may_call = {session: threading.Event() for session in requests}
    following = dict(zip(order, [*order[1:], None], strict=True))
    may_call[order[0]].set()
    all_called = threading.Barrier(len(requests))

    def send_strangers() -> None:
        for stranger in strangers(list(requests.values())):
            assert "prompt_cache_key" not in chain.send("", stranger)
            with Client(chain.back) as client:
                for body in (stranger, translated(stranger)):
                    answer = client.send("POST", CHAT, body=json.dumps(body).encode())
                    assert "prompt_cache_key" not in json.loads(answer.body)

    all_here = threading.Barrier(len(requests), send_strangers)

    def session_of(call: Json) -> str | None:
        members = {name: value for name, value in call.items() if name != "prompt_cache_key"}
        return sessions.get(json.dumps(members))

    def before_call(call: Json) -> None:
        if session := session_of(call):
            all_here.wait(TIMEOUT)
            assert may_call[session].wait(TIMEOUT)

    def before_answer(call: Json) -> None:
        if session := session_of(call):
            if after := following[session]:
                may_call[after].set()
            all_called.wait(TIMEOUT)

    chain.before_call, chain.before_answer = before_call, before_answer
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = pool.map(chain.send, requests, requests.values())
        return dict(zip(requests, answers, strict=True))


def test_parallel_sessions(chain: Chain) -> None:
    shuffle = random.Random(4).shuffle  # noqa: S311
    sessions = [str(uuid4()) for _ in range(8)]
    keys: dict[str, str] = {}
    turns = 0
    for turn in conversations(len(sessions)):
        requests = dict(zip(sessions, map(claude_request, turn), strict=True))
        order = list(sessions)
        shuffle(order)
        for session, call in send_all_at_once(chain, requests, order).items():
            assert keys.setdefault(session, call["prompt_cache_key"]) == call["prompt_cache_key"]
            del call["prompt_cache_key"]
            assert call == translated(requests[session])
        turns += 1
    assert turns == 7
    assert len(set(keys.values())) == len(sessions)
    bridged = chain.proxy.find_all(
        rf"INFO \[prompt-cache\] key=({KEY}) session=(\S+) agent=main model=gpt-5\.4 "
        r"state=(?:new|reused) source=bridge scope=session$",
        turns * len(sessions),
    )
    assert len(bridged) == turns * len(sessions)
    assert {(match[2], match[1]) for match in bridged} == set(keys.items())
    chain.proxy.stop()
    count = turns * len(sessions)
    chain.proxy.find(rf"total sessions={len(sessions)} requests={count} input={10 * count} ")


def test_call_of_a_client_that_hung_up(chain: Chain) -> None:
    called, hung_up, answered = threading.Event(), threading.Event(), threading.Event()
    calls: list[Json] = []

    def before_call(call: Json) -> None:
        if "first" in json.dumps(call):
            called.set()
            assert hung_up.wait(TIMEOUT)

    def before_answer(call: Json) -> None:
        calls.append(call)
        if "first" in json.dumps(call):
            answered.set()

    chain.before_call, chain.before_answer = before_call, before_answer
    body = json.dumps(claude_request([says("user", REMINDER, "the first")])).encode()
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: x\r\n{SESSION_HEADER}: one\r\nContent-Length: "
    with socket.create_connection((LOOPBACK, chain.front), TIMEOUT) as client:
        port = client.getsockname()[1]
        client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        assert called.wait(TIMEOUT)
    chain.proxy.find(rf"\[127\.0\.0\.1:{port}\] client disconnect")
    hung_up.set()
    assert answered.wait(TIMEOUT)
    chain.send("two", claude_request([says("user", REMINDER, "the second")]))
    assert ["prompt_cache_key" in call for call in calls] == [False, True]


def test_retries_and_second_calls(chain: Chain) -> None:
    answers = iter([Reply(503), Reply(429), Reply()])
    chain.upstream.respond = lambda _: next(answers)
    call = json.dumps(translated(claude_request([says("user", "fix bug 1")]))).encode()

    def call_thrice(_: Json) -> None:
        with Client(chain.back) as client:
            assert [client.send("POST", CHAT, body=call).status for _ in range(2)] == [503, 429]

    chain.before_call = call_thrice
    chain.send("one", claude_request([says("user", "fix bug 1")]))
    requests = chain.upstream.take()
    assert len(requests) == 3
    assert len({request.key for request in requests} - {None}) == 1
    # All is answered: the same call again is a stranger's.
    chain.upstream.respond = lambda _: Reply()
    with Client(chain.back) as client:
        client.send("POST", CHAT, body=call)
    assert chain.upstream.take()[0].key is None


def test_bridge_is_off() -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(Server())
        proxy = stack.enter_context(
            Mitmdump(
                f"reverse:{upstream.url}", f"reverse:{upstream.url}", prompt_cache_bridge="false"
            )
        )
        body = claude_request([says("user", "fix bug 1")])
        call = json.dumps(translated(body)).encode()
        keys = []

        def respond(request: Request) -> Reply:
            if request.header(SESSION_HEADER):
                with Client(proxy.ports[1]) as client:
                    client.send("POST", CHAT, body=call)
            return Reply()

        upstream.respond = respond
        with Client(proxy.port) as client:
            headers = [(SESSION_HEADER, "one")]
            client.send("POST", MESSAGES, headers, json.dumps(body).encode())
        keys = [request.key for request in upstream.take()]
        assert [bool(key) for key in keys] == [True, False]


# --- streamed requests --------------------------------------------------------------------------

SIZES = [1_000, 65_536, 1_000_000, 16 << 20]


class Streaming:
    """A mitmdump that streams every request, between HTTP/1.1 or HTTP/2 on each side."""

    def __init__(self, stack: ExitStack) -> None:
        self.plain = stack.enter_context(Server())
        self.http2 = stack.enter_context(Server(alpn=["h2"]))
        self.to_plain = stack.enter_context(
            Mitmdump(f"reverse:{self.plain.url}", stream_large_bodies="1")
        )
        self.to_http2 = stack.enter_context(
            Mitmdump(f"reverse:{self.http2.url}", stream_large_bodies="1", ssl_insecure="true")
        )

    def side(self, versions: str) -> tuple[Server, Mitmdump]:
        if versions == "2 to 2":
            return self.http2, self.to_http2
        return self.plain, self.to_plain

    def send(self, versions: str, headers: list[tuple[str, str]], body: Any) -> Request:
        """Send a body, chunked if it has several pieces; return what arrived."""
        upstream, proxy = self.side(versions)
        with (
            Client(proxy.port)
            if versions == "1.1 to 1.1"
            else Http2Client(f"{LOOPBACK}:{proxy.port}")
        ) as client:
            assert client.send("POST", MESSAGES, headers, body).status == 200
        (request,) = upstream.take()
        assert request.version == versions[-1:] or versions.endswith(request.version)
        length = request.header("content-length")
        assert length is None or length == str(len(request.body))
        return request


@pytest.fixture(scope="module")
def streaming() -> Iterator[Streaming]:
    with ExitStack() as stack:
        streaming = Streaming(stack)
        yield streaming
        assert streaming.plain.broken == streaming.http2.broken == []
        for proxy in (streaming.to_plain, streaming.to_http2):
            assert not [line for line in proxy.lines if "Addon error" in line or "Trace" in line]


def large_body(session: str, size: int, **members: object) -> bytes:
    """Return a body of just so many bytes."""
    short = request_body(session, system="", **members)
    body = short.replace(b'"system": ""', b'"system": "%b"' % (b"x" * (size - len(short))))
    assert len(body) == size
    return body


def pieces(body: bytes) -> Iterable[bytes]:
    size = len(body) // 7 + 1
    return (body[start : start + size] for start in range(0, len(body), size))


VERSIONS = pytest.mark.parametrize("versions", ["1.1 to 1.1", "2 to 1.1", "2 to 2"])


@VERSIONS
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", [True, False])
def test_streamed_body_of_a_session(
    streaming: Streaming, versions: str, size: int, known: bool
) -> None:
    session = str(uuid4())
    headers = [(SESSION_HEADER, session)] if known else []
    body = large_body(session, size)
    first, second = (streaming.send(versions, headers, body) for _ in range(2))
    # Compared outside of the assertion: pytest would take minutes to show the difference.
    the_rest_is_unchanged = without_key(first.body) == body
    both_have_one_key = second.body == first.body
    assert the_rest_is_unchanged
    assert both_have_one_key
    assert len(first.body) == size + 58
    assert first.header("content-length") == str(size + 58)
    assert re.fullmatch(KEY, first.key)


@VERSIONS
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"messages":"%b","model":"far"}' % (b"x" * 100_000),
        b'{"model":"m","messages":["\xff"]}',
    ],
    ids=["empty", "far", "latin-1"],
)
def test_streamed_body_of_another_form(streaming: Streaming, versions: str, body: bytes) -> None:
    request = streaming.send(versions, [(SESSION_HEADER, str(uuid4()))], body)
    assert len(request.body) == len(body) + 58
    assert without_key(request.body).rstrip() == body != request.body.rstrip()


# Not from 2 to 1.1: there mitmproxy itself sends neither length nor chunks, so no body.
@pytest.mark.parametrize("versions", ["1.1 to 1.1", "2 to 2"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", [True, False])
def test_streamed_body_without_a_length(
    streaming: Streaming, versions: str, size: int, known: bool
) -> None:
    body = large_body(SHOWN, size)
    headers = [(SESSION_HEADER, str(uuid4()))] if known else []
    request = streaming.send(versions, headers, pieces(body))
    assert request.body == body
    assert request.header("content-length") is None


@VERSIONS
@pytest.mark.parametrize(
    "body",
    [
        b"x" * 100_000,
        b"\x00\xff" * 100_000,
        b"[" + large_body(SHOWN, 1_000) + b"]",
        large_body(SHOWN, 100_000, prompt_cache_key="mine").replace(
            b"{", b'{"prompt_cache_key":"mine",', 1
        ),
        large_body(SHOWN, 100_000)[:-2] + b',"prompt_cache_key":"mine"}',
        b'{"x":"\xff","prompt_cache_key":"mine"}',
    ],
    ids=["text", "binary", "array", "own key", "late", "broken"],
)
def test_streamed_body_that_gets_no_key(streaming: Streaming, versions: str, body: bytes) -> None:
    request = streaming.send(versions, [(SESSION_HEADER, str(uuid4()))], body)
    assert request.body == body + b" " * 58


@VERSIONS
@pytest.mark.parametrize("headers", [[], [(SESSION_HEADER, "")]])
def test_streamed_body_that_shows_no_session(
    streaming: Streaming, versions: str, headers: list[tuple[str, str]]
) -> None:
    body = large_body("", 100_000)
    assert streaming.send(versions, headers, body).body == body + b" " * 58


@VERSIONS
def test_streamed_body_that_is_too_large_to_be_held(streaming: Streaming, versions: str) -> None:
    body = large_body(str(uuid4()), (16 << 20) + 1)
    is_unchanged = streaming.send(versions, [], body).body == body
    assert is_unchanged


@VERSIONS
def test_streamed_body_with_a_coding(streaming: Streaming, versions: str) -> None:
    headers = [(SESSION_HEADER, str(uuid4())), ("content-encoding", "gzip")]
    body = large_body(SHOWN, 1_000)
    assert streaming.send(versions, headers, body).body == body


def send_frames(port: int, headers: list[tuple[str, str]], frames: list[bytes]) -> None:
    """Send a request over HTTP/2 in just these DATA frames, and await the end of the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    http2 = H2Connection()
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", MESSAGES)]
    length = [("content-length", str(sum(map(len, frames))))]
    with (
        socket.create_connection((LOOPBACK, port), TIMEOUT) as plain,
        context.wrap_socket(plain) as connection,
    ):
        http2.initiate_connection()
        http2.send_headers(1, [*pseudo, *length, *headers])
        for frame in frames:
            http2.send_data(1, frame)
        http2.end_stream(1)  # with one more empty frame
        connection.sendall(http2.data_to_send())
        while not any(
            isinstance(event, StreamEnded) for event in http2.receive_data(connection.recv(1 << 16))
        ):
            connection.sendall(http2.data_to_send())


@pytest.mark.parametrize("versions", ["2 to 1.1", "2 to 2"])
@pytest.mark.parametrize("body", [large_body(SHOWN, 50_000), b"x" * 50_000], ids=["key", "no key"])
def test_streamed_body_with_empty_frames(streaming: Streaming, versions: str, body: bytes) -> None:
    upstream, proxy = streaming.side(versions)
    frames = [each for piece in pieces(body) for each in (b"", bytes(piece), b"")]
    send_frames(proxy.port, [(SESSION_HEADER.lower(), str(uuid4()))], frames)
    (request,) = upstream.take()
    if body[:1] == b"{":
        assert without_key(request.body) == body != request.body
    else:
        assert request.body == body + b" " * 58


def test_one_warning_for_each_reason() -> None:
    body = large_body(SHOWN, 1_000)
    large = large_body(SHOWN, (16 << 20) + 1)
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", stream_large_bodies="1") as proxy,
        Client(proxy.port) as client,
    ):
        for _ in range(3):
            for each in (pieces(body), large, b"[]", body):
                client.send("POST", MESSAGES, body=each)
        *others, keyed = upstream.take()[-4:]
        are_unchanged = [each.body for each in others] == [body, large, b"[]" + b" " * 58]
        assert are_unchanged
        assert keyed.key
        proxy.stop()
    warnings = [line for line in proxy.lines if "WARN [prompt-cache] no key" in line]
    assert len(warnings) == 2
    assert "it is streamed (stream_large_bodies)" in warnings[0]
    assert "the body is not a JSON object" in warnings[1]


# --- recorded requests of translators -----------------------------------------------------------

RECORDED = records("translators")
OTHER_PATHS = ("/api/chat", "/v1/models/gemini-2.5-pro:generateContent")


def shown_session(record: Json) -> str | None:
    """Return the session that a recorded request shows, but in a key that is none."""
    body = json.loads(record["body"])
    user_id = (body.get("metadata") or {}).get("user_id") or ""
    user = body.get("user") or ""
    in_header = header(record["headers"], SESSION_HEADER)
    return in_header or (SHOWN if SHOWN in user_id or SHOWN in user else None)


def test_recorded_requests_of_translators() -> None:
    expected: list[str | None] = []
    keys: dict[str, str] = {}
    with Server() as upstream:
        with (
            Mitmdump(f"reverse:{upstream.url}", prompt_cache_headers="session-id") as proxy,
            Client(proxy.port) as client,
        ):
            for record in RECORDED:
                client.send("POST", record["path"], record["headers"], record["body"].encode())
            proxy.stop()
        requests = upstream.take()
    for record, request in zip(RECORDED, requests, strict=True):
        sent = json.loads(record["body"])
        own, session = sent.get("prompt_cache_key"), shown_session(record)
        is_raw = own is not None and own.startswith(("user_", "{"))
        if not session or record["path"] in OTHER_PATHS:
            assert request.body == record["body"].encode()
            assert request.header("session-id") is None
            expected.append(None)
        elif own and not is_raw:
            assert request.body == record["body"].encode()
            assert request.header("session-id") == own
            expected.append("kept")
        else:
            assert re.fullmatch(KEY, request.key)
            assert keys.setdefault(sent["model"], request.key) == request.key
            assert request.header("session-id") == request.key
            assert json.loads(request.body) == sent | {"prompt_cache_key": request.key}
            expected.append("replaced" if own else "keyed")
    counts = {state: expected.count(state) for state in expected}
    assert counts == {None: 26, "kept": 11, "keyed": 12, "replaced": 1}
    assert len(set(keys.values())) == len(keys)
    states = [re.search(r" state=(\w+) ", line) for line in proxy.lines]
    logged = [
        match[1].replace("new", "keyed").replace("reused", "keyed") for match in states if match
    ]
    assert logged == [state for state in expected if state]
    warnings = [line for line in proxy.lines if "WARN" in line]
    assert len(warnings) == 1
    assert "user id" in warnings[0]


def test_raw_user_id_is_replaced_where_the_session_is_known(chain: Chain) -> None:
    raw = [
        record
        for record in RECORDED
        if json.loads(record["body"]).get("prompt_cache_key", "").startswith(("user_", "{"))
        and not shown_session(record)
    ]
    assert len(raw) == 2
    with Client(chain.back) as client:
        for record in raw:
            headers = [*record["headers"], (SESSION_HEADER, "of-the-header")]
            client.send("POST", record["path"], headers, record["body"].encode())
            (request,) = chain.upstream.take()
            assert re.fullmatch(KEY, request.key)
            sent = json.dumps(json.loads(record["body"])["prompt_cache_key"]).encode()
            assert request.body == record["body"].encode().replace(
                b'"prompt_cache_key":%b' % sent, b'"prompt_cache_key":"%b"' % request.key.encode()
            )

    # LiteLLM 1.99 to 1.101, whose upstream request shows nothing else.
    body = claude_request([says("user", REMINDER, "fix bug 1")])
    bad = {"prompt_cache_key": f"user_{'a' * 59}"}

    def call(_: Request) -> Reply:
        with Client(chain.back) as client:
            client.send("POST", CHAT, body=json.dumps(translated(body) | bad).encode())
        return Reply()

    chain.translator.respond = call
    with Client(chain.front) as client:
        headers = [(SESSION_HEADER, "of-the-bridge")]
        client.send("POST", MESSAGES, headers, json.dumps(body).encode())
    (request,) = chain.upstream.take()
    assert re.fullmatch(KEY, request.key)
    chain.proxy.find(
        rf"key={request.key} session=of-the-bridge .* state=replaced source=bridge scope=session$"
    )
