"""A server that records what it is asked."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Self

import h11

from lib import LOOPBACK, TIMEOUT
from lib.messages import Headers, Reply, Request


class Server:
    """A server on a free port of 127.0.0.1 that records each request; a context manager.

    It speaks plain HTTP/1.1. `respond` gives the answer, from many threads at once. `respond_early`
    may answer when only the head of a request has come; the rest is read all the same, and what
    `respond` gives then is not sent. `broken` tells of each request that broke HTTP's rules or off
    in the middle.
    """

    def __init__(self, respond: Callable[[Request], Reply] = lambda _: Reply()) -> None:
        self.respond = respond
        self.respond_early: Callable[[Request], Reply | None] = lambda _: None
        self.requests: list[Request] = []
        self.broken: list[str] = []
        self._listener = socket.create_server((LOOPBACK, 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
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
                self._start(self._connected, self._listener.accept()[0])

    def _connected(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        with suppress(OSError), sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(sock)
        self._sockets.discard(sock)

    def _serve(self, sock: socket.socket) -> None:
        http1 = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        while request := self._read_http1(http1, sock):
            self.requests.append(request)
            reply, is_answered = self.respond(request), http1.our_state is not h11.SEND_RESPONSE
            if not is_answered and not _reply_http1(http1, sock, request, reply):
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
                        head = _head(event)
                        if reply := self.respond_early(head):
                            _reply_http1(http1, sock, head, reply)
                    case h11.Data():
                        body.append(bytes(event.data))
                    case h11.EndOfMessage() if head:
                        return replace(head, body=b"".join(body))
                    case _:
                        return None
            except (h11.RemoteProtocolError, ConnectionError) as e:
                if head:
                    self.broken.append(f"{head.target!r}: {e!r}")
                return None


def _head(head: h11.Request) -> Request:
    return Request(
        version="1.1",
        method=head.method.decode(),
        target=head.target.decode("latin-1"),
        headers=decoded(head.headers.raw_items()),
        body=b"",
    )


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


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return headers as they came, as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
