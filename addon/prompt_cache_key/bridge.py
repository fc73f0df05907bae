"""Whose request caused an upstream call that shows no session.

A translator that strips everything makes its call while the Claude Code request that caused it
still waits for its answer, and sends on most of the texts. So the prompt of a call is compared
with that of each request in flight: line by line, since translators join and split the blocks
that the lines stand in, and by hash, so that no text is kept.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

MAX_WAITING = 128
MAX_LINES = 2048
"""Lines of a conversation that are compared, the newest; the other side's are known twice as far
back. 128 requests of as many take some 70 MB."""

_SYSTEM = ("system", "developer")


class Passage(NamedTuple):
    """The lines of one message or of one tool result.

    A translator may join its blocks: `lines` are those that stay the same then, `forms` the others
    as they are, joined, and joined by a space.
    """

    lines: set[int]
    forms: list[set[int]]

    def missing(self, known: set[int]) -> int:
        """Return how many lines are not known, in the form that is known best."""
        return len(self.lines - known) + min(len(form - known) for form in self.forms)


class Prompt(NamedTuple):
    """What a request says, as hashes of lines.

    `frame` are the names of its tools, or without tools the lines of its system prompts. `said`
    are the texts of user and assistant, `results` those of tools, `newest` the last of both, back
    to one that was said. System prompts are in neither, since translators strip and change them;
    `known` has all lines in every form.
    """

    frame: set[int]
    said: list[Passage]
    results: list[Passage]
    newest: list[Passage]
    known: set[int]


@dataclass(eq=False)
class _Waiting:
    session: str
    agent: str | None
    read_body: Callable[[], bytes]
    calls: int = 0

    @cached_property
    def prompt(self) -> Prompt:
        return read(self.read_body())


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

    def find(self, body: bytes) -> tuple[str, str | None] | None:
        """Return session and agent of the request that caused a call; None if none in flight did.

        It is the one that differs from the call in the fewest lines; among equals one with the
        fewest calls yet, of those the one that waits longest.
        """
        if not self._waiting:
            return None
        call = read(body)
        causes = [
            (difference, each)
            for each in self._waiting.values()
            if (difference := _difference(each.prompt, call)) is not None
        ]
        if not causes:
            return None
        _, cause = min(causes, key=lambda found: (found[0], found[1].calls))
        cause.calls += 1
        return cause.session, cause.agent


def read(body: bytes) -> Prompt:
    """Read the prompt of a request in any dialect; that of what is no JSON object is empty."""
    with suppress(ValueError, RecursionError):
        request = json.loads(body)
        if isinstance(request, dict):
            return _prompt(request)
    return _prompt({})


def _difference(request: Prompt, call: Prompt) -> int | None:
    """Return how many lines only one of both has; None if the one did not cause the other.

    A stranger may say just what a request says: "hi". But he has other tools, or is a Claude Code
    too, in another conversation: then each has said what the other has not. A translator adds
    texts or drops some; only with the results of tools, which some shorten, it may do both.
    """
    if not _mostly(len(request.frame - call.frame), len(request.frame)):
        return None
    for newest, known in ((request.newest, call.known), (call.newest, request.known)):
        if not _mostly(_missing(newest, known), _missing(newest, set())):
            return None
    unknown = _missing(call.said, request.known)
    unsaid = _missing(request.said, call.known)
    if unknown and unsaid:
        return None
    results = _missing(call.results, request.known) + _missing(request.results, call.known)
    return unknown + unsaid + results


def _mostly(missing: int, total: int) -> bool:
    """Whether at most half is missing, of something."""
    return 2 * missing <= total > 0


def _missing(passages: list[Passage], known: set[int]) -> int:
    return sum(passage.missing(known) for passage in passages)


def _prompt(request: dict[str, Any]) -> Prompt:
    system = [request.get("system"), request.get("instructions")]
    messages: list[Any] = []
    conversation = request.get("messages") or request.get("input")
    for message in conversation if isinstance(conversation, list) else [conversation]:
        is_system = isinstance(message, dict) and message.get("role") in _SYSTEM
        (system if is_system else messages).append(message)

    known: set[int] = set()
    for each in system:
        for _, passage in _passages(each):
            known.update(passage.lines, *passage.forms)
    prompt = Prompt(_tools(request.get("tools")) or set(known), [], [], [], known)
    limit = len(known) + MAX_LINES
    for message in reversed(messages):
        passages = list(_passages(message))
        if not prompt.said:
            prompt.newest.extend(passage for _, passage in passages)
        for is_result, passage in passages:
            if len(known) <= limit:
                (prompt.results if is_result else prompt.said).append(passage)
            known.update(passage.lines, *passage.forms)
        if len(known) > limit + MAX_LINES:
            break
    return prompt


def _tools(tools: Any) -> set[int]:
    """Return the names of the tools, which Chat Completions puts one level deeper."""
    functions = [tool.get("function", tool) for tool in _dicts(tools)]
    return {
        hash(name)
        for function in _dicts(functions)
        if isinstance(name := function.get("name"), str)
    }


def _passages(message: Any) -> Iterator[tuple[bool, Passage]]:
    """Yield the text of a message, then that of each tool result in it; and which it is."""
    is_result, content = False, message
    if isinstance(message, dict):
        is_result = message.get("role") == "tool" or "output" in message
        content = message.get("output") if "output" in message else message.get("content")
    passage = _passage(_texts(content, is_result=is_result))
    if passage.lines or passage.forms[0]:
        yield is_result, passage
    for block in _dicts(content):
        if "content" in block:
            yield from _passages({"output": block["content"]})


def _texts(content: Any, *, is_result: bool) -> list[str]:
    """Return the texts of a content, which is one text or a list of blocks."""
    if isinstance(content, str):
        # claude-code-router 2.0 and others write a tool result of several blocks as JSON text.
        if is_result and content.startswith("[{"):
            with suppress(ValueError, RecursionError):
                return _texts(json.loads(content), is_result=False) or [content]
        return [content]
    return [text for block in _dicts(content) if isinstance(text := block.get("text"), str)]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _passage(texts: list[str]) -> Passage:
    plain: list[str] = []
    joined, spaced = [""], [""]
    for text in texts:
        # The first lines of a long log are enough.
        first, *rest = lines = [line.strip() for line in text.split("\n", MAX_LINES)[:MAX_LINES]]
        plain += lines
        joined[-1] += first
        joined += rest
        spaced[-1] = f"{spaced[-1]} {first}".strip()
        spaced += rest
    forms = [{hash(line) for line in form if line} for form in (plain, joined, spaced)]
    lines = set.intersection(*forms)
    return Passage(lines, [form - lines for form in forms])
