"""Requests that go on one step at a time, on the client's side and on the upstream's."""

import socket
import struct
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from queue import Queue
from select import select

from lib import LOOPBACK, TIMEOUT
from lib.messages import EVENTS, Headers, Reply, Request

NUMBER = "x-number"
"""The header that says which exchange a request belongs to."""
EARLY = "x-early"
"""The header that has the upstream answer, or break off, when only the head has come."""


class Exchange:
    """One request and its response.

    The client sends part of the body (`begin`), then the rest (`finish`), and reads the response;
    the upstream waits for what `answer` gives it.
    """

    def __init__(
        self, number: int, path: str, headers: Headers, body: bytes, *, is_chunked: bool
    ) -> None:
        self.number = number
        self.path = path
        self.headers = headers
        self.body = body
        self.is_chunked = is_chunked
        self.client = ""
        """The client's address, as log lines have it."""
        self.arrived: Queue[Request] = Queue()
        self._answers: Queue[Callable[[], Reply]] = Queue()
        self._events: Queue[bytes] = Queue()
        self._response: HTTPResponse | None = None

    # --- the client's side ---

    def begin(self, port: int, size: int) -> None:
        """Connect, and send the head and so many bytes of the body."""
        # A bound port is nobody else's. A port that the system chooses as it connects may also be
        # that of a connection to the other listener, and log lines name the port alone.
        own = (LOOPBACK, 0)
        self._socket = socket.create_connection((LOOPBACK, port), TIMEOUT, source_address=own)
        self.client = f"{LOOPBACK}:{self._socket.getsockname()[1]}"
        framing = ("Content-Length", str(len(self.body)))
        if self.is_chunked:
            framing = ("Transfer-Encoding", "chunked")
        self.sent_headers = [("Host", "x"), framing, (NUMBER, str(self.number)), *self.headers]
        lines = [f"{name}: {value}" for name, value in self.sent_headers]
        head = "\r\n".join([f"POST {self.path} HTTP/1.1", *lines, "", ""])
        self._socket.sendall(head.encode())
        self._sent = size
        self._send(self.body[:size])

    def finish(self) -> None:
        """Send the rest of the body."""
        self._send(self.body[self._sent :])
        if self.is_chunked:
            self._socket.sendall(b"0\r\n\r\n")

    def _send(self, part: bytes) -> None:
        if part:
            self._socket.sendall(b"%x\r\n%b\r\n" % (len(part), part) if self.is_chunked else part)

    def response(self) -> HTTPResponse:
        """Return the response, of whose body only as much is read as was read before."""
        if not self._response:
            self._response = HTTPResponse(self._socket, method="POST")
            self._response.begin()
        return self._response

    @property
    def is_silent(self) -> bool:
        """Whether nothing of a response has come."""
        return not select([self._socket], [], [], 0)[0]

    def close(self, *, is_reset: bool = False) -> None:
        """Close the client's connection, in order or by a reset."""
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if self._response:
            self._response.close()
        self._socket.close()

    # --- the upstream's side ---

    def answer(self, reply: Reply) -> None:
        """Have the upstream answer."""
        self._answers.put(lambda: reply)

    def answer_by_events(self, event: bytes) -> None:
        """Have the upstream begin a stream of events."""
        self._events.put(event)
        self._answers.put(lambda: Reply(headers=EVENTS, body=self._stream()))

    def go_on(self, event: bytes) -> None:
        """Have the upstream send another event; the stream ends behind `[DONE]`."""
        self._events.put(event)

    def break_off(self) -> None:
        """Have the upstream close the connection, before the response or in the middle of it."""
        self._answers.put(_reset)
        self._events.put(b"")

    def _stream(self) -> Iterator[bytes]:
        event = b" "
        while event and b"[DONE]" not in event:
            if not (event := self._events.get(timeout=TIMEOUT)):
                _reset()
            yield event

    def respond(self, request: Request) -> Reply:
        """Answer as the upstream, when told to."""
        self.arrived.put(request)
        if request.header(EARLY):
            return Reply()
        return self._answers.get(timeout=TIMEOUT)()


def respond_early(request: Request) -> Reply | None:
    """Answer, as the upstream, a request whose head has come, if its headers ask for that."""
    match request.header(EARLY):
        case "answer":
            return Reply(401, body=b'{"error":{"message":"no"}}')
        case "reset":
            _reset()
    return None


def of_client(headers: Headers) -> Headers:
    """Return the headers that are to arrive as they were sent."""
    return [each for each in headers if each[0].lower() not in ("host", "content-length")]


def _reset() -> Reply:
    raise ConnectionResetError
