"""Read what a request says, in any dialect: its tools, its system prompt, its conversation.

Whoever sends a body decides how large it is and what it is made of, so each kind of work has a
bound: the bytes and the values that are parsed, the items of each list, the lines that are kept.
A body beyond the first three is not read at all; lines beyond the bound are left out.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from prompt_cache_key.bridge import lines
from prompt_cache_key.bridge.lines import Lines, Steps

MAX_BYTES = 4 << 20
MAX_VALUES = 200_000
"""Brackets and commas in a body that is parsed, in strings too: the worst takes 30 ms to parse.
4 MB of code or prose have some 130,000."""

MAX_ITEMS = 4096
"""Blocks of a message; tools."""

MAX_MESSAGES = 20_000
MAX_LINES = 8192
"""Lines of a request that are kept: so many of the system prompt and messages, so many of the
newest that were said, and so many of the newest tool results."""

MAX_CALL_LINES = 8 * MAX_LINES
"""The same of an upstream call. A request's lines have to be in its call, so this is more."""

MAX_IDS = 32
_MAX_PROBES = 4096
_OVERHEAD = 24
"""Lines that a message counts as, whatever it says: what its objects take."""

_SYSTEM = ("system", "developer")
_ID_NAMES = ("tool_use_id", "tool_call_id", "call_id")
_ID_STARTS = (b'"tool_use', b'"tool_call', b'"call')
_ID = re.compile(rb'_id"\s*:\s*"([^"\\]{1,256})"')
_JSON_BLOCKS = re.compile(r'\[\{"(?:type": ?"text|text": ?")')


class Message(NamedTuple):
    """A message that is no system message.

    `is_answer`: the assistant says something or calls a tool. `is_plain`: it has neither tool calls
    nor tool results. `results` are read of the newest turn only.
    """

    is_assistant: bool
    is_answer: bool
    is_plain: bool
    said: tuple[Lines, ...] = ()
    results: tuple[Lines, ...] = ()


@dataclass(eq=False)
class Prompt:
    """What a request says; lists begin with the newest.

    `tools` are hashes of the tools' names, `system` the system prompt and messages. `newest_calls`
    counts the tool calls of the newest turn that has results.
    """

    tools: frozenset[int] = frozenset()
    system: list[Lines] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    newest_calls: int = 0

    @property
    def said(self) -> list[Lines]:
        """What user and assistant say."""
        return [each for message in self.messages for each in message.said]

    def lines(self) -> set[int]:
        """Return all lines in every form."""
        results = (each for message in self.messages for each in message.results)
        return lines.every_form([*self.system, *self.said, *results])


