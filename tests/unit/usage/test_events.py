from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.usage.events import EventStream

SIZE = 64


def read(chunks: Iterable[bytes]) -> list[bytes]:
    events = EventStream((b'"x"', b'"z"'), SIZE)
    return [data for chunk in chunks for data in events.feed(chunk)] + events.rest()


def bytewise(body: bytes) -> list[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


FORMATS = {
    b'data: {"x"}\n\n': [b'{"x"}'],
    b'data:{"x"}\n\n': [b'{"x"}'],
    b'data:  {"x"}\n\n': [b' {"x"}'],
    b'\xef\xbb\xbfdata: {"x"}\n\n': [b'{"x"}'],
    b'\n\n\n\ndata: {"x"}\n\n\n\n\n': [b'{"x"}'],
    b': a comment\ndata: {"x"}\n: another\n\n:\n\n': [b'{"x"}'],
    b'id: 1\nretry: 3\nevent: "x"\ndata: {"x"}\n\n': [b'{"x"}'],
    b'data: {"x":\ndata: 1\nid: 2\ndata:\ndata\ndata: }\n\n': [b'{"x":\n1\n\n}'],
    b'data: {"x"}\n\ndata\n\ndata:\n\ndata: [DONE]\n\n': [b'{"x"}'],
    b'data: {"x"}\n\ndata: {"y"}\n\ndata: "x"\n\n': [b'{"x"}', b'"x"'],
    b'data: {"x"}\r\r\ndata: y\n\r\n': [b'{"x"}'],
    b'data: {"x":\rdata: 1}\n\ndata: y\n\n': [b'{"x":\n1}'],
    b'data: {"x"}': [b'{"x"}'],
    b'data: {"x"}\n': [b'{"x"}'],
    b'data: {"x"}\nid: 1': [b'{"x"}'],
    b'{"x"}\n\n': [b""],
    b': {"x"}\n\n': [b""],
    b'database: {"x"}\n\n': [b""],
    b'Data: {"x"}\n\n': [b""],
    b' data: {"x"}\n\n': [b""],
    b'event: data: {"x"}\n\n': [b""],
    b'data: {\n\ndata: "y"\n\n': [],
    b"": [],
}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(("body", "expected"), FORMATS.items())
def test_events_cut_anywhere(body: bytes, expected: list[bytes], end: bytes) -> None:
    body = body.replace(b"\n", end)
    assert read([body]) == read(bytewise(body)) == expected
    for place in range(len(body)):
        assert read([body[:place], b"", body[place:]]) == expected


@pytest.mark.parametrize(
    ("length", "expected"), [(SIZE, True), (SIZE + 1, False), (SIZE * 3, False)]
)
def test_an_event_over_the_bound_is_skipped(length: int, expected: bool) -> None:
    event = b'data: "x"'.ljust(length, b".")
    body = b"data: a\n\n" + event + b'\n\ndata: "x"\n\n'
    found = [event[6:], b'"x"'] if expected else [b'"x"']
    assert read([body]) == read(bytewise(body)) == found
    assert read([body, event]) == read([body, *bytewise(event)]) == found + found[:-1]
    for place in range(len(body)):
        assert read([body[:place], body[place:]]) == found


PIECES = st.sampled_from([*FORMATS, b'data: "x"', b"\xff", b"\n", b"." * SIZE])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(PIECES, max_size=6), ENDS, st.lists(st.integers(0, 500), max_size=9))
def test_any_stream_is_read_alike_wherever_it_is_cut(
    pieces: list[bytes], end: bytes, places: list[int]
) -> None:
    body = b"".join(pieces).replace(b"\n", end)
    edges = [0, *sorted(places), max(len(body), 500)]
    chunks = [body[start:stop] for start, stop in pairwise(edges)]
    assert read(chunks) == read([body]) == read(bytewise(body))
