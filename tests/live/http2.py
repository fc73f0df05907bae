"""Clients that speak HTTP/2, to trusting tests."""

import socket
import ssl
from collections.abc import Iterable
from typing import Self

import httpx
from h2.connection import H2Connection  # type: ignore[import-untyped, unused-ignore]
from h2.events import StreamEnded  # type: ignore[import-untyped, unused-ignore]
from lib import LOOPBACK, TIMEOUT
from lib.messages import Answer, Headers


class Http2Context(ssl.SSLContext):
    """Offers HTTP/2 alone, where httpx would offer HTTP/1.1 before it, and trusts any server."""

    def __init__(self, _: object = None) -> None:
        self.check_hostname = False
        self.verify_mode = ssl.CERT_NONE
        self.set_alpn_protocols([])

    def set_alpn_protocols(self, _: Iterable[str]) -> None:
        super().set_alpn_protocols(["h2"])


class Http2Client:
    """The same as lib.client.Client, but over HTTP/2, and maybe through a regular proxy."""

    def __init__(self, host: str, proxy: str | None = None) -> None:
        self._url = f"https://{host}"
        context = Http2Context(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx.Client(
            http1=False, http2=True, verify=context, trust_env=False, timeout=TIMEOUT, proxy=proxy
        )
        self._client.headers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(
        self, method: str, target: str, headers: Headers, body: bytes | Iterable[bytes]
    ) -> Answer:
        response = self._client.request(
            method, self._url + target, headers=list(headers), content=body
        )
        assert response.http_version == "HTTP/2"
        return Answer(response.status_code, response.headers.multi_items(), response.content)


def send_frames(port: int, target: str, headers: Headers, frames: list[bytes]) -> None:
    """Send a POST request in just these DATA frames, and await the end of the answer."""
    http2 = H2Connection()
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", target)]
    length = ("content-length", str(sum(map(len, frames))))
    with (
        socket.create_connection((LOOPBACK, port), TIMEOUT) as plain,
        Http2Context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(plain) as connection,
    ):
        http2.initiate_connection()
        http2.send_headers(1, [*pseudo, length, *headers])
        for frame in frames:
            http2.send_data(1, frame)
        http2.end_stream(1)  # with one more empty frame
        connection.sendall(http2.data_to_send())
        while not any(
            isinstance(event, StreamEnded) for event in http2.receive_data(connection.recv(1 << 16))
        ):
            connection.sendall(http2.data_to_send())
