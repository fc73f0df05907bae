"""The addon in a real mitmdump, between a client and a server that records what arrives."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client, post, request_body, without_key
from lib.messages import Headers, Reply, Request, header
from lib.mitmdump import Mitmdump
from lib.recordings import records
from lib.server import Server
from live.http2 import Http2Client
from mitmproxy import http
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.net.encoding import decode, encode
from mitmproxy.test import tflow

RECORDED = records("claude_code")
VECTORS = records("session_vectors")
SESSION_HEADER = "X-Claude-Code-Session-Id"

# The servers behind the proxy stand for all hosts, one for http://… and one for https://….
_TO_UPSTREAM = """
def server_connect(data):
    port = data.server.address[1]
    data.server.address = ("127.0.0.1", {80: %d, 443: %d}.get(port, port))
"""


@dataclass
class Chain:
    """One mitmdump for most tests, and the servers behind it."""

    proxy: Mitmdump
    plain: Server
    http2: Server

    def __post_init__(self) -> None:
        self.plain_port, self.regular_port = self.proxy.ports
        self.regular_url = f"http://{LOOPBACK}:{self.regular_port}"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with ExitStack() as stack:
        plain = stack.enter_context(Server())
        http2 = stack.enter_context(Server(alpn=["h2"]))
        script = tmp_path_factory.mktemp("script") / "to_upstream.py"
        script.write_text(_TO_UPSTREAM % (plain.port, http2.port))
        proxy = stack.enter_context(
            Mitmdump(
                f"reverse:{plain.url}",
                "regular",
                scripts=[script, ADDON],
                keep_host_header="true",
                ssl_insecure="true",
            )
        )
        yield Chain(proxy, plain, http2)
        assert plain.broken == http2.broken == []
        assert not [line for line in proxy.lines if "Addon error" in line or "Traceback" in line]


def other(headers: Headers) -> Headers:
    """Return the headers but Content-Length, which may differ."""
    return [(name, value) for name, value in headers if name.lower() != "content-length"]


def lower(headers: Headers) -> Headers:
    return [(name.lower().replace(":authority", "host"), value) for name, value in headers]


# --- the recorded traffic -----------------------------------------------------------------------


def session_of(record: Any) -> str:
    """Return the session of a recorded request, of any client version."""
    if from_header := header(record["headers"], SESSION_HEADER):
        return from_header
    user_id = json.loads(record["body"])["metadata"]["user_id"]
    return re.search(r'[_"]session_(?:id":")?([0-9a-f-]{36})', user_id)[1]  # type: ignore[index]


def play(chain: Chain, client: str, server: str) -> tuple[str, list[Request]]:
    """Send all recorded requests; return the Host they were sent with and what arrived."""
    sender: Client | Http2Client
    if client == "1.1":
        host, sender = "gateway.test", Client(chain.plain_port)
    elif server == "1.1":
        host = f"{LOOPBACK}:{chain.plain_port}"
        sender = Http2Client(host)
    else:
        host = "gateway.test"
        sender = Http2Client(host, chain.regular_url)
    with sender:
        for record in RECORDED:
            body = record["body"].encode()
            assert (
                sender.send(record["method"], record["path"], record["headers"], body).status == 200
            )
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
            assert without_key(request.body) == sent != request.body
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


def test_session_vectors(chain: Chain) -> None:
    keys: dict[tuple[str, str], str] = {}
    with Client(chain.plain_port) as client:
        for vector in VECTORS:
            headers = list(vector["headers"].items())
            client.send("POST", MESSAGES, headers, vector["body"].encode())
    for vector, request in zip(VECTORS, chain.plain.take(), strict=True):
        sent = vector["body"].encode()
        if vector["session"] and sent.startswith(b"{"):
            assert without_key(request.body) == sent != request.body
            name = (json.loads(sent)["model"], vector["session"])
            assert keys.setdefault(name, request.key) == request.key
        else:
            assert request.body == sent
    assert len(set(keys.values())) == len(keys) > 50


# --- ways to send a body ------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "identity"])
def test_encoded_body(chain: Chain, coding: str) -> None:
    body = request_body(str(uuid4()))
    encoded = encode(body, coding)
    request = post(chain.plain_port, chain.plain, encoded, ("Content-Encoding", coding))
    assert request.header("content-encoding") == coding
    decoded = decode(request.body, coding)
    assert isinstance(decoded, bytes)
    assert without_key(decoded) == body != decoded


def test_broken_coding(chain: Chain) -> None:
    session = str(uuid4())
    body = request_body(session)
    for coding in ("gzip", "gzip", "no-such-coding"):
        request = post(chain.plain_port, chain.plain, body, ("Content-Encoding", coding))
        assert request.body == body
    post(chain.plain_port, chain.plain, body)
    chain.proxy.find(f"INFO .* session={session} ")
    assert len(chain.proxy.find_all(r"WARN \[prompt-cache\] .*content-encoding", 1)) == 1


@pytest.mark.parametrize("pieces", [1, 7, 500])
def test_chunked_body(chain: Chain, pieces: int) -> None:
    body = request_body(str(uuid4()), system="x" * 10_000)
    size = len(body) // pieces + 1
    with Client(chain.plain_port) as client:
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        client.send("POST", MESSAGES, body=iter(parts))
    (request,) = chain.plain.take()
    assert request.header("transfer-encoding") == "chunked"
    assert request.header("content-length") is None
    assert without_key(request.body) == body != request.body


def test_large_body(chain: Chain) -> None:
    body = request_body(str(uuid4()), system="äö\U0001f600" * 2_500_000)
    assert len(body) > 20_000_000
    request = post(chain.plain_port, chain.plain, body)
    # Compared outside of the assertion: pytest would take minutes to show the difference.
    the_rest_is_unchanged = without_key(request.body) == body
    assert the_rest_is_unchanged
    assert len(request.body) == len(body) + len(f'"prompt_cache_key":"{uuid4()}",')


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_client_that_breaks_off(chain: Chain, framing: str) -> None:
    since = len(chain.proxy.lines)
    body = request_body(str(uuid4()))
    with socket.create_connection((LOOPBACK, chain.plain_port), TIMEOUT) as client:
        port = client.getsockname()[1]
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if "chunked" in framing else body
        head = f"POST {MESSAGES} HTTP/1.1\r\nHost: gateway.test\r\n{framing}\r\n\r\n"
        client.sendall(head.encode() + chunk)
    chain.proxy.find(rf"\[127\.0\.0\.1:{port}\] client disconnect", since)
    assert chain.plain.take() == []
    assert post(chain.plain_port, chain.plain, body).key


def test_upstream_that_breaks_off(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Reply(body=[b'{"a":', b"1"], complete=False)
    monkeypatch.setattr(chain.plain, "respond", lambda _: broken)
    with Client(chain.plain_port) as client:
        assert client.send("POST", MESSAGES, body=request_body(str(uuid4()))).status == 502
    (request,) = chain.plain.take()
    assert request.key


@pytest.mark.parametrize(
    "body",
    [
        request_body("9f1c5a52-6d0b-4d0e-9a59-0f1e2d3c4b5a")[:-40],
        b"",
        b"[" + request_body("9f1c5a52-6d0b-4d0e-9a59-0f1e2d3c4b5a") + b"]",
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b"\x00\xff\xfe",
        b"model=gpt&user=x_session_abc",
    ],
    ids=["cut", "empty", "array", "deep", "deep object", "binary", "form"],
)
def test_no_json_object(chain: Chain, body: bytes) -> None:
    session = (SESSION_HEADER, "9f1c5a52-6d0b-4d0e-9a59-0f1e2d3c4b5a")
    assert post(chain.plain_port, chain.plain, body, session).body == body


@pytest.mark.parametrize(("good", "bad"), [("ü".encode(), b"\xfc"), (b'"role":', b'"role"')])
def test_what_is_broken_between_the_braces_is_the_upstreams_to_judge(
    chain: Chain, good: bytes, bad: bytes
) -> None:
    body = request_body("x").replace(b'"role": ', b'"role":').replace(good, bad)
    request = post(chain.plain_port, chain.plain, body, (SESSION_HEADER, str(uuid4())))
    assert without_key(request.body) == body != request.body


def test_many_at_once(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [str(uuid4()) for _ in range(20)]
    all_here = threading.Barrier(200)

    def respond(request: Request) -> Reply:
        all_here.wait(TIMEOUT)
        return Reply(body=request.body)

    def send(number: int) -> tuple[bytes, bytes]:
        body = request_body(sessions[number % 20], number=number, system="x" * (number * 100))
        with Client(chain.plain_port) as client:
            return body, client.send("POST", MESSAGES, body=body).body

    monkeypatch.setattr(chain.plain, "respond", respond)
    with ThreadPoolExecutor(200) as pool:
        results = list(pool.map(send, range(200)))
    assert len(chain.plain.take()) == 200
    for sent, arrived in results:
        assert without_key(arrived) == sent
    keys = [json.loads(arrived)["prompt_cache_key"] for _, arrived in results]
    assert keys == keys[:20] * 10
    assert len(set(keys)) == 20


# --- what is left alone -------------------------------------------------------------------------

REJECTING = ["api.anthropic.com", "API.Anthropic.COM", "api.groq.com", "integrate.api.nvidia.com"]
OTHERS = ["api.openai.com", "notanthropic.com", "anthropic.com.example.test", "build.nvidia.com"]


@pytest.mark.parametrize("mode", ["reverse", "regular"])
def test_hosts(chain: Chain, mode: str) -> None:
    body = request_body(str(uuid4()))
    port = chain.plain_port if mode == "reverse" else chain.regular_port
    for host in REJECTING + OTHERS:
        target = MESSAGES if mode == "reverse" else f"http://{host}{MESSAGES}"
        with Client(port) as client:
            client.send("POST", target, [("Host", host)], body)
    for host, request in zip(REJECTING + OTHERS, chain.plain.take(), strict=True):
        assert request.header("host") == host
        assert without_key(request.body) == body
        assert (request.body != body) is (host in OTHERS)


@pytest.mark.parametrize(("host", "keyed"), [("api.openai.com", True), ("api.claude.com", False)])
def test_host_in_a_tunnel(chain: Chain, host: str, keyed: bool) -> None:
    body = request_body(str(uuid4()))
    with Http2Client(host, chain.regular_url) as client:
        client.send("POST", "/v1/responses", [], body)
    (request,) = chain.http2.take()
    assert (request.body != body) is keyed


@pytest.mark.parametrize(
    ("method", "target", "keyed"),
    [
        ("POST", "/v1/messages", True),
        ("POST", "/v1/responses?x=1", True),
        ("POST", "/openai/deployments/gpt/chat/completions", True),
        ("POST", "/v1/messages/count_tokens?beta=true", False),
        ("POST", "/v1/messages/batches", False),
        ("POST", "/v1/embeddings", False),
        ("POST", "/x?to=/v1/messages", False),
        ("PUT", "/v1/messages", False),
    ],
)
def test_method_and_path(chain: Chain, method: str, target: str, keyed: bool) -> None:
    body = request_body(str(uuid4()))
    headers = [] if method == "POST" else [("Content-Length", str(len(body)))]
    with Client(chain.plain_port) as client:
        client.send(method, target, headers, body)
    (request,) = chain.plain.take()
    assert (request.body != body) is keyed


def test_own_key_of_the_client(chain: Chain) -> None:
    session = str(uuid4())
    body = request_body(session, prompt_cache_key="mine")
    assert post(chain.plain_port, chain.plain, body).body == body
    chain.proxy.find(
        rf"INFO \[prompt-cache\] key=mine session={session} agent=main model=claude-opus-5-5 "
        r"state=kept source=metadata$"
    )


# --- flows that are not a client's request of now -----------------------------------------------


def test_replay_keeps_the_key(tmp_path: Path) -> None:
    flows = tmp_path / "flows"
    with Server() as upstream:
        with Mitmdump(f"reverse:{upstream.url}", args=["-w", str(flows)]) as proxy:
            first = post(proxy.port, upstream, request_body(str(uuid4())))
        # To overwrite a key is the one option that could touch it.
        replay = Mitmdump(args=["--client-replay", str(flows)], prompt_cache_overwrite="true")
        assert replay.wait() == 0
        (again,) = upstream.take()
    assert first.key
    assert again.body == first.body


def test_loaded_flows_stay_as_they_are(tmp_path: Path) -> None:
    saved, loaded = tmp_path / "saved", tmp_path / "loaded"
    body = request_body(str(uuid4()))
    flow = tflow.tflow(
        req=http.Request.make("POST", "http://gateway.test/v1/messages", body), live=False
    )
    with saved.open("wb") as file:
        FlowWriter(file).add(flow)
    assert Mitmdump(args=["-n", "-r", str(saved), "-w", str(loaded)]).wait() == 0
    with loaded.open("rb") as file:
        (copy,) = FlowReader(file).stream()
    assert isinstance(copy, http.HTTPFlow)
    assert copy.request.content == body
    assert copy.metadata == flow.metadata


_ANSWERS = """
from mitmproxy import http

