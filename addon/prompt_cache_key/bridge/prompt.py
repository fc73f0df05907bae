"""What a request says, in any dialect: its tools, its system prompt, its conversation."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prompt_cache_key.bridge import passage
from prompt_cache_key.bridge.passage import Passage, Steps

MAX_LINES = 4096
"""Lines of what was said that are remembered of a request in flight, and as many of results of
tools: the newest."""

MAX_IDS = 32
MAX_NEEDLES = 4
_MAX_PROBES = 4096

_SYSTEM = ("system", "developer")
_ID_NAMES = ("tool_use_id", "tool_call_id", "call_id")
_ID_STARTS = (b'"tool_use', b'"tool_call', b'"call')
_ID = re.compile(rb'_id"\s*:\s*"([^"\\]{1,256})"')
_JSON_BLOCKS = re.compile(r'\[\{"(?:type": ?"text|text": ?")')
_PLAIN = re.compile(r"[A-Za-z0-9 ,.]+")


@dataclass(eq=False)
class Prompt:
    """What a request says; lists begin with the newest.

    `tools` are the names of its tools, `system` its system prompts and messages, with their lines
    in `system_lines`, `said` what user and assistant say. `answers` counts the assistant's turns.
    What came after the last of them are `asked`, the first so many of `said`, and `new`, results of
    tools. `ids` are those of the newest results, and `are_new` if these came after it. `known` are
    all lines in every form. `needles` are bytes that are in the body of who says what is asked, as
    all JSON encoders write them, unless a translator has joined them of two blocks.
    """

    tools: set[int] = field(default_factory=set)
    system: list[Passage] = field(default_factory=list)
    system_lines: set[int] = field(default_factory=set)
    said: list[Passage] = field(default_factory=list)
    asked: int = 0
    answers: int = 0
    new: list[Passage] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    are_new: bool = False
    known: set[int] = field(default_factory=set)
    needles: list[bytes] = field(default_factory=list)


def newest_ids(body: bytes) -> list[str]:
    """Return the ids of the newest tool calls that have results, the newest first, unparsed.

    A member's name in a text has a backslash before its last quote, so it is not taken for one.
    """
    ids: dict[str, None] = {}
    end = len(body)
    for _ in range(_MAX_PROBES):
        end = body.rfind(b'_id"', 0, end)
        if end < 0 or len(ids) == MAX_IDS:
            break
        if body[max(0, end - 10) : end].endswith(_ID_STARTS) and (match := _ID.match(body, end)):
            ids[match[1].decode(errors="replace")] = None
    return list(ids)


def read(body: bytes, max_lines: int = sys.maxsize) -> Steps[Prompt]:
    """Read a request; what is no JSON object, or none that can be read, says nothing.

    The conversation is read back to `max_lines` lines.
    """
    try:
        yield len(body) // 300
        request = json.loads(body)
        if isinstance(request, dict):
            return (yield from _read(request, max_lines))
    except (ValueError, RecursionError):
        pass
    return Prompt()


def _read(request: dict[str, Any], max_lines: int) -> Steps[Prompt]:
    prompt = Prompt(_tools(request.get("tools")))
    for name in ("system", "instructions"):
        yield from _add_system(prompt, _blocks(request.get(name)), max_lines)
    conversation = request.get("messages") or request.get("input")
    room = [max_lines, max_lines]
    is_answered = False
    batch = None
    for message in reversed(conversation if isinstance(conversation, list) else [conversation]):
        yield 5
        role = _role(message)
        if role in _SYSTEM:
            for _, texts in _texts(message):
                yield from _add_system(prompt, texts, max_lines)
            continue
        if role != "assistant":
            is_answered = False
        elif _is_answer(message):
            prompt.answers += not is_answered
            is_answered = True
        for call_id, texts in _texts(message):
            yield 1
            if call_id and batch in (None, prompt.answers):
                batch = prompt.answers
                prompt.ids.add(call_id)
                prompt.are_new = batch == 0
            yield from _add(prompt, texts, room, is_result=call_id is not None)
    return prompt


def _add_system(prompt: Prompt, texts: list[str], max_lines: int) -> Steps[None]:
    if texts:
        added = yield from passage.read(texts, max_lines, has_labels=True)
        prompt.system.append(added)
        prompt.system_lines.update(added.lines)
        prompt.known.update(added.inner, *added.edges)


def _add(prompt: Prompt, texts: list[str], room: list[int], *, is_result: bool) -> Steps[None]:
    is_new = not prompt.answers
    # Most of a long conversation are old results, which tell no more than the answers to them.
    if not texts or (is_result and not is_new) or room[is_result] <= 0:
        return
    added = yield from passage.read(texts, room[is_result], has_labels=not is_result)
    room[is_result] -= len(added.lines)
    prompt.known.update(added.inner, *added.edges)
    (prompt.new if is_result else prompt.said).append(added)
    if is_new and not is_result:
        prompt.asked += 1
        last = texts[-1].strip().rsplit("\n", 1)[-1]
        needle = max(map(str.strip, _PLAIN.findall(last)), key=len, default="")
        if needle and prompt.asked <= MAX_NEEDLES:
            prompt.needles.append(needle.encode())


def _role(message: Any) -> str:
    """Return who says it; Responses has tool calls and their results outside of messages."""
    if not isinstance(message, dict):
        return "user"
    if message.get("type") in ("function_call", "custom_tool_call", "reasoning"):
        return "assistant"
    role = message.get("role")
    return role if isinstance(role, str) else "user"


def _is_answer(message: dict[str, Any]) -> bool:
    """Whether it says something or calls a tool; what is only thought translators leave out."""
    content = message.get("content")
    calls = message.get("tool_calls") or str(message.get("type")).endswith("_call")
    uses = any(block.get("type") == "tool_use" for block in _dicts(content))
    return bool(calls or uses or _blocks(content))


def _tools(tools: Any) -> set[int]:
    """Return the names of the tools, which Chat Completions puts one level deeper."""
    functions = _dicts([tool.get("function", tool) for tool in _dicts(tools)])
    names = [function.get("name") for function in functions]
    return {hash(name) for name in names if isinstance(name, str)}


def _texts(message: Any) -> Iterator[tuple[str | None, list[str]]]:
    """Yield the texts of a message, then those of each tool result in it with its call's id."""
    if not isinstance(message, dict):
        yield None, _blocks(message)
        return
    content = message.get("output", message.get("content"))
    yield _call_id(message), _result(message, content)
    for block in _dicts(content):
        if "content" in block:
            yield _call_id(block), _result(block, block["content"])


def _call_id(message: dict[str, Any]) -> str | None:
    """Return the id of the tool call that a message or block is the result of."""
    if str(message.get("type")).endswith("_call"):
        return None
    return next((str(message[name]) for name in _ID_NAMES if name in message), None)


def _result(message: dict[str, Any], content: Any) -> list[str]:
    """Return its texts; claude-code-router and others write several blocks as JSON text."""
    if _call_id(message) and isinstance(content, str) and _JSON_BLOCKS.match(content):
        with suppress(ValueError, RecursionError):
            return _blocks(json.loads(content))
    return _blocks(content)


def _blocks(content: Any) -> list[str]:
    """Return the texts of a content that is one text or a list of blocks."""
    if isinstance(content, str):
        content = [{"text": content}]
    texts = [block.get("text") for block in _dicts(content)]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
