import json
from typing import Any

import pytest
from prompt_cache_key.show.answer import MAX_SHOWN, answer
from prompt_cache_key.show.screen import COLUMNS

JSON = "application/json; charset=utf-8"
EVENTS = "text/event-stream"
USAGE = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64}}


def draw(body: Any) -> list[str]:
    return answer(json.dumps(body).encode(), JSON)


def play(*events: Any) -> list[str]:
    lines = [f"event: any\r\ndata: {json.dumps(event)}\r\n\r\n" for event in events]
    return answer("".join(lines).encode() + b"data: [DONE]\n\n", EVENTS)


def message(**members: Any) -> dict[str, Any]:
    return {"choices": [{"message": members}]}


@pytest.mark.parametrize(
    "body",
    [
        {"content": [{"type": "text", "text": "Hello"}]},
        message(content="Hello"),
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]},
    ],
)
def test_a_text(body: dict[str, Any]) -> None:
    assert draw(body | {"usage": USAGE}) == ["usage input=100 cached=64 hit=64%", "", "Hello", ""]
    assert draw(body)[0] == "usage: none was reported"


BLOCKS = [
    {"type": "thinking", "thinking": "hm"},
    {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}},
]
ITEMS = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "function_call", "name": "Bash", "arguments": "{}"},
]
CALLS = [{"function": {"name": "Bash", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ({"content": BLOCKS}, ["[thinking]", "hm", "", "[tool_use Bash]", '{"command":"ls"}', ""]),
        (
            message(reasoning_content="hm", content=None, tool_calls=CALLS),
            ["[thinking]", "hm", "", "[tool_call Bash]", "{}", ""],
        ),
        (
            {"output": ITEMS, "error": None},
            ["[reasoning]", "hm", "", "[function_call Bash]", "{}", ""],
        ),
        ({"error": {"message": "no"}}, ["[error]", '{"message":"no"}', ""]),
        ({"error": "no"}, ["[error]", "no", ""]),
        ({"choices": 1, "output": [2], "content": []}, ["[None]", "", ""]),
        ({"id": 1}, ["No answer was found in the body."]),
    ],
)
def test_other_blocks(body: Any, lines: list[str]) -> None:
    assert draw(body)[2:] == lines


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members}]}


def block(index: int, **members: Any) -> dict[str, Any]:
    kind = "start" if "content_block" in members else "delta"
    return {"type": f"content_block_{kind}", "index": index} | members


def output(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 0} | members


@pytest.mark.parametrize(
    "events",
    [
        (
            {"type": "message_start", "message": {"usage": {"input_tokens": 100}}},
            block(0, content_block={"type": "text"}),
            block(0, delta={"text": "Hel"}),
            block(0, delta={"text": "lo"}),
            block(1, content_block={"type": "call"}),
            block(1, delta={"partial_json": "{}"}),
        ),
        (delta(content="Hel"), delta(content="lo"), {"usage": {"prompt_tokens": 100}}),
        (
            output("output_item.added", item={"type": "message"}),
            output("output_text.delta", delta="Hel"),
            output("output_text.delta", delta="lo"),
            output("completed", response={"usage": {"input_tokens": 100}}),
        ),
    ],
)
def test_events(events: tuple[Any, ...]) -> None:
    lines = play(*events)
    assert lines[0].startswith("usage input=100 cached=")
    assert lines[2] == "Hello"


def test_streamed_calls() -> None:
    calls = [
        delta(tool_calls=[{"index": n, "function": {"name": name, "arguments": "{"}}])
        for n, name in enumerate("AB")
    ]
    ends = [delta(tool_calls=[{"index": n, "function": {"arguments": "}"}}]) for n in (0, 1)]
    assert play(*calls, *ends)[2:] == ["[tool_call A]", "{}", "", "[tool_call B]", "{}", ""]


def test_a_stream_that_failed_or_broke_off() -> None:
    assert play({"response": {"error": {"code": "x"}}})[2:] == ["[error]", '{"code":"x"}', ""]
    content = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: {"cho'
    assert answer(content, EVENTS)[2:7] == [
        "Hello",
        "",
        "[error]",
        "an event is no JSON: Unterminated string starting at (character 1 of 5):",
        '{ ▶ "cho',
    ]
    assert answer(b"", EVENTS)[2] == "No answer was found in the body."


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "The body is empty"),
        (b"<html>", "The body is no JSON: Expecting value (character 0 of 6):"),
        (b'{"error":' + b"[" * 100_000, "The body is nested too deep to be read."),
    ],
)
def test_broken_bodies(content: bytes, line: str) -> None:
    assert answer(content, JSON)[2] == line


def test_what_is_long_or_not_printable() -> None:
    evil = "\x1b[31m\u202e\x9b\t" + "word " * 100 + "\r\n\n" + "x" * MAX_SHOWN
    lines = draw({"content": [{"type": evil, "text": evil}]})
    assert all(line.isprintable() and len(line) <= COLUMNS for line in lines)
    assert lines[3].startswith("\\x1b[31m\\u202e\\x9b word word")
    assert lines[-1] == "… and 511 more characters"
