import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net import encoding
from prompt_cache_key import codings
from prompt_cache_key.codings import CODINGS, MAX_MEMBERS, decode, decoder

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


BIG = 16 << 20


def in_pieces(coding: str, chunks: list[bytes], max_size: int = BIG) -> bytes:
    undo = decoder(coding, max_size)
    return b"".join(data for chunk in chunks for data in undo.decode(chunk))


@pytest.mark.parametrize("coding", CODINGS)
def test_encode_is_undone(coding: str) -> None:
    coded = codings.encode(BODY, f" {coding.upper()}")
    assert decode(coded, coding, BIG) == BODY
    assert (coded == BODY) == (coding in ("", "identity"))


@pytest.mark.parametrize("coding", ["rot13", "gzip, br", "utf-8"])
def test_unknown_codings_are_not_written(coding: str) -> None:
    with pytest.raises(ValueError, match="is unknown"):
        codings.encode(BODY, coding)


@FORMS
def test_bodies_cut_anywhere(coding: str, compress: Compress) -> None:
    coded = compress(BODY)
    assert decode(coded, coding, len(BODY)) == decode(coded, f" {coding.upper()}", BIG) == BODY
    for size in (len(coded), 1000, 31):
        chunks = [coded[start : start + size] for start in range(0, len(coded), size)]
        assert in_pieces(coding, chunks) == BODY


@FORMS
def test_body_that_is_cut_off(coding: str, compress: Compress) -> None:
    coded = compress(BODY)[:-9]
    found = in_pieces(coding, [coded])
    assert found
    assert BODY.startswith(found)
    with pytest.raises(ValueError, match=f"^content-encoding {coding} is cut off$"):
        decode(coded, coding, BIG)


@pytest.mark.parametrize("coding", CODINGS)
def test_empty_body(coding: str) -> None:
    assert decode(b"", coding, 0) == b""


@pytest.mark.parametrize("coding", [coding for coding in CODINGS if coding not in ("", "identity")])
def test_broken_bodies(coding: str) -> None:
    compress = dict(ENCODINGS.values())[coding]
    for broken in (b"\xff" * 3000, b'data: {"usage": {}}\n\n' * 100, compress(BODY) + b"\xff" * 99):
        with pytest.raises(ValueError, match=f"^corrupt content-encoding {coding}$"):
            decode(broken, coding, BIG)


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_no_coding(coding: str) -> None:
    assert decode(BODY, coding, len(BODY)) == in_pieces(coding, [BODY[:9], BODY[9:]], 0) == BODY
    with pytest.raises(ValueError, match=r"^a body of over 9 bytes$"):
        decode(b"0123456789", coding, 9)


@FORMS
def test_body_over_the_limit(coding: str, compress: Compress) -> None:
    with pytest.raises(ValueError, match=f"^content-encoding {coding} of over {len(BODY) - 1} "):
        decode(compress(BODY), coding, len(BODY) - 1)


BOMBS: dict[str, Compress] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
    "br": lambda body: import_module("brotli").compress(body, quality=5, lgwin=24),
    "zstd": encode("zstd"),
}


@pytest.mark.parametrize(("coding", "compress"), BOMBS.items(), ids=BOMBS)
def test_bombs(coding: str, compress: Compress) -> None:
    bomb = compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{coding} of over 4194304 bytes"):
            decode(bomb, coding, 4 << 20)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_too_many_members(coding: str) -> None:
    member = encode(coding)(b"x")
    assert decode(member * MAX_MEMBERS, coding, BIG) == b"x" * MAX_MEMBERS
    with pytest.raises(ValueError, match=f"^content-encoding {coding} of over 1000 members$"):
        decode(member * (MAX_MEMBERS + 1), coding, BIG)


def test_zstd_with_a_larger_window_than_http_allows() -> None:
    frame = b"\x28\xb5\x2f\xfd\x00" + b"\x88" + b"\x01\x00\x00"  # of 128 MB, and an empty block
    with pytest.raises(ValueError, match="corrupt"):
        decode(frame, "zstd", BIG)
    assert decode(frame.replace(b"\x88", b"\x68"), "zstd", BIG) == b""  # 8 MB


@pytest.mark.parametrize("old", [True, False])
def test_brotli_with_and_without_a_limit_to_one_call(
    old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 1.2 the library has no such limit, and can't be asked for what is left."""

    class Stream:
        def __init__(self) -> None:
            self.stream = import_module("brotli").Decompressor()
            if not old:
                self.can_accept_more_data = None
                self.left = b""

        def process(self, coded: bytes, **limit: int) -> bytes:
            assert len(coded) <= (8 if old else 1 << 16)
            data: bytes = self.stream.process(coded)
            if old:
                assert not limit
                return data
            size = limit["output_buffer_limit"]
            data, self.left = (self.left + data)[:size], (self.left + data)[size:]
            return data

        def is_finished(self) -> bool:
            return bool(self.stream.is_finished())

    library = SimpleNamespace(Decompressor=Stream, error=import_module("brotli").error)
    monkeypatch.setattr("prompt_cache_key.codings.import_module", lambda _name: library)
    body = BODY * 3
    assert decode(encode("br")(body), "br", BIG) == body


@pytest.mark.parametrize("coding", ["compress", "GZIP, br", "gzip,gzip", "é\n", "x" * 999])
def test_a_client_cannot_make_many_reasons_of_unknown_codings(coding: str) -> None:
    with pytest.raises(ValueError, match=r"^the content-encoding is unknown$"):
        decode(b"", coding, BIG)


@pytest.mark.parametrize(
    ("coding", "libraries"),
    [("br", ["brotli"]), ("zstd", ["zstandard", "backports.zstd", "compression.zstd"])],
)
def test_missing_libraries(
    coding: str, libraries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in libraries:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="unknown"):
        decoder(coding, BIG)
    assert decoder("gzip", BIG)


@given(st.sampled_from(list(ENCODINGS.values())), st.binary(max_size=300), st.data())
def test_nothing_but_a_value_error(
    form: tuple[str, Compress], body: bytes, choose: st.DataObject
) -> None:
    coding, compress = form
    coded = bytearray(compress(body))
    for place in choose.draw(st.lists(st.integers(0, len(coded)), max_size=3)):
        coded[place : place + 1] = choose.draw(st.binary(max_size=2))
    with suppress(ValueError):
        decode(bytes(coded), coding, BIG)
