"""What upstreams and translators really send: a real mitmdump before them, its log and its flows.

The shapes and their right values are the unit tests'. Here each goes through the live log and
through the report of the flows that the same mitmdump has written, and both have to agree.
"""

import json
import re
import socket
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from lib import LOOPBACK, TIMEOUT
from lib.client import Client, request_body
from lib.dialects import DIALECTS
from lib.messages import EVENTS, Headers, Reply, Request
from lib.mitmdump import Mitmdump
from live.proxied import SESSION_HEADER, assert_sound, flows, logged, proxied
from mitmproxy import flowfilter
from mitmproxy.net import encoding
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.report.command import build
from unit.usage.test_accounting import (
    CONVERSATIONS,
    FRAMINGS,
    ONE_RESPONSE,
    Counts,
    body_of,
    chat,
    messages,
    responses,
    stream_of,
)
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event
from wsproto.events import Request as WsRequest

Tokens = tuple[int, int | None] | None
"""The whole prompt and its cached part; None if no usage is reported."""

JSON = (("content-type", "application/json"),)
TYPES: dict[str, Headers] = {
    "no type": (),
    "plain": (("content-type", "text/plain; charset=utf-8"),),
    "JSON": JSON,
    "events": EVENTS,
}


AZURE = "/openai/deployments/{model}/chat/completions?api-version=2025-04-01-preview"


class Case(NamedTuple):
    """A conversation: the request's path, each turn's reply, and what each is to count as.

    If the path has a place for the model, the body has no model.
    """

    path: str
    replies: list[Reply]
    expected: list[Tokens]
    is_streamed: bool
    misses: int = 0


def path_of(usage: Counts) -> str:
    name = "messages"
    if "prompt_tokens" in usage:
        name = "chat"
    elif "input_tokens_details" in usage:
        name = "responses"
    return DIALECTS[name].path


def case(
    turns: Sequence[Counts],
    expected: Sequence[Tokens],
    *,
    is_streamed: bool,
    headers: Headers | None = None,
    misses: int = 0,
) -> Case:
    make = stream_of if is_streamed else body_of
    headers = headers if headers is not None else EVENTS if is_streamed else JSON
    replies = [Reply(headers=headers, body=make(turn)) for turn in turns]
    return Case(path_of(turns[0]), replies, [*expected], is_streamed, misses)


def cases() -> Iterator[tuple[str, Case]]:
    for is_streamed in (False, True):
        how = "streamed" if is_streamed else "whole"
        for name, (usage, result) in ONE_RESPONSE.items():
            yield f"{name}, {how}", case([usage], [result and result[:2]], is_streamed=is_streamed)
        for name, (turns, results) in CONVERSATIONS.items():
            tokens = [result and result[:2] for result in results]
            misses = MISSES.get(name, 0)
            found = case(turns, tokens, is_streamed=is_streamed, misses=misses)
            yield f"{name}, {how}", found
            if name == "absent after a report":
                yield f"Azure, {how}", found._replace(path=AZURE)
    for usage in (chat(3000, 2500), responses(3000, 2500), messages(3, 2500, 497)):
        dialect = path_of(usage).rpartition("/")[2]
        for type_, headers in TYPES.items():
            reply = case([usage], [(3000, 2500)], is_streamed=True, headers=headers)
            for framing, frame in FRAMINGS.items():
                body = frame(stream_of(usage))
                replies = [Reply(headers=headers, body=body)]
                yield f"{dialect}, {type_}, {framing}", reply._replace(replies=replies)
            for coding in ("gzip", "deflate", "br", "zstd"):
                coded = encoding.encode(stream_of(usage), coding)
                replies = [Reply(headers=[*headers, ("content-encoding", coding)], body=coded)]
                yield f"{dialect}, {type_}, {coding}", reply._replace(replies=replies)
            # JSON in answer to a request for a stream, and events that nobody has asked for.
            replies = [Reply(headers=headers, body=body_of(usage))]
            yield f"{dialect}, {type_}, no stream", reply._replace(replies=replies)
            replies = [Reply(headers=headers, body=stream_of(usage))]
            unasked = reply._replace(replies=replies, is_streamed=False)
            yield f"{dialect}, {type_}, not asked for", unasked


# How many turns of these conversations missed over 2,048 tokens that they should have read.
MISSES = {
    "Messages, included, then missed": 1,
    "Claude with a turn that is mostly not cached": 1,
    "chat, excluded": 1,
    "chat, without reads": 1,
    "Messages, without reads, seen later": 1,
}
CASES = dict(cases())
IDS = {name: f"m{at}" for at, name in enumerate(CASES)}
"""The model of each case: what an endpoint has proved is not to decide another case."""


