"""Whose request caused an upstream call that does not show it.

A translator that strips everything makes its call while the Claude Code request that caused it
still waits for its answer. Most translators keep the ids of tool calls, whatever they do to the
texts; the others send on most of the texts. A key that goes to another session is worse than none,
so whatever speaks against a request outweighs what speaks for it.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

from prompt_cache_key.request.prompt import MAX_LINES, Passage, Prompt, Steps, newest_ids, read
from prompt_cache_key.request.speaker import Speaker

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
class _Waiting:
    """A request in flight. Its body is read once, by all who need it at the same time together."""

    request: Hashable
    speaker: Speaker
    read_body: Callable[[], bytes]
    place: Hashable
    calls: int = 0
    _ids: list[str] | None = None
    _prompt: Prompt | None = None
    _reading: Steps[Prompt] | None = None

    async def ids(self, pace: Pace) -> list[str]:
        """Return the ids of its newest tool results, the newest first."""
        if self._ids is None and (body := self.read_body()):
            await pace.spend(len(body) // 1000)
            self._ids = newest_ids(body)
        return self._ids or []

    async def prompt(self, pace: Pace) -> Prompt | None:
        """Return what it says; None if that is too much, or not known yet."""
        if not (self._prompt or self._reading):
            body = self.read_body()
            if not body or len(body) > MAX_READ:
                return None
            self._reading = read(body, MAX_LINES)
        while self._reading:
            try:
                work = next(self._reading)
            except StopIteration as end:
                self._prompt, self._reading = end.value, None
            else:
                await pace.spend(work)
        return self._prompt


class _Match(NamedTuple):
    """How well a request and a call agree: less is better."""

    unknown: int
    is_changed: bool


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
        speaker: Speaker,
        read_body: Callable[[], bytes],
        place: Hashable = None,
    ) -> None:
        """Remember a request that is in flight; its body is read if a call needs it.

        `read_body` returns b"" as long as the body is not known.
        """
        self._waiting[request] = _Waiting(request, speaker, read_body, place)
        if len(self._waiting) > MAX_WAITING:
            self.remove(next(iter(self._waiting)))

    def remove(self, request: Hashable) -> None:
        """Forget a request that is answered, or is no more."""
        gone = self._waiting.pop(request, None)
        if gone and not gone.calls and 0 < len(body := gone.read_body()) <= MAX_GONE_READ:
            self._gone.append(replace(gone, request=None, read_body=lambda: body))
            del self._gone[:-MAX_GONE]

    async def find(
        self, call: bytes, pause: Pause, session: str = "", place: Hashable = None
    ) -> tuple[Hashable, Speaker] | None:
        """Return the request that caused a call, and who speaks in it; None in doubt.

        Only requests count that wait as the call comes. `pause` is awaited after each few
        milliseconds of work. If the call shows its `session`, it is one of that session's requests:
        where nothing tells which, one with the fewest calls yet, of those the newest.
        """
        newest = reversed(self._waiting.values())
        waiting = [
            each
            for each in newest
            if session in ("", each.speaker.session) and each.place != (place or ...)
        ]
        waiting.sort(key=lambda each: each.calls > 0)  # the likeliest first
        if not waiting:
            return None
        pace = Pace(pause)
        if session:
            best = waiting if len(waiting) == 1 else await _causes(waiting, call, pace) or waiting
        else:
            gone = [each for each in self._gone if not each.calls]
            best = await _causes(waiting + gone, call, pace)
            if len({each.speaker.session for each in best}) != 1:
                return None
            best = [each for each in best if each in waiting]
        if not best:
            return None
        cause = min(best, key=lambda each: each.calls)
        cause.calls += 1
        return cause.request, cause.speaker


async def _causes(requests: list[_Waiting], body: bytes, pace: Pace) -> list[_Waiting]:
    """Return the requests that may have caused a call, all equally likely."""
    call = None if len(body) > MAX_READ else await _read(body, pace)
    ids = call.ids if call else set(newest_ids(body)[:1])
    same, other = [], []
    for each in requests if ids else []:
        its_ids = await each.ids(pace)
        if ids == set(its_ids[: len(ids)]):
            same.append(each)
        elif its_ids and _form(its_ids[0]) not in map(_form, ids):
            other.append(each)  # the translator writes ids of its own
    if call is None:
        return same if len(same) == 1 else []
    if len(same) == 1 and call.fresh:
        request = await same[0].prompt(pace)
        return same if not request or _match(request, call, by_ids=True) else []
    return await _same_words(same or (other if ids else requests), call, pace)


async def _read(body: bytes, pace: Pace) -> Prompt:
    reading = read(body)
    while True:
        try:
            work = next(reading)
        except StopIteration as end:
            prompt: Prompt = end.value
            return prompt
        await pace.spend(work)


def _form(call_id: str) -> tuple[int, str]:
    return len(call_id), call_id.partition("_")[0]


async def _same_words(requests: list[_Waiting], call: Prompt, pace: Pace) -> list[_Waiting]:
    """Return the requests whose words agree best with those of the call."""
    best: list[_Waiting] = []
    least: _Match | None = None
    absent = len(call.needles)
    for each in requests:
        if best:  # not to read all that clearly says something else
            body = each.read_body()
            await pace.spend(len(body) // 1000 * len(call.needles))
            if sum(needle not in body for needle in call.needles) > absent:
                continue
        request = await each.prompt(pace)
        await pace.spend(len(call.known) // 2)
        match = _match(request, call) if request else None
        if match is None or (least and match > least):
            continue
        if match != least:
            best, least = [], match
            body = each.read_body()
            absent = sum(needle not in body for needle in call.needles)
        best.append(each)
    return best


def _match(request: Prompt, call: Prompt, *, by_ids: bool = False) -> _Match | None:
    """Return how well they agree; None if the one did not cause the other.

    A stranger may say just what a request says: "hi". But he has other tools or another system
    prompt; or is a Claude Code too, in another conversation or directory. A translator sends on all
    that was said. It may add something, but not as the last word. Results of tools it may shorten.
    If the ids of tool calls show the cause, only what was asked after their results is compared.
    """
    views = [(each, _is_system(each, request)) for each in call.said]
    system = [*call.system, *(each for each, is_system in views if is_system)]
    said = [each for each, is_system in views if not is_system]
    if by_ids:
        last = [each for each, is_system in views[: call.asked] if not is_system][:1]
        all_said = request.said[: request.asked]
    else:
        last, all_said = said[:1], request.said
        if not last or request.answers != call.answers or not _has_frame(request, call):
            return None
        if request.ids != call.ids and _other_results(request, call):
            return None
    if _missing(last, request.known) or _missing(all_said, call.known):
        return None
    if _other_tools(request, call) or _other_system(request, system):
        return None
    unknown = _missing([*said, *system, *call.new], request.known)
    return _Match(unknown, is_changed=_missing(request.new, call.known) > 0)


def _is_system(said: Passage, request: Prompt) -> bool:
    """Whether what a call says is a system message of the request.

    LiteLLM has the user say those, with a note before them, and 9router between tags.
    """
    lines = said.lines
    system = sum(map(request.system_lines.__contains__, lines))
    return 2 * system >= len(lines) and system == sum(map(request.known.__contains__, lines))


def _has_frame(request: Prompt, call: Prompt) -> bool:
    """Whether the call has at least half of the request's tools or of its system prompt."""
    lines = sum(len(each.lines) for each in request.system)
    return (
        2 * len(request.tools & call.tools) >= len(request.tools) > 0
        or 2 * _missing(request.system, call.known) <= lines > 0
    )


