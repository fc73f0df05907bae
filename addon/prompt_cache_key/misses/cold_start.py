"""Say why a new conversation read nothing of what another one had in the cache.

Conversations of one user and project have tools and most of the system prompt in common: 79 % of
the first 12,400 tokens, measured with Claude Code 2.1.332. That share is read only if the key, the
routing and everything in front of it are the same in both.

Only what this side can see and a user can change is named. Where the upstream routes each session
by a value of its own, or a shared key would overflow, a new conversation reads nothing by design.
Where all is the same, the upstream may keep whole prompts only.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.causes import (
    SHARED_KEY,
    Cause,
    find_cause,
    is_system,
    words,
)
from prompt_cache_key.misses.comparison import prompt_of
from prompt_cache_key.misses.judge import (
    ROUNDING,
    is_known,
    is_missed,
    key_changed,
    miss_of,
    retention,
    routing_changed,
)
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.misses.prefix import (
    FRONT,
    TURNS,
    Budget,
    NotCompared,
    chars_in,
    compare,
    elements,
    spelled,
)

_ALIKE = 0.5  # of the characters of tools and system prompt; those of two projects share over 80 %


class _Alike(NamedTuple):
    """Another session's prompt that begins like a new one, as far as both can have in common."""

    other: FinishedRequest
    before: dict[str, Any]
    old: dict[str, Any]
    new: dict[str, Any]
    expected: int


def cold_start(others: Iterable[FinishedRequest], request: FinishedRequest) -> Miss | None:
    """Say why the first request of a session read nothing of what another session has cached.

    `others` are requests of one user and project to one endpoint, model and agent, the latest
    first. What is expected are the tokens of tools and system prompt, by their share of the
    characters. None if no prompt of `others` begins alike, or it cannot be determined.
    """
    budget = Budget()
    try:
        compared = (_compared(other, request, budget) for other in others)
        alike = next(filter(None, compared), None)
        cause = _cause(alike, request, budget) if alike else None
    except (NotCompared, RecursionError):
        return None
    return miss_of(alike.expected, request, cause) if alike and cause else None


def may_be_cold(request: FinishedRequest) -> bool:
    """Return, from numbers alone, whether `cold_start` may have something to say."""
    usage = request.usage
    return is_known(request) and bool(usage and not usage.cached and usage.input > ROUNDING)


def _compared(other: FinishedRequest, request: FinishedRequest, budget: Budget) -> _Alike | None:
    before, after = prompt_of(other, request), prompt_of(request, request)
    if before is None or after is None or not request.usage or not other.usage:
        return None
    old, new = _front(before), _front(after)
    expected = min(
        int(each.usage.input * _chars(front, budget) / (_chars(body, budget) or 1))
        for each, front, body in ((other, old, before), (request, new, after))
        if each.usage
    )
    if not is_missed(expected, request) or not _begins_alike(old, new, budget):
        return None
    return _Alike(other, before, old, new, expected)


def _cause(alike: _Alike, request: FinishedRequest, budget: Budget) -> Cause | None:
    other, upstream = alike.other, request.upstream
    if request.time - other.time > retention(alike.before, upstream):
        return None
    if other.key != request.key:
        by_session = any(header.scope == "session" for header in upstream.headers)
        if upstream.is_limited or by_session:
            return None
        return key_changed(other, request)._replace(remedy=SHARED_KEY)
    if routing_changed(other, request):
        return None
    return find_cause(alike.old, alike.new, compare(alike.old, alike.new, budget).end, budget)


def _front(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body with the messages cut off: what conversations can have in common."""
    leading = {name: [*takewhile(is_system, elements(name, body.get(name)))] for name in TURNS}
    return body | leading


def _chars(body: dict[str, Any], budget: Budget) -> int:
    return sum(chars_in(name, body.get(name), budget) for name in (*FRONT, *TURNS))


def _begins_alike(old: dict[str, Any], new: dict[str, Any], budget: Budget) -> bool:
    """Return whether most of the lines of a front stand in another one, in whatever order."""
    known = set(_lines(old, budget))
    lines = list(_lines(new, budget))
    alike = sum(len(line) for line in lines if line in known)
    return alike > _ALIKE * sum(map(len, lines))


def _lines(front: dict[str, Any], budget: Budget) -> Iterator[str]:
    """Yield each tool, and each line of the system prompt."""
    for tool in elements("tools", front.get("tools")):
        yield spelled(tool, budget)
    for name in ("system", "instructions", *TURNS):
        for part in elements(name, front.get(name)):
            text = words(part)
            budget.spend(text.count("\n"))
            yield from text.split("\n")
