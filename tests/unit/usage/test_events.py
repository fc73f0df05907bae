from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.usage.events import MAX_EVENTS, MAX_LINES, EventStream

SIZE = 64
NAMES = (b'"x"', b'"z"')


def read(chunks: Iterable[bytes], size: int = SIZE) -> list[list[bytes]]:
    events = EventStream(NAMES, size)
    found = [lines for chunk in chunks for lines in events.feed(chunk)]
    return [*found, *events.rest()]


def bytewise(body: bytes) -> list[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


X, Z = [b'{"x"}'], [b'{"z"}']
FORMATS: dict[bytes, list[list[bytes]]] = {
    b'data: {"x"}\n\n': [X],
    b'data:{"x"}\n\n': [X],
    b'data:  {"x"}\n\n': [[b' {"x"}']],
    b'\n\n\n\ndata: {"x"}\n\n\n\n\n': [X],
    b'\n\n\ndata: {"x"}\n\n\n': [X],
    b': a comment\ndata: {"x"}\n: another\n\n:\n\n': [X],
    b'id: 1\nretry: 3\nevent: "x"\ndata: {"x"}\n\n': [X],
    b'data: {"x":\ndata: 1\nid: 2\ndata:\ndata\ndata: }\n\n': [[b'{"x":', b"1", b"", b"}"]],
    b'data: {"x"}\n\ndata\n\ndata:\n\ndata: [DONE]\n\n': [X],
    b'data: {"x"}\n\ndata: {"y"}\n\ndata: "x"\n\n': [X, [b'"x"']],
    b'data: {"x"}\r\r\ndata: y\n\r\n': [X],
    b'data: {"x":\rdata: 1}\n\ndata: y\n\n': [[b'{"x":', b"1}"]],
    b'data: {"x"}': [X],
    b'data: {"x"}\n': [X],
    b'data: {"x"}\nid: 1': [X],
    b'{"x"}\n\n': [],
    b': {"x"}\n\n': [],
    b'database: {"x"}\n\n': [],
    b'Data: {"x"}\n\n': [],
    b' data: {"x"}\n\n': [],
    b'event: data: {"x"}\n\n': [],
    b'data: {\n\ndata: "y"\n\n': [],
    b"": [],
    # Without blank lines:
    b'data: {"x"}\ndata: {"z"}\ndata: {"y"}\ndata: [DONE]\n': [X, Z],
    b'data:{"x"}\ndata:{"z"}\ndata:[DONE]': [X, Z],
    b'event: a\ndata: {"x"}\nevent: b\ndata: {"z"}\n\n': [X, Z],
    b'event: a\ndata: {"y"}\nevent: "x"\ndata: {"z"}\n': [Z],
    b'data: {"x"}\n: a\ndata: {"z"}\n': [[*X, *Z]],
    # Which are not the beginnings of others:
    b'data: {"x": {\ndata: }\ndata: , "z": {\ndata: }\ndata: }\n\n': [
        [b'{"x": {', b"}", b', "z": {', b"}", b"}"]
    ],
}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(("body", "expected"), FORMATS.items())
def test_events_cut_anywhere(body: bytes, expected: list[list[bytes]], end: bytes) -> None:
    body = body.replace(b"\n", end)
    assert read([body]) == read(bytewise(body)) == expected
    for place in range(len(body)):
        assert read([body[:place], b"", body[place:]]) == expected


@pytest.mark.parametrize(
    ("length", "expected"), [(SIZE, True), (SIZE + 1, False), (SIZE * 3, False)]
)
def test_line_over_the_bound_is_skipped(length: int, expected: bool) -> None:
    event = b'data: "x"'.ljust(length, b".")
    body = b"data: a\n\n" + event + b'\n\ndata: "x"\n\n'
    found = [[event[6:]], [b'"x"']] if expected else [[b'"x"']]
    assert read([body]) == read(bytewise(body)) == found
    assert read([body, event]) == read([body, *bytewise(event)]) == found + found[:-1]
    for place in range(len(body)):
        assert read([body[:place], body[place:]]) == found


@pytest.mark.parametrize("blank", [b"\n\n", b""])
def test_each_line_of_an_event_over_the_bound_is_given_alone(blank: bytes) -> None:
    long = b'data: "x"'.ljust(SIZE + 9, b"x") + b"data: {x}\n"
    event = b'data: "x"\ndata: y\nid: "x"\n' * 3 + long + b'data: "z"'
    body = event + blank + b'data: "x"\ndata: y\n\n' * bool(blank)
    found = [[b'"x"']] * 3 + [[b'"z"']] + [[b'"x"', b"y"]] * bool(blank)
    assert read([body]) == read(bytewise(body)) == found
    for place in range(len(body)):
        assert read([body[:place], body[place:]]) == found


def test_each_of_too_many_lines_is_given_alone() -> None:
    body = b'data: "x"\n' + b"data:\n" * MAX_LINES + b'data: "z"\n\n'
    assert read([body], 1 << 20) == [[b'"x"'], [b'"z"']]
    assert [len(event) for event in read([body[16:]], 1 << 20)] == [MAX_LINES]


def test_of_too_many_events_in_one_chunk_the_first_and_the_last_are_given() -> None:
    def event(count: int) -> bytes:
        return b'data: "x" %d\n\n' % count

    last = b'data: "z"'.ljust(100_000, b".") + b"\n\n"
    body = b"".join(map(event, range(20_000))) + last + event(-1)
    found = read([body], 1 << 20)
    assert found[:MAX_EVENTS] == [[b'"x" %d' % count] for count in range(MAX_EVENTS)]
    assert found[MAX_EVENTS:] == [[last[6:-2]], [b'"x" -1']]
    assert len(read([body[: 1 << 16], body[1 << 16 :]], 1 << 20)) > len(found)


def test_stream_without_blank_lines_is_read_in_bounded_memory() -> None:
    events = EventStream(NAMES, SIZE)
    found: list[list[bytes]] = []
    for count in range(1000):
        found += events.feed(b'\ndata: "x" %d\ndata: y\nid' % count)
        assert len(events._buffer) <= 2 * SIZE
    assert len(found) == 1000


PIECES = st.sampled_from([*FORMATS, b'data: "x"', b"\xff", b"\n", b"." * SIZE, b"}\ndata: {"])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(PIECES, max_size=6), ENDS, st.lists(st.integers(0, 500), max_size=9))
def test_any_stream_is_read_alike_wherever_it_is_cut(
    pieces: list[bytes], end: bytes, places: list[int]
) -> None:
    body = b"".join(pieces).replace(b"\n", end)
    edges = [0, *sorted(places), max(len(body), 500)]
    chunks = [body[start:stop] for start, stop in pairwise(edges)]
    assert read(chunks) == read([body]) == read(bytewise(body))
