import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_cache_key.response import usage
from prompt_cache_key.response.usage import MAX_SIZE, Usage, UsageReader

EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"


def read(
    chunks: Iterable[bytes], content_type: str = EVENTS, content_encoding: str = ""
) -> Usage | None:
    reader = UsageReader(content_type, content_encoding)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


def cut(body: bytes, *places: int) -> list[bytes]:
    ends = [*sorted(places), len(body)]
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (
        name.encode(),
        json.dumps({"type": name, **fields}).encode(),
    )


def data(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields, separators=(",", ":")).encode()


def deflate(body: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(body) + compressor.flush()


CHAT = {
    "prompt_tokens": 2048,
    "completion_tokens": 9,
    "total_tokens": 2057,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
RESPONSES = {
    "input_tokens": 2048,
    "input_tokens_details": {"cached_tokens": 1920, "cache_write_tokens": 100},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 2057,
}
ANTHROPIC = {
    "input_tokens": 28,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 1920,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 9,
    "service_tier": "standard",
}
ZEROS = dict.fromkeys(
    ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"), 0
)
WRITTEN = Usage(input=2048, cached=1920, written=100, output=9)
NOT_WRITTEN = Usage(input=2048, cached=1920, written=None, output=9)

DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": 'a "usage" é'})
CHUNK = data(object="chat.completion.chunk", choices=[{"delta": {"content": "hi"}}], usage=None)


def messages(start: dict[str, Any] | None, *deltas: dict[str, Any] | None) -> bytes:
    """Stream Anthropic Messages with these usages."""
    return (
        event("message_start", message={"id": "msg_1", "role": "assistant", "usage": start})
        + event("ping")
        + DELTA * 2
        + b"".join(event("message_delta", delta={}, usage=report) for report in deltas)
        + event("message_stop")
    )


def chat(*ends: bytes) -> bytes:
    return CHUNK * 2 + b"".join(ends) + b"data: [DONE]\n\n"


def responses(end: str = "response.completed") -> bytes:
    return (
        event("response.created", response={"status": "in_progress", "usage": None})
        + event("response.output_text.delta", delta="hi")
        + event(end, response={"status": "done", "output": [], "usage": RESPONSES})
    )


MESSAGES = messages({**ANTHROPIC, "output_tokens": 1}, {"output_tokens": 9})
STREAMS = {
    "messages": (MESSAGES, WRITTEN),
    "messages, the delta repeats all": (
        messages({**ANTHROPIC, "output_tokens": 1}, ANTHROPIC),
        WRITTEN,
    ),
    "messages, nulls in the delta": (
        messages(ANTHROPIC, {**dict.fromkeys(ZEROS), "output_tokens": 9}),
        WRITTEN,
    ),
    "messages, zeros in the delta": (messages(ANTHROPIC, {**ZEROS, "output_tokens": 9}), WRITTEN),
    "translated, zeros at the start": (messages(ZEROS, ANTHROPIC), WRITTEN),
    "translated, an estimate at the start": (
        messages({**ZEROS, "input_tokens": 1999}, ANTHROPIC),
        WRITTEN,
    ),
    "translated, no usage at the start": (messages(None, ANTHROPIC), WRITTEN),
    "translated, two deltas": (messages(ZEROS, ZEROS, ANTHROPIC, None), WRITTEN),
    "translated, all of it cached": (
        messages(
            {"input_tokens": 2048, "output_tokens": 0},
            {"input_tokens": 0, "cache_read_input_tokens": 2048, "output_tokens": 9},
        ),
        Usage(2048, 2048, None, 9),
    ),
    "chat": (chat(data(choices=[], usage=CHAT)), NOT_WRITTEN),
    "chat, usage in every chunk": (
        chat(
            data(choices=[], usage={**CHAT, "completion_tokens": 8}),
            data(choices=[], usage=CHAT),
        ),
        NOT_WRITTEN,
    ),
    "chat, Kimi's choice": (
        chat(data(choices=[{"delta": {}, "finish_reason": "stop", "usage": CHAT}])),
        NOT_WRITTEN,
    ),
    "chat without stream_options": (chat(), None),
    "responses": (responses(), WRITTEN),
    "responses, incomplete": (responses("response.incomplete"), WRITTEN),
    "responses, failed": (responses("response.failed"), WRITTEN),
}

REPORTS = {
    "messages": (ANTHROPIC, WRITTEN),
    "messages, half of it cached": (
        {"input_tokens": 1024, "cache_read_input_tokens": 1024},
        Usage(2048, 1024, None, None),
    ),
    "chat": (CHAT, NOT_WRITTEN),
    "responses": (RESPONSES, WRITTEN),
    "responses, cold": (
        {
            "input_tokens": 2048,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 2000},
            "output_tokens": 9,
        },
        Usage(2048, 0, 2000, 9),
    ),
    "input_tokens alone": ({"input_tokens": 2048}, Usage(2048, 0, None, None)),
    "details null": (
        {"input_tokens": 2048, "input_tokens_details": None},
        Usage(2048, 0, None, None),
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 2048,
            "completion_tokens": 9,
            "prompt_cache_hit_tokens": 1920,
            "prompt_cache_miss_tokens": 128,
        },
        NOT_WRITTEN,
    ),
    "Kimi, chat": (
        {
            "prompt_tokens": 2048,
            "completion_tokens": 9,
            "cached_tokens": 1920,
            "prompt_tokens_details": {"cached_tokens": 1920},
        },
        NOT_WRITTEN,
    ),
    "Kimi, one zero": (
        {
            "prompt_tokens": 2048,
            "completion_tokens": 9,
            "cached_tokens": 1920,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        NOT_WRITTEN,
    ),
    "Kimi, messages": (
        {"input_tokens": 2048, "cached_tokens": 1920, "output_tokens": 9},
        NOT_WRITTEN,
    ),
    "OpenRouter": (
        {
            "prompt_tokens": 2048,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1920, "cache_write_tokens": 100},
        },
        WRITTEN,
    ),
    "LiteLLM, chat from Anthropic": (
        {
            "prompt_tokens": 2048,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "cache_read_input_tokens": 1920,
            "cache_creation_input_tokens": 100,
        },
        WRITTEN,
    ),
    "chat with one of Anthropic's fields": (
        {"prompt_tokens": 2048, "completion_tokens": 9, "cache_read_input_tokens": 1920},
        NOT_WRITTEN,
    ),
    "responses with Anthropic's fields": (
        {**RESPONSES, "cache_read_input_tokens": 1920, "cache_creation_input_tokens": 100},
        WRITTEN,
    ),
    "both names, the other zero": (
        {**ANTHROPIC, "prompt_tokens": 0, "completion_tokens": 0},
        WRITTEN,
    ),
    "both names, one zero": (
        {**CHAT, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": None},
        NOT_WRITTEN,
    ),
    "a gateway that leaves the cached tokens out": (
        {
            "prompt_tokens": 128,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1920},
        },
        NOT_WRITTEN,
    ),
    "only zeros": (ZEROS, None),
    "only output": ({"output_tokens": 9}, None),
    "empty": ({}, None),
}


