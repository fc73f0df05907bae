import json
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net import encoding
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.json_values import MAX_VALUES
from prompt_cache_key.usage.reader import MAX_DECODED, MAX_SIZE, Usage, UsageReader


def feed(chunks: Iterable[bytes], coding: str = "") -> UsageReader:
    reader = UsageReader(coding)
    for chunk in chunks:
        reader.feed(chunk)
    return reader


def finish(reader: UsageReader) -> Usage | None:
    """Return what a response alone says, certain or not."""
    found = Accounting().settle(None, reader.finish())
    return found and found._replace(is_certain=True)


def read(chunks: Iterable[bytes], coding: str = "") -> Usage | None:
    return finish(feed(chunks, coding))


def bytewise(body: bytes) -> list[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


def event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def data(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields, separators=(",", ":")).encode()


CHAT_PLAIN = {"prompt_tokens": 2048, "completion_tokens": 9}
CHAT = CHAT_PLAIN | {"prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0}}
WITH_WRITTEN = {"cached_tokens": 1920, "cache_write_tokens": 100}
RESPONSES = {
    "input_tokens": 2048,
    "input_tokens_details": WITH_WRITTEN,
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
}
ANTHROPIC_CHAT = {"cache_read_input_tokens": 1920, "cache_creation_input_tokens": 100}
ANTHROPIC = ANTHROPIC_CHAT | {
    "input_tokens": 28,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 9,
}
STARTED = ANTHROPIC | {"output_tokens": 1}
PLAIN = {"input_tokens": 2048, "output_tokens": 9}
ENDED = {"output_tokens": 9}
ZEROS = dict.fromkeys((*ANTHROPIC_CHAT, *PLAIN), 0)
NULLS = dict.fromkeys(ZEROS)
ALL_CACHED = {"input_tokens": 0, "cache_read_input_tokens": 2048, "output_tokens": 9}
WRITTEN = Usage(input=2048, cached=1920, written=100, output=9)
NOT_WRITTEN = WRITTEN._replace(written=None)
NOT_REPORTED = NOT_WRITTEN._replace(cached=None)
COLD = NOT_WRITTEN._replace(cached=0)

DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": 'a "usage" é'})
CHUNK = data(object="chat.completion.chunk", choices=[{"delta": {"content": "hi"}}], usage=None)


def messages(start: dict[str, Any] | None, *deltas: dict[str, Any] | None) -> bytes:
    """Stream Anthropic Messages with these usages."""
    return (
        (event("message_start", message={"id": "msg_1", "usage": start}) if start else b"")
        + event("ping")
        + DELTA * 2
        + b"".join(event("message_delta", delta={}, usage=report) for report in deltas)
        + event("message_stop")
    )


def chat(*ends: dict[str, Any]) -> bytes:
    return CHUNK * 2 + b"".join(data(**end) for end in ends) + b"data: [DONE]\n\n"


def responses(end: str = "response.completed", **more: Any) -> bytes:
    first = {"object": "response", "id": "resp_1", "usage": None}
    return (
        event("response.created", response=first)
        + event("response.output_text.delta", delta="hi")
        + event(end, response={**first, "output": [], "usage": RESPONSES, **more})
    )


MESSAGES = messages(STARTED, ENDED)
KIMI = {"choices": [{"delta": {}, "usage": CHAT}]}
GROQ = {"choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"id": "x", "usage": CHAT}}
TEXT = {"choices": [{"delta": {"content": "a\tb"}}], "usage": CHAT}
LLAMA = {"usage": CHAT_PLAIN, "timings": {"cache_n": 1920, "prompt_n": 128}}
BEFORE = {"usage": CHAT | {"completion_tokens": 8}}
STREAMS = {
    "messages": (MESSAGES, WRITTEN),
    "the delta repeats all": (messages(STARTED, ANTHROPIC), WRITTEN),
    "nulls in the delta": (messages(ANTHROPIC, NULLS | ENDED), WRITTEN),
    "zeros in the delta": (messages(ANTHROPIC, ZEROS | ENDED), WRITTEN),
    "zeros at the start": (messages(ZEROS, ANTHROPIC), WRITTEN),
    "zeros at the start, then no cached": (messages(ZEROS, PLAIN), NOT_REPORTED),
    "an estimate at the start": (messages(ZEROS | {"input_tokens": 1999}, ANTHROPIC), WRITTEN),
    "no start": (messages(None, ANTHROPIC), WRITTEN),
    "two deltas": (messages(ZEROS, ZEROS, ANTHROPIC, None), WRITTEN),
    "all of it cached": (messages(PLAIN, ALL_CACHED), COLD._replace(cached=2048)),
    "chat": (chat({"choices": [], "usage": CHAT}), NOT_WRITTEN),
    "chat, in every chunk": (chat(BEFORE, {"usage": CHAT}), NOT_WRITTEN),
    "chat, Kimi's choice": (chat(KIMI), NOT_WRITTEN),
    "chat, llama.cpp": (chat(LLAMA), NOT_WRITTEN),
    "chat, Groq": (chat(GROQ), NOT_WRITTEN),
    "chat, text not escaped": (chat(TEXT).replace(b"\\t", b"\t"), NOT_WRITTEN),
    "chat, line end not escaped": (chat(TEXT).replace(b"\\t", b"\ndata: "), NOT_WRITTEN),
    "chat without stream_options": (chat(), None),
    "responses": (responses(), WRITTEN),
    "responses, done": (responses("response.done"), WRITTEN),
    "responses, incomplete": (responses("response.incomplete"), WRITTEN),
    "responses, failed": (responses("response.failed"), WRITTEN),
}

CHAT_ZERO = {"prompt_tokens": 0, "completion_tokens": 0}
RESPONSES_ZERO = {"input_tokens": 0, "output_tokens": 0, "input_tokens_details": None}
KIMI_ZERO = {"cached_tokens": 1920, "prompt_tokens_details": {"cached_tokens": 0}}
HALF_CACHED = {"input_tokens": 1024, "cache_read_input_tokens": 1024}
ONLY_WRITTEN = ENDED | {"input_tokens": 1948, "cache_creation_input_tokens": 100}
ALL_WRITTEN = {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 2000}}
READ = {"cache_read_input_tokens": 1920}
REPORTS: dict[str, tuple[dict[str, Any], Usage | None]] = {
    "messages": (ANTHROPIC, WRITTEN),
    "messages, not reported": (PLAIN, NOT_REPORTED),
    "messages, half of it cached": (HALF_CACHED, Usage(2048, 1024, None, None)),
    "messages, only written": (ONLY_WRITTEN, NOT_REPORTED._replace(written=100)),
    "messages, nothing cached": (PLAIN | {"cache_read_input_tokens": 0}, COLD),
    "chat": (CHAT, NOT_WRITTEN),
    "chat, not reported": (CHAT_PLAIN, NOT_REPORTED),
    "chat, no details": (CHAT_PLAIN | {"prompt_tokens_details": None}, NOT_REPORTED),
    "chat, empty details": (CHAT_PLAIN | {"prompt_tokens_details": {}}, NOT_REPORTED),
    "chat with one of Anthropic's fields": (CHAT_PLAIN | READ, NOT_WRITTEN),
    "responses": (RESPONSES, WRITTEN),
    "responses, cold": (RESPONSES | ALL_WRITTEN, COLD._replace(written=2000)),
    "responses with Anthropic's fields": (RESPONSES | ANTHROPIC_CHAT, WRITTEN),
    "DeepSeek": (CHAT_PLAIN | {"prompt_cache_hit_tokens": 1920}, NOT_WRITTEN),
    "Kimi, chat": (CHAT | {"cached_tokens": 1920}, NOT_WRITTEN),
    "Kimi, one zero": (CHAT | KIMI_ZERO, NOT_WRITTEN),
    "Kimi, messages": (PLAIN | {"cached_tokens": 1920}, NOT_WRITTEN),
    "OpenRouter": (CHAT | {"prompt_tokens_details": WITH_WRITTEN}, WRITTEN),
    "LiteLLM, chat from Anthropic": (CHAT | ANTHROPIC_CHAT, WRITTEN),
    "both names, the other zero": (ANTHROPIC | CHAT_ZERO, WRITTEN),
    "both names, one zero": (CHAT | RESPONSES_ZERO, NOT_WRITTEN),
    "a gateway that leaves the cached tokens out": (CHAT | {"prompt_tokens": 128}, NOT_WRITTEN),
    "only zeros": (ZEROS, None),
    "only output": (ENDED, None),
    "empty": ({}, None),
}


@pytest.mark.parametrize(("body", "expected"), STREAMS.values(), ids=STREAMS)
def test_stream(body: bytes, expected: Usage | None) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        wire = body.replace(b"\n", end)
        assert read([wire]) == read(bytewise(wire)) == expected
    for coding in ("gzip", "br", "zstd", "Identity", " X-GZip"):
        wire = encoding.encode(body, coding.strip().lower().removeprefix("x-"))
        assert read([wire], coding) == read(bytewise(wire), coding) == expected


DONE = ("completed", "incomplete", "failed", "done")
ENDS = [
    event("message_delta", delta={"stop_reason": "end_turn"}, usage=ENDED),
    event("message_stop"),
    data(choices=[{"delta": {}, "finish_reason": "stop"}], usage=CHAT),
    data(choices=[], usage={"completion_tokens": 9}),
    b"data: [DONE]\n\n",
    *(responses(f"response.{end}") for end in DONE),
]
MIDDLES = [
    b"",
    event("ping"),
    event("message_delta", delta={"stop_reason": None}, usage=ENDED),
    event("error", error={"type": "overloaded_error"}),
    responses("response.in_progress"),
    data(choices=[{"delta": {"content": "[DONE] message_stop"}, "finish_reason": None}]),
    data(choices=[{"delta": {}, "finish_reason": "stop"}], usage=None),
    data(choices=[], timings=LLAMA["timings"]),
    data(choices={}, usage=CHAT),
]


@pytest.mark.parametrize("end", ENDS + MIDDLES, ids=repr)
def test_a_response_is_complete_behind_its_end(end: bytes) -> None:
    report = feed([data(usage=CHAT) + end]).finish()
    assert report
    assert report.is_complete == (end in ENDS)


@pytest.mark.parametrize(("report", "expected"), REPORTS.values(), ids=REPORTS)
def test_json(report: dict[str, Any], expected: Usage | None) -> None:
    body = json.dumps({"id": "x", "usage": report}, indent=1).encode()
    for wire in (body, b" \r\n\n" + body, b"\xef\xbb\xbf" + body, body + b"\n"):
        assert read([wire]) == read(bytewise(wire)) == expected
    assert read([encoding.encode(body, "br")], "br") == expected


@pytest.mark.parametrize(
    ("figures", "hit"),
    [((2048, 1920), 93.75), ((2048, 0), 0), ((1, 1), 100), ((0, 0), 0), ((9, None), None)],
)
def test_hit(figures: tuple[int, int | None], hit: float | None) -> None:
    assert Usage(*figures, None, None).hit == hit


@pytest.mark.parametrize(
    "value",
    [True, False, None, -1, 1920.0, "1920", [1920], {"n": 1920}, 2**53, 10**400, 1e999, -(10**30)],
    ids=repr,
)
@pytest.mark.parametrize("name", ["cache_read_input_tokens", "output_tokens", "cached_tokens"])
def test_what_is_no_count_is_ignored(name: str, value: Any) -> None:
    body = json.dumps({"usage": {"input_tokens": 2048, name: value}}).encode()
    assert read([body]) == Usage(2048, None, None, None)
    body = json.dumps({"usage": {"input_tokens": value, name: value}}).encode()
    assert read([body]) is None


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
        b'{"usage": {"prompt_tokens": %b}}' % (b"1" * 5000),
        b'{"usage": {"prompt_tokens": 1, "x": %b}}' % (b"[" * 100_000),
        b'{"usage": {"prompt_tokens": 1, "x": %b}}' % (b'{"x":' * 100_000),
    ],
    ids=lambda body: body[:40].decode(),
)
def test_what_reports_no_usage(body: bytes) -> None:
    assert read([body]) is None
    assert read([b"data: %b\n\n" % body]) is None


