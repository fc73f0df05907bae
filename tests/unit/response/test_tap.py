import math

import pytest
from prompt_cache_key.response.tap import ResponseTap


@pytest.mark.parametrize(
    ("limit", "kept"), [(math.inf, b"abcdef"), (6, b"abcdef"), (5, None), (0, None)]
)
def test_chunks_pass_are_seen_and_kept(limit: float, kept: bytes | None) -> None:
    seen: list[bytes] = []
    tap = ResponseTap(seen.append, limit)
    assert tap.content == b""
    chunks = [b"abc", b"", b"def", b""]
    assert [tap(chunk) for chunk in chunks] == [b"abc", [], b"def", []]
    assert seen == chunks
    assert tap.content == kept