@pytest.mark.parametrize(("body", "expected"), STREAMS.values(), ids=STREAMS)
def test_stream(body: bytes, expected: Usage | None) -> None:
    assert read([body]) == expected
    assert read(cut(body, *range(len(body)))) == expected


@pytest.mark.parametrize(("report", "expected"), REPORTS.values(), ids=REPORTS)
def test_json(report: dict[str, Any], expected: Usage | None) -> None:
    body = json.dumps({"id": "x", "usage": report}, indent=1).encode()
    for content_type in (JSON, "", "text/plain"):
        assert read([body], content_type) == expected
        assert read(cut(body, *range(len(body))), content_type) == expected


@pytest.mark.parametrize(
    ("figures", "hit"), [((2048, 1920), 93.75), ((2048, 0), 0.0), ((1, 1), 100.0), ((0, 0), 0.0)]
)
def test_hit(figures: tuple[int, int], hit: float) -> None:
    assert Usage(*figures, None, None).hit == hit


@pytest.mark.parametrize(
    "value",
    [True, False, None, -1, 1920.0, "1920", [1920], {"n": 1920}, 2**53, 10**400, 1e999, -(10**30)],
    ids=repr,
)
@pytest.mark.parametrize("name", ["cache_read_input_tokens", "output_tokens", "cached_tokens"])
def test_what_is_no_count_is_ignored(name: str, value: Any) -> None:
    body = json.dumps({"usage": {"input_tokens": 2048, name: value}}).encode()
    assert read([body], JSON) == Usage(2048, 0, None, None)
    body = json.dumps({"usage": {"input_tokens": value, name: value}}).encode()
    assert read([body], JSON) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'"usage"',
        b"[1]",
        b'{"usage": 1}',
        b'{"usage": null}',
        b'{"usage": [{}]}',
        b'{"choices": {"usage": {"prompt_tokens": 1}}}',
        b'{"choices": [], "x": {"usage": {"prompt_tokens": 1}}}',
        b'{"choices": [null, {"usage": {"prompt_tokens": 1}}]}',
        b'{"message": "m", "response": ["usage"], "x": [{"usage": {"prompt_tokens": 1}}]}',
        b'[{"usage": {"prompt_tokens": 1}}]',
        b'{"usage": {"prompt_tokens": 1}} trailing',
        b'{"usage": {"prompt_tokens": %b}}' % (b"1" * 5000),
        b'{"usage": {"prompt_tokens": 1, "x": %b}}' % (b"[" * 100_000),
        b'{"usage": {"prompt_tokens": 1, "x": %b}}' % (b'{"x":' * 100_000),
    ],
    ids=lambda body: body[:40].decode(),
)
def test_what_reports_no_usage(body: bytes) -> None:
    assert read([body], JSON) is None
    assert read([b"data: %b\n\n" % body]) is None