def test_json_that_is_not_quite_utf8() -> None:
    body = b'{"x": "\xff\xc3", "usage": {"input_tokens": 5}}'
    assert read([b"\xef\xbb\xbf" + body]) == Usage(5, None, None, None)
    assert read([b"data: %b\n\n" % body]) == Usage(5, None, None, None)


LINE_ENDS = [b"\n", b"\r\n", b"\n\n", b"", b" "]


@pytest.mark.parametrize("end", LINE_ENDS, ids=repr)
def test_json_lines(end: bytes) -> None:
    usages: list[dict[str, Any] | None] = [None, CHAT, CHAT]
    lines = [json.dumps({"choices": [], "usage": usage}).encode() for usage in usages]
    body = end.join(lines)
    for wire in (body, body + end, body + end + b"data: [DONE]\n\n"):
        assert read([wire]) == read(bytewise(wire)) == NOT_WRITTEN
        report = feed([wire]).finish()
        assert report
        assert report.is_complete


@pytest.mark.parametrize("rest", [b" trailing", b'\n{"choices": [', b'\n{"usage": '])
def test_json_that_is_cut_off_or_goes_on_otherwise(rest: bytes) -> None:
    body = json.dumps({"usage": CHAT}).encode() + rest
    for wire in (body, b"data: %b\n\n" % body):
        assert read([wire]) == read(bytewise(wire)) == NOT_WRITTEN
        report = feed([wire]).finish()
        assert report
        assert not report.is_complete