class Run(NamedTuple):
    """What the log and the report say of each case, by its model, and its flows' contents."""

    logged: dict[str, list[dict[str, str]]]
    missed: dict[str, list[dict[str, str]]]
    reported: dict[str, list[FinishedRequest]]
    saved: dict[str, list[bytes | None]]
    received: dict[str, list[bytes]]


def by_model(proxy: Mitmdump, kind: str) -> dict[str, list[dict[str, str]]]:
    """Return the fields of each log line of that kind, by model."""
    found: dict[str, list[dict[str, str]]] = {}
    for each in logged(proxy, f"{kind} "):
        found.setdefault(each["model"], []).append(each)
    return found


def counted(usages: Iterable[dict[str, str]]) -> list[Tokens]:
    """Return the tokens in log lines."""
    return [
        (int(usage["input"]), None if usage["cached"] == "?" else int(usage["cached"]))
        for usage in usages
    ]


def reported(path: Path) -> dict[str, list[FinishedRequest]]:
    """Return the requests in the report of a file of flows, by model."""
    found: dict[str, list[FinishedRequest]] = {}
    for session in build(path, flowfilter.parse("~all"), None, None).sessions:
        for request in session.requests:
            found.setdefault(request.model, []).append(request)
    return found


def growing_body(turn: int, **members: object) -> bytes:
    roles = ["user", "assistant"] * turn
    said = [{"role": role, "content": f"{role} {at} " * 9} for at, role in enumerate(roles)]
    said.append({"role": "user", "content": "go on"})
    return request_body("", messages=said, **members)


