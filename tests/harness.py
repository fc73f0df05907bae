"""A real mitmdump, a recording server behind it and a client before it, over loopback.

Nothing here waits for time to pass: a timeout only makes a test fail.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Self

import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2 import config, connection, events  # type: ignore[import-untyped, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
ADDON = ROOT / "addon" / "addon.py"
LOOPBACK = "127.0.0.1"
MESSAGES = "/v1/messages?beta=true"
TIMEOUT = 30.0
"""Seconds after which something that never comes fails a test."""

Headers = Sequence[tuple[str, str]]


def free_port(host: str = LOOPBACK) -> int:
    """Return a port that nobody listens on."""
    with socket.create_server((host, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def records(name: str) -> list[Any]:
    """Return the recorded traffic of tests/data/<name>.jsonl."""
    with (ROOT / "tests" / "data" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def header(headers: Headers, name: str) -> str | None:
    """Return the value of the first header of that name in any case."""
    return next((value for n, value in headers if n.lower() == name.lower()), None)


# --- mitmdump ---------------------------------------------------------------------------------

# Log lines get their level, as `WARN [prompt-cache] …`: mitmdump shows it by colour alone.
_SCRIPT = """
import logging
from mitmproxy import ctx

def with_level(record):
    record.msg = f"{record.levelname[:4]} {record.msg}"
    return True

logging.getLogger("prompt_cache_key").addFilter(with_level)

def running():
    servers = ctx.master.addons.get("proxyserver").servers
    print("harness: listening", *(server.listen_addrs[0][1] for server in servers))
"""

# mitmproxy refuses two listeners of one address, even on port 0: these spell one in four ways. A
# mode that listens on UDP too, as reverse:https:// does, takes the first only.
_ADDRESSES = (LOOPBACK, "127.1", "127.0.1", "0x7f.1")


class Proxy:
    """A mitmdump with the addon; a context manager.

    `modes` are its listeners, each on a free port of 127.0.0.1 (`ports`; `port` is the first);
    `options` become `--set name=value`; `args` are further arguments. It is the mitmdump that lies
    beside `python`. Its output, with the level before each of the addon's lines, is in `lines`.
    """

    def __init__(
        self,
        *modes: str,
        scripts: Iterable[Path] = (ADDON,),
        args: Iterable[str] = (),
        python: Path = Path(sys.executable),
        **options: str,
    ) -> None:
        self.lines: list[str] = []
        self.ports: list[int] = []
        self._ended = False
        self._changed = threading.Condition()
        self._home = tempfile.TemporaryDirectory()
        script = Path(self._home.name, "harness_script.py")
        script.write_text(_SCRIPT)
        command = [str(python.with_name("mitmdump")), "--set", f"confdir={self._home.name}"]
        modes = modes or ("regular",)
        for mode, address in zip(modes, _ADDRESSES[: len(modes)], strict=True):
            command += ["--mode", f"{mode}@{address}:0"]
        for path in (script, *scripts):
            command += ["-s", str(path)]
        for name, value in options.items():
            command += ["--set", f"{name}={value}"]
        self._process = subprocess.Popen(
            [*command, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            # Not PYTEST_CURRENT_TEST: with it mitmproxy keeps its log to itself.
            env={
                "HOME": self._home.name,
                "PATH": os.defpath,
                "PYTHONUNBUFFERED": "1",
                "PYTHONUTF8": "1",
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            self.ports = [int(port) for port in self.find(r"^harness: listening (.*)")[1].split()]
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return self.ports[0]

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def find_all(self, pattern: str, count: int, since: int = 0) -> list[re.Match[str]]:
        """Wait for at least `count` lines that match, from line `since` on, and return them."""
        deadline = time.monotonic() + TIMEOUT
        with self._changed:
            while True:
                found = [m for line in self.lines[since:] if (m := re.search(pattern, line))]
                if len(found) >= count:
                    return found
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    failure = f"{len(found)} of {count} lines match {pattern!r}:"
                    raise AssertionError("\n".join([failure, *self.lines]))

    def find(self, pattern: str, since: int = 0) -> re.Match[str]:
        """Wait for a line that matches, from line `since` on, and return the first."""
        return self.find_all(pattern, 1, since)[0]

    def wait(self) -> int:
        """Wait until it ends by itself, as with `--client-replay`, and return its exit code."""
        try:
            return self._process.wait(TIMEOUT)
        finally:
            self.stop()

    def stop(self) -> None:
        """End it; what it writes is then complete."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            assert self._process.stdout
            self._process.stdout.close()
            self._home.cleanup()


