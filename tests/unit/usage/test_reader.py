import json
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net import encoding
from prompt_cache_key.usage.reader import MAX_SIZE, Usage, UsageReader

EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"


def feed(chunks: Iterable[bytes], content_type: str = EVENTS, coding: str = "") -> UsageReader:
    reader = UsageReader(content_type, coding)
    for chunk in chunks:
        reader.feed(chunk)
    return reader


def read(chunks: Iterable[bytes], content_type: str = EVENTS, coding: str = "") -> Usage | None:
    return feed(chunks, content_type, coding).finish()


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
LLAMA = {"usage": CHAT_PLAIN, "timings": {"cache_n": 1920, "prompt_n": 128}}
BEFORE = {"usage": CHAT | {"completion_tokens": 8}}
STREAMS = {
    "messages": (MESSAGES, WRITTEN),
    "the delta repeats all": (messages(STARTED, ANTHROPIC), WRITTEN),
    "nulls in the delta": (messages(ANTHROPIC, NULLS | ENDED), WRITTEN),
    "zeros in the delta": (messages(ANTHROPIC, ZEROS | ENDED), WRITTEN),
    "zeros at the start": (messages(ZEROS, ANTHROPIC), WRITTEN),
    "zeros at the start, then no cached": (messages(ZEROS, PLAIN), COLD),
    "an estimate at the start": (messages(ZEROS | {"input_tokens": 1999}, ANTHROPIC), WRITTEN),
    "no start": (messages(None, ANTHROPIC), WRITTEN),
    "two deltas": (messages(ZEROS, ZEROS, ANTHROPIC, None), WRITTEN),
    "all of it cached": (messages(PLAIN, ALL_CACHED), COLD._replace(cached=2048)),
    "chat": (chat({"choices": [], "usage": CHAT}), NOT_WRITTEN),
    "chat, in every chunk": (chat(BEFORE, {"usage": CHAT}), NOT_WRITTEN),
    "chat, Kimi's choice": (chat(KIMI), NOT_WRITTEN),
    "chat, llama.cpp": (chat(LLAMA), NOT_WRITTEN),
    "chat without stream_options": (chat(), None),
    "responses": (responses(), WRITTEN),
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
        assert read([wire], EVENTS, coding) == read(bytewise(wire), EVENTS, coding) == expected


@pytest.mark.parametrize(("report", "expected"), REPORTS.values(), ids=REPORTS)
def test_json(report: dict[str, Any], expected: Usage | None) -> None:
    body = json.dumps({"id": "x", "usage": report}, indent=1).encode()
    for content_type in (JSON, "", "text/plain"):
        assert read([body], content_type) == read(bytewise(body), content_type) == expected
    assert read([encoding.encode(body, "br")], JSON, "br") == expected


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
    assert read([body], JSON) == Usage(2048, None, None, None)
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
    body = b'{"x": "\xff\xc3", "usage": {"input_tokens": 5}}'
    assert read([b"\xef\xbb\xbf" + body], JSON) == Usage(5, None, None, None)
    assert read([b"data: %b\n\n" % body]) == Usage(5, None, None, None)


@pytest.mark.parametrize(
    ("content_type", "is_stream"),
    [("text/event-stream", True), (" TEXT/Event-Stream ;x=y", True), ("text/event-streams", False)],
)
def test_content_type(content_type: str, is_stream: bool) -> None:
    reader = feed([MESSAGES], content_type)
    assert reader.is_stream == is_stream
    assert reader.finish() == (WRITTEN if is_stream else None)


def test_it_can_be_asked_at_any_time_and_break_off_anywhere() -> None:
    reader = UsageReader(EVENTS)
    found = []
    for byte in bytewise(MESSAGES):
        found.append(reader.finish())
        reader.feed(byte)
    started = MESSAGES.index(b"\n\n") - 1
    ended = MESSAGES.index(b'"output_tokens": 9}}')
    assert {*found[:started]} == {None}
    assert {*found[started + 1 : ended]} == {WRITTEN._replace(output=1)}
    assert reader.finish() == reader.finish() == WRITTEN
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
    readers.append(feed([json.dumps({"usage": CHAT, **more}).encode()], JSON))
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
    for reader in (feed([json.dumps(body).encode()], JSON), feed([responses(id=value)])):
        assert reader.finish() == WRITTEN
        assert reader.response_id == expected


def test_other_dialects_have_no_response_id() -> None:
    body = {"object": "chat.completion", "id": "x", "usage": CHAT, "message": {"id": "y"}}
    for reader in (feed([json.dumps(body).encode()], JSON), feed([MESSAGES]), feed([data(**body)])):
        assert reader.finish()
        assert reader.response_id == ""


def test_counts_that_stand_in_the_timings_alone() -> None:
    """As llama.cpp streams them in the last chunk without `include_usage`."""
    timings = {"cache_n": 42, "prompt_n": 1, "prompt_ms": 0.531, "predicted_n": 3}
    chunk = data(choices=[{"finish_reason": "length", "index": 0, "delta": {}}], timings=timings)
    assert feed([chunk], EVENTS).finish() == Usage(43, 42, None, None)
    without = data(choices=[], timings={"prompt_ms": 0.5})
    assert feed([without], EVENTS).finish() is None


def test_unknown_coding_is_unread() -> None:
    reader = feed([MESSAGES], EVENTS, " GZip, BR")
    assert reader.unread == 'content-encoding "gzip, br"'
    assert reader.finish() is None


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_what_was_read_before_a_coding_broke_stays(coding: str) -> None:
    reader = feed([encoding.encode(MESSAGES + DELTA * 9, coding)], EVENTS, coding)
    reader.feed(b"\xff" * 200)
    assert reader.unread == f"corrupt content-encoding {coding}"
    reader.feed(data(usage={"output_tokens": 99}))
    assert reader.finish() == WRITTEN


HUGE = b"x" * (1 << 20)


@pytest.mark.parametrize("line", [b"data: ", b'data: {"usage": {"input_tokens": 5}, "x": "'])
def test_an_event_over_the_bound_is_skipped(line: bytes) -> None:
    reader = feed([MESSAGES, line, *[HUGE] * 9])
    assert reader.finish() == WRITTEN
    reader.feed(b"\n\n" + data(usage={"output_tokens": 33}))
    assert reader.finish() == WRITTEN._replace(output=33)
    assert reader.unread == ""


def test_a_big_event_within_the_bound_is_read() -> None:
    body = responses(instructions="é\n" * 300_000)
    assert read(body[i : i + 16384] for i in range(0, len(body), 16384)) == WRITTEN


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_json_body_over_the_bound_is_given_up(coding: str) -> None:
    body = json.dumps({"usage": ANTHROPIC}).encode().rjust(MAX_SIZE)
    assert read([encoding.encode(body, coding or "identity")], JSON, coding) == WRITTEN
    reader = feed([encoding.encode(b" " + body + HUGE * 9, coding or "identity")], JSON, coding)
    reader.feed(body)
    assert reader.unread == "JSON body over 8388608 bytes"
    assert reader.finish() is None


@pytest.mark.parametrize("content_type", [EVENTS, JSON])
def test_memory_stays_bounded(content_type: str) -> None:
    bomb = encoding.encode(b'data: {"usage": {' + bytes(64 << 20), "gzip")
    tracemalloc.start()
    try:
        assert read([bomb], content_type, "gzip") is None
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_SIZE
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
        for content_type in (EVENTS, JSON):
            found = read([wire], content_type)
            assert found == read(bytewise(wire), content_type)
            if found and found.cached is not None:
                assert 0 <= found.cached <= found.input
