"""Find the waiting Claude Code request that a translator's upstream call is made for: its origin.

The problem: many translators send nothing upstream that shows the session. But while a translator
makes its call, the request that caused it still waits for its answer at the other listener. Several
requests wait at once, some with the same words; and some calls are no waiting request's: a retry
whose client has gone, or the call of a client that does not go through this proxy.

The idea: compare the call with each waiting request, and take the one that agrees best; two that
agree equally well are a tie. `agreement` decides by words. The ids of tool calls only narrow down
which requests are compared: most translators keep ids, and a random id belongs to one conversation
and its forks. Kimi numbers ids in each conversation (`functions.Bash:0`), so those say nothing.

What always holds:
- No origin without agreement of words, whatever the ids are.
- Requests whose client has gone stay candidates for `GONE_SECONDS`, as a translator may retry.
  Where they win, or tie with another session, there is no origin.
- Two sessions that agree equally well have no origin. Only where the key is per user, the user is
  found, if both sessions have the same known user and model.
- Only requests count that waited as the call came.
- All work has a budget, all memory a bound; beyond either the answer is "not found".
- One call is compared at a time, so the work in memory is that of one.

Not promised: a call of a client that this proxy does not see finds a request with the same words,
tools and system prompt. A retry does so, too, that comes when its request is no longer remembered:
after `GONE_SECONDS`, or after `MAX_GONE` others.
"""

import re
import time
from asyncio import Lock
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from prompt_cache_key.bridge.agreement import Agreement, Comparison
from prompt_cache_key.bridge.lines import Steps
from prompt_cache_key.bridge.prompt import MAX_BYTES, Prompt, newest_ids, read
from prompt_cache_key.identity import UNKNOWN_SESSION, Identity

MAX_WAITING = 128
MAX_GONE = 32
MAX_GONE_BYTES = 16 << 20
GONE_SECONDS = 600.0
"""Claude Code itself gives up after so long (the default of `API_TIMEOUT_MS`)."""

MAX_DELAY = 1.0
"""Seconds that a call waits for the comparisons of calls before it."""

STEP = 2000
"""Microseconds of work, as estimated, between two pauses."""

BUDGET = 250_000
"""Microseconds of work for one call. A request of 100 kB takes 1,000 to read, once."""

READ_BUDGET = 60_000
"""Microseconds of work to read one request."""

Pause = Callable[[], Awaitable[None]]
User = tuple[str, str]
_T = TypeVar("_T")

# An id that ends in 16 letters and digits, mixed, or in a UUID: `toolu_01A09q90qw90lq917835lq9A`,
# `call_0150d141f1f34f5da14f`. Not `functions.Bash:0`, `call_1`, `call_1732873459123`.
_RANDOM = re.compile(
    r"(?=[a-z]*\d(?:[a-z]*\d){2})(?=\d*[a-z])[a-z\d]{16,}\Z|[a-f\d]{8}(?:-[a-f\d]{4}){3}-[a-f\d]{12}\Z",
    re.ASCII | re.IGNORECASE,
)
_LETTERS = re.compile("[A-Za-z]*")


class Origin(NamedTuple):
    """The origin of a call: a waiting request, or only its user.

    `candidates` are the waiting requests that are equally likely: those with the fewest calls
    first, of these the newest. `request` is the first of them. It is None, and the session `?`, if
    they are of several sessions of one user.
    """

    request: Hashable | None
    identity: Identity
    user: User | None
    candidates: tuple[Hashable, ...]


class _OverBudgetError(Exception):
    """A call has taken as much work as it may."""


class _Pace:
    """Pauses between steps of work, if it has a `pause`, and ends the work at the budget."""

    def __init__(self, pause: Pause | None) -> None:
        self._pause = pause
        self._unpaused = 0
        self._left = BUDGET

    async def spend(self, work: int) -> None:
        """Count the microseconds that the next step may take."""
        self._left -= work
        if self._left < 0:
            raise _OverBudgetError
        if self._unpaused + work > STEP and self._unpaused:
            self._unpaused = 0
            if self._pause:
                await self._pause()
        self._unpaused += work

    async def run(self, steps: Steps[_T], budget: int = BUDGET) -> _T | None:
        """Return what the steps come to; None if they take more than a budget of their own."""
        while True:
            try:
                work = next(steps)
            except StopIteration as end:
                value: _T = end.value
                return value
            budget -= work
            if budget < 0:
                return None
            await self.spend(work)


