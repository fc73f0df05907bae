import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prompt_cache_key.request.stream import MAX_HEAD, MEMBER_SIZE, RequestKey, ResponseTap

KEY = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
MEMBER = b'"prompt_cache_key":"3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a",'
SPACE = b" " * len(MEMBER)


def cut(body: bytes, *places: int) -> list[bytes]:
    ends = [*sorted(places), len(body)]
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Streamed:
    """What became of a body that was fed to a RequestKey in chunks."""

    def __init__(self, chunks: Iterable[bytes], *, has_length: bool = True) -> None:
        self.models: list[str] = []
        fed = [chunk for chunk in chunks if chunk]
        request = RequestKey(self.key_of, sum(map(len, fed)) if has_length else None)
        if has_length:  # empty frames among the others
            fed = [each for chunk in fed for each in (b"", chunk)]
        sent = [part for chunk in [*fed, b""] for part in request(chunk)]
        assert all(sent)  # an empty chunk would end a chunked request
        self.body = b"".join(sent)
        self.why_not = ""
        try:
            request.check()
        except ValueError as e:
            self.why_not = str(e)

    def key_of(self, model: str) -> str:
        self.models.append(model)
        return KEY


def test_member_size() -> None:
    assert len(MEMBER) == MEMBER_SIZE == 58


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model":"gpt-5.4"}', "gpt-5.4"),
        (b'{"model":"gpt-5.4","messages":[]}', "gpt-5.4"),
        (b' \r\n{ "model" : "gpt-5.4" , "stream" : true } \n', "gpt-5.4"),
        (b'\xef\xbb\xbf{"model":"gpt-5.4"}', "gpt-5.4"),
        ('{"model":"größe ✓ \U0001f600"}'.encode(), "größe ✓ \U0001f600"),
        (rb'{"mod\u0065l":"a","model":"b"}', "a"),
        (b'{"messages":[{"model":"no"}],"user":"{\\"model\\":1}","model":"yes"}', "yes"),
        (b'{"model":"gpt","metadata":{"user_id":"\xff\xfe"}}', "gpt"),
        (b'{"model":""}', ""),
        (b'{"x":"' + b"x" * (MAX_HEAD - 23) + b'","model":"near"}', "near"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_key_goes_in(body: bytes, model: str, size: int) -> None:
    streamed = Streamed(body[i : i + size] for i in range(0, len(body), size))
    before, after = body.split(b"{", 1)
    assert streamed.body == before + b"{" + MEMBER + after
    assert streamed.models == [model]
    assert streamed.why_not == ""


@pytest.mark.parametrize(
    ("body", "why_not"),
    [
        (b"{}", "model"),
        (b"[1]", "model"),
        (b'[{"model":"gpt"}]', "model"),
        (b'"model"', "model"),
        (b"\x00\xff\xfe", "model"),
        (b"model=gpt", "model"),
        (b'{"messages":[{"model":"no"}]}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":["gpt"]}', "model"),
        (b'{"model":"gpt', "model"),
        (b'{"model" "gpt"}', "model"),
        (b'{"a":' * 50_000 + b'"model"', "model"),
        (b'{"x":"' + b"x" * (MAX_HEAD - 20) + b'","model":"far"}', "model"),
        (b'{"prompt_cache_key":"mine","model":"gpt"}', "key of its own"),
        (b'{"prompt_cache_key":null,"model":"gpt"}', "key of its own"),
        (b'{"model":"gpt","messages":[],"prompt_cache_key":"mine"}', "key of its own"),
        (b'{"model":"gpt","x":{"prompt_cache_key":"whose?"}}', "key of its own"),
    ],
)
@pytest.mark.parametrize("size", [10, 1000, 1 << 20])
def test_space_goes_after(body: bytes, why_not: str, size: int) -> None:
    streamed = Streamed(body[i : i + size] for i in range(0, len(body), size))
    assert streamed.body == body + SPACE
    assert why_not in streamed.why_not
    assert streamed.models == []


def test_without_a_length_nothing_was_promised() -> None:
    assert (
        Streamed([b'{"model":', b'"gpt"}'], has_length=False).body
        == b"{" + MEMBER + b'"model":"gpt"}'
    )
    assert Streamed([b"{", b"}"], has_length=False).body == b"{}"
    assert Streamed([], has_length=False).body == b""


def test_key_that_cannot_be_made() -> None:
    def key_of(_: str) -> str:
        raise ValueError("no key today")

    body = b'{"model":"gpt"}'
    request = RequestKey(key_of, len(body))
    assert b"".join(request(body) + request(b"")) == body + SPACE
    with pytest.raises(ValueError, match=r"^no key today$"):
        request.check()


def test_only_the_beginning_is_held_back() -> None:
    request = RequestKey(lambda _: KEY, None)
    assert request(b'{"model":"gpt","messages":["') == []
    assert request(b"x" * (MAX_HEAD - 29)) == []
    assert b"".join(request(b"x")).startswith(b"{" + MEMBER + b'"model"')
    assert request(b"x") == [b"x"]
    assert request(b"") == []
    request.check()


@pytest.mark.parametrize(
    ("limit", "kept"), [(math.inf, b"abcdef"), (6, b"abcdef"), (5, None), (0, None)]
)
def test_response_tap(limit: float, kept: bytes | None) -> None:
    seen: list[bytes] = []
    tap = ResponseTap(seen.append, limit)
    assert tap.content == b""
    chunks = [b"abc", b"", b"def", b""]
    assert [tap(chunk) for chunk in chunks] == [b"abc", [], b"def", []]
    assert seen == chunks
    assert tap.content == kept


# --- any body, cut anywhere ---------------------------------------------------------------------

TEXT = st.text(max_size=12).filter(lambda text: text != "prompt_cache_key")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
PLACES = st.lists(st.integers(0, 1 << 17), max_size=8)


NAMES = TEXT.filter(lambda name: name != "model")


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, str | None]:
    """Draw an object and its model, or None if that does not stand whole in the first 64 kB."""
    members: list[tuple[str, Any]] = draw(st.lists(st.tuples(NAMES, JSON), max_size=4))
    filler = draw(st.sampled_from([0, 100, MAX_HEAD - 20, MAX_HEAD, 2 * MAX_HEAD]))
    members.insert(draw(st.integers(0, len(members))), ("filler", "x" * filler))
    place = draw(st.integers(0, len(members)))
    model = draw(st.none() | st.text(max_size=12))
    if model is not None:
        members.insert(place, ("model", model))
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), ("\n ,\t", " :\r\n")]))
    ascii_only = draw(st.booleans())

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    texts = [text(name) + colon + text(value) for name, value in members]
    before = draw(st.sampled_from(["{", " {", "\r\n\t{ ", "\ufeff{"]))
    body = (before + comma.join(texts) + draw(st.sampled_from(["}", " }\n"]))).encode()
    end = len((before + comma.join(texts[: place + 1])).encode())
    return body, model if end <= MAX_HEAD else None


