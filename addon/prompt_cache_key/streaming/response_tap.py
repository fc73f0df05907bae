"""A response that passes by in chunks, and is looked at on its way."""

from collections.abc import Callable
from typing import Any


class ResponseTap:
    """Passes chunks on unchanged, shows each to `see`, and keeps a copy of up to `limit` bytes.

    `headers` are those that went before them.
    """

    def __init__(self, see: Callable[[bytes], None], limit: float, response: Any) -> None:
        self.headers = response.headers.copy()
        self._response = response
        self._see = see
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """Take a chunk and return it; nothing for an empty one, which would end a chunked body."""
        self._see(chunk)
        self._size += len(chunk)
        self._chunks.append(chunk)
        if self._size > self._limit:
            self._chunks.clear()
        if chunk:
            return chunk
        self.keep()
        return []

    def keep(self) -> None:
        """Give the response the body that has passed so far."""
        self._response.raw_content = self.content

    @property
    def content(self) -> bytes | None:
        """What has passed so far; None if it is too large to be kept."""
        if self._size > self._limit:
            return None
        self._chunks = [b"".join(self._chunks)]  # of which a later join makes no copy
        return self._chunks[0]
