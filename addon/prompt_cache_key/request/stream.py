"""Bodies that pass by in chunks: a response that is looked at, a request that gets its key."""

import math
from collections.abc import Callable

from prompt_cache_key.request import body

MEMBER_SIZE = len(body.member("-" * 36))
"""Bytes that a key of 36 characters adds to a streamed request."""

MAX_HEAD = 64 << 10
"""Bytes of a request that are held back to find its model, which Claude Code sends first."""


class ResponseTap:
    """Passes chunks on unchanged, shows each to `see`, and keeps a copy of up to `limit` bytes."""

    def __init__(self, see: Callable[[bytes], None], limit: float) -> None:
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
        return chunk or []

    @property
    def content(self) -> bytes | None:
        """What has passed so far; None if it is too large to be kept."""
        return None if self._size > self._limit else b"".join(self._chunks)


class RequestKey:
    """Puts a key of 36 characters into a JSON object that passes by in chunks.

    `key_of` makes the key for the model; ValueError if it cannot. There is none if the model is
    not in the first `MAX_HEAD` bytes, or `prompt_cache_key` is a name in there, at any depth.
    With a `length`, that of what goes in, what comes out is always `MEMBER_SIZE` bytes longer, as
    the headers have promised: without a key there is white space after the end, which JSON allows.
    """

    def __init__(self, key_of: Callable[[str], str], length: int | None) -> None:
        self._key_of = key_of
        self._left = math.inf if length is None else length
        self._head: bytearray | None = bytearray()
        self._why_not = ""

    def __call__(self, chunk: bytes) -> list[bytes]:
        """Take a chunk, or b"" at the end; return the chunks to be sent on."""
        # b"" is no sure sign of the end: mitmproxy passes on an empty frame of HTTP/2 as well.
        is_last = 0 < self._left <= len(chunk)
        self._left -= len(chunk)
        sent = [chunk]
        if self._head is not None:
            self._head += chunk
            is_end = is_last or (not chunk and self._left == math.inf)
            if not is_end and len(self._head) < MAX_HEAD:
                return []
            sent, self._head = self._with_key(bytes(self._head)), None
        if self._why_not and is_last:
            sent.append(b" " * MEMBER_SIZE)
        return [part for part in sent if part]  # an empty one would end a chunked request

    def check(self) -> None:
        """Raise ValueError with the reason if the body got no key."""
        if self._why_not:
            raise ValueError(self._why_not)

    def _with_key(self, head: bytes) -> list[bytes]:
        beginning = head[:MAX_HEAD]
        model = body.model_in(beginning)
        if model is None:
            self._why_not = "it is streamed, and its model is not at the beginning"
        elif f'"{body.NAME}"'.encode() in beginning:
            self._why_not = "it is streamed, and may have a key of its own"
        else:
            try:
                key = self._key_of(model)
            except ValueError as e:
                self._why_not = str(e)
            else:
                brace = head.index(b"{") + 1
                return [head[:brace], body.member(key), head[brace:]]
        return [head]
