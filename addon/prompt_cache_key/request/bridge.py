"""Whose request caused an upstream call that shows no session.

A translator that strips everything makes its call while the Claude Code request that caused it
still waits for its answer, and sends on most of the texts. So the prompt of a call is compared
with that of each request in flight: line by line, since translators join and split the blocks
that the lines stand in, and by hash, so that no text is kept.
"""

import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

MAX_WAITING = 128
MAX_LINES = 4096
"""Lines of what was said, and as many of tool results, that are remembered of a request: the
newest. 128 requests with as many take some 200 MB."""

MIN_SAID = 16
"""Characters of a conversation that is not said by just anyone."""

_SYSTEM = ("system", "developer")
_CALL_IDS = ("tool_use_id", "tool_call_id", "call_id")


class Passage(NamedTuple):
    """The lines of one message or of one tool result.

    `edges` are the first and last lines of its blocks, which a translator may join: as they are,
    joined, and joined by a space. `inner` are the other lines.
    """

    inner: set[int]
    edges: list[set[int]]

    @property
    def lines(self) -> set[int]:
        """All lines, as they are."""
        return self.inner | self.edges[0]

    def missing(self, known: set[int]) -> int:
        """Return how many lines are not known, in the form that is known best."""
        return len(self.inner - known) + min(len(form - known) for form in self.edges)


class Prompt(NamedTuple):
    """What a request says, as hashes; the passages are in order, the newest first.

    `tools` are the names of its tools, `system` the lines of system prompts and messages, which
    translators strip and change. `said` are the texts of user and assistant, in all of `length`
    characters, `results` those of tools, and `new` the results that came after all that was said.
    `known` has all of these, the lines in every form; `calls` the ids of tool calls.
    """

    tools: set[int]
    system: set[int]
    said: list[Passage]
    length: int
    results: list[Passage]
    new: list[Passage]
    known: set[int]
    calls: set[int]


@dataclass(eq=False)
class _Waiting:
    session: str
    agent: str | None
    read_body: Callable[[], bytes]
    calls: int = 0

    @cached_property
    def prompt(self) -> Prompt:
        return read(self.read_body(), MAX_LINES)


