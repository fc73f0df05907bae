import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net import encoding
from prompt_cache_key.usage.accounting import MAX_SIZE, Accounting
from prompt_cache_key.usage.reader import Report, Usage, UsageReader

Counts = dict[str, Any]
Result = tuple[int, int | None, bool]  # the whole prompt, cached, is_certain


def chat(prompt: int, cached: int | None = None, written: int | None = None, **more: Any) -> Counts:
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    known = {name: count for name, count in details.items() if count is not None}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": 100,
        "prompt_tokens_details": known,
        **more,
    }


def responses(prompt: int, *args: int | None, **more: Any) -> Counts:
    counts = chat(prompt, *args, **more)
    names = {"prompt": "input", "completion": "output"}
    for old, new in names.items():
        counts[f"{new}_tokens"] = counts.pop(f"{old}_tokens")
    counts["input_tokens_details"] = counts.pop("prompt_tokens_details")
    return counts


def messages(
    prompt: int, cached: int | None = None, written: int | None = None, **more: Any
) -> Counts:
    counts = {"cache_read_input_tokens": cached, "cache_creation_input_tokens": written}
    known = {name: count for name, count in counts.items() if count is not None}
    return {"input_tokens": prompt, "output_tokens": 100, **known, **more}


def event(**fields: Any) -> bytes:
    name = fields.get("type")
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(fields)}\n\n".encode()


def body_of(usage: Counts) -> bytes:
    return json.dumps({"id": "x", "usage": usage}).encode()