# --- the server behind it -----------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A request as it came, whole; over HTTP/1.1 with the names in the case that was sent."""

    version: str
    method: str
    target: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        return header(self.headers, name)

    @property
    def key(self) -> Any:
        """The `prompt_cache_key` in the JSON body; None without one."""
        return json.loads(self.body).get("prompt_cache_key")


@dataclass(frozen=True)
class Reply:
    """What to answer.

    A `body` of several pieces is sent piece by piece, chunked, as the iterable gives them: one
    that waits stalls the answer. Without `complete` the connection breaks off after the last.
    """

    status: int = 200
    headers: Headers = (("content-type", "application/json"),)
    body: bytes | Iterable[bytes] = b"{}"
    complete: bool = True


@cache
def _tls_context(*alpn: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(alpn)
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        pem.flush()
        context.load_cert_chain(pem.name)
    return context


class Upstream:
    """A server on a free port of 127.0.0.1 that records each request; a context manager.

    With `alpn` it speaks TLS and what of `h2` and `http/1.1` is named there, else plain HTTP/1.1.
    `respond` gives the answer, from many threads at once (but one for an HTTP/2 connection).
    `broken` tells of each request that broke HTTP's rules or off in the middle.
    """

    def __init__(
        self, respond: Callable[[Request], Reply] = lambda _: Reply(), alpn: Sequence[str] = ()
    ) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.broken: list[str] = []
        self._tls = _tls_context(*alpn) if alpn else None
        self._listener = socket.create_server((LOOPBACK, 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if alpn else 'http'}://{LOOPBACK}:{self.port}"
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._listener, *self._sockets]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._listener.close()

    def take(self) -> list[Request]:
        """Return what was recorded and forget it."""
        taken, self.requests = self.requests, []
        return taken

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # __exit__ ends it so
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        with suppress(OSError), sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._tls:
                self._serve_http1(sock)
                return
            with self._tls.wrap_socket(sock, server_side=True) as tls:
                serve = (
                    self._serve_http2 if tls.selected_alpn_protocol() == "h2" else self._serve_http1
                )
                serve(tls)
        self._sockets.discard(sock)

    def _serve_http1(self, sock: socket.socket) -> None:
        http1 = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)

        def send(event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
            sock.sendall(http1.send(event) or b"")

        while request := self._read_http1(http1, sock):
            self.requests.append(request)
            reply = self.respond(request)
            headers = [*reply.headers]
            if isinstance(reply.body, bytes):
                headers.append(("content-length", str(len(reply.body))))
            send(h11.Response(status_code=reply.status, headers=headers))
            for piece in _pieces(request, reply):
                send(h11.Data(data=piece))
            if not reply.complete:
                return
            send(h11.EndOfMessage())
            if http1.our_state is not h11.DONE:
                return
            http1.start_next_cycle()

    def _read_http1(self, http1: h11.Connection, sock: socket.socket) -> Request | None:
        head, body = None, []
        while True:
            try:
                event = http1.next_event()
                match event:
                    case h11.NEED_DATA:
                        http1.receive_data(sock.recv(1 << 16))
                    case h11.Request():
                        head = event
                    case h11.Data():
                        body.append(bytes(event.data))
                    case h11.EndOfMessage():
                        assert head
                        return Request(
                            version="1.1",
                            method=head.method.decode(),
                            target=head.target.decode("latin-1"),
                            headers=_decoded(head.headers.raw_items()),
                            body=b"".join(body),
                        )
                    case _:
                        return None
            except (h11.RemoteProtocolError, ConnectionError) as e:
                if head:
                    self.broken.append(f"{head.target!r}: {e!r}")
                return None

    def _serve_http2(self, sock: socket.socket) -> None:
        http2 = connection.H2Connection(
            config.H2Configuration(client_side=False, header_encoding=None)
        )
        http2.initiate_connection()
        heads: dict[int, Headers] = {}
        bodies: dict[int, bytearray] = {}
        while True:
            sock.sendall(http2.data_to_send())
            data = sock.recv(1 << 16)
            if not data:
                self.broken += [f"{head} broke off" for head in heads.values()]
                return
            for event in http2.receive_data(data):
                match event:
                    case events.RequestReceived():
                        assert event.headers
                        heads[event.stream_id] = _decoded(event.headers)
                        bodies[event.stream_id] = bytearray()
                    case events.DataReceived():
                        assert event.data is not None
                        bodies[event.stream_id] += event.data
                        http2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case events.StreamReset():
                        self.broken.append(f"{heads.pop(event.stream_id)} was reset")
                    case events.StreamEnded():
                        head = heads.pop(event.stream_id)
                        request = Request(
                            version="2",
                            method=header(head, ":method") or "",
                            target=header(head, ":path") or "",
                            headers=[(n, v) for n, v in head if n[0] != ":" or n == ":authority"],
                            body=bytes(bodies.pop(event.stream_id)),
                        )
                        self.requests.append(request)
                        if not self._reply_http2(http2, event.stream_id, request, sock):
                            return

    def _reply_http2(
        self,
        http2: connection.H2Connection,
        stream: int,
        request: Request,
        sock: socket.socket,
    ) -> bool:
        # Pieces have to fit the client's flow-control window: no update is awaited here.
        reply = self.respond(request)
        http2.send_headers(stream, [(":status", str(reply.status)), *reply.headers])
        for piece in _pieces(request, reply):
            http2.send_data(stream, piece)
            sock.sendall(http2.data_to_send())
        if reply.complete:
            http2.end_stream(stream)
        return reply.complete


def _pieces(request: Request, reply: Reply) -> Iterable[bytes]:
    if request.method == "HEAD":
        return []
    return [reply.body] if isinstance(reply.body, bytes) else reply.body


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


# --- the client before it -----------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the client got."""

    status: int
    headers: Headers
    body: bytes


class Client:
    """A connection over HTTP/1.1 that sends just the headers it is told to; a context manager."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def open(
        self, method: str, target: str, headers: Headers = (), body: bytes | Iterable[bytes] = b""
    ) -> HTTPResponse:
        """Send a request, with Host and framing where it has none; return the unread response.

        A body of several pieces is sent chunked.
        """
        connection = self._connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if header(headers, "host") is None:
            connection.putheader("Host", "gateway.test")
        for name, value in headers:
            connection.putheader(name, value)
        if not isinstance(body, bytes):
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders(iter(body), encode_chunked=True)
        else:
            if method == "POST":
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
        return connection.getresponse()

    def send(
        self, method: str, target: str, headers: Headers = (), body: bytes | Iterable[bytes] = b""
    ) -> Answer:
        """Send a request as `open` does and return the whole answer."""
        response = self.open(method, target, headers, body)
        return Answer(response.status, response.getheaders(), response.read())


def request_body(session: str, **members: object) -> bytes:
    """Return a body as a Claude Code of that session sends it, with other or further members."""
    body = {
        "model": "claude-opus-5-5",
        "messages": [{"role": "user", "content": "Grüße ✓"}],
        "metadata": {"user_id": json.dumps({"device_id": "0" * 64, "session_id": session})},
    }
    return json.dumps(body | members, ensure_ascii=False).encode()


def without_key(body: bytes) -> bytes:
    """Take an inserted key out again; everything else stays."""
    return re.sub(rb'^(\s*\{)"prompt_cache_key":"[0-9a-f-]{36}",?', rb"\1", body, count=1)


def post(port: int, upstream: Upstream, body: bytes, *headers: tuple[str, str]) -> Request:
    """Send a body through the proxy at `port`; return the one request that `upstream` got."""
    with Client(port) as client:
        assert client.send("POST", MESSAGES, headers, body).status == 200
    (request,) = upstream.take()
    return request


def run_claude_code(session: str, prompt: str, settings: dict[str, str], directory: Path) -> str:
    """Run the real client for one prompt in a clean environment and return what it printed.

    Its path is in the environment as CLAUDE_CODE; KeyError if it is not.
    """
    directory.mkdir()
    client = [os.environ["CLAUDE_CODE"], "--session-id", session, "--allowedTools", "Bash,Agent"]
    finished = subprocess.run(
        [*client, "-p", prompt],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TERM": "xterm",
            "IS_SANDBOX": "1",
            "ANTHROPIC_API_KEY": "sk-ant-dummy",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            **settings,
        },
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished
    return finished.stdout.strip()