def test_json_that_is_not_quite_utf8() -> None:
    assert read([b"\xef\xbb\xbf" + b'{"x": "\xff\xc3", "usage": {"input_tokens": 5}}'], JSON)
    assert read([b'data: {"x": "\xff\xc3", "usage": {"input_tokens": 5}}\n\n'])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(("body", "expected"), STREAMS.values(), ids=STREAMS)
def test_line_ends(body: bytes, expected: Usage | None, end: bytes) -> None:
    body = body.replace(b"\n", end)
    for place in range(len(body)):
        assert read(cut(body, place, place)) == expected
    assert read(cut(body, *range(len(body)))) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    "body",
    [
        b'data: {"usage": {"input_tokens": 7}}\n\n',
        b'data:{"usage": {"input_tokens": 7}}\n\n',
        b'\xef\xbb\xbfdata: {"usage": {"input_tokens": 7}}\n\n',
        b'\n\n\n\ndata: {"usage": {"input_tokens": 7}}\n\n\n\n\n',
        b': a comment\ndata: {"usage": {"input_tokens": 7}}\n: another\n\n:\n\n',
        b'id: 1\nretry: 3\nevent: "usage"\ndata: {"usage": {"input_tokens": 7}}\n\n',
        b'data: {"usage":\ndata: {"input_tokens":\nid: 2\ndata:\ndata\ndata: 7}\ndata: }\n\n',
        b'data: {"usage": {"input_tokens": 7}}\n\ndata\n\ndata:\n\ndata: [DONE]\n\n',
        b'data: {"usage": {"input_tokens": 7}}\r\r\ndata: x\n\r\n',
        b'data: {"usage":\rdata: {"input_tokens": 7}}\n\ndata: x\n\n',
    ],
)
def test_event_stream_format(body: bytes, end: bytes) -> None:
    body = body.replace(b"\n", end)
    for place in range(len(body)):
        assert read(cut(body, place, place)) == Usage(7, 0, None, None)
    assert read([body]) == Usage(7, 0, None, None)
    assert read(cut(body, *range(len(body)))) == Usage(7, 0, None, None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage": {"input_tokens": 7}}\n\n',
        b': {"usage": {"input_tokens": 7}}\n\n',
        b'database: {"usage": {"input_tokens": 7}}\n\n',
        b'Data: {"usage": {"input_tokens": 7}}\n\n',
        b' data: {"usage": {"input_tokens": 7}}\n\n',
        b'event: data: {"usage": {"input_tokens": 7}}\n\n',
        b'data: {"usage":\n\ndata: {"input_tokens": 7}}\n\n',
    ],
)
def test_what_is_no_data_of_an_event(body: bytes) -> None:
    assert read([body]) is None