def newest_ids(body: bytes) -> list[str]:
    """Return the ids of the newest tool calls that have results, the newest first, unparsed.

    A member's name in a text has a backslash before its last quote, so it is not taken for an id.
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


def read(body: bytes, *, is_call: bool) -> Steps[Prompt | None]:
    """Read a request; None if it is no JSON object or too much of one."""
    if len(body) > MAX_BYTES:
        return None
    try:
        request = yield from _parsed(body)
        return (yield from _read(request, is_call=is_call)) if isinstance(request, dict) else None
    except (ValueError, RecursionError):
        return None


def _parsed(body: bytes) -> Steps[Any]:
    """Parse JSON of a bounded number of values; numbers are of no interest."""
    yield len(body) // 500
    values = sum(map(body.count, (b"[", b"{", b",")))
    if values > MAX_VALUES:
        raise ValueError("too many values")
    yield len(body) // 300 + values // 5
    return json.loads(body, parse_int=bool, parse_float=bool)


def _read(request: dict[str, Any], *, is_call: bool) -> Steps[Prompt]:
    yield MAX_ITEMS // 2
    prompt = Prompt(_tools(request.get("tools")))
    reader = _Reader(prompt, is_call=is_call)
    for name in ("system", "instructions"):
        yield from reader.add_system(_blocks(request.get(name)))
    conversation = request.get("messages") or request.get("input")
    messages = conversation if isinstance(conversation, list) else [conversation]
    if len(messages) > MAX_MESSAGES:
        raise ValueError("too many messages")
    for message in reversed(messages):
        yield 3
        if _role(message) in _SYSTEM:
            for _, content in _parts(message):
                yield from reader.add_system(_blocks(content))
        else:
            yield from reader.add(message, is_assistant=_role(message) == "assistant")
    prompt.newest_calls = min(len(reader.ids), MAX_IDS)
    return prompt


class _Reader:
    """Adds messages to a prompt, the newest first, while there is room for their lines."""

    def __init__(self, prompt: Prompt, *, is_call: bool) -> None:
        max_lines = MAX_CALL_LINES if is_call else MAX_LINES
        self.ids: set[str] = set()
        self._prompt = prompt
        self._room = dict.fromkeys(("system", "said", "results"), max_lines)
        self._are_results_new = True
        # What is said in a call may be a system message of the request.
        self._labelled = ("system", "said") if is_call else ("system",)

    def add_system(self, blocks: list[str]) -> Steps[None]:
        """Add a system prompt or message."""
        self._prompt.system += yield from self._lines("system", blocks)

    def add(self, message: Any, *, is_assistant: bool) -> Steps[None]:
        """Add another message.

        Results are read back to the newest message that calls tools. Most of a long conversation
        are older results, which tell no more than the answers to them.
        """
        said, results = [], []
        is_plain = True
        for call_id, content in _parts(message):
            if call_id is None:
                said += yield from self._lines("said", _blocks(content))
                continue
            is_plain = False
            yield 1
            if self._are_results_new:
                self.ids.add(call_id)
                results += yield from self._lines("results", (yield from _result(content)))
        is_answer = False
        if is_assistant:
            has_calls = _has_calls(message)
            is_answer = has_calls or bool(_blocks(message.get("content")))
            is_plain = is_plain and not has_calls
            self._are_results_new = self._are_results_new and not has_calls
        flags = is_assistant, is_answer, is_plain
        self._prompt.messages.append(
            Message(*flags, tuple(said), tuple(results)) if said or results else _silent(*flags)
        )

    def _lines(self, kind: str, blocks: list[str]) -> Steps[list[Lines]]:
        if not blocks or self._room[kind] <= 0:
            return []
        yield 5 * len(blocks)
        added = yield from lines.read(blocks, self._room[kind], has_labels=kind in self._labelled)
        self._room[kind] -= _OVERHEAD + sum(map(len, (added.inner, *added.edges)))
        return [added]


@cache
def _silent(is_assistant: bool, is_answer: bool, is_plain: bool) -> Message:  # noqa: FBT001
    """Return the one object for all messages without lines, of which there may be many."""
    return Message(is_assistant, is_answer, is_plain)


def _role(message: Any) -> str:
    """Return the role of a message; Responses has tool calls and their results outside of them."""
    if not isinstance(message, dict):
        return "user"
    if message.get("type") in ("function_call", "custom_tool_call", "reasoning"):
        return "assistant"
    role = message.get("role")
    return role if isinstance(role, str) else "user"


def _has_calls(message: dict[str, Any]) -> bool:
    """Whether a message calls tools. A thought alone is no answer: translators leave it out."""
    is_call = message.get("tool_calls") or str(message.get("type")).endswith("_call")
    return bool(is_call) or any(
        block.get("type") == "tool_use" for block in _dicts(message.get("content"))
    )


def _tools(tools: Any) -> frozenset[int]:
    """Return the names of the tools, which Chat Completions puts one level deeper."""
    functions = _dicts([tool.get("function", tool) for tool in _dicts(tools)])
    names = [function.get("name") for function in functions]
    return frozenset(hash(name) for name in names if isinstance(name, str))


def _parts(message: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield the content of a message, then of each tool result in it, with its call's id."""
    if not isinstance(message, dict):
        yield None, message
        return
    content = message.get("output", message.get("content"))
    yield _call_id(message), content
    for block in _dicts(content):
        if "content" in block:
            yield _call_id(block), block["content"]


def _call_id(message: dict[str, Any]) -> str | None:
    """Return the id of the tool call that a message or block is the result of."""
    if str(message.get("type")).endswith("_call"):
        return None
    return next((str(message[name])[:256] for name in _ID_NAMES if name in message), None)


def _result(content: Any) -> Steps[list[str]]:
    """Return a result's texts; claude-code-router and others write several blocks as JSON text."""
    if isinstance(content, str) and _JSON_BLOCKS.match(content):
        with suppress(ValueError, RecursionError):
            return _blocks((yield from _parsed(content.encode(errors="surrogatepass"))))
    return _blocks(content)


def _blocks(content: Any) -> list[str]:
    """Return the texts of a content that is one text or a list of blocks."""
    if isinstance(content, str):
        content = [{"text": content}]
    texts = [block.get("text") for block in _dicts(content)]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _dicts(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    if len(value) > MAX_ITEMS:
        raise ValueError("too many items")
    return [each for each in value if isinstance(each, dict)]