def test_too_many_values_are_not_read() -> None:
    body = json.dumps({"usage": CHAT}).encode()
    assert read([b"{}" * (MAX_VALUES - 1) + body]) == NOT_WRITTEN
    assert read([b"{}" * MAX_VALUES + body]) is None


BEGINNINGS = [
    b"",
    b"\xef\xbb\xbf",
    b"\n \r\n",
    b"\r\r\xef\xbb\xbf",
    b": hi\n\n",
    b"id: 1\n",
    b"retry: 9\n",
    b"event: a\n",
]


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=repr)
def test_first_bytes_of_a_stream(beginning: bytes) -> None:
    body = beginning + chat({"choices": [], "usage": CHAT})
    assert read([body]) == read(bytewise(body)) == NOT_WRITTEN


@pytest.mark.parametrize("beginning", [b"<html>", b"dat: 1", b"x", b'"usage"', b"\xef\xbb\xbfnull"])
def test_body_that_is_neither_events_nor_json(beginning: bytes) -> None:
    body = beginning + b"\n\n" + MESSAGES
    for reader in (feed([body]), feed(bytewise(body))):
        assert reader.unread == "the body is neither JSON nor server-sent events"
        assert reader.finish() is None


@pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb", b"even", b"\xef\xbb\xbf"])
def test_body_that_ends_before_it_shows_what_it_is(body: bytes) -> None:
    for reader in (feed([body]), feed(bytewise(body))):
        assert reader.finish() is None
        assert reader.unread == ""


