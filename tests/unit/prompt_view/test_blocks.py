import re
from typing import Any

import pytest
from prompt_cache_key.prompt_view.blocks import IMAGE_TOKENS, beginning, kind, read, size

IMAGE = {"type": "image", "source": {"type": "base64", "data": "A" * 4000}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "x"}
CALL = {"type": "tool_use", "id": "1", "name": "Bash", "input": {"command": "ls"}}
CALLS = [{"type": "function", "function": {"name": "A"}}]


def says(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


@pytest.mark.parametrize(
    ("item", "its_kind", "begins"),
    [
        ("hello", "text", "hello"),
        ({"type": "text", "text": "hello"}, "text", "hello"),
        ({"role": "user", "content": "hello"}, "user text", "hello"),
        ({"role": "user", "content": None}, "user ", ""),
        # Anthropic Messages
        (says(*({"type": "text", "text": t} for t in "abcd")), "user text(4)", "a · b · c"),
        (says(THOUGHT, CALL), "user thinking+tool_use", 'hm · Bash {"command":"ls"}'),
        ({"type": "tool_result", "content": [{"type": "text", "text": "a"}]}, "tool_result", "a"),
        (IMAGE, "image", ""),
        # Chat Completions
        ({"role": "assistant", "tool_calls": CALLS}, "assistant function", "A"),
        ({"role": "tool", "name": "Bash", "content": "file"}, "tool text", "file"),
        # Responses
        (says({"type": "input_text", "text": "a"}), "user text", "a"),
        ({"type": "function_call", "name": "A", "arguments": "{}"}, "function_call", "A {}"),
        ({"type": "function_call_output", "output": "done"}, "function_call_output", "done"),
        ({"type": "reasoning", "summary": [{"text": "hm"}]}, "reasoning", "hm"),
        # Any JSON
        (None, "no object", "null"),
        ([1], "no object", "1"),
        ({}, "no type", ""),
        ({"role": {"a": 1}, "content": 5}, "{'a': 1} no object", "5"),
    ],
)
def test_kind_and_beginning(item: Any, its_kind: str, begins: str) -> None:
    assert (kind(item), beginning(item)) == (its_kind, begins)


def test_a_long_beginning_is_cut() -> None:
    assert len(beginning({"name": "x" * 10_000, "input": {"a": "y" * 10_000}})) < 1000
    assert len(beginning({"content": ["x" * 10_000] * 10})) < 1000


@pytest.mark.parametrize(
    ("item", "chars", "tokens"),
    [
        ("x" * 40, 40, 10),
        ({"type": "text", "text": "x" * 36, "cache_control": "x" * 10}, 50, 10),
        (["x" * 38, 12], 40, 10),
        (IMAGE, len('{"type":"base64","data":""}') + 4005, IMAGE_TOKENS + 1.25),
        ({"image_url": "data:…"}, 6, IMAGE_TOKENS),
        ({"source": "print(1)"}, 8, 2),
    ],
)
def test_size(item: Any, chars: int, tokens: float) -> None:
    assert size(item) == (chars, tokens)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b" ", "empty"),
        (b"[1]", "no JSON object: [1]"),
        (b'{"a": "\xff"}', "no JSON: 'utf-8' codec can't decode byte 0xff in position 7"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "no JSON: Exceeds the limit"),
        (
            b'{"a": "one\x1b[31m", "b": nul}',
            "no JSON: Invalid control character at (character 10 of 27):\n"
            '{"a": "one ▶ \\x1b[31m", "b": nul}',
        ),
    ],
)
def test_what_is_no_json_object(content: bytes, words: str) -> None:
    assert read(b'\xef\xbb\xbf {"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        read(content)