@dataclass(eq=False)
class _Request:
    """A request that waits, or has gone; its body is read when a call is compared with it.

    `gone_at` and `size`, in bytes, are set when it goes.
    """

    name: Hashable
    identity: Identity
    endpoint: Hashable
    user: User | None
    model: str
    get_body: Callable[[], bytes]
    calls: int = 0
    gone_at: float = 0.0
    size: int = 0
    _ids: list[str] = field(default_factory=list)
    _prompt: Prompt | None = None
    _is_read: bool = False

    async def ids(self, pace: _Pace) -> list[str]:
        """Return the ids of its newest tool results, the newest first."""
        if not self._ids and 0 < len(body := self.get_body()) <= MAX_BYTES:
            await pace.spend(len(body) // 1000)
            self._ids = newest_ids(body)
        return self._ids

    async def prompt(self, pace: _Pace) -> Prompt | None:
        """Return what it says; None if that is too much, or not known yet."""
        if not self._is_read and (body := self.get_body()):
            self._prompt = await pace.run(read(body, is_call=False), READ_BUDGET)
            self._is_read = True
        return self._prompt


class WaitingRequests:
    """The Claude Code requests that wait for an answer, at most `MAX_WAITING`, the newest.

    `clock` returns seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: OrderedDict[Hashable, _Request] = OrderedDict()
        self._gone: list[_Request] = []
        self._lock = Lock()

    def add(  # noqa: PLR0913
        self,
        request: Hashable,
        identity: Identity,
        get_body: Callable[[], bytes],
        *,
        endpoint: Hashable = None,
        user: User | None = None,
        model: str = "",
    ) -> None:
        """Add a request that waits for its answer; its body is read if a call needs it.

        `get_body` returns b"" as long as the body is not known. `endpoint` is where the request
        goes, `user` account and device if they are known.
        """
        self._waiting[request] = _Request(request, identity, endpoint, user, model, get_body)
        if len(self._waiting) > MAX_WAITING:
            self.remove(next(iter(self._waiting)))

    def remove(self, request: Hashable, *, is_answered: bool = False) -> None:
        """Remove a request that waits no more.

        It is forgotten if it `is_answered` to the end and has had a call. Else a call for it may
        still come, which must not be taken for another's.
        """
        gone = self._waiting.pop(request, None)
        if not gone or (is_answered and gone.calls):
            return
        body = gone.get_body()
        if 0 < len(body) <= MAX_BYTES:
            # A copy without its name: that is a flow, whose response may have many megabytes.
            gone = replace(gone, name=None, get_body=lambda: body)
            gone.gone_at, gone.size = self._clock(), len(body)
            self._gone.append(gone)
        del self._gone[:-MAX_GONE]
        while sum(each.size for each in self._gone) > MAX_GONE_BYTES:
            del self._gone[0]

    async def find(
        self,
        call: bytes,
        pause: Pause | None = None,
        *,
        session: str = "",
        endpoint: Hashable = "",
        is_user_scope: bool = False,
    ) -> Origin | None:
        """Return the origin of a call; None in doubt.

        Only requests to another `endpoint` count. `pause` is awaited after each few milliseconds of
        work; without it nothing is ever waited for. With `is_user_scope` the key is per user, so it
        is enough to know the user. A call that shows its `session` is one of that session's
        requests, whatever its words are.

        ==================================================  ======================================
        the requests that agree best                        result
        ==================================================  ======================================
        none                                                none; the newest of the session's that
                                                            has the fewest calls, if it is shown
        all of one session, at least one waits              the newest that has the fewest calls
        several sessions, one known user and model,         the user, if the key is per user
        at least one waits
        several sessions otherwise                          none: any could be the origin
        only requests whose client has gone                 none: the call is a retry
        ==================================================  ======================================
        """
        newest_first = [
            each for each in reversed(self._waiting.values()) if each.endpoint != endpoint
        ]
        requests = [each for each in newest_first if session in ("", each.identity.session)]
        if not requests:
            return None
        if session:
            is_one = len(requests) == 1
            best = requests if is_one else await self._best(requests, call, pause) or requests
        else:
            start = self._clock() - GONE_SECONDS
            self._gone = [each for each in self._gone if each.gone_at > start]
            gone = [each for each in self._gone if each.endpoint != endpoint]
            best = await self._best([*requests, *gone], call, pause)
        waiting = [each for each in best if each in requests]
        return _origin(best, waiting, is_user_scope=is_user_scope)

    async def _best(
        self, requests: list[_Request], call: bytes, pause: Pause | None
    ) -> list[_Request]:
        """Return the requests that agree best with a call, all equally likely."""
        if not pause and self._lock.locked():
            return []
        latest = self._clock() + MAX_DELAY
        async with self._lock:
            if self._clock() > latest:
                return []
            try:
                return await _compared(requests, call, _Pace(pause))
            except _OverBudgetError:
                return []


def _origin(best: list[_Request], waiting: list[_Request], *, is_user_scope: bool) -> Origin | None:
    """Return the origin of a call that all these may be of, `waiting` being those that wait."""
    if not waiting:
        return None
    waiting.sort(key=lambda each: each.calls)
    first = waiting[0]
    is_one = len({each.identity.session for each in best}) == 1
    owners = {(each.user, each.model) for each in best}
    if not is_one and not (is_user_scope and len(owners) == 1 and first.user):
        return None
    first.calls += 1
    candidates = tuple(each.name for each in waiting)
    if is_one:
        return Origin(first.name, first.identity, first.user, candidates)
    agents = {each.identity.agent for each in best}
    agent = first.identity.agent if len(agents) == 1 else UNKNOWN_SESSION
    return Origin(
        None, Identity(UNKNOWN_SESSION, agent, first.identity.source), first.user, candidates
    )


async def _compared(requests: list[_Request], content: bytes, pace: _Pace) -> list[_Request]:
    """Return the requests that agree best with the content of a call."""
    call = await pace.run(read(content, is_call=True))
    if not call:
        return []
    ids = newest_ids(content)[: call.newest_calls]
    same, other = await _by_ids(requests, ids, pace)
    has_same_ids = bool(same) and all(map(_is_random, ids))
    comparison = Comparison(call)
    best: list[_Request] = []
    least: Agreement | None = None
    for each in same if has_same_ids else same + other:
        if not (request := await each.prompt(pace)):
            continue
        await pace.spend(comparison.work(request))
        found = comparison.agreement(request, has_same_ids=has_same_ids)
        if found is None or (least and found > least):
            continue
        if found != least:
            best, least = [], found
        best.append(each)
    return best


async def _by_ids(
    requests: list[_Request], ids: list[str], pace: _Pace
) -> tuple[list[_Request], list[_Request]]:
    """Return the requests whose newest tool calls have these ids, and those that may have others.

    A translator may write ids of its own or none. Its own have another form than the request's:
    other ids of the same form are another request's.
    """
    if not ids:
        return [], requests
    same, other = [], []
    forms = set(map(_form, ids))
    for each in requests:
        its_ids = await each.ids(pace)
        if set(ids) == set(its_ids[: len(ids)]):
            same.append(each)
        elif its_ids and _form(its_ids[0]) not in forms:
            other.append(each)
    return same, other


def _form(call_id: str) -> tuple[str, int]:
    """Return what ids of one maker have in common: first letters and, if random, the length."""
    letters = _LETTERS.match(call_id)
    return letters[0] if letters else "", len(call_id) if _is_random(call_id) else 0


def _is_random(call_id: str) -> bool:
    """Whether an id is random, so that no other conversation has it but a fork."""
    return bool(_RANDOM.search(call_id))