def test_it_can_be_asked_at_any_time_and_break_off_anywhere() -> None:
    reader = UsageReader()
    found = []
    for byte in bytewise(MESSAGES):
        found.append(finish(reader))
        reader.feed(byte)
    started = MESSAGES.index(b"\n\n") - 1
    ended = MESSAGES.index(b'"output_tokens": 9}}')
    assert {*found[:started]} == {None}
    assert {*found[started + 1 : ended]} == {WRITTEN._replace(output=1)}
    assert finish(reader) == finish(reader) == WRITTEN
    assert reader.unread == ""


def openai(**members: Any) -> dict[str, Any]:
    miss = {"type": "cache_miss", "reason": "tools_changed", "cache_missed_tokens": 900}
    return {"prompt_cache_diagnostics": miss | members}


def anthropic(reason: Any) -> dict[str, Any]:
    return {"diagnostics": {"cache_miss_reason": reason}}


NO_REASONS = ["", "_", "Tools", "a b", "a-b", "a\n", "\x1b[31m", "é", "a" * 65, 5, ["a"], None]
DIAGNOSES: list[tuple[dict[str, Any], str]] = [
    (openai(), "tools changed"),
    (openai(reason="input_changed"), "input changed"),
    (anthropic({"type": "system_changed"}), "system changed"),
    (anthropic("messages_changed"), "messages changed"),
    (openai(type="cache_hit"), ""),
    (openai(type="comparison_response_not_found"), ""),
    ({"prompt_cache_diagnostics": None}, ""),
    (anthropic({"type": "unavailable"}), ""),
    (anthropic("previous_message_not_found"), ""),
    (anthropic(None), ""),
    ({"diagnostics": [openai()]}, ""),
    ({}, ""),
    *((openai(reason=bad), "") for bad in NO_REASONS),
]


