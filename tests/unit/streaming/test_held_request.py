import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.body import MEMBER_SIZE, Body
from prompt_cache_key.streaming.held_request import HeldRequest

KEY = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
MEMBER = b'"prompt_cache_key":"%s",' % KEY.encode()
SPACE = b" " * MEMBER_SIZE


def edit(whole: bytes) -> bytes:
    body = Body(whole)
    return whole if body.has_key else body.with_key(KEY)


def send(held: HeldRequest, chunks: Iterable[bytes]) -> bytes:
    sent = [part for chunk in [*chunks, b""] for part in held(chunk)]
    assert all(sent)  # an empty chunk would end a chunked request
    return b"".join(sent)


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize(
    ("body", "sent", "problem"),
    [
        (b'{"model":"m"}', b"{" + MEMBER + b'"model":"m"}', False),
        (b'\xef\xbb\xbf {"a":1} \n', b"\xef\xbb\xbf {" + MEMBER + b'"a":1} \n', False),
        (b'{"model":"m","prompt_cache_key":"mine"}', None, False),
        (b'{"prompt_cache_key":""}', b'{"prompt_cache_key":"%s"}' % KEY.encode(), False),
        *((body, None, True) for body in (b"[1]", b"\x1f\x8b\x08", b'{"model":"m')),
        (b'{"prompt_cache_key":nope}', None, True),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_edited_body_is_filled_up_to_the_promised_length(
    body: bytes, sent: bytes | None, problem: bool, size: int
) -> None:
    held = HeldRequest(len(body), edit)
    assert send(held, cut(body, size)) == (sent or body).ljust(len(body) + MEMBER_SIZE)
    assert bool(held.problem) is problem


def test_nothing_is_sent_before_the_body_is_complete() -> None:
    body = b'{"model":"m"}'
    held = HeldRequest(len(body), edit)
    assert held(body[:-1]) == []
    assert held(body[-1:]) == [b"{" + MEMBER + b'"model":"m"}']
    assert held(b"") == []


def test_empty_frames_are_not_the_end() -> None:
    body = b'{"a":{},"prompt_cache_key":"mine"}'
    frames = [b"", body[:7], b"", body[7:], b""]
    assert send(HeldRequest(len(body), edit), frames) == body + SPACE


def test_bytes_beyond_the_length_pass_unchanged() -> None:
    assert send(HeldRequest(2, edit), [b"{}", b"more"]).endswith(b"more")


@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=9)).map(json.dumps)
    | st.text(min_size=1),
    st.lists(st.integers(0, 60)),
)
def test_any_body_cut_anywhere(text: str, places: list[int]) -> None:
    body = text.encode()
    ends = [*sorted(places), len(body)]
    chunks = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    sent = send(HeldRequest(len(body), edit), chunks)
    value: Any = None
    try:
        value = json.loads(text)
    except ValueError:
        assert sent == body + SPACE
    if isinstance(value, dict):
        assert json.loads(sent) == {"prompt_cache_key": KEY} | value
    assert len(sent) == len(body) + MEMBER_SIZE
