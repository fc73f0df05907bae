"""Whose request caused an upstream call that shows no session.

A translator that strips everything makes its call while the Claude Code request that caused it
still waits for its answer, and sends on most of the texts. So the texts of a call are compared
with those of each request in flight: line by line, since translators join and split the blocks
that the lines stand in, and by hash, so that no text is kept.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

MAX_WAITING = 128
MAX_LINES = 8192
"""Lines of a request that are known, the newest; 128 requests of as many take some 100 MB."""

_MOST = 0.5


class Texts(NamedTuple):
    """Hashes of a request's lines.

    `said` are those of the conversation, oldest first. `newest` are those of its last message in
    each form a translator may give it: its blocks as they are, or joined. System prompts and
    messages are in neither, since strangers share them and translators strip or change them;
    `known` has every line in every form.
    """

    said: list[int]
    newest: list[set[int]]
    known: set[int]


class _Waiting:
    def __init__(self, session: str, agent: str | None, read_body: Callable[[], bytes]) -> None:
        self.session = session
        self.agent = agent
        self.calls = 0
        self._read_body = read_body

    @cached_property
    def texts(self) -> Texts:
        return read(self._read_body())


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

        It is the one that shares most of the call's texts, the newest counting first; among
        equals the one that waits longest and has no call yet.
        """
        if not self._waiting:
            return None
        call = read(body)
        waiting = list(self._waiting.values())
        for line in reversed(call.said):
            if len(waiting) > 1:
                waiting = [each for each in waiting if line in each.texts.known] or waiting
        said = set(call.said)
        causes = [each for each in waiting if _caused(each.texts, call, said)]
        if not causes:
            return None
        # A fork has all texts of the session it came from, and newer ones that are not said here.
        cause = min(causes, key=lambda each: (_unsaid(each.texts, said), each.calls > 0))
        cause.calls += 1
        return cause.session, cause.agent


def read(body: bytes) -> Texts:
    """Read the texts of a request in any dialect; those of what is no JSON object are empty."""
    try:
        request = json.loads(body)
        if isinstance(request, dict):
            return _texts(request)
    except (ValueError, RecursionError):
        pass
    return Texts([], [], set())


def _caused(request: Texts, call: Texts, said: set[int]) -> bool:
    """Whether a call says enough of what a request says to have been caused by it.

    A stranger may share a line or two with anyone. A translator sends on the newest message, and
    adds less than it sends on.
    """
    return (
        _unsaid(request, said) <= _MOST
        and not call.newest[0].isdisjoint(request.known)
        and len(said - request.known) <= _MOST * len(said)
    )


def _unsaid(request: Texts, said: set[int]) -> float:
    """Return how much of a request's newest message a call leaves out, from 0 to 1."""
    return min((len(form - said) / len(form) for form in request.newest), default=1)


def _texts(request: dict[str, Any]) -> Texts:
    said: list[int] = []
    newest: list[set[int]] = []
    known = [
        line
        for name in ("system", "instructions")
        for form in _forms(request.get(name))
        for line in form
    ]
    messages = request.get("messages") or request.get("input")
    for message in messages if isinstance(messages, list) else [messages]:
        forms = _forms(message)
        for form in forms:
            known += form
        system = isinstance(message, dict) and message.get("role") in ("system", "developer")
        if forms[0] and not system:
            said += forms[0]
            newest = [set(form) for form in forms]
    return Texts(said[-MAX_LINES:], newest, set(known[-MAX_LINES:]))


def _forms(content: Any) -> list[list[int]]:
    blocks = list(_blocks(content))
    forms = [blocks, ["".join(blocks)], [" ".join(blocks)]] if len(blocks) > 1 else [blocks]
    return [
        [hash(line) for block in form for line in map(str.strip, block.split("\n")) if line]
        for form in forms
    ]


def _blocks(content: Any) -> Iterator[str]:
    """Yield the texts of a content: a text, a block, a message, or a list of them."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _blocks(part)
    elif isinstance(content, dict):
        for name in ("text", "content", "output"):
            yield from _blocks(content.get(name))
