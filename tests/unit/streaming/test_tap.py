import math

import pytest
from mitmproxy.test.tutils import tresp
from prompt_cache_key.streaming.tap import ResponseTap, Tap


@pytest.mark.parametrize(
    ("limit", "kept"), [(math.inf, b"abcdef"), (6, b"abcdef"), (5, None), (0, None)]
)
def test_chunks_pass_are_seen_and_kept(limit: float, kept: bytes | None) -> None:
    seen: list[bytes] = []
    response = tresp(content=None)
    tap = ResponseTap(limit, seen.append, response)
    assert tap.headers == response.headers
    assert tap.headers is not response.headers
    assert tap.content == b""
    chunks = [b"abc", b"", b"def", b""]
    assert [tap(chunk) for chunk in chunks] == [[b"abc"], [], [b"def"], []]
    assert seen == chunks
    assert response.raw_content == tap.content == kept


def test_body_that_has_passed_so_far() -> None:
    response = tresp(content=None)
    tap = ResponseTap(9, lambda _: None, response)
    for end in range(10):
        assert tap.content == b"x" * end
        tap(b"x")
    assert response.raw_content is None
    tap.keep()
    assert tap.content is response.raw_content is None


def test_tap_that_nobody_sees() -> None:
    tap = Tap(3)
    assert tap(b"abc") == [b"abc"]
    assert tap.content == b"abc"
