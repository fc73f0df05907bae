"""A server that records what it is asked."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Self

import h11
from h2 import config, connection, events  # type: ignore[import-untyped, unused-ignore]

from lib import LOOPBACK, TIMEOUT
from lib.messages import Headers, Reply, Request, header
from lib.tls import tls_context


class Server:
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
        self._tls = tls_context(*alpn) if alpn else None
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
        while request := self._read_http1(http1, sock):
            self.requests.append(request)
            if not _reply_http1(http1, sock, request, self.respond(request)):
                return
            http1.start_next_cycle()

    def _read_http1(self, http1: h11.Connection, sock: socket.socket) -> Request | None:
        head, body = None, []
        while True:
            try:
                event = http1.next_event()
                match event:
                    case h11.NEED_DATA:
                        http1.receive_data(sock.recv(1 << 20))
                    case h11.Request():
                        head = event
                    case h11.Data():
                        body.append(bytes(event.data))
                    case h11.EndOfMessage() if head:
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
                        heads[event.stream_id] = _decoded(event.headers or ())
                        bodies[event.stream_id] = bytearray()
                    case events.DataReceived():
                        bodies[event.stream_id] += event.data or b""
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
                        reply = self.respond(request)
                        if not _reply_http2(http2, sock, event.stream_id, request, reply):
                            return


def _reply_http1(
    http1: h11.Connection, sock: socket.socket, request: Request, reply: Reply
) -> bool:
    """Send an answer; return whether the connection can take another request."""
    parts = (http1.send(event) or b"" for event in _reply_events(request, reply))
    for part in [b"".join(parts)] if isinstance(reply.body, bytes) else parts:
        sock.sendall(part)
    return reply.complete and http1.our_state is h11.DONE


def _reply_events(
    request: Request, reply: Reply
) -> Iterator[h11.Response | h11.Data | h11.EndOfMessage]:
    headers = [*reply.headers]
    if isinstance(reply.body, bytes):
        headers.append(("content-length", str(len(reply.body))))
    yield h11.Response(status_code=reply.status, headers=headers)
    for piece in reply.pieces(request.method):
        yield h11.Data(data=piece)
    if reply.complete:
        yield h11.EndOfMessage()


def _reply_http2(
    http2: connection.H2Connection,
    sock: socket.socket,
    stream: int,
    request: Request,
    reply: Reply,
) -> bool:
    """Send an answer; return whether the connection can take another request.

    Pieces have to fit the client's flow-control window: no update is awaited here.
    """
    http2.send_headers(stream, [(":status", str(reply.status)), *reply.headers])
    for piece in reply.pieces(request.method):
        http2.send_data(stream, piece)
        sock.sendall(http2.data_to_send())
    if reply.complete:
        http2.end_stream(stream)
    return reply.complete


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
