import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net import encoding
from prompt_cache_key.codings import CODINGS, MAX_DECODED, Decoder, decoder

Compress = Callable[[bytes], bytes]

BODY = bytes(range(256)) * 40 + b"a" * (1 << 20)


def encode(coding: str) -> Compress:
    return lambda body: encoding.encode(body, coding)


def in_members(coding: str) -> Compress:
    one = encode(coding)
    return lambda body: one(body[:50]) + one(b"") * 3 + one(body[50:])


ENCODINGS: dict[str, tuple[str, Compress]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "members": ("gzip", in_members("gzip")),
    "zlib as gzip": ("gzip", zlib.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", lambda body: zlib.compress(body, wbits=-15)),
    "stored deflate": ("deflate", lambda body: zlib.compress(body, 0)),
    "small window": ("deflate", lambda body: zlib.compress(body, wbits=9)),
    "br": ("br", encode("br")),
    "zstd": ("zstd", encode("zstd")),
    "frames": ("zstd", in_members("zstd")),
}


FORMS = pytest.mark.parametrize(("coding", "compress"), ENCODINGS.values(), ids=ENCODINGS)


def opened(coding: str) -> Decoder:
    found = decoder(coding)
    assert found
    return found


@FORMS
def test_bodies_cut_anywhere(coding: str, compress: Compress) -> None:
    coded = compress(BODY)
    for size in (len(coded), 1000, 31):
        undo = opened(coding)
        chunks = [coded[start : start + size] for start in range(0, len(coded), size)]
        assert b"".join(data for chunk in chunks for data in undo.decode(chunk)) == BODY


@FORMS
def test_what_came_before_the_end_broke_off_is_read(coding: str, compress: Compress) -> None:
    undo = opened(coding)
    found = b"".join(undo.decode(compress(BODY)[:-9]))
    assert found
    assert BODY.startswith(found)


@pytest.mark.parametrize("coding", CODINGS)
def test_broken_bodies(coding: str) -> None:
    compress = dict(ENCODINGS.values())[coding]
    for broken in (b"\xff" * 3000, b'data: {"usage": {}}\n\n' * 100, compress(BODY) + b"\xff" * 99):
        with pytest.raises(ValueError, match=f"^corrupt content-encoding {coding}$"):
            list(opened(coding).decode(broken))


BOMBS: dict[str, Compress] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
    "br": lambda body: import_module("brotli").compress(body, quality=5, lgwin=24),
    "zstd": encode("zstd"),
}


@pytest.mark.parametrize(("coding", "compress"), BOMBS.items(), ids=BOMBS)
def test_bombs(coding: str, compress: Compress) -> None:
    bomb = compress(bytes(MAX_DECODED + 1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{coding} of over 134217728 bytes"):
            assert all(len(data) <= 32 << 20 for data in opened(coding).decode(bomb))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_zstd_with_a_larger_window_than_http_allows() -> None:
    frame = b"\x28\xb5\x2f\xfd\x00" + b"\x88" + b"\x01\x00\x00"  # of 128 MB, and an empty block
    with pytest.raises(ValueError, match="corrupt"):
        list(opened("zstd").decode(frame))
    assert not b"".join(opened("zstd").decode(frame.replace(b"\x88", b"\x68")))  # 8 MB


@pytest.mark.parametrize("coding", ["", "identity", "compress", "gzip, br", "GZIP"])
def test_unknown_codings(coding: str) -> None:
    assert decoder(coding) is None


@pytest.mark.parametrize(
    ("coding", "libraries"),
    [("br", ["brotli"]), ("zstd", ["zstandard", "backports.zstd", "compression.zstd"])],
)
def test_missing_libraries(
    coding: str, libraries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in libraries:
        monkeypatch.setitem(sys.modules, name, None)
    assert decoder(coding) is None
    assert decoder("gzip")


@given(st.sampled_from(list(ENCODINGS.values())), st.binary(max_size=300), st.data())
def test_nothing_but_a_value_error(
    form: tuple[str, Compress], body: bytes, choose: st.DataObject
) -> None:
    coding, compress = form
    coded = bytearray(compress(body))
    for place in choose.draw(st.lists(st.integers(0, len(coded)), max_size=3)):
        coded[place : place + 1] = choose.draw(st.binary(max_size=2))
    with suppress(ValueError):
        list(opened(coding).decode(bytes(coded)))