@pytest.mark.parametrize(("more", "diagnosis"), DIAGNOSES, ids=str)
def test_diagnosis(more: dict[str, Any], diagnosis: str) -> None:
    streams = [
        responses(**more),
        event("message_start", message={"usage": STARTED, **more}) + DELTA,
        responses(**more) + data(usage={}),
    ]
    readers = [feed(chunks) for stream in streams for chunks in ([stream], bytewise(stream))]
    readers.append(feed([json.dumps({"usage": CHAT, **more}).encode()]))
    for reader in readers:
        assert reader.finish()
        assert reader.diagnosis == diagnosis


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("resp_1", "resp_1"),
        ("r" * 256, "r" * 256),
        *((bad, "") for bad in ("", "r" * 257, "é", "a\nb", "\x7f", "\ud83d", None, 5, ["a"])),
    ],
    ids=ascii,
)
def test_response_id(value: Any, expected: str) -> None:
    body = {"object": "response", "id": value, "usage": RESPONSES}
    for reader in (feed([json.dumps(body).encode()]), feed([responses(id=value)])):
        assert finish(reader) == WRITTEN
        assert reader.response_id == expected


def test_other_dialects_have_no_response_id() -> None:
    body = {"object": "chat.completion", "id": "x", "usage": CHAT, "message": {"id": "y"}}
    for reader in (feed([json.dumps(body).encode()]), feed([MESSAGES]), feed([data(**body)])):
        assert reader.finish()
        assert reader.response_id == ""


def test_counts_that_stand_in_the_timings_alone() -> None:
    """As llama.cpp streams them in the last chunk without `include_usage`."""
    timings = {"cache_n": 42, "prompt_n": 1, "prompt_ms": 0.531, "predicted_n": 3}
    chunk = data(choices=[{"finish_reason": "length", "index": 0, "delta": {}}], timings=timings)
    assert read([chunk]) == Usage(43, 42, None, None)
    without = data(choices=[], timings={"prompt_ms": 0.5})
    assert read([without]) is None


def test_unknown_coding_is_unread() -> None:
    reader = feed([MESSAGES], " GZip, BR")
    assert reader.unread == "the content-encoding is unknown"
    assert reader.finish() is None


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_what_was_read_before_a_coding_broke_stays(coding: str) -> None:
    reader = feed([encoding.encode(MESSAGES + DELTA * 9, coding)], coding)
    reader.feed(b"\xff" * 200)
    assert reader.unread == f"corrupt content-encoding {coding}"
    reader.feed(data(usage={"output_tokens": 99}))
    assert finish(reader) == WRITTEN


HUGE = b"x" * (1 << 20)


@pytest.mark.parametrize("line", [b"data: ", b'data: {"usage": {"input_tokens": 5}, "x": "'])
def test_an_event_over_the_bound_is_skipped(line: bytes) -> None:
    reader = feed([MESSAGES, line, *[HUGE] * 9])
    assert finish(reader) == WRITTEN
    reader.feed(b"\n\n" + data(usage={"output_tokens": 33}))
    assert finish(reader) == WRITTEN._replace(output=33)
    assert reader.unread == ""


def test_a_big_event_within_the_bound_is_read() -> None:
    body = responses(instructions="é\n" * 300_000)
    assert read(body[i : i + 16384] for i in range(0, len(body), 16384)) == WRITTEN


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_json_body_over_the_bound_is_given_up(coding: str) -> None:
    body = json.dumps({"usage": ANTHROPIC, "x": "{}"}).encode()
    fitting = body.replace(b"{}", b" " * (MAX_SIZE - len(body) + 2))
    assert read([encoding.encode(fitting, coding)], coding) == WRITTEN
    reader = feed([encoding.encode(fitting.replace(b'" ', b'"  ', 1), coding), body], coding)
    assert reader.unread == "JSON body over 4194304 bytes"
    assert reader.finish() is None


