"""The addon in a real mitmdump, between a client and a server that records what arrives."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client, post, request_body, without_key
from lib.messages import Headers, Reply, Request, header
from lib.mitmdump import Mitmdump
from lib.recordings import records
from lib.server import Server
from live.http2 import Http2Client
from live.proxied import SESSION_HEADER, assert_sound, flows, is_keyed, proxied, script
from live.tls_server import TlsServer
from mitmproxy.net.encoding import decode, encode

RECORDED = records("claude_code")

# The servers behind the proxy stand for all hosts, one for http://… and one for https://….
_TO_UPSTREAM = """
def server_connect(data):
    port = data.server.address[1]
    data.server.address = ("127.0.0.1", {80: %d, 443: %d}.get(port, port))
"""


class Chain(NamedTuple):
    """One mitmdump for most tests, with a reverse and a regular listener, and the servers."""

    proxy: Mitmdump
    plain: Server
    http2: Server

    @property
    def regular_url(self) -> str:
        return f"http://{LOOPBACK}:{self.proxy.ports[1]}"

    def post(self, body: bytes, *headers: tuple[str, str]) -> Request:
        return post(self.proxy.port, self.plain, body, *headers)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with ExitStack() as stack:
        plain = stack.enter_context(Server())
        http2 = stack.enter_context(TlsServer(alpn=["h2"]))
        folder = tmp_path_factory.mktemp("script")
        to_upstream = script(folder, "to_upstream", _TO_UPSTREAM % (plain.port, http2.port))
        options: dict[str, Any] = {"keep_host_header": "true", "ssl_insecure": "true"}
        options["scripts"] = [to_upstream, ADDON]
        proxy = stack.enter_context(Mitmdump(f"reverse:{plain.url}", "regular", **options))
        yield Chain(proxy, plain, http2)
        assert plain.broken == http2.broken == []
        assert_sound(proxy)


# --- the recorded traffic -----------------------------------------------------------------------


def other(headers: Headers) -> Headers:
    """Return the headers but Content-Length, which may differ."""
    return [(name, value) for name, value in headers if name.lower() != "content-length"]


def lower(headers: Headers) -> Headers:
    return [(name.lower().replace(":authority", "host"), value) for name, value in headers]


def session_of(record: Any) -> str:
    """Return the session of a recorded request, of any client version."""
    if from_header := header(record["headers"], SESSION_HEADER):
        return from_header
    user_id = json.loads(record["body"])["metadata"]["user_id"]
    return re.search(r'[_"]session_(?:id":")?([0-9a-f-]{36})', user_id)[1]  # type: ignore[index]


def play(chain: Chain, client: str, server: str) -> tuple[str, list[Request]]:
    """Send all recorded requests; return the Host they were sent with and what arrived."""
    host, sender = "gateway.test", Client(chain.proxy.port) if client == "1.1" else None
    if not sender and server == "1.1":
        host = f"{LOOPBACK}:{chain.proxy.port}"
    with sender or Http2Client(host, chain.regular_url if server == "2" else None) as each:
        for record in RECORDED:
            body = record["body"].encode()
            answer = each.send(record["method"], record["path"], record["headers"], body)
            assert answer.status == 200
    return host, (chain.plain if server == "1.1" else chain.http2).take()


def test_recorded_traffic(chain: Chain) -> None:
    keys: dict[tuple[str, str], str] = {}
    lines = []
    for client, server in (("1.1", "1.1"), ("2", "1.1"), ("2", "2")):
        host, requests = play(chain, client, server)
        for record, request in zip(RECORDED, requests, strict=True):
            sent = record["body"].encode()
            assert request.version == server
            assert (request.method, request.target) == (record["method"], record["path"])
            headers = [("Host", host), *((name, value) for name, value in record["headers"])]
            if client == "1.1":
                assert other(request.headers) == headers
            else:
                assert other(lower(request.headers)) == lower(headers)
            assert request.header("content-length") == (str(len(request.body)) if sent else None)
            if record["method"] != "POST" or not record["path"].startswith("/v1/messages?"):
                assert request.body == sent
                continue
            assert is_keyed(request.body, sent)
            session, model = session_of(record), json.loads(sent)["model"]
            state = "reused" if (session, model) in keys else "new"
            key = keys.setdefault((session, model), request.key)
            assert request.key == key
            agent = header(record["headers"], "x-claude-code-agent-id") or "main"
            source = "header" if header(record["headers"], SESSION_HEADER) else "metadata"
            lines.append(
                f"INFO [prompt-cache] key={key} session={session} agent={agent} model={model} "
                f"state={state} source={source} scope=session"
            )
    assert len(set(keys.values())) == len(keys) > 20
    sessions = "|".join(session for session, _ in keys)
    pattern = rf"^\[[\d:.]+\]\[127\.0\.0\.1:\d+\] (INFO .* key=.* session=(?:{sessions}) .*)"
    assert [match[1] for match in chain.proxy.find_all(pattern, len(lines))] == lines


# --- ways to send a body ------------------------------------------------------------------------


def test_coded_bodies(chain: Chain) -> None:
    body = request_body(str(uuid4()))
    for coding in ("gzip", "br", "zstd", "deflate", "identity"):
        request = chain.post(encode(body, coding), ("Content-Encoding", coding))
        assert request.header("content-encoding") == coding
        decoded = decode(request.body, coding)
        assert isinstance(decoded, bytes)
        assert is_keyed(decoded, body)


def test_broken_coding(chain: Chain) -> None:
    session = str(uuid4())
    body = request_body(session)
    for coding in ("gzip", "gzip", "no-such-coding"):
        assert chain.post(body, ("Content-Encoding", coding)).body == body
    chain.post(body)
    chain.proxy.find(f"INFO .* session={session} ")
    warnings = chain.proxy.find_all(r"WARN \[prompt-cache\] .* because (.*)", 2)
    assert [each[1] for each in warnings] == [
        "corrupt content-encoding gzip",
        "the content-encoding is unknown",
    ]


@pytest.mark.parametrize("pieces", [1, 7, 500])
def test_chunked_body(chain: Chain, pieces: int) -> None:
    body = request_body(str(uuid4()), system="x" * 10_000)
    size = len(body) // pieces + 1
    with Client(chain.proxy.port) as client:
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        client.send("POST", MESSAGES, body=iter(parts))
    (request,) = chain.plain.take()
    assert request.header("transfer-encoding") == "chunked"
    assert request.header("content-length") is None
    assert is_keyed(request.body, body)


def test_large_body(chain: Chain) -> None:
    session = str(uuid4())
    body = request_body(session, system="äö\U0001f600" * 2_500_000)
    assert len(body) > 20_000_000
    assert is_keyed(chain.post(body, (SESSION_HEADER, session)).body, body)


SESSION = "9f1c5a52-6d0b-4d0e-9a59-0f1e2d3c4b5a"
BODY = request_body(SESSION)
NO_OBJECTS = [
    BODY[:-40],
    b"",
    b"[" + BODY + b"]",
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"\xff",
    b"a=b",
]


@pytest.mark.parametrize("body", NO_OBJECTS, ids=range(7))
def test_no_json_object(chain: Chain, body: bytes) -> None:
    assert chain.post(body, (SESSION_HEADER, SESSION)).body == body


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_client_that_breaks_off(chain: Chain, framing: str) -> None:
    since = len(chain.proxy.lines)
    body = request_body(str(uuid4()))
    with socket.create_connection((LOOPBACK, chain.proxy.port), TIMEOUT) as client:
        port = client.getsockname()[1]
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if "chunked" in framing else body
        head = f"POST {MESSAGES} HTTP/1.1\r\nHost: gateway.test\r\n{framing}\r\n\r\n"
        client.sendall(head.encode() + chunk)
    chain.proxy.find(rf"\[127\.0\.0\.1:{port}\] client disconnect", since)
    assert chain.plain.take() == []
    assert chain.post(body).key


def test_upstream_that_breaks_off(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Reply(body=[b'{"a":', b"1"], complete=False)
    monkeypatch.setattr(chain.plain, "respond", lambda _: broken)
    with Client(chain.proxy.port) as client:
        assert client.send("POST", MESSAGES, body=request_body(str(uuid4()))).status == 502
    (request,) = chain.plain.take()
    assert request.key


def test_many_at_once(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [str(uuid4()) for _ in range(20)]
    all_here = threading.Barrier(200)

    def respond(request: Request) -> Reply:
        all_here.wait(TIMEOUT)
        return Reply(body=request.body)

    def send(number: int) -> tuple[bytes, bytes]:
        body = request_body(sessions[number % 20], number=number, system="x" * (number * 100))
        with Client(chain.proxy.port) as client:
            return body, client.send("POST", MESSAGES, body=body).body

    monkeypatch.setattr(chain.plain, "respond", respond)
    with ThreadPoolExecutor(200) as pool:
        results = list(pool.map(send, range(200)))
    assert len(chain.plain.take()) == 200
    assert all(without_key(arrived) == sent for sent, arrived in results)
    keys = [json.loads(arrived)["prompt_cache_key"] for _, arrived in results]
    assert keys == keys[:20] * 10
    assert len(set(keys)) == 20


def test_usage_in_coded_responses(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    session = str(uuid4())
    usage = b'{"usage":{"prompt_tokens":2048,"prompt_tokens_details":{"cached_tokens":1920}}}'
    bodies = {"text/event-stream": b"data: %b\n\n" % usage, "application/json": usage}
    with Client(chain.proxy.port) as client:
        for coding, (kind, body) in product(("gzip", "deflate", "br", "zstd"), bodies.items()):
            coded = encode(body, coding)
            headers = [("content-type", kind), ("content-encoding", coding)]
            reply = Reply(headers=headers, body=[coded[:20], coded[20:]])
            monkeypatch.setattr(chain.plain, "respond", lambda _, reply=reply: reply)
            assert client.send("POST", MESSAGES, body=request_body(session)).body == coded
    chain.proxy.find_all(rf"usage hit=93% input=2048 cached=1920 session={session} ", 8)
    chain.plain.take()


# --- what is left alone -------------------------------------------------------------------------

REJECTING = ["api.anthropic.com", "API.Anthropic.COM", "api.groq.com", "integrate.api.nvidia.com"]
OTHERS = ["api.openai.com", "notanthropic.com", "anthropic.com.example.test", "build.nvidia.com"]


@pytest.mark.parametrize("host", REJECTING + OTHERS)
def test_hosts_that_reject_a_key_get_none_behind_any_listener(chain: Chain, host: str) -> None:
    body, headers = request_body(str(uuid4())), [("Host", host)]
    with (
        Client(chain.proxy.port) as reverse,
        Client(chain.proxy.ports[1]) as regular,
        Http2Client(host, chain.regular_url) as tunnel,
    ):
        reverse.send("POST", MESSAGES, headers, body)
        regular.send("POST", f"http://{host}{MESSAGES}", headers, body)
        tunnel.send("POST", MESSAGES, [], body)
    requests = chain.plain.take() + chain.http2.take()
    assert [request.header("host") for request in requests] == [host, host, None]
    assert {without_key(request.body) for request in requests} == {body}
    assert {request.body != body for request in requests} == {host in OTHERS}


OTHER_REQUESTS = [("POST", "/v1/messages/batches"), ("POST", "/x?to=/v1/messages")]


@pytest.mark.parametrize(("method", "target"), [*OTHER_REQUESTS, ("PUT", "/v1/messages")])
def test_other_methods_and_paths(chain: Chain, method: str, target: str) -> None:
    headers = [] if method == "POST" else [("Content-Length", str(len(BODY)))]
    with Client(chain.proxy.port) as client:
        client.send(method, target, headers, BODY)
    assert [request.body for request in chain.plain.take()] == [BODY]


# --- flows that are not a client's request of now -----------------------------------------------


def test_replayed_and_loaded_flows_keep_their_key(tmp_path: Path) -> None:
    saved, loaded = tmp_path / "saved", tmp_path / "loaded"
    # To overwrite a key is the one option that could touch it.
    overwrite: dict[str, Any] = {"prompt_cache_overwrite": "true"}
    with Server() as upstream:
        with Mitmdump(f"reverse:{upstream.url}", args=["-w", str(saved)]) as proxy:
            first = post(proxy.port, upstream, BODY)
        assert Mitmdump(args=["--client-replay", str(saved)], **overwrite).wait() == 0
        (again,) = upstream.take()
    assert Mitmdump(args=["-n", "-r", str(saved), "-w", str(loaded)], **overwrite).wait() == 0
    assert first.key
    assert again.body == first.body
    assert [flow.request.content for flow in flows(loaded)] == [first.body]


_LISTENS = """
def add_log(entry):
    if not entry.msg.startswith("heard"):
        print("heard", entry.level, entry.msg, flush=True)
"""


def test_addon_that_listens_to_log_events(tmp_path: Path) -> None:
    scripts = [ADDON, script(tmp_path, "listens", _LISTENS)]
    with proxied(scripts=scripts) as (upstream, proxy):
        post(proxy.port, upstream, BODY)
        assert proxy.find(rf"^heard info .*\[prompt-cache\] key=\S+ session={SESSION}")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max_sessions", "abc", "not an integer: abc"),
        ("filter", "(" * 3000 + "~all" + ")" * 3000, "not a filter expression, or too deep"),
        ("store", "redis://:s3cret@localhost:port", "nor a good redis://"),
    ],
)
def test_bad_option_ends_the_start(name: str, value: str, reason: str) -> None:
    proxy = Mitmdump(args=["--set", f"prompt_cache_{name}={value}"])
    assert proxy.wait() == 1
    (line,) = proxy.find_all(r"\[prompt-cache\]", 1)
    assert line.string.count(f"prompt_cache_{name}") == 1
    assert reason in line.string.lower()
    assert len(proxy.lines) < 10
    assert "s3cret" not in line.string