def _other_tools(request: Prompt, call: Prompt) -> bool:
    """Whether the call has tools that the request has not, and lacks most of those that it has."""
    common = request.tools & call.tools
    return common != call.tools and 2 * len(common) < max(len(request.tools), 1)


def _other_system(request: Prompt, system: list[Passage]) -> bool:
    """Whether over a quarter of a call's system lines, or the value of a label, is another.

    Of 906 calls that translators made none was so: they drop lines, but hardly add any.
    """
    if 4 * _missing(system, request.known) > sum(len(each.lines) for each in system):
        return True
    ours, theirs = _labels(request.system), _labels(system)
    return any(ours[label].isdisjoint(theirs[label]) for label in ours.keys() & theirs.keys())


def _labels(passages: list[Passage]) -> dict[int, set[int]]:
    labels: dict[int, set[int]] = {}
    for passage in passages:
        for label, lines in passage.labels.items():
            labels.setdefault(label, set()).update(lines)
    return labels


def _other_results(request: Prompt, call: Prompt) -> bool:
    """Whether over half of the lines of new tool results are not those of the other."""
    return any(
        2 * _missing(one.new, other.known) > sum(len(each.lines) for each in one.new)
        for one, other in ((request, call), (call, request))
    )


def _missing(passages: list[Passage], known: set[int]) -> int:
    return sum(passage.missing(known) for passage in passages)