class Bridge:
    """The Claude Code requests in flight: at most `MAX_WAITING`, the oldest goes first."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, _Waiting] = OrderedDict()

    def add(
        self, request: Hashable, session: str, agent: str | None, read_body: Callable[[], bytes]
    ) -> None:
        """Remember a request that is in flight; its body is read if a call needs it."""
        self._waiting[request] = _Waiting(session, agent, read_body)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    def remove(self, request: Hashable) -> None:
        """Forget a request that is answered, or is no more."""
        self._waiting.pop(request, None)

    def find(self, body: bytes) -> tuple[Any, str, str | None] | None:
        """Return the request that caused a call, its session and agent; None if none in flight did.

        It is the one that differs from the call in the fewest lines; among equals one with the
        fewest calls yet, of those the one that waits longest.
        """
        if not self._waiting:
            return None
        call = read(body)
        causes = []
        for request, each in self._waiting.items():
            difference = _difference(each.prompt, call)
            if difference is not None:
                causes.append((difference, each.calls, request))
            if difference == each.calls == 0:
                break  # none is nearer, and each body that need not be read is a millisecond
        if not causes:
            return None
        *_, request = min(causes, key=lambda cause: cause[:2])
        cause = self._waiting[request]
        cause.calls += 1
        return request, cause.session, cause.agent


def read(body: bytes, max_said: int = sys.maxsize) -> Prompt:
    """Read the prompt of a request in any dialect; that of what is no JSON object is empty.

    What was said is read back to `max_said` lines, results of tools to `MAX_LINES`.
    """
    with suppress(ValueError, RecursionError):
        request = json.loads(body)
        if isinstance(request, dict):
            return _prompt(request, max_said)
    return _prompt({}, max_said)


def _difference(request: Prompt, call: Prompt) -> int | None:
    """Return in how much they differ; None if the one did not cause the other.

    A stranger may say just what a request says: "hi". But he has other tools or another system
    prompt; or is a Claude Code too, in another conversation. A translator sends on all that was
    said. It may add something, but not as the last word, and nothing at all where it strips tools
    and system prompt. Results of tools it may shorten.
    """
    last = next((said for said in call.said if not _is_system(said, request)), None)
    if not last or last.missing(request.known) or _missing(request.said, call.known):
        return None
    for one, other in ((request, call), (call, request)):
        lines = sum(len(passage.lines) for passage in one.new)
        if 2 * _missing(one.new, other.known) > lines:
            return None
    unknown = _missing(call.said, request.known)
    frame = request.tools or request.system
    has_frame = 2 * len(frame - call.known) <= len(frame) > 0
    adds = unknown or (call.tools | call.system) - request.known
    if not has_frame and (adds or call.length < MIN_SAID):
        return None
    results = _missing(call.results, request.known) + _missing(request.results, call.known)
    return unknown + results + len(request.calls ^ call.calls)


def _is_system(said: Passage, request: Prompt) -> bool:
    """Whether what a call says is a system message of the request.

    LiteLLM has the user say those, with a note before them.
    """
    other = said.lines - request.system
    return 2 * len(other) <= len(said.lines) and other.isdisjoint(request.known)


def _missing(passages: list[Passage], known: set[int]) -> int:
    return sum(passage.missing(known) for passage in passages)


def _prompt(request: dict[str, Any], max_said: int) -> Prompt:
    system = [request.get("system"), request.get("instructions")]
    messages: list[Any] = []
    conversation = request.get("messages") or request.get("input")
    for message in conversation if isinstance(conversation, list) else [conversation]:
        is_system = isinstance(message, dict) and message.get("role") in _SYSTEM
        (system if is_system else messages).append(message)

    tools = _tools(request.get("tools"))
    prompts = [_passage(texts, MAX_LINES) for content in system for _, texts in _texts(content)]
    lines = {line for passage in prompts for line in passage.lines}
    known = tools.union(*(form for passage in prompts for form in (passage.inner, *passage.edges)))
    said: list[Passage] = []
    results: list[Passage] = []
    new: list[Passage] = []
    calls: set[int] = set()
    length = 0
    seen = [0, 0]
    for message in reversed(messages):
        for call_id, texts in _texts(message):
            is_result = call_id is not None
            limit = MAX_LINES if is_result else max_said
            if seen[is_result] > limit:
                continue
            passage = _passage(texts, limit)
            seen[is_result] += len(passage.lines)
            known.update(passage.inner, *passage.edges)
            if is_result:
                calls.add(hash(call_id))
                results.append(passage)
                if not said:
                    new.append(passage)
            else:
                length += sum(map(len, texts))
                said.append(passage)
    return Prompt(tools, lines, said, length, results, new, known, calls)


def _tools(tools: Any) -> set[int]:
    """Return the names of the tools, which Chat Completions puts one level deeper."""
    functions = _dicts([tool.get("function", tool) for tool in _dicts(tools)])
    names = [function.get("name") for function in functions]
    return {hash(("tool", name)) for name in names if isinstance(name, str)}


def _texts(message: Any) -> Iterator[tuple[str | None, list[str]]]:
    """Yield the texts of a message, then those of each tool result in it with its call's id."""
    content, call_id = message, None
    if isinstance(message, dict):
        content = message.get("output", message.get("content"))
        call_id = next((str(message[name]) for name in _CALL_IDS if name in message), None)
    texts = _blocks(content)
    # claude-code-router 2.0 and others write a tool result of several blocks as JSON text.
    if call_id is not None and isinstance(content, str) and content.startswith("[{"):
        with suppress(ValueError, RecursionError):
            texts = _blocks(json.loads(content))
    if texts:
        yield call_id, texts
    for block in _dicts(content):
        if "content" in block:
            yield from _texts(block)


def _blocks(content: Any) -> list[str]:
    """Return the texts of a content that is one text or a list of blocks."""
    if isinstance(content, str):
        content = [{"text": content}]
    texts = [block.get("text") for block in _dicts(content)]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _passage(texts: list[str], max_lines: int) -> Passage:
    blocks = [[line.strip() for line in text.split("\n", max_lines)[:max_lines]] for text in texts]
    inner = {hash(line) for lines in blocks for line in lines[1:-1] if line}
    plain = [line for lines in blocks for line in (lines[0], lines[-1])]
    forms = [plain, _joined(blocks, ""), _joined(blocks, " ")]
    return Passage(inner, [{hash(line) for line in form if line} - inner for form in forms])


def _joined(blocks: list[list[str]], separator: str) -> list[str]:
    """Return the first and last lines of the blocks as they are when those are joined."""
    edges, last = [], ""
    for first, *rest in blocks:
        last = f"{last}{separator}{first}".strip()
        if rest:
            edges.append(last)
            last = rest[-1]
    return [*edges, last]