def request(flow):
    flow.response = http.Response.make(200, b"answered")

def response(flow):
    flow.response.content = flow.request.content
"""


def test_answered_flow_stays_as_it_is(tmp_path: Path) -> None:
    script = tmp_path / "answers.py"
    script.write_text(_ANSWERS)
    body = request_body(str(uuid4()))
    with Mitmdump(scripts=[script, ADDON]) as proxy, Client(proxy.port) as client:
        assert client.send("POST", "http://gateway.test/v1/messages", body=body).body == body


_LISTENS = """
def add_log(entry):
    if not entry.msg.startswith("heard"):
        print("heard", entry.level, entry.msg, flush=True)
"""


def test_addon_that_listens_to_log_events(tmp_path: Path) -> None:
    script = tmp_path / "listens.py"
    script.write_text(_LISTENS)
    session = str(uuid4())
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=[ADDON, script]) as proxy,
        Client(proxy.port) as client,
    ):
        client.send("POST", "/v1/messages", body=request_body(session))
        assert proxy.find(rf"^heard info .*\[prompt-cache\] key=\S+ session={session}")


# --- options and reload -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max_sessions", "abc", "not an integer: abc"),
        ("filter", "(" * 3000 + "~all" + ")" * 3000, "not a filter expression, or too deep"),
    ],
)
def test_bad_option_ends_the_start(name: str, value: str, reason: str) -> None:
    proxy = Mitmdump(args=["--set", f"prompt_cache_{name}={value}"])
    assert proxy.wait() == 1
    (line,) = proxy.find_all(r"\[prompt-cache\]", 1)
    assert line.string.count(f"prompt_cache_{name}") == 1
    assert reason in line.string.lower()
    assert len(proxy.lines) < 10


def test_reload(tmp_path: Path) -> None:
    shutil.copytree(ADDON.parent, tmp_path / "addon")
    script = tmp_path / "addon" / "addon.py"
    active = r"INFO \[prompt-cache\] active: "
    session = str(uuid4())
    given = rf"INFO \[prompt-cache\] key=.* session={session} "
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=[script], prompt_cache_ttl="2h") as proxy,
    ):
        proxy.find(active + ".*ttl=2h")
        assert post(proxy.port, upstream, request_body(session)).key
        proxy.find(given)
        since = len(proxy.lines)
        script.touch()
        proxy.find(active + ".*ttl=2h", since)
        assert post(proxy.port, upstream, request_body(session)).key
        assert len(proxy.find_all(given, 1, since)) == 1
