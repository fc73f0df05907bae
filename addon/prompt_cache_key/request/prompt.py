"""What a request says, in any dialect: its tools, its system prompt, its conversation.

Lines are what is compared, since translators join and split the blocks that lines stand in, and
their hashes are what is kept, so that no text is. Reading is done in steps, for the event loop's
sake: a generator yields before each the microseconds that it may take.
"""

import json
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

MAX_LINES = 4096
"""Lines of a conversation that are remembered of a request in flight, the newest: at most twice as
many."""

MAX_IDS = 32
_MAX_PROBES = 4096
_STEP = 1000  # lines

_SYSTEM = ("system", "developer")
_ATTRIBUTION = "x-anthropic-billing-header"
_ID_NAMES = ("tool_use_id", "tool_call_id", "call_id")
_ID_STARTS = (b'"tool_use', b'"tool_call', b'"call')
_ID = re.compile(rb'_id"\s*:\s*"([^"\\]{1,256})"')
_JSON_BLOCKS = re.compile(r'\[\{"(?:type": ?"text|text": ?")')

# As all JSON encoders write it, and whichever blocks a translator joins.
_PLAIN = re.compile(r"[A-Za-z0-9 ,.]+")

T = TypeVar("T")
Steps = Generator[int, None, T]


class Passage(NamedTuple):
    """The lines of one message or of one tool result.

    `edges` are the first and last lines of its blocks, which a translator may join: as they are,
    joined, and joined by a space. `inner` are the other lines. `labels` are the lines of the form
    `label: value` by label, but for the attribution's, which was seen to differ. Tuples, as the
    garbage collector looks at every hash in a set.
    """

    inner: tuple[int, ...]
    edges: list[tuple[int, ...]]
    labels: dict[int, set[int]]

    @property
    def lines(self) -> tuple[int, ...]:
        """All lines, as they are."""
        return self.inner + self.edges[0]

    def missing(self, known: set[int]) -> int:
        """Return how many lines are not known, in the form that is known best."""
        return _unknown(self.inner, known) + min(_unknown(form, known) for form in self.edges)


@dataclass(eq=False)
class Prompt:
    """What a request says; all lists are in order, the newest first.

    `tools` are the names of its tools, `system` its system prompts and messages, `said` what user
    and assistant say. `answers` counts the assistant's turns; what came after the last of them are
    `asked`, the first so many of `said`, and `new`, the results of tools. `ids` are
    those of the newest results, `fresh` if these are new. `system_lines` are those of `system`, and
    `known` all lines in every form. `needles` are bytes that a request which says the newest of this has in its body.
    """

    tools: set[int] = field(default_factory=set)
    system: list[Passage] = field(default_factory=list)
    said: list[Passage] = field(default_factory=list)
    new: list[Passage] = field(default_factory=list)
    asked: int = 0
    answers: int = 0
    ids: set[str] = field(default_factory=set)
    fresh: bool = False
    system_lines: set[int] = field(default_factory=set)
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
    prompt = Prompt()
    with suppress(ValueError, RecursionError):
        yield len(body) // 300
        request = json.loads(body)
        if isinstance(request, dict):
            prompt.tools = _tools(request.get("tools"))
            for name in ("system", "instructions"):
                yield from _add_system(prompt, _blocks(request.get(name)), max_lines)
            conversation = request.get("messages") or request.get("input")
            messages = conversation if isinstance(conversation, list) else [conversation]
            yield from _read_messages(prompt, messages, max_lines)
    return prompt


def _read_messages(prompt: Prompt, messages: list[Any], max_lines: int) -> Steps[None]:
    lines = 0
    is_answered = False
    batch = None
    for message in reversed(messages):
        role = _role(message)
        if role == "assistant":
            prompt.answers += not is_answered and _is_answer(message)
            is_answered = is_answered or _is_answer(message)
        elif role not in _SYSTEM:
            is_answered = False
        is_new = not prompt.answers
        for call_id, texts in _texts(message):
            is_result = call_id is not None
            if call_id and batch in (None, prompt.answers):
                batch = prompt.answers
                prompt.ids.add(call_id)
                prompt.fresh = is_new
            if role in _SYSTEM:
                yield from _add_system(prompt, texts, max_lines)
                continue
            passages = prompt.new if is_result else prompt.said
            # Most of a long conversation are old results, which tell no more than the answers.
            if not texts or lines > max_lines or (is_result and not is_new):
                continue
            passages.append((yield from _passage(texts, max_lines, has_labels=not is_result)))
            prompt.known.update(passages[-1].inner, *passages[-1].edges)
            lines += len(passages[-1].lines)
            if is_new and not is_result:
                prompt.asked += 1
                _add_needle(prompt, texts[-1])


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


def _add_system(prompt: Prompt, texts: list[str], max_lines: int) -> Steps[None]:
    if texts:
        passage = yield from _passage(texts, max_lines, has_labels=True)
        prompt.system.append(passage)
        prompt.system_lines.update(passage.lines)
        prompt.known.update(passage.inner, *passage.edges)


def _passage(texts: list[str], max_lines: int, *, has_labels: bool) -> Steps[Passage]:
    inner: set[int] = set()
    labels: dict[int, set[int]] = {}
    blocks = []
    for text in texts:
        lines = text.split("\n", max_lines)[:max_lines]
        for start in range(0, len(lines), _STEP):
            yield min(len(lines), _STEP) + 5
            step = list(map(str.strip, lines[start : start + _STEP]))
            if has_labels:
                _add_labels(labels, step)
            edges = (start == 0, start + _STEP >= len(lines))
            inner.update(map(hash, filter(None, step[edges[0] : len(step) - edges[1]])))
        blocks.append([line.strip() for line in (lines[0], *lines[1:][-1:])])
    forms = [[line for block in blocks for line in block]]
    if len(blocks) > 1:
        forms += [_joined(blocks, ""), _joined(blocks, " ")]
    edges_of = [tuple(set(map(hash, filter(None, form))) - inner) for form in forms]
    return Passage(tuple(inner), edges_of, labels)


def _unknown(lines: tuple[int, ...], known: set[int]) -> int:
    return len(lines) - sum(map(known.__contains__, lines))


def _add_labels(labels: dict[int, set[int]], lines: list[str]) -> None:
    for line in lines:
        label, colon, _ = line.partition(": ")
        if colon and label != _ATTRIBUTION:
            labels.setdefault(hash(label), set()).add(hash(line))


def _add_needle(prompt: Prompt, text: str) -> None:
    last = text.strip().rsplit("\n", 1)[-1]
    if needle := max(map(str.strip, _PLAIN.findall(last)), key=len, default=""):
        prompt.needles.append(needle.encode())


def _joined(blocks: list[list[str]], separator: str) -> list[str]:
    """Return the first and last lines of the blocks as they are when those are joined."""
    edges, last = [], ""
    for first, *rest in blocks:
        last = f"{last}{separator}{first}".strip()
        if rest:
            edges.append(last)
            last = rest[-1]
    return [*edges, last]


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