@pytest.mark.parametrize("content_type", ["text/event-stream", " TEXT/Event-Stream ;charset=utf-8"])
def test_event_stream_content_type(content_type: str) -> None:
    assert read([MESSAGES], content_type) == WRITTEN


def test_other_content_types_are_no_event_stream() -> None:
    assert read([MESSAGES], "text/event-streams") is None


@pytest.mark.parametrize("rest", [b"", b"\n", b"\r", b"\r\n", b"\nid: 1"])
def test_broken_off_after_the_last_line(rest: bytes) -> None:
    body = b'data: {"usage": {"input_tokens": 7}}'
    assert read([body + rest]) == Usage(7, 0, None, None)


def test_broken_off_anywhere() -> None:
    started = MESSAGES.index(b"\n\n") - 1
    seen = {read([MESSAGES[:end]]) for end in range(started)}
    assert seen == {None}
    ended = MESSAGES.index(b'"output_tokens": 9}}')
    seen = {read([MESSAGES[:end]]) for end in range(started + 1, ended)}
    assert seen == {Usage(2048, 1920, 100, 1)}


def test_finish_at_any_time() -> None:
    reader = UsageReader(EVENTS)
    assert reader.finish() is None
    for byte in MESSAGES:
        reader.feed(bytes([byte]))
        assert reader.finish() == reader.finish()
    assert reader.finish() == WRITTEN
    assert reader.unread == ""


CODINGS = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": (" X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", lambda body: deflate(body, -15)),
    "stored deflate": ("deflate", lambda body: zlib.compress(body, 0)),
    "small window": ("deflate", lambda body: deflate(body, 9)),
    "members": (
        "gzip",
        lambda body: gzip.compress(body[:50]) + gzip.compress(b"") + gzip.compress(body[50:]),
    ),
    "identity": ("Identity", lambda body: body),
}


