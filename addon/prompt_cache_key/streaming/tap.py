"""A body that passes by in chunks: seen and copied, never changed."""

from collections.abc import Callable
from typing import Any


class Tap:
    """Passes chunks on unchanged, shows each to `see`, and keeps a copy of up to `limit` bytes.

    mitmproxy calls it with each chunk of a streamed body, and with b"" at its end.
    """

    def __init__(self, limit: float, see: Callable[[bytes], None] | None = None) -> None:
        self._see = see
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    def __call__(self, chunk: bytes) -> list[bytes]:
        """Return the chunk; nothing for an empty one, which would end a chunked body."""
        if self._see:
            self._see(chunk)
        self._size += len(chunk)
        self._chunks.append(chunk)
        if self._size > self._limit:
            self._chunks.clear()
        return [chunk] if chunk else []

    @property
    def content(self) -> bytes | None:
        """What has passed so far; None if it is too large to be kept."""
        if self._size > self._limit:
            return None
        self._chunks = [b"".join(self._chunks)]  # so that a later join copies nothing
        return self._chunks[0]


class ResponseTap(Tap):
    """A tap that gives the response the body that has passed, so that it is shown and saved.

    `headers` are those that went before the body.
    """

    def __init__(self, limit: float, see: Callable[[bytes], None], response: Any) -> None:
        super().__init__(limit, see)
        self.headers = response.headers.copy()
        self._response = response

    def __call__(self, chunk: bytes) -> list[bytes]:
        """Return the chunk; at the end give the response its body, before any hook asks for it."""
        passed = super().__call__(chunk)
        if not chunk:
            self.keep()
        return passed

    def keep(self) -> None:
        """Give the response the body that has passed so far."""
        self._response.raw_content = self.content
