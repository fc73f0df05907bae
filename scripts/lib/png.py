"""PNG pictures, made small: a screen has few colours.

The format: https://www.w3.org/TR/png-3/. Read is what Chromium writes, 8 bits of red, green and
blue each without interlacing; written is a palette of at most 256 colours.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _PALETTE = (8, 2, 0, 0, 0), (8, 3, 0, 0, 0)  # depth, colour, compression, filter, interlacing
_SIZE = 3  # bytes of a pixel
_COLOURS = 256


def with_palette(picture: bytes) -> bytes:
    """Return a picture with its most frequent colours, which the others become that are near.

    ValueError if it is of another kind.
    """
    chunks = list(_chunks(picture))
    width, height, *kind = struct.unpack(">II5B", chunks[0][1])
    if tuple(kind) != _RGB:
        raise ValueError(f"no picture of 24-bit colours: {kind}")
    rows = _rows(zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT")), width)
    pixels = [[row[at : at + _SIZE] for at in range(0, len(row), _SIZE)] for row in rows]
    counted = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in counted.most_common(_COLOURS)]
    places = {colour: _nearest(colour, palette) for colour in counted}
    body = b"".join(b"\0" + bytes(places[pixel] for pixel in row) for row in pixels)
    return _SIGNATURE + b"".join(
        [
            _chunk(b"IHDR", struct.pack(">II5B", width, height, *_PALETTE)),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(body, 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not picture.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    at = len(_SIGNATURE)
    while at < len(picture):
        length, name = struct.unpack_from(">I4s", picture, at)
        yield name, picture[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _rows(data: bytes, width: int) -> Iterator[bytes]:
    """Undo the filter of each row: https://www.w3.org/TR/png-3/#9Filters."""
    length = width * _SIZE
    above = bytearray(length)
    for start in range(0, len(data), length + 1):
        row = bytearray(data[start + 1 : start + 1 + length])
        _unfilter(data[start], row, above)
        yield bytes(row)
        above = row


def _unfilter(kind: int, row: bytearray, above: bytearray) -> None:
    left = corner = 0
    for at, up in enumerate(above if kind else b""):
        if at >= _SIZE:
            left, corner = row[at - _SIZE], above[at - _SIZE]
        added = _FILTERS[kind](left, up, corner)
        row[at] = row[at] + added & 255


def _paeth(left: int, up: int, corner: int) -> int:
    around = left + up - corner
    return min((left, up, corner), key=lambda each: abs(around - each))


_FILTERS = (
    lambda *_: 0,
    lambda left, _, __: left,
    lambda _, up, __: up,
    lambda left, up, _: (left + up) // 2,
    _paeth,
)


def _nearest(colour: bytes, palette: list[bytes]) -> int:
    red, green, blue = colour
    return min(
        range(len(palette)),
        key=lambda at: (
            (palette[at][0] - red) ** 2
            + (palette[at][1] - green) ** 2
            + (palette[at][2] - blue) ** 2
        ),
    )