def model_of(target: str, body: bytes) -> str:
    in_path = re.search("/deployments/([^/]+)/", target)
    return in_path[1] if in_path else json.loads(body)["model"]


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    saved, received = tmp_path_factory.mktemp("real") / "flows", dict[str, list[bytes]]()

    def respond(request: Request) -> Reply:
        name = names[model_of(request.target, request.body)]
        return CASES[name].replies[len(request.json["messages"]) // 2]

    names = {model: name for name, model in IDS.items()}
    with proxied(respond, args=["-w", str(saved)], flow_detail="0") as (_, proxy):
        for name, model in IDS.items():
            session = [(SESSION_HEADER, str(uuid4()))]
            with Client(proxy.port) as client:
                path, _, _, is_streamed, _ = CASES[name]
                named = {"model": None if path == AZURE else model, "stream": is_streamed}
                for turn, _ in enumerate(CASES[name].replies):
                    body = growing_body(turn, **named)
                    answer = client.send("POST", path.format(model=model), session, body)
                    received.setdefault(model, []).append(answer.body)
        proxy.stop()
    contents: dict[str, list[bytes | None]] = {}
    for flow in flows(saved):
        assert flow.response
        model = model_of(flow.request.path, flow.request.content or b"")
        contents.setdefault(model, []).append(flow.response.raw_content)
    usages, misses = by_model(proxy, "usage"), by_model(proxy, "miss")
    return Run(usages, misses, reported(saved), contents, received)


@pytest.mark.parametrize("name", CASES)
def test_usage_in_the_log_and_in_the_report(run: Run, name: str) -> None:
    model, expected = IDS[name], CASES[name].expected
    assert counted(run.logged.get(model, [])) == [tokens for tokens in expected if tokens]
    usages = [request.usage for request in run.reported[model]]
    assert [usage and (usage.input, usage.cached) for usage in usages] == expected


@pytest.mark.parametrize("name", CASES)
def test_misses_in_the_log_and_in_the_report(run: Run, name: str) -> None:
    missed = [(int(each["missed"]), each["cause"]) for each in run.missed.get(IDS[name], [])]
    assert len(missed) == CASES[name].misses
    misses = [request.miss for request in run.reported[IDS[name]] if request.miss]
    assert [(miss.missed, miss.cause) for miss in misses] == missed


@pytest.mark.parametrize("name", CASES)
def test_answers_reach_the_client_and_the_flow_byte_for_byte(run: Run, name: str) -> None:
    bodies = [reply.body for reply in CASES[name].replies]
    assert run.received[IDS[name]] == run.saved[IDS[name]] == bodies


def test_usage_of_streamed_requests_in_the_report(tmp_path: Path) -> None:
    """Their bodies are not in the file of flows, so what the addon knows of them is."""
    turns, results = CONVERSATIONS["absent after a report"]

    def respond(request: Request) -> Reply:
        return Reply(body=body_of(turns[len(request.json["messages"]) // 2]))

    saved = tmp_path / "flows"
    headers = [(SESSION_HEADER, str(uuid4())), ("content-type", "application/json")]
    args = ["-w", str(saved), "--set", "stream_large_bodies=1k"]
    with proxied(respond, args=args) as (upstream, proxy):
        for turn, usage in enumerate(turns):
            body = growing_body(turn, model="m", x="x" * 2000)
            with Client(proxy.port) as client:
                client.send("POST", path_of(usage), headers, body)
        assert all(request.key for request in upstream.take())
        proxy.stop()
    assert [flow.request.raw_content for flow in flows(saved)] == [None] * len(turns)
    expected = [result and result[:2] for result in results]
    assert counted(by_model(proxy, "usage")["m"]) == expected
    usages = [request.usage for request in reported(saved)["m"]]
    assert [usage and (usage.input, usage.cached) for usage in usages] == expected


BROKEN: dict[str, tuple[list[tuple[Counts, bool]], list[Tokens]]] = {
    # Whether the second would have had cached tokens is not known; the third had none.
    "Messages": (
        [(messages(3, 1000, 100), True), (messages(1200), False), (messages(1300), True)],
        [(1103, 1000), (1200, None), (1300, 0)],
    ),
    "chat": (
        [(chat(1100, 1000), True), (chat(1200), False), (chat(1300), True)],
        [(1100, 1000), (1200, None), (1300, 0)],
    ),
    "Claude": (
        [(messages(3, 0, 20_000), False), (messages(3, 20_000, 400), True)],
        [(20_003, 0), (20_403, 20_000)],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("type_", ["no type", "events"])
def test_a_stream_that_breaks_off_is_read_alike(name: str, type_: str, tmp_path: Path) -> None:
    turns, expected = BROKEN[name]
    replies = [
        Reply(200, TYPES[type_], [stream_of(usage, is_complete=whole)], complete=whole)
        for usage, whole in turns
    ]

    def respond(request: Request) -> Reply:
        return replies[len(request.json["messages"]) // 2]

    saved, session = tmp_path / "flows", [(SESSION_HEADER, "s")]
    with proxied(respond, args=["-w", str(saved)]) as (_, proxy):
        for turn, (usage, whole) in enumerate(turns):
            body = growing_body(turn, model="m", stream=True)
            with (
                Client(proxy.port) as client,
                nullcontext() if whole else pytest.raises(IncompleteRead),
            ):
                client.send("POST", path_of(usage), session, body)
            proxy.find_all("usage hit=", turn + 1)
        proxy.stop()
    assert counted(by_model(proxy, "usage")["m"]) == expected
    usages = [request.usage for request in reported(saved)["m"]]
    assert [usage and (usage.input, usage.cached) for usage in usages] == expected


Passing = dict[str, Reply]
"""What an upstream answers to each session."""


@pytest.fixture(scope="module", name="passing")
def _passing() -> Iterator[tuple[Mitmdump, Passing]]:
    replies: Passing = {}

    def respond(request: Request) -> Reply:
        return replies[json.loads(request.json["metadata"]["user_id"])["session_id"]]

    with proxied(respond) as (_, proxy):
        yield proxy, replies


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("usage", [chat(3000, 2500), responses(3000, 2500), messages(3, 2500, 497)])
@pytest.mark.parametrize("make", [stream_of, body_of])
def test_a_stream_is_passed_on_as_it_arrives(
    passing: tuple[Mitmdump, Passing], usage: Counts, type_: str, coding: str, make: Any
) -> None:
    """The upstream holds the second half back until the client has the first."""
    proxy, upstream = passing
    body, packed = make(usage), zlib.compressobj(wbits=31)
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]
    headers = TYPES[type_]
    if coding == "gzip":
        headers = [*headers, ("content-encoding", coding)]
        first = packed.compress(halves[0]) + packed.flush(zlib.Z_SYNC_FLUSH)
        halves = [first, packed.compress(halves[1]) + packed.flush()]
    session, went_on = str(uuid4()), threading.Event()
    upstream[session] = Reply(headers=headers, body=held_back(halves, went_on))
    with Client(proxy.port) as client:
        sent = request_body(session, stream=True)
        response = client.open("POST", path_of(usage), body=sent)
        assert response.read(len(halves[0])) == halves[0]
        went_on.set()
        assert response.read() == halves[1]
    proxy.find(f"usage hit=83% input=3000 cached=2500 .*session={session}")


def held_back(halves: list[bytes], went_on: threading.Event) -> Iterator[bytes]:
    yield halves[0]
    if went_on.wait(TIMEOUT):
        yield halves[1]


SECRET = "what a user wrote"
GO = 'json: unknown field "prompt_cache_key"'
OPENER = (
    "litellm.ServiceUnavailableError: litellm.MidStreamFallbackError: litellm.BadRequestError: "
)
BEDROCK = f"{OPENER}BedrockException - {{'message': '#: extraneous key [%s] is not permitted'}}"
ROUTER = ". Received Model Group=x\nAvailable Model Group Fallbacks=None"


def error(message: object, **members: object) -> bytes:
    return json.dumps({"error": {"message": message} | members}).encode()


REJECTIONS = {
    "text": Reply(400, [], f"{GO} Request id: 021764123456789".encode()),
    "JSON": Reply(400, JSON, error(GO, param=None)),
    "JSON in a string": Reply(422, JSON, json.dumps(error(GO).decode()).encode()),
    "JSON in JSON": Reply(400, JSON, error(f"Error from provider: {error(GO).decode()}")),
    "event, 200": Reply(200, EVENTS, b"data: " + error(GO) + b"\n\ndata: [DONE]\n\n"),
    "event without a type, 200": Reply(200, [], b"event: error\ndata: " + error(GO)),
    "JSON line, 200": Reply(200, JSON, b'{"created": 1}\n' + error(GO)),
    "event, 400": Reply(400, EVENTS, b"event: error\rdata: " + error(GO) + b"\r\r"),
    "503": Reply(503, JSON, error(BEDROCK % "prompt_cache_key" + ROUTER)),
}
LOOKALIKES = {
    "text": Reply(400, [], f"{SECRET}: {GO}".encode()),
    "JSON": Reply(400, JSON, error(f"'{SECRET}', {GO}", input=GO)),
    "completion": Reply(
        200, JSON, json.dumps({"choices": [{"message": GO}], "error": None}).encode()
    ),
    "event, 200": Reply(200, EVENTS, b"data: " + error(f"{SECRET}: {GO}") + b"\n\n"),
    "event, 400": Reply(400, EVENTS, b"data: " + error("bad", request={"error": GO}) + b"\n\n"),
    "503": Reply(503, JSON, error(OPENER + f"flagged: {GO}{ROUTER}")),
}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_rejections_are_learned_from_the_first_and_nothing_else_is(is_streamed: bool) -> None:
    replies = {f"r{at}": reply for at, reply in enumerate(REJECTIONS.values())}
    replies |= {f"l{at}": reply for at, reply in enumerate(LOOKALIKES.values())}
    keyed: dict[str, list[bool]] = {}

    def respond(request: Request) -> Reply:
        return replies[request.json["model"]] if request.key else Reply()

    with proxied(respond) as (upstream, proxy), Client(proxy.port) as client:
        for model, reply in replies.items():
            body = request_body(str(uuid4()), model=model, stream=is_streamed)
            for _ in range(2):
                answer = client.send("POST", f"/{model}/v1/responses", body=body)
                (request,) = upstream.take()
                keyed.setdefault(model, []).append(request.key is not None)
                assert answer.body == (reply.body if request.key else b"{}")
        proxy.stop()
    assert keyed == {model: [True, model.startswith("l")] for model in replies}
    warnings = [line for line in proxy.lines if " rejects prompt_cache_key " in line]
    assert len(warnings) == len(REJECTIONS)
    assert SECRET not in "\n".join(proxy.lines)


def test_a_websocket_passes_unchanged_with_one_warning() -> None:
    said = [b'{"type": "response.create", "model": "m"}', b'{"type": "response.completed"}']
    heard: list[object] = []

    def serve() -> None:
        for _ in range(2):
            with listener.accept()[0] as sock:
                server = WSConnection(ConnectionType.SERVER)
                for event in received(server, sock):
                    heard.append(getattr(event, "data", None))
                    if isinstance(event, WsRequest):
                        sock.sendall(server.send(AcceptConnection()))
                    elif isinstance(event, BytesMessage):
                        sock.sendall(server.send(BytesMessage(said[1])))

    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        Mitmdump(f"reverse:http://{LOOPBACK}:{listener.getsockname()[1]}") as proxy,
    ):
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for _ in range(2):
            with socket.create_connection((LOOPBACK, proxy.port), TIMEOUT) as sock:
                client = WSConnection(ConnectionType.CLIENT)
                headers = [(SESSION_HEADER.lower().encode(), b"s")]
                request = WsRequest("gateway.test", "/v1/responses", extra_headers=headers)
                sock.sendall(client.send(request))
                for event in received(client, sock):
                    heard.append(getattr(event, "data", None))
                    if isinstance(event, AcceptConnection):
                        sock.sendall(client.send(BytesMessage(said[0])))
                    elif isinstance(event, BytesMessage):
                        break
        thread.join(TIMEOUT)
        proxy.stop()
    assert_sound(proxy)
    assert [each for each in heard if each] == said * 2
    (warning,) = (line for line in proxy.lines if "no key for GET " in line)
    assert "/v1/responses: it goes on unchanged because requests over a WebSocket get no" in warning


def received(connection: WSConnection, sock: socket.socket) -> Iterator[Event]:
    while data := sock.recv(1 << 16):
        connection.receive_data(data)
        yield from connection.events()