def test_json_that_takes_too_long_is_not_parsed() -> None:
    body = json.dumps({"usage": ANTHROPIC, "x": [0] * 250_000}).encode()
    reader = feed([body])
    assert reader.finish() is None
    assert reader.unread == "the JSON body has too many values"
    reader = feed([MESSAGES, b"data: %b\n\n" % body, data(usage={"output_tokens": 33})])
    assert finish(reader) == WRITTEN._replace(output=33)
    assert reader.unread == ""


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_chunk_that_decodes_to_too_much_is_given_up(coding: str) -> None:
    bomb = encoding.encode(b"data: x\n\n" * (MAX_DECODED // 8), coding)
    reader = feed([bomb], coding)
    assert reader.unread == f"content-encoding {coding} of over 5242880 bytes at once"
    assert reader.finish() is None


def test_usage_in_every_event_of_a_chunk_that_decodes_to_many() -> None:
    usage = {"usage": CHAT | {"completion_tokens": 8}}
    body = CHUNK * 9 + data(**usage) * 20_000 + chat({"choices": [], "usage": CHAT})
    for coding in ("gzip", "br", "zstd"):
        assert read([encoding.encode(body, coding)], coding) == NOT_WRITTEN


@pytest.mark.parametrize("beginning", [b"data: ", b""])
def test_memory_stays_bounded(beginning: bytes) -> None:
    body = beginning + b'{"usage": {' + bytes(64 << 20)
    bomb = encoding.encode(body, "gzip")
    tracemalloc.start()
    try:
        feed(body[start : start + (1 << 16)] for start in range(0, len(body), 1 << 16))
        assert feed([bomb], "gzip").unread
        assert tracemalloc.get_traced_memory()[1] < 6 * MAX_SIZE
    finally:
        tracemalloc.stop()


NAMES = [*ZEROS, *CHAT, "cached_tokens", "cache_n", "cache_write_tokens", "prompt_cache_hit_tokens"]
NAMES += ["usage", "message", "response", "choices", "timings", "input_tokens_details"]
NAMES += ["diagnostics"]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just("1"))
DICTS = st.dictionaries(st.sampled_from(NAMES), SCALARS)
WILD = st.dictionaries(st.sampled_from(NAMES), SCALARS | DICTS)
VALUES = st.one_of(SCALARS, st.lists(DICTS, max_size=2), WILD)


@given(st.lists(VALUES, min_size=1, max_size=3), st.binary(max_size=9), st.integers(0, 400))
def test_anything_is_taken(values: list[Any], noise: bytes, place: int) -> None:
    events = [data(usage=value, message=value, choices=value, x=value) for value in values]
    body = b"".join(events)
    for wire in (body, body[:place] + noise + body[place:], events[0][6:]):
        found = read([wire])
        assert found == read(bytewise(wire))
        if found and found.cached is not None:
            assert 0 <= found.cached <= found.input


PIECES = [
    *(
        b"data: ",
        b"data:",
        b"event: a",
        b"event:",
        b"id: 1",
        b"retry: 5",
        b": hi",
        b"data",
        b"[DONE]",
    ),
    *(
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r",
        b" ",
        b"\t",
        b"\xef\xbb\xbf",
        b"\xff",
        b"x" * 99,
        b'"usage": {',
    ),
    *(b"{", b"}", b"[", b"]", json.dumps({"usage": CHAT}, indent=1).encode(), responses(id="r")),
    *(MESSAGES, chat({"choices": [], "usage": CHAT}), DELTA, *ENDS, *MIDDLES),
    *(each.removeprefix(b"data: ").rstrip() for each in ENDS + MIDDLES),
]
CODINGS = st.sampled_from(["identity", "gzip", "deflate", "br", "zstd"])


@given(st.lists(st.sampled_from(PIECES), max_size=12), CODINGS, st.lists(st.integers(0, 2000)))
def test_a_body_is_read_alike_wherever_it_is_cut(
    pieces: list[bytes], coding: str, places: list[int]
) -> None:
    body = b"".join(pieces)
    coded = encoding.encode(body, coding)
    edges = [0, *sorted(places), max(len(coded), 2000)]
    chunks = [coded[start:stop] for start, stop in pairwise(edges)]
    whole = feed([body])
    for reader in (feed(bytewise(body)), feed(chunks, coding)):
        assert reader.finish() == reader.finish() == whole.finish()
        assert (reader.unread, reader.response_id) == (whole.unread, whole.response_id)