def stream_of(usage: Counts, *, is_complete: bool = True) -> bytes:
    """Return a stream of the dialect that has such a usage, or its beginning with the usage."""
    if "prompt_tokens" in usage:
        chunk = {"object": "chat.completion.chunk"}
        some = event(**chunk, choices=[{"delta": {"content": "a"}}], usage=usage)
        end = event(**chunk, choices=[], usage=usage) + b"data: [DONE]\n\n"
        return some + end if is_complete else some
    if "input_tokens_details" in usage:
        assert is_complete
        return event(type="response.completed", response={"object": "response", "usage": usage})
    start = event(type="message_start", message={"usage": usage | {"output_tokens": 1}})
    end = event(type="message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    return start + end + event(type="message_stop") if is_complete else start


def report_of(body: bytes, coding: str = "") -> Report | None:
    reader = UsageReader(coding)
    reader.feed(body)
    return reader.finish()


def result(usage: Usage | None) -> Result | None:
    return usage and (usage.input, usage.cached, usage.is_certain)


HIT: Counts = {"prompt_cache_hit_tokens": 2000, "prompt_cache_miss_tokens": 500}
TTL: Counts = {
    "cache_creation": {"ephemeral_5m_input_tokens": 600, "ephemeral_1h_input_tokens": 400}
}
NO_TTL: Counts = {
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
}

ONE_RESPONSE: dict[str, tuple[Counts, Result | None]] = {
    "OpenAI": (chat(3000, 2500, total_tokens=3100), (3000, 2500, True)),
    "OpenAI, Responses": (responses(3000, 2500, 400, total_tokens=3100), (3000, 2500, True)),
    "vLLM": (chat(3000), (3000, None, True)),
    "Mistral": (chat(3000, num_cached_tokens=2500), (3000, 2500, True)),
    "Mistral, details": (
        chat(3000, prompt_token_details={"cached_tokens": 2500}),
        (3000, 2500, True),
    ),
    "Tencent": (
        chat(2500, 0, prompt_cache_hit_tokens=2000, prompt_cache_write_tokens=400),
        (2500, 2000, True),
    ),
    # The total has the cached tokens, the prompt count has not.
    "chat, total": (chat(3000, 2500, total_tokens=5600), (5500, 2500, True)),
    "chat, total with writes": (chat(3000, 2000, 500, total_tokens=5600), (5500, 2000, True)),
    "chat, total without writes": (chat(3000, 2000, 500, total_tokens=5100), (5000, 2000, True)),
    "Responses, total": (responses(3000, 2500, total_tokens=5600), (5500, 2500, True)),
    "new-api": (
        chat(
            3000, 2000, prompt_tokens_details={"cached_tokens": 2000, "cached_creation_tokens": 9}
        ),
        (3000, 2000, True),
    ),
    "new-api, from Claude": (
        chat(3, prompt_tokens_details={"cached_tokens": 2000, "cached_creation_tokens": 997}),
        (3000, 2000, True),
    ),
    "LiteLLM, from Claude": (
        chat(3000, prompt_tokens_details={"cached_tokens": 2000, "cache_creation_tokens": 997}),
        (3000, 2000, True),
    ),
    "Messages, total": (messages(3000, 2000, 500, total_tokens=5600), (5500, 2000, True)),
    "Messages, total of a plain sum": (
        messages(3000, 2000, 500, total_tokens=3100),
        (3000, 2000, True),
    ),
    "chat, total with hidden reasoning": (chat(3000, 2500, total_tokens=4321), (3000, 2500, True)),
    # The prompt count is smaller than its parts.
    "chat without reads": (chat(500, 2500), (3000, 2500, True)),
    "chat without reads and writes": (chat(3, 2500, 400, total_tokens=103), (2903, 2500, True)),
    "chat without writes": (chat(3, 0, 2500), (2503, 0, True)),
    "Responses without reads": (responses(500, 2500, 400), (3000, 2500, True)),
    # DeepSeek and llama.cpp report the rest, too.
    "DeepSeek": (chat(2500, **HIT), (2500, 2000, True)),
    "DeepSeek without reads": (chat(500, **HIT), (2500, 2000, True)),
    "DeepSeek, Messages": (messages(2500, 2000, 0, **HIT), (2500, 2000, True)),
    "DeepSeek, which does not add up": (chat(2600, **HIT), (2600, 2000, True)),
    "Kimi, chat": (chat(2500, 2000) | {"cached_tokens": 2000}, (2500, 2000, True)),
    "Kimi, Messages": (messages(2500, cached_tokens=2000), (2500, 2000, True)),
    # Claude: the first turn, a later one, one after which nothing was written.
    "Anthropic, first": (messages(3, 0, 20_000), (20_003, 0, True)),
    "Anthropic": (messages(3, 20_000, 500), (20_503, 20_000, True)),
    "Anthropic, only read": (messages(500, 20_000, 0), (20_500, 20_000, True)),
    "Anthropic without caching": (messages(20_000, 0, 0), (20_000, 0, True)),
    "Anthropic, writes by TTL": (messages(3, 20_000, **TTL), (21_003, 20_000, True)),
    "Anthropic, writes and writes by TTL": (messages(3, 0, 1000, **TTL), (1003, 0, True)),
    "Anthropic, nothing written by TTL": (messages(3, 0, **NO_TTL), (3, 0, True)),
    # Read and written tokens are the whole prompt once more (codex-proxy).
    "Messages, once more": (messages(3000, 2500, 500), (3000, 2500, True)),
    "Messages, once more, first": (messages(3000, 0, 3000), (3000, 0, True)),
    # DashScope estimates the prompt before it counts what was read of it.
    "chat, estimated": (chat(3602, 3604), (3604, 3604, True)),
    "Messages, estimated": (messages(3602, cached_tokens=3604), (3604, 3604, True)),
    # Nothing decides.
    "Messages, undecided": (messages(3000, 2500, 0), (5500, 2500, False)),
    "Messages, undecided writes": (messages(3000, 0, 500), (3500, 0, False)),
    # Placeholders.
    "zeros, chat": (chat(0, 0, 0, total_tokens=0), None),
    "zeros, Responses": (responses(0, 0), None),
    "zeros, Messages": (messages(0, 0, 0), None),
}


@pytest.mark.parametrize(("usage", "expected"), ONE_RESPONSE.values(), ids=ONE_RESPONSE)
def test_one_response(usage: Counts, expected: Result | None) -> None:
    for body in (body_of(usage), stream_of(usage)):
        assert result(Accounting().settle(None, report_of(body))) == expected


CONVERSATIONS: dict[str, tuple[list[Counts], list[Result | None]]] = {
    # vLLM: none cached, none reported.
    "absent after a report": (
        [chat(1000), chat(1200, 1000), chat(1400), chat(1600, 1300)],
        [(1000, None, True), (1200, 1000, True), (1400, 0, True), (1600, 1300, True)],
    ),
    "absent after a report, Responses": (
        [responses(1000, 0), responses(1200)],
        [(1000, 0, True), (1200, 0, True)],
    ),
    "absent after a report, Messages": (
        [messages(3, 1000, 100), messages(1200)],
        [(1103, 1000, True), (1200, 0, True)],
    ),
    "zeros are no report": (
        [messages(0, 0, 0), messages(1000)],
        [None, (1000, None, True)],
    ),
    # grok2api, new-api: Anthropic's names, but the prompt count has the cached tokens.
    "Messages, included": (
        [messages(20_000, 0, 0), messages(20_500, 19_900, 0), messages(21_000, 20_400, 0)],
        [(20_000, 0, True), (20_500, 19_900, True), (21_000, 20_400, True)],
    ),
    "Messages, included, then missed": (
        [messages(20_000, 0, 0), messages(20_500, 19_900, 0), messages(21_000, 5000, 0)],
        [(20_000, 0, True), (20_500, 19_900, True), (21_000, 5000, True)],
    ),
    "Messages, included, first seen in the middle": (
        [messages(20_000, 15_000, 0), messages(20_500, 19_900, 0), messages(60_000, 20_000, 0)],
        [(35_000, 15_000, False), (20_500, 19_900, True), (60_000, 20_000, True)],
    ),
    # Automatic caching of a prompt counted as documented.
    "Messages, excluded": (
        [messages(20_000, 0, 0), messages(500, 20_000, 0), messages(30_000, 20_500, 0)],
        [(20_000, 0, True), (20_500, 20_000, True), (50_500, 20_500, True)],
    ),
    "Messages, excluded, with the same little cached each time": (
        [messages(20_000, 12_000, 0), messages(20_500, 12_000, 0)],
        [(32_000, 12_000, False), (32_500, 12_000, False)],
    ),
    "Messages, excluded, much new at once": (
        [messages(20_000, 0, 0), messages(60_000, 20_000, 0), messages(900, 80_000, 0)],
        [(20_000, 0, True), (80_000, 20_000, False), (80_900, 80_000, True)],
    ),
    "Messages, excluded, as much new as there was, which the next turn shows": (
        [messages(20_000, 0, 0), messages(21_000, 20_000, 0), messages(900, 41_000, 0)],
        [(20_000, 0, True), (21_000, 20_000, True), (41_900, 41_000, True)],
    ),
    "Claude with a turn that is mostly not cached": (
        [messages(3, 0, 20_000), messages(3, 20_000, 400), messages(9000, 5000, 2000)],
        [(20_003, 0, True), (20_403, 20_000, True), (16_000, 5000, True)],
    ),
    "Claude with a turn of which less was written than was new": (
        [messages(3, 0, 20_000), messages(900, 20_000, 400), messages(3, 21_000, 900)],
        [(20_003, 0, True), (21_300, 20_000, True), (21_903, 21_000, True)],
    ),
    # CLIProxyAPI 5956: the prompt count has the cache writes.
    "Messages, without reads": (
        [messages(20_000, 0, 19_990), messages(5000, 20_000, 4990), messages(900, 25_000, 890)],
        [(39_990, 0, False), (25_000, 20_000, True), (25_900, 25_000, True)],
    ),
    "Messages, without reads, seen later": (
        [messages(1000, 25_000, 0), messages(5000, 26_000, 4990), messages(9000, 8000, 900)],
        [(26_000, 25_000, True), (31_000, 26_000, True), (17_000, 8000, True)],
    ),
    "codex-proxy": (
        [messages(3000, 0, 3000), messages(3500, 2900, 600), messages(4000, 3400, 0)],
        [(3000, 0, True), (3500, 2900, True), (4000, 3400, True)],
    ),
    "DashScope, which estimates": (
        [
            messages(3602, 3604, 0, prompt_tokens_details={"cached_tokens": 3604}),
            messages(4602, 4500, 0, prompt_tokens_details={"cached_tokens": 4500}),
        ],
        [(3604, 3604, True), (4602, 4500, True)],
    ),
    # A gateway that calls Claude and keeps the counts under OpenAI's names.
    "chat, excluded": (
        [chat(3, 0, 20_000), chat(900, 20_000, 0), chat(15_000, 12_000, 0, total_tokens=15_100)],
        [(20_003, 0, True), (20_900, 20_000, True), (27_000, 12_000, True)],
    ),
    "chat, excluded, where a turn has less written than new": (
        [chat(3, 0, 20_000), chat(900, 20_000, 400), chat(900, 20_400, 900)],
        [(20_003, 0, True), (21_300, 20_000, True), (22_200, 20_400, True)],
    ),
    "chat, without reads": (
        [chat(20_000, 0, 19_990), chat(5000, 20_000, 4990), chat(9000, 8000, 900)],
        [(20_000, 0, True), (25_000, 20_000, True), (17_000, 8000, True)],
    ),
    "chat, one odd response": (
        [chat(20_000, 19_000), chat(100, 20_000), chat(20_500, 20_000), chat(21_000, 20_500)],
        [
            (20_000, 19_000, True),
            (20_100, 20_000, True),
            (40_500, 20_000, True),
            (21_000, 20_500, True),
        ],
    ),
}


@pytest.mark.parametrize(("turns", "expected"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_conversation(turns: list[Counts], expected: list[Result | None]) -> None:
    for make in (body_of, stream_of):
        accounting = Accounting()
        found = [accounting.settle("c", report_of(make(turn))) for turn in turns]
        assert [*map(result, found)] == expected


@pytest.mark.parametrize("usage", [chat(1400), messages(1400)])
def test_incomplete_response_without_cached_tokens_does_not_have_zero(usage: Counts) -> None:
    accounting = Accounting()
    accounting.settle("c", report_of(body_of(chat(1200, 1000))))
    for wire in (stream_of(usage, is_complete=False), stream_of(usage)[:-40]):
        known = report_of(wire)
        assert known
        if not known.is_complete:
            assert result(accounting.settle("c", known)) == (1400, None, True)
    assert result(accounting.settle("c", report_of(stream_of(usage)))) == (1400, 0, True)


def test_incomplete_response_proves_nothing() -> None:
    accounting = Accounting()
    start = report_of(stream_of(messages(1, 2500, 10), is_complete=False))
    assert result(accounting.settle("c", start, "e")) == (2511, 2500, True)
    assert result(accounting.settle("c", report_of(body_of(messages(3000, 2500, 0))), "e")) == (
        5500,
        2500,
        False,
    )


def test_other_conversations_have_reported_nothing() -> None:
    accounting = Accounting()
    accounting.settle("c", report_of(body_of(chat(1200, 1000))), "e")
    assert result(accounting.settle("d", report_of(body_of(chat(1200))), "e")) == (1200, None, True)


UNDECIDED = messages(20_000, 15_000, 0)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([messages(3, 20_000, 0)], (35_000, 15_000, True)),
        ([messages(20_000, 15_000, 5000)], (20_000, 15_000, True)),
        ([messages(20_000, 0, 0), messages(20_500, 19_900, 0)], (20_000, 15_000, True)),
        ([messages(20_000, 0, 0)], (35_000, 15_000, False)),
    ],
)
def test_proof_holds_for_the_endpoint(turns: list[Counts], expected: Result) -> None:
    accounting = Accounting()
    for turn in turns:
        accounting.settle("c", report_of(body_of(turn)), "e")
    report = report_of(body_of(UNDECIDED))
    assert result(accounting.settle("d", report, "e")) == expected
    for endpoint in ("f", None):
        assert result(accounting.settle("d", report, endpoint)) == (35_000, 15_000, False)


def test_weak_proof_does_not_replace_the_endpoints() -> None:
    accounting = Accounting()
    accounting.settle("c", report_of(body_of(messages(3, 20_000, 0))), "e")
    for turn in (messages(20_000, 0, 0), messages(20_500, 19_900, 0)):
        assert result(accounting.settle("d", report_of(body_of(turn)), "e"))
    report = report_of(body_of(UNDECIDED))
    assert result(accounting.settle("d", report, "e")) == (20_000, 15_000, True)
    assert result(accounting.settle("x", report, "e")) == (35_000, 15_000, True)


def test_proof_of_chat_does_not_hold_for_other_conversations() -> None:
    accounting = Accounting()
    accounting.settle("c", report_of(body_of(chat(100, 20_000))), "e")
    found = accounting.settle("d", report_of(body_of(chat(20_500, 20_000))), "e")
    assert result(found) == (20_500, 20_000, True)


def test_without_a_report() -> None:
    assert Accounting().settle("c", None, "e") is None


def test_least_recently_used_conversations_are_forgotten() -> None:
    accounting = Accounting()
    reporting, silent = report_of(body_of(chat(1200, 1000))), report_of(body_of(chat(1200)))
    accounting.settle("old", reporting)
    accounting.settle("used", reporting)
    for count in range(MAX_SIZE - 1):
        accounting.settle(count, reporting)
        accounting.settle("used", reporting)
    assert result(accounting.settle("used", silent)) == (1200, 0, True)
    assert result(accounting.settle("old", silent)) == (1200, None, True)


# Generated streams, whose truth is known.

SIZES = st.integers(1, 200_000)


@st.composite
def usages(draw: st.DrawFn) -> tuple[Counts, Usage]:
    """Draw a usage as one response shows it, and what it means."""
    cached, written, new = draw(SIZES), draw(SIZES), draw(SIZES)
    whole = cached + written + new
    dialect = draw(st.sampled_from([chat, responses, messages]))
    if dialect is messages:
        written = max(written, 2 * new)  # the last message has a cache breakpoint
        whole = cached + written + new
        counts = messages(new, cached, written)
    else:
        counts = dialect(whole, cached, written, total_tokens=whole + 100)
    return counts, Usage(whole, cached, written, 100)


def lines_alone(body: bytes) -> bytes:
    return body.replace(b"\n\n", b"\n")


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "standard": lambda body: body,
    "one newline": lines_alone,
    "no event lines": lambda body: b"".join(
        line for line in body.splitlines(keepends=True) if not line.startswith(b"event:")
    ),
    "only data lines": lambda body: b"".join(
        line for line in body.splitlines(keepends=True) if line.startswith(b"data:")
    ),
    "glued end": lambda body: body.removesuffix(b"data: [DONE]\n\n").rstrip() + b"\ndata: [DONE]",
    "end in the same line": lambda body: (
        body.removesuffix(b"data: [DONE]\n\n").rstrip() + b"data: [DONE]\n\n"
    ),
    "no space": lambda body: body.replace(b"data: ", b"data:"),
    "comments": lambda body: b": hi\n\n" + body.replace(b"\n\n", b"\n\n: ping\n\n"),
    "ids between": lambda body: lines_alone(body).replace(b"\ndata:", b"\nid: 1\ndata:"),
    "words between": lambda body: lines_alone(body).replace(b"\ndata:", b"\ndata: wait\ndata:"),
    "byte-order mark": lambda body: b"\xef\xbb\xbf" + body,
    "CRLF": lambda body: body.replace(b"\n", b"\r\n"),
    "CR": lambda body: body.replace(b"\n", b"\r"),
    "one CRLF": lambda body: lines_alone(body).replace(b"\n", b"\r\n"),
    "pretty JSON": lambda body: b"".join(map(pretty, body.splitlines(keepends=True))),
}


