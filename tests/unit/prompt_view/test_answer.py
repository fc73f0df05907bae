import json
from typing import Any

import pytest
from prompt_cache_key.prompt_view.answer import MAX_SHOWN, answer
from prompt_cache_key.screen_text import COLUMNS

JSON = "application/json; charset=utf-8"
EVENTS = "text/event-stream"
USAGE = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64}}


def draw(body: Any) -> str:
    return "\n".join(answer(json.dumps(body).encode(), JSON))


def play(*events: Any) -> str:
    lines = [f"event: any\r\ndata: {json.dumps(event)}\r\n\r\n" for event in events]
    return "\n".join(answer("".join(lines).encode() + b"data: [DONE]\n\n", EVENTS))


def message(**members: Any) -> dict[str, Any]:
    return {"choices": [{"message": members}]}


THINKING = {"type": "thinking", "thinking": "hm"}
TOOL_USE = {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}}
REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
FUNCTION = {"type": "function_call", "name": "Bash", "arguments": "{}"}
OUTPUT = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
CALLS = [{"function": {"name": "Bash", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"content": [{"type": "text", "text": "Hello"}]}, "Hello"),
        ({"content": [THINKING, TOOL_USE]}, '[thinking]\nhm\n\n[tool_use Bash]\n{"command":"ls"}'),
        (message(content="Hello"), "Hello"),
        (message(reasoning_content="hm", content=None), "[thinking]\nhm"),
        (message(tool_calls=CALLS), "[tool_call Bash]\n{}"),
        ({"output": [OUTPUT]}, "Hello"),
        (
            {"output": [REASONING, FUNCTION], "error": None},
            "[reasoning]\nhm\n\n[function_call Bash]\n{}",
        ),
        ({"error": {"message": "no"}}, '[error]\n{"message":"no"}'),
        ({"error": "no"}, "[error]\nno"),
        ({"choices": 1, "output": [2], "content": []}, "[None]\n"),
    ],
)
def test_what_a_body_says(body: Any, text: str) -> None:
    assert draw(body | {"usage": USAGE}) == f"usage input=100 cached=64 hit=64%\n\n{text}\n"
    assert draw(body) == f"usage: none was reported\n\n{text}\n"


def delta(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members}]}


def calls(**member: str) -> list[dict[str, Any]]:
    """Return a piece of each of two calls."""
    return [delta(tool_calls=[{"index": n, "function": member}]) for n in (0, 1)]


def block(index: int, **members: Any) -> dict[str, Any]:
    kind = "start" if "content_block" in members else "delta"
    return {"type": f"content_block_{kind}", "index": index} | members


def output(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 0} | members


@pytest.mark.parametrize(
    ("events", "text"),
    [
        (
            [
                {"type": "message_start", "message": {"usage": {"input_tokens": 100}}},
                block(0, content_block={"type": "text"}),
                block(0, delta={"text": "Hel"}),
                block(0, delta={"text": "lo"}),
                block(1, content_block={"type": "call"}),
                block(1, delta={"partial_json": "{}"}),
            ],
            "Hello\n\n[call]\n{}",
        ),
        ([delta(content="Hel"), delta(content="lo"), {"usage": {"prompt_tokens": 100}}], "Hello"),
        (
            [
                output("output_item.added", item={"type": "message"}),
                output("output_text.delta", delta="Hel"),
                output("output_text.delta", delta="lo"),
                output("completed", response={"usage": {"input_tokens": 100}}),
            ],
            "Hello",
        ),
    ],
)
def test_what_events_say(events: list[Any], text: str) -> None:
    assert play(*events) == f"usage input=100 cached=? hit=?\n\n{text}\n"


def test_streamed_calls() -> None:
    events = [*calls(name="A", arguments="{"), *calls(arguments="}")]
    assert play(*events).endswith("\n\n[tool_call A]\n{}\n\n[tool_call A]\n{}\n")


def test_a_stream_that_failed_or_broke_off() -> None:
    assert play({"response": {"error": {"code": "x"}}}).endswith('\n\n[error]\n{"code":"x"}\n')
    content = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: {"cho'
    assert answer(content, EVENTS)[2:7] == [
        "Hello",
        "",
        "[error]",
        "an event is no JSON: Unterminated string starting at (character 1 of 5):",
        '{ ▶ "cho',
    ]


@pytest.mark.parametrize(
    ("content", "kind", "line"),
    [
        (b"", EVENTS, "No answer was found in the body."),
        (b"{}", JSON, "No answer was found in the body."),
        (b"", JSON, "The body is empty"),
        (b"<html>", JSON, "The body is no JSON: Expecting value (character 0 of 6):"),
        (b'{"error":' + b"[" * 100_000, JSON, "The body is nested too deep to be read."),
    ],
)
def test_bodies_without_an_answer(content: bytes, kind: str, line: str) -> None:
    assert answer(content, kind)[2] == line


def test_what_is_long_or_not_printable() -> None:
    evil = "\x1b[31m\u202e\x9b\t" + "word " * 100 + "\r\n\n" + "x" * MAX_SHOWN
    lines = draw({"content": [{"type": evil, "text": evil}]}).split("\n")
    assert all(line.isprintable() and len(line) <= COLUMNS for line in lines)
    assert lines[3].startswith("\\x1b[31m\\u202e\\x9b word word")
    assert lines[-1] == "… and 511 more characters"
