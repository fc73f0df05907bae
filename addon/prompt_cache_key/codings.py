"""Decode and encode content codings (gzip, deflate, br, zstd) in bounded memory and bounded time.

A body of some hundred bytes can decode to gigabytes, and not every library can limit what one call
returns: 13 bytes of brotli are a block of 16 MB, and brotli before 1.2 (mitmproxy 11) returns it in
one piece. So a decoder takes the coded bytes in small steps, checks the decoded size after each,
and gives up at `max_size`. Measured on mitmproxy 11 and 12, one step takes at most 5 ms (gzip,
deflate, zstd, brotli from 1.2 on) or 80 ms (brotli before 1.2), and 1 MB decoded 3 ms. What is left
to an attacker are blocks that decode to nothing: 1 MB of them takes 85 ms (deflate).

zlib is in the standard library. brotli and zstd come with mitmproxy, which has changed its zstd
library, so both are imported when they are needed.
"""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# Without its name: each reason is logged once, up to a number of reasons.
_UNKNOWN = "the content-encoding is unknown"

MAX_MEMBERS = 1000
"""Members (gzip, deflate) or frames (zstd) of one body: an empty frame of 9 bytes takes 11 µs."""

# The libraries of zstd, and how each is given the largest window over HTTP, 8 MB (RFC 9659).
# mitmproxy before 12.3 comes with the first, and then with one of the others.
_ZSTD: dict[str, dict[str, Any]] = {
    "zstandard": {"max_window_size": 1 << 23},
    "compression.zstd": {"options": {100: 23}},  # ZSTD_d_windowLogMax, and 2 to the power of it
    "backports.zstd": {"options": {100: 23}},
}


def decode(body: bytes, content_encoding: str, max_size: int) -> bytes:
    """Return a whole body, decoded.

    ValueError, whose message is one bounded line, if the coding is unknown, if the body is corrupt
    or cut off, or if it decodes to more than `max_size` bytes.
    """
    undo = decoder(content_encoding, max_size)
    decoded = b"".join(undo.decode(body))
    if not undo.is_complete:
        raise ValueError(f"{undo.name} is cut off")
    if len(decoded) > max_size:
        raise ValueError(f"a body of over {max_size} bytes")
    return decoded


def encode(body: bytes, content_encoding: str) -> bytes:
    """Return a body in the coding of a Content-Encoding header; ValueError if it is unknown.

    Not as mitmproxy does: its brotli takes 1.4 s for 1 MB, and its functions share one cache
    without a lock, so that a thread may get the body of another request.
    """
    coding = content_encoding.strip().lower()
    with suppress(ImportError):
        if CODINGS.get(coding) is Decoder:
            return body
        match coding:
            case "gzip" | "x-gzip":
                return gzip.compress(body, 6, mtime=0)
            case "deflate":
                return zlib.compress(body)
            case "br":
                return bytes(import_module("brotli").compress(body, quality=4))
            case "zstd":
                return bytes(_find_zstd()[0].compress(body))
    raise ValueError(_UNKNOWN)


def decoder(content_encoding: str, max_size: int) -> Decoder:
    """Return the decoder for a Content-Encoding header, of bodies that decode to `max_size` bytes.

    ValueError if the coding is unknown, if its library is missing, or if there are several.
    """
    coding = content_encoding.strip().lower()
    try:
        return CODINGS[coding](coding, max_size)
    except (KeyError, ImportError):
        raise ValueError(_UNKNOWN) from None


class Decoder:
    """Decodes one body that arrives in chunks, cut anywhere; this one has no coding."""

    def __init__(self, coding: str, max_size: int) -> None:
        self.name = f"content-encoding {coding}"
        self._max_size = max_size

    @property
    def is_complete(self) -> bool:
        """Whether the body may end here."""
        return True

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body decode to, piece by piece.

        ValueError if they are corrupt, or if a coded body has become larger than `max_size`.
        """
        yield chunk


class _Coded(Decoder, ABC):
    """Decodes a body of members; `step` is how many coded bytes a library gets at a time."""

    step: int
    error: type[Exception] = zlib.error

    def __init__(self, coding: str, max_size: int) -> None:
        super().__init__(coding, max_size)
        self._decoded = 0
        self._members = 0
        self._member: Any = None

    @property
    def is_complete(self) -> bool:
        """Whether no member has begun and not ended."""
        return not self._member

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes decode to, piece by piece."""
        for start in range(0, len(chunk), self.step):
            rest = chunk[start : start + self.step]
            while rest:
                if not self._member:
                    self._members += 1
                    if self._members > MAX_MEMBERS:
                        raise ValueError(f"{self.name} of over {MAX_MEMBERS} members")
                    self._member = self._open(rest[0])
                try:
                    for data in self._undo(rest):
                        self._decoded += len(data)
                        if self._decoded > self._max_size:
                            raise ValueError(f"{self.name} of over {self._max_size} bytes")
                        yield data
                except self.error:
                    raise ValueError(f"corrupt {self.name}") from None
                rest = b""
                if self._member.eof:
                    rest, self._member = self._member.unused_data, None

    @abstractmethod
    def _open(self, first: int, /) -> Any:
        """Return the library's object that decodes a member that begins with this byte."""

    def _undo(self, coded: bytes) -> Iterator[bytes]:
        yield self._member.decompress(coded)


class _Gzip(_Coded):
    """One member after another; 1 kB is 1 MB at most."""

    step = 1 << 10

    def _open(self, _first: int, /) -> Any:
        # Some servers send zlib's format under this name.
        return zlib.decompressobj(zlib.MAX_WBITS | 32)


class _Deflate(_Coded):
    """With zlib's header (RFC 9110) or bare, which is as common; 1 kB is 1 MB at most."""

    step = 1 << 10

    def _open(self, first: int, /) -> Any:
        has_header = first & 0x0F == zlib.DEFLATED
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


class _Brotli(_Coded):
    """One stream, with nothing behind it; a block of 16 MB is 13 bytes at least."""

    step = 1 << 3
    eof = False

    def __init__(self, coding: str, max_size: int) -> None:
        super().__init__(coding, max_size)
        library = import_module("brotli")
        self.error = library.error
        self._stream = library.Decompressor()
        self._limit: dict[str, int] = {}
        if hasattr(self._stream, "can_accept_more_data"):  # since 1.2
            self.step, self._limit = 1 << 16, {"output_buffer_limit": 1 << 20}

    @property
    def is_complete(self) -> bool:
        """Whether the stream has not begun or has ended."""
        return not self._member or self._stream.is_finished()

    def _open(self, _first: int, /) -> Any:
        return self

    def _undo(self, coded: bytes) -> Iterator[bytes]:
        yield (data := self._stream.process(coded, **self._limit))
        while self._limit and data:
            yield (data := self._stream.process(b"", **self._limit))


class _Zstd(_Coded):
    """One frame after another; a block of 128 kB is 4 bytes at least."""

    step = 1 << 7

    def __init__(self, coding: str, max_size: int) -> None:
        super().__init__(coding, max_size)
        self._library, self._limit = _find_zstd()
        self.error = self._library.ZstdError

    def _open(self, _first: int, /) -> Any:
        made = self._library.ZstdDecompressor(**self._limit)
        return made.decompressobj() if hasattr(made, "decompressobj") else made


CODINGS: dict[str, type[Decoder]] = {
    "": Decoder,
    "identity": Decoder,
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


def _find_zstd() -> tuple[ModuleType, dict[str, Any]]:
    for name, limit in _ZSTD.items():
        with suppress(ImportError):
            return import_module(name), limit
    raise ImportError("no library for zstd")
