"""Content codings undone as a body passes by, cut anywhere, in bounded memory.

gzip and deflate are in the standard library. brotli and zstd come with mitmproxy, which has changed
its zstd library, so they are imported when they are needed. Not all of these libraries can limit
what one call gives out: coded bytes go in by so few at a time that they cannot inflate to much.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# In bytes, of all that one body inflates to. The events of a long answer are 50 MB; what a bomb of
# 500 bytes inflates to takes seconds.
MAX_DECODED = 128 << 20

# The libraries of zstd, and how each is told the largest window over HTTP, 8 MB (RFC 9659).
# mitmproxy before 12.3 comes with the first, and then with one of the others.
_ZSTD: dict[str, dict[str, Any]] = {
    "zstandard": {"max_window_size": 1 << 23},
    "compression.zstd": {"options": {100: 23}},  # ZSTD_d_windowLogMax, and 2 to the power of it
    "backports.zstd": {"options": {100: 23}},
}


class Decoder(ABC):
    """What undoes one body's coding.

    `step` is how many coded bytes are taken at a time.
    """

    step: int

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self.error: type[Exception] = zlib.error
        self._member: Any = None
        self._decoded = 0

    @abstractmethod
    def open(self, first: int, /) -> Any:
        """Return what undoes a member that begins with this byte."""

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body decode to, at most 32 MB at a time.

        ValueError if they are broken, or if the body has become more than `MAX_DECODED` bytes.
        """
        for start in range(0, len(chunk), self.step):
            rest = chunk[start : start + self.step]
            while rest:
                if not self._member:
                    self._member = self.open(rest[0])
                try:
                    data = self._member.decompress(rest)
                except self.error:
                    raise ValueError(f"corrupt content-encoding {self.coding}") from None
                self._decoded += len(data)
                if self._decoded > MAX_DECODED:
                    raise ValueError(f"content-encoding {self.coding} of over {MAX_DECODED} bytes")
                yield data
                rest = b""
                if self._member.eof:
                    rest, self._member = self._member.unused_data, None


class Gzip(Decoder):
    """One member after another, 1 MB of 1 kB at most."""

    step = 1 << 10

    def open(self, _first: int, /) -> Any:
        """Return what undoes a member; some servers send zlib's format under this name."""
        return zlib.decompressobj(zlib.MAX_WBITS | 32)


class Deflate(Decoder):
    """With zlib's header (RFC 9110) or bare, which is as common; 1 MB of 1 kB at most."""

    step = 1 << 10

    def open(self, first: int, /) -> Any:
        """Return what undoes a body that begins with this byte."""
        has_header = first & 0x0F == zlib.DEFLATED
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


class Brotli(Decoder):
    """One stream, with nothing behind it; a block of 16 MB can be 10 bytes."""

    step = 1 << 4

    def __init__(self, coding: str) -> None:
        super().__init__(coding)
        self._library = import_module("brotli")
        self.error = self._library.error

    def open(self, _first: int, /) -> Any:
        """Return what undoes the body."""
        return SimpleNamespace(decompress=self._library.Decompressor().process, eof=False)


class Zstd(Decoder):
    """One frame after another; a block of 128 kB can be 4 bytes."""

    step = 1 << 7

    def __init__(self, coding: str) -> None:
        super().__init__(coding)
        self._library, self._limit = _find_zstd()
        self.error = self._library.ZstdError

    def open(self, _first: int, /) -> Any:
        """Return what undoes a frame."""
        made = self._library.ZstdDecompressor(**self._limit)
        return made.decompressobj() if hasattr(made, "decompressobj") else made


CODINGS: dict[str, type[Decoder]] = {
    "gzip": Gzip,
    "x-gzip": Gzip,
    "deflate": Deflate,
    "br": Brotli,
    "zstd": Zstd,
}


def decoder(coding: str) -> Decoder | None:
    """Return what undoes a Content-Encoding; None if it is unknown or its library is missing."""
    try:
        return CODINGS[coding](coding)
    except (KeyError, ImportError):
        return None


def _find_zstd() -> tuple[ModuleType, dict[str, Any]]:
    for name, limit in _ZSTD.items():
        with suppress(ImportError):
            return import_module(name), limit
    raise ImportError("no library for zstd")
