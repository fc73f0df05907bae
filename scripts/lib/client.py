"""A client of the proxy, and bodies as Claude Code sends them."""

import json
import re
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPResponse
from typing import Self

from lib import LOOPBACK, TIMEOUT
from lib.messages import Answer, Headers, Request, header
from lib.server import Server

MESSAGES = "/v1/messages?beta=true"


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


def post(port: int, server: Server, body: bytes, *headers: tuple[str, str]) -> Request:
    """Send a body through the proxy at `port`; return the one request that the server got."""
    with Client(port) as client:
        answer = client.send("POST", MESSAGES, headers, body)
    (request,) = server.take()
    if answer.status != 200:  # noqa: PLR2004
        raise AssertionError(answer)
    return request