@settings(deadline=None)
@given(objects(), PLACES)
def test_any_object(drawn: tuple[bytes, str | None], places: list[int]) -> None:
    body, model = drawn
    streamed = Streamed(cut(body, *places))
    assert len(streamed.body) == len(body) + MEMBER_SIZE
    if model is not None:
        brace = body.index(b"{") + 1
        assert streamed.body == body[:brace] + MEMBER + body[brace:]
        assert json.loads(streamed.body) == json.loads(body) | {"prompt_cache_key": KEY}
        assert streamed.models == [model]
        assert streamed.why_not == ""
    else:
        assert streamed.body == body + SPACE
        assert streamed.why_not


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b'{"', b'model":', b'"model"', b'"', b"}", b",", b"[", b"\\", b"\xe2\x9c"])
        | st.binary(max_size=10)
    )
    .map(b"".join)
    .filter(len),
    PLACES,
)
@example(b'{"model":"', [9])
def test_any_bytes(body: bytes, places: list[int]) -> None:
    streamed = Streamed(cut(body, *places))
    assert len(streamed.body) == len(body) + MEMBER_SIZE
    if streamed.models:
        brace = body.index(b"{") + 1
        assert streamed.body == body[:brace] + MEMBER + body[brace:]
        assert streamed.why_not == ""
    else:
        assert streamed.body == body + SPACE
        assert streamed.why_not