def pretty(line: bytes) -> bytes:
    if not line.startswith(b"data: {"):
        return line
    lines = json.dumps(json.loads(line[6:]), indent=1).encode().splitlines()
    return b"".join(b"data: %b\n" % each for each in lines)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("usage", [chat(3000, 2500), responses(3000, 2500), messages(3, 2500, 497)])
def test_odd_framings(framing: str, usage: Counts) -> None:
    body = FRAMINGS[framing](stream_of(usage))
    reader = UsageReader()
    for at in range(len(body)):
        reader.feed(body[at : at + 1])
    for report in (reader.finish(), report_of(body)):
        assert report
        assert report.is_complete
        assert result(Accounting().settle(None, report)) == (3000, 2500, True)


@given(usages(), st.sampled_from([*FRAMINGS]), st.data())
def test_reader_against_the_truth(
    case: tuple[Counts, Usage], framing: str, choose: st.DataObject
) -> None:
    counts, truth = case
    delta = event(choices=[{"delta": {"content": 'a "usage": {} é'}}], usage=None)
    whole = FRAMINGS[framing](delta * choose.draw(st.integers(0, 3)) + stream_of(counts))
    coding = choose.draw(st.sampled_from(["identity", "gzip", "deflate", "br", "zstd"]))
    wire = encoding.encode(whole, coding)
    assert isinstance(wire, bytes)
    end = choose.draw(st.just(len(wire)) | st.integers(0, len(wire)))
    cuts = sorted(choose.draw(st.lists(st.integers(0, end), max_size=9)))
    reader = UsageReader(coding)
    for start, stop in zip([0, *cuts], [*cuts, end], strict=True):
        reader.feed(wire[start:stop])
    report = reader.finish()
    assert reader.unread == ""
    found = Accounting().settle(None, report)
    if end == len(wire):
        assert report
        assert report.is_complete
        assert found == truth
    elif found:  # cut off: the start of a Messages stream has only 1 output token
        assert found._replace(output=100) == truth