@pytest.mark.parametrize(("coding", "encode"), CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize(
    ("body", "content_type"),
    [(MESSAGES, EVENTS), (json.dumps({"usage": ANTHROPIC}).encode(), JSON)],
    ids=["events", "json"],
)
def test_content_encoding(coding: str, encode: Any, body: bytes, content_type: str) -> None:
    coded = encode(body)
    assert read([coded], content_type, coding) == WRITTEN
    assert read(cut(coded, *range(len(coded))), content_type, coding) == WRITTEN


@pytest.mark.parametrize("beyond", [1, 2, 100, 257, 258, 1000])
def test_nothing_is_left_in_the_decoder(beyond: int) -> None:
    body = b'{"usage": {"input_tokens": 7}'
    body += b" " * ((1 << 20) + beyond - len(body) - 1) + b"}"
    assert read([deflate(body, -15)], JSON, "deflate") == Usage(7, 0, None, None)


@pytest.mark.parametrize(
    ("coding", "reason"),
    [
        ("br", "content-encoding br"),
        (" ZSTD", "content-encoding zstd"),
        ("gzip, br", "content-encoding gzip, br"),
        ("compress", "content-encoding compress"),
    ],
)
def test_unknown_coding_is_unread(coding: str, reason: str) -> None:
    reader = UsageReader(EVENTS, coding)
    reader.feed(MESSAGES)
    assert reader.unread == reason
    assert reader.finish() is None


@pytest.mark.parametrize("wbits", [31, 15, -15])
def test_corrupt_coding(wbits: int) -> None:
    coding = "gzip" if wbits == 31 else "deflate"
    compressor = zlib.compressobj(wbits=wbits)
    head = compressor.compress(MESSAGES) + compressor.flush(zlib.Z_SYNC_FLUSH)
    reader = UsageReader(EVENTS, coding)
    reader.feed(head)
    assert reader.unread == ""
    reader.feed(b"\xff" * 100)
    reader.feed(MESSAGES)
    assert reader.unread == f"corrupt content-encoding {coding}"
    assert reader.finish() == WRITTEN


def test_plain_text_declared_as_gzip() -> None:
    reader = UsageReader(EVENTS, "gzip")
    reader.feed(MESSAGES)
    assert reader.unread == "corrupt content-encoding gzip"
    assert reader.finish() is None


def test_truncated_coding() -> None:
    coded = gzip.compress(MESSAGES + DELTA * 100)
    assert read([coded[:-9]], EVENTS, "gzip") == WRITTEN


HUGE = b"x" * (1 << 20)


@pytest.mark.parametrize("huge", [[HUGE] * 50, [HUGE * 50]], ids=["chunks", "one chunk"])
@pytest.mark.parametrize("line", [b"data: ", b": ", b'data: {"usage": {"input_tokens": 5}, "x": "'])
def test_an_event_over_the_bound_is_skipped(huge: list[bytes], line: bytes) -> None:
    reader = UsageReader(EVENTS)
    for chunk in [MESSAGES[:-1], b"\n" + line, *huge]:
        reader.feed(chunk)
        assert len(reader._buffer) <= MAX_SIZE + 1
    assert reader.finish() == WRITTEN
    reader.feed(b'\ndata: {"usage": {"output_tokens": 22}}')
    assert reader.finish() == WRITTEN
    reader.feed(b"\n\n")
    assert reader.finish() == WRITTEN
    reader.feed(b'data: {"usage": {"output_tokens": 33}}\n\n')
    assert reader.finish() == WRITTEN._replace(output=33)
    assert reader.unread == ""


def test_a_big_event_within_the_bound_is_read() -> None:
    text = "é\n" * 300_000
    report = event("response.completed", response={"output": text, "usage": RESPONSES})
    body = event("response.created", response={"instructions": text, "usage": None}) + report
    assert read(body[i : i + 16384] for i in range(0, len(body), 16384)) == WRITTEN


def test_the_bound_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'data: {"usage": {"input_tokens": 7}}'
    for bound, expected in ((len(body), Usage(7, 0, None, None)), (len(body) - 1, None)):
        monkeypatch.setattr(usage, "MAX_SIZE", bound)
        for place in range(len(body) + 2):
            assert read(cut(DELTA + body + b"\n\n", len(DELTA) + place)) == expected
        assert read([body[6:]], JSON) == Usage(7, 0, None, None)


def test_what_follows_an_event_over_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_SIZE", 40)
    body = b"data: %b\n\n" % (b"x" * 60) + b'data: {"usage": {"input_tokens": 7}}\n\n'
    for place in range(len(body)):
        assert read(cut(body, place)) == Usage(7, 0, None, None)
    assert read(cut(body, *range(len(body)))) == Usage(7, 0, None, None)


def test_a_json_body_over_the_bound_is_given_up() -> None:
    reader = UsageReader(JSON)
    for chunk in [b'{"usage": {"input_tokens": 7}, "x": "', *[HUGE] * 50, b'"}']:
        reader.feed(chunk)
        assert len(reader._buffer) <= MAX_SIZE
    assert reader.finish() is None
    assert reader.unread == "JSON body over 8388608 bytes"


def test_nothing_is_read_after_giving_up() -> None:
    reader = UsageReader(JSON)
    reader.feed(b" " * (MAX_SIZE + 1))
    reader.feed(b'{"usage": {"input_tokens": 7}}')
    assert reader.finish() is None
    body = b" " * (MAX_SIZE * 3 // 2) + b'{"usage": {"input_tokens": 7}}'
    assert read([gzip.compress(body, 1)], JSON, "gzip") is None


@pytest.mark.parametrize("content_type", [EVENTS, JSON])
def test_memory_stays_bounded(content_type: str) -> None:
    bomb = gzip.compress(b'data: {"usage": {' + b" " * (64 << 20), 1)
    tracemalloc.start()
    try:
        assert read([bomb], content_type, "gzip") is None
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_SIZE
    finally:
        tracemalloc.stop()


def test_parses_only_what_can_hold_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def loads(text: str) -> Any:
        parsed.append(text)
        return json.JSONDecoder().decode(text)

    monkeypatch.setattr(json, "loads", loads)
    assert read([DELTA * 10, CHUNK * 10, data(usage=CHAT), b"data: [DONE]\n\n"]) == NOT_WRITTEN
    assert len(parsed) == 1


PIECES = st.sampled_from(
    [
        *(body for body, _ in STREAMS.values()),
        DELTA,
        CHUNK,
        b": ping\n\n",
        b"data: [DONE]\n\n",
        b'data: {"usage":\ndata: {"prompt_tokens": 70, "completion_tokens": 3}}\n\n',
        b"data:\n\n",
        b"\n",
        b"data: {",
        b'{"usage": {',
        b"\xef\xbb\xbf",
        b"\xff\r",
    ]
)
ENDS = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1, max_size=4)


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    lines = b"".join(draw(st.lists(PIECES, max_size=6))).split(b"\n")
    ends = draw(ENDS)
    body = b"".join(line + ends[n % len(ends)] for n, line in enumerate(lines))
    return body, draw(st.lists(st.integers(0, len(body)), max_size=12))


def consistent(seen: Usage | None) -> bool:
    return seen is None or (0 <= seen.cached <= seen.input and 0 <= seen.hit <= 100)


@settings(deadline=None)
@given(cut_streams(), st.sampled_from(list(CODINGS.values())))
def test_a_stream_cut_anywhere(stream: tuple[bytes, list[int]], coding: tuple[str, Any]) -> None:
    body, places = stream
    expected = read([body])
    assert consistent(expected)
    assert read(cut(body, *places)) == expected
    name, encode = coding
    coded = encode(body)
    assert (
        read(cut(coded, *(place % (len(coded) + 1) for place in places)), EVENTS, name) == expected
    )


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=200), PIECES), max_size=6),
    st.sampled_from([EVENTS, JSON]),
    st.sampled_from(["", "gzip", "deflate", "br"]),
    st.data(),
)
def test_nothing_raises(
    chunks: list[bytes], content_type: str, coding: str, choose: st.DataObject
) -> None:
    body = bytearray(b"".join(chunks))
    if coding == "gzip":
        body = bytearray(gzip.compress(body))
    for place in choose.draw(st.lists(st.integers(0, max(len(body) - 1, 0)), max_size=3)):
        body[place : place + 1] = choose.draw(st.binary(max_size=2))
    assert consistent(
        read(cut(bytes(body), *choose.draw(st.lists(st.integers(0, 2000)))), content_type, coding)
    )


FIELDS = st.sampled_from(
    [
        *("usage", "message", "response", "choices"),
        *("prompt_tokens", "input_tokens", "cached_tokens", "cache_read_input_tokens"),
        *("cache_creation_input_tokens", "cache_write_tokens", "prompt_cache_hit_tokens"),
        *("completion_tokens", "output_tokens", "prompt_tokens_details", "input_tokens_details"),
    ]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just("1"))
DICTS = st.dictionaries(FIELDS, SCALARS)
VALUES = st.one_of(SCALARS, st.lists(DICTS, max_size=2), st.dictionaries(FIELDS, SCALARS | DICTS))


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_any_json_is_taken(values: list[Any]) -> None:
    reports = [{"usage": value} for value in values]
    assert consistent(read([json.dumps(reports[0]).encode()], JSON))
    assert consistent(read(data(**report) for report in reports))
    assert consistent(read(data(x=value, message=value, choices=value) for value in values))
