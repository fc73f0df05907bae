"""Whose request caused an upstream call that does not show it.

A translator that strips everything makes its call while the Claude Code request that caused it
still waits for its answer. Most translators keep the ids of tool calls, whatever they do to the
texts; the others send on most of the texts. A key that goes to another session is worse than none,
so whatever speaks against a request outweighs what speaks for it.
"""

import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from prompt_cache_key.bridge.match import Match, match
from prompt_cache_key.bridge.passage import Steps
from prompt_cache_key.bridge.prompt import MAX_LINES, Prompt, newest_ids, read
from prompt_cache_key.identity import Identity

MAX_WAITING = 128
MAX_GONE = 16
MAX_READ = 4 * 1024 * 1024
"""Bytes of a body that is parsed, which takes some 10 ms in one go; of others only ids are read."""

MAX_GONE_READ = 256 * 1024
STEP = 2000
"""Microseconds of work, roughly, between two pauses."""

Pause = Callable[[], Awaitable[None]]


class Pace:
    """Pauses before work that would make it too long since the last pause."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause
        self._work = 0

    async def spend(self, work: int) -> None:
        """Count the microseconds that the next step may take."""
        if self._work + work > STEP and self._work:
            self._work = 0
            await self._pause()
        self._work += work


@dataclass(eq=False)
class _Body:
    """A body that is read once, and by all who need it at the same time together."""

    get: Callable[[], bytes]
    max_lines: int = MAX_LINES
    _ids: list[str] | None = None
    _prompt: Prompt | None = None
    _reading: Steps[Prompt] | None = None

    async def ids(self, pace: Pace) -> list[str]:
        """Return the ids of its newest tool results, the newest first."""
        if self._ids is None and (body := self.get()):
            await pace.spend(len(body) // 1000)
            self._ids = newest_ids(body)
        return self._ids or []

    async def prompt(self, pace: Pace) -> Prompt | None:
        """Return what it says; None if that is too much, or not known yet."""
        if not (self._prompt or self._reading):
            body = self.get()
            if not body or len(body) > MAX_READ:
                return None
            self._reading = read(body, self.max_lines)
        while self._reading:
            try:
                work = next(self._reading)
            except StopIteration as end:
                self._prompt, self._reading = end.value, None
            else:
                await pace.spend(work)
        return self._prompt

    async def absent(self, needles: list[bytes], pace: Pace) -> int:
        """Return how many of these are not in it."""
        body = self.get()
        await pace.spend(len(body) // 1000 * len(needles))
        return sum(needle not in body for needle in needles)


@dataclass(eq=False)
class _Waiting:
    request: Hashable
    identity: Identity
    body: _Body
    place: Hashable
    calls: int = 0


class Bridge:
    """The Claude Code requests in flight: at most `MAX_WAITING`, the oldest goes first.

    Of those that went without a call the last `MAX_GONE` are still looked at: a call that comes too
    late for its own request must not be taken for that of another with the same words.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, _Waiting] = OrderedDict()
        self._gone: list[_Waiting] = []

    def add(
        self,
        request: Hashable,
        identity: Identity,
        read_body: Callable[[], bytes],
        place: Hashable = None,
    ) -> None:
        """Remember a request that is in flight; its body is read if a call needs it.

        `read_body` returns b"" as long as the body is not known; `place` is where it goes.
        """
        self._waiting[request] = _Waiting(request, identity, _Body(read_body), place)
        if len(self._waiting) > MAX_WAITING:
            self.remove(next(iter(self._waiting)))

    def remove(self, request: Hashable) -> None:
        """Forget a request that is answered, or is no more."""
        gone = self._waiting.pop(request, None)
        if gone and not gone.calls and 0 < len(body := gone.body.get()) <= MAX_GONE_READ:
            self._gone.append(_Waiting(None, gone.identity, _Body(lambda: body), gone.place))
            del self._gone[:-MAX_GONE]

    async def find(
        self, call: bytes, pause: Pause, session: str = "", place: Hashable = ""
    ) -> tuple[Hashable, Identity] | None:
        """Return the request that caused a call, and who speaks in it; None in doubt.

        Only requests count that wait as the call comes, and go to another `place`. `pause` is
        awaited after each few milliseconds of work. If the call shows its `session`, it is one of
        that session's requests: where nothing tells which, one with the fewest calls yet, of those
        the newest.
        """
        newest = reversed(self._waiting.values())
        others = [each for each in newest if each.place != place]
        waiting = [each for each in others if session in ("", each.identity.session)]
        waiting.sort(key=lambda each: each.calls > 0)  # the likeliest first
        if not waiting:
            return None
        pace = Pace(pause)
        if session:
            best = waiting if len(waiting) == 1 else await _causes(waiting, call, pace) or waiting
        else:
            gone = [each for each in self._gone if not each.calls]
            best = await _causes(waiting + gone, call, pace)
            if len({each.identity.session for each in best}) != 1:
                return None
            best = [each for each in best if each in waiting]
        if not best:
            return None
        cause = min(best, key=lambda each: each.calls)
        cause.calls += 1
        return cause.request, cause.identity


async def _causes(requests: list[_Waiting], content: bytes, pace: Pace) -> list[_Waiting]:
    """Return the requests that may have caused a call, all equally likely."""
    body = _Body(lambda: content, sys.maxsize)
    call = await body.prompt(pace)
    ids = call.ids if call else set((await body.ids(pace))[:1])
    same, other = [], []
    for each in requests if ids else []:
        its_ids = await each.body.ids(pace)
        if ids == set(its_ids[: len(ids)]):
            same.append(each)
        elif its_ids and _form(its_ids[0]) not in map(_form, ids):
            other.append(each)  # the translator writes ids of its own
    if call is None:
        return same if len(same) == 1 else []
    if len(same) == 1 and call.are_new:
        request = await same[0].body.prompt(pace)
        return same if not request or match(request, call, by_ids=True) else []
    return await _same_words(same or (other if ids else requests), call, pace)


def _form(call_id: str) -> tuple[int, str]:
    return len(call_id), call_id.partition("_")[0]


async def _same_words(requests: list[_Waiting], call: Prompt, pace: Pace) -> list[_Waiting]:
    """Return the requests whose words agree best with those of the call."""
    best: list[_Waiting] = []
    least: Match | None = None
    absent = 0
    for each in requests:
        # Whoever does not say what the best one says need not be read to the end.
        if best and await each.body.absent(call.needles, pace) > absent:
            continue
        request = await each.body.prompt(pace)
        await pace.spend(len(call.known) // 2)
        found = match(request, call) if request else None
        if found is None or (least and found > least):
            continue
        if found != least:
            best, least = [], found
            absent = await each.body.absent(call.needles, pace)
        best.append(each)
    return best
