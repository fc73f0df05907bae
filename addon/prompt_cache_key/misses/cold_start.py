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
from typing import Any

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
    TURNS,
    Budget,
    NotCompared,
    chars_of,
    compare,
    elements,
    spelled,
)

_ALIKE = 0.5  # of the characters of tools and system prompt; those of two projects share over 80 %


def cold_start(others: Iterable[FinishedRequest], request: FinishedRequest) -> Miss | None:
    """Say why the first request of a session read nothing of what another session has cached.

    `others` are requests of one user and project to one endpoint, model and agent, the latest
    first. What is expected are the tokens of tools and system prompt, by their share of the
    characters. None if no prompt of `others` begins alike, or it cannot be determined, as where
    nothing differs from one of them.
    """
    budget, first = Budget(), None
    try:
        for other in others:
            old, new, expected = _fronts(other, request, budget)
            is_kept = request.time - other.time <= retention(old, request.upstream)
            if is_kept and is_missed(expected, request) and _begins_alike(old, new, budget):
                cause = _cause(other, request, old, new, budget)
                if not cause:
                    return None
                first = first or miss_of(expected, request, cause)
    except (NotCompared, RecursionError):
        return None
    return first


def may_be_cold(request: FinishedRequest) -> bool:
    """Return, from numbers alone, whether `cold_start` may have something to say."""
    usage = request.usage
    return is_known(request) and bool(usage and not usage.cached and usage.input > ROUNDING)


def _fronts(
    other: FinishedRequest, request: FinishedRequest, budget: Budget
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return what two prompts begin with, and how many tokens the shorter beginning has."""
    fronts, tokens = [], []
    for each in (other, request):
        body = prompt_of(each, request) or {}
        fronts.append(_front(body))
        share = chars_of(fronts[-1], budget) / (chars_of(body, budget) or 1)
        tokens.append(int(share * each.usage.input) if each.usage else 0)
    return fronts[0], fronts[1], min(tokens)


def _cause(
    other: FinishedRequest,
    request: FinishedRequest,
    old: dict[str, Any],
    new: dict[str, Any],
    budget: Budget,
) -> Cause | None:
    upstream = request.upstream
    if other.key != request.key:
        by_session = any(header.scope == "session" for header in upstream.headers)
        if upstream.is_limited or by_session:
            return None
        return key_changed(other, request)._replace(remedy=SHARED_KEY)
    if routing_changed(other, request):
        return None
    return find_cause(old, new, compare(old, new, budget).end, budget)


def _front(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body with the messages cut off: what conversations can have in common."""
    leading = {name: [*takewhile(is_system, elements(name, body.get(name)))] for name in TURNS}
    return body | leading


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
