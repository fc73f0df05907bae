import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.body import MEMBER_SIZE, Body
from prompt_cache_key.streaming.held_request import MAX_HELD, HeldRequest

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


NO_OBJECT = "the body is not a JSON object"


@pytest.mark.parametrize(
    ("body", "sent", "problem"),
    [
        (b'{"model":"m"}', b"{" + MEMBER + b'"model":"m"}', ""),
        (b'\xef\xbb\xbf {"a":1} \n', b"\xef\xbb\xbf {" + MEMBER + b'"a":1} \n', ""),
        (b'{"x":"\xe2\x9c\x93","y":{}}', b"{" + MEMBER + b'"x":"\xe2\x9c\x93","y":{}}', ""),
        # Its own key comes late, and takes less room.
        (b'{"model":"m","prompt_cache_key":"mine"}', None, ""),
        (b'{"prompt_cache_key":""}', b'{"prompt_cache_key":"%s"}' % KEY.encode(), ""),
        # Without a key it goes on as it came.
        *((body, None, NO_OBJECT) for body in (b"[1]", b"\x1f\x8b\x08", b'{"model":"m')),
        (b'{"prompt_cache_key":nope}', None, "the body is not JSON in UTF-8"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_what_is_sent_is_what_the_whole_becomes(
    body: bytes, sent: bytes | None, problem: str, size: int
) -> None:
    sized, unsized = HeldRequest(edit, len(body)), HeldRequest(edit, None)
    assert send(sized, cut(body, size)) == (sent or body).ljust(len(body) + MEMBER_SIZE)
    assert send(unsized, cut(body, size)) == (sent or body)
    for held in (sized, unsized):
        assert (held.content, held.problem) == (body, problem)


def test_nothing_is_sent_before_it_is_whole() -> None:
    body = b'{"model":"m"}'
    held = HeldRequest(edit, len(body))
    assert held(body[:-1]) == []
    assert held.content == b""
    assert held(body[-1:]) == [b"{" + MEMBER + b'"model":"m"}']
    assert held(b"") == []


def test_empty_frames_are_not_the_end() -> None:
    body = b'{"a":{},"prompt_cache_key":"mine"}'
    frames = [b"", body[:7], b"", body[7:], b""]
    sized = HeldRequest(edit, len(body))
    assert send(sized, frames) == body + SPACE
    # Where no length is known it looks like the end, and {"a":{} like an object.
    unsized = HeldRequest(edit, None)
    assert send(unsized, frames) == body
    assert unsized.problem == "the body is not JSON in UTF-8"


def test_an_empty_body() -> None:
    for body in (b"", b"{}"):
        unsized = HeldRequest(edit, None)
        assert send(unsized, [body]) == body
        assert unsized.problem == ""


@pytest.mark.parametrize("more", [0, 2])
def test_too_large(more: int) -> None:
    body = b'{"x":"%s"}' % (b"x" * (MAX_HELD - 8 + more))
    keyed = b"{" + MEMBER + body[1:]
    held = HeldRequest(edit, None)
    assert (send(held, [body[:100], body[100:], b""]) == keyed) is (more == 0)
    assert held.problem == ("it is streamed, and larger than 16 MB" if more else "")
    # What the headers have promised is kept in any case.
    assert send(HeldRequest(edit, len(body)), [body[:-1], body[-1:]]) == keyed


def test_what_is_too_large_goes_on_chunk_by_chunk() -> None:
    held = HeldRequest(edit, None)
    first = b"{" + b" " * MAX_HELD
    sent = [held(chunk) for chunk in (first, b"}", b"", b" ", b"")]
    assert sent == [[first], [b"}"], [], [b" "], []]
    assert held.content == b""


def test_it_grows_by_no_more_than_was_promised() -> None:
    more = b"x" * (MEMBER_SIZE + 1)
    sized, unsized = (HeldRequest(lambda whole: whole + more, length) for length in (7, None))
    assert send(sized, [b'{"a"', b":1}"]) == b'{"a":1}' + SPACE
    assert sized.problem == "it is streamed, and would grow too much"
    assert send(unsized, [b'{"a"', b":1}"]) == b'{"a":1}' + more
    assert unsized.problem == ""


@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=9)).map(json.dumps)
    | st.text(),
    st.lists(st.integers(0, 60)),
    st.booleans(),
)
def test_any_body_cut_anywhere(text: str, places: list[int], has_length: bool) -> None:
    body = text.encode()
    ends = [*sorted(places), len(body)]
    chunks = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if not has_length:
        chunks = [chunk for chunk in chunks if chunk]
    sent = send(HeldRequest(edit, len(body) if has_length else None), chunks)
    value: Any = None
    try:
        value = json.loads(text)
    except ValueError:
        assert sent == (body + SPACE if has_length else body)
    if isinstance(value, dict) and (has_length or value):
        assert json.loads(sent) == {"prompt_cache_key": KEY} | value
    assert not has_length or len(sent) == len(body) + MEMBER_SIZE
