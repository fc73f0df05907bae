"""A client that speaks HTTP/2, to trusting tests."""

import ssl
from collections.abc import Iterable
from typing import Self

import httpx
from lib import TIMEOUT
from lib.messages import Answer, Headers


class Http2Context(ssl.SSLContext):
    """Offers HTTP/2 alone, where httpx would offer HTTP/1.1 before it."""

    def set_alpn_protocols(self, _: Iterable[str]) -> None:
        super().set_alpn_protocols(["h2"])


class Http2Client:
    """The same as lib.client.Client, but over HTTP/2, and maybe through a regular proxy."""

    def __init__(self, host: str, proxy: str | None = None) -> None:
        self._url = f"https://{host}"
        context = Http2Context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._client = httpx.Client(
            http1=False, http2=True, verify=context, trust_env=False, timeout=TIMEOUT, proxy=proxy
        )
        self._client.headers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        response = self._client.request(
            method, self._url + target, headers=list(headers), content=body
        )
        assert response.http_version == "HTTP/2"
        return Answer(response.status_code, response.headers.multi_items(), response.content)
