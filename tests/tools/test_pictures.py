import os
import re
import struct
import subprocess
import sys
import zlib

import pictures
import pytest
from lib import ADDON, ROOT
from lib.png import with_palette

DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def test_what_it_needs() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "pictures.py")]
    environment = {**os.environ, "PATH": "/nowhere", "PYTHONPATH": str(ADDON.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "pictures: needs chromium and tmux: apt install chromium tmux\n"


def test_a_capture_replaces_the_one_before() -> None:
    text = "\n## A\n\nx\n\n```text\nold\n```\n\n## B\n\n```text\nother\n```\n"
    assert pictures.replaced(text, "A", "new\n\\1") == text.replace("old", "new\n\\1")
    with pytest.raises(pictures.PicturesError, match="'C'"):
        pictures.replaced(text, "C", "new")


def test_each_picture_is_small_and_shown() -> None:
    shown = {
        (path.parent / name).resolve()
        for path in DOCUMENTS
        for name in re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", path.read_text("utf-8"))
    }
    assert shown == set((ROOT / "docs").glob("*.png"))
    assert max(path.stat().st_size for path in shown) < 150_000


# --- their palette ------------------------------------------------------------------------------

RED, BLUE = b"\xff\0\0", b"\0\0\xff"


def png(rows: bytes, width: int, height: int, colour: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    head = struct.pack(">II5B", width, height, 8, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunks(picture: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(picture):
        length, name = struct.unpack_from(">I4s", picture, at)
        found[name], at = picture[at + 8 : at + 8 + length], at + 12 + length
    return found


@pytest.mark.parametrize(
    "row",
    [
        b"\0" + RED + BLUE,
        b"\1" + RED + b"\x01\0\xff",
        b"\2" + b"\0\0\0" + b"\x01\0\xff",
        b"\3" + b"\x80\0\0" + b"\x01\0\xff",
        b"\4" + b"\0\0\0" + b"\x01\0\xff",
    ],
)
def test_rows_of_each_filter(row: bytes) -> None:
    made = chunks(with_palette(png(b"\0" + RED + RED + row, 2, 2)))
    assert made[b"PLTE"] == RED + BLUE
    assert zlib.decompress(made[b"IDAT"]) == b"\0\0\0" + b"\0\0\1"
    assert made[b"IHDR"] == struct.pack(">II5B", 2, 2, 8, 3, 0, 0, 0)


def test_rare_colours_become_near_ones() -> None:
    shades = b"".join(bytes([shade, 0, 0]) for shade in range(256))
    made = chunks(with_palette(png(b"\0" + shades * 2 + b"\xff\x01\0", 513, 1)))
    assert len(made[b"PLTE"]) == 3 * 256
    assert zlib.decompress(made[b"IDAT"])[-1] == 255


@pytest.mark.parametrize("picture", [b"GIF", png(b"\0\0", 1, 1, colour=0)])
def test_other_pictures(picture: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        with_palette(picture)
