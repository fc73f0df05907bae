"""Find the earlier request of a conversation that shares most with a later one.

Bodies are bounded before they are parsed, since a parser written in C holds the event loop, in
whatever thread it runs: in bytes, in objects and lists, and in values.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.causes import Cause, as_cached_by_anthropic, find_cause
from prompt_cache_key.misses.prefix import Budget, Shared, chars_of, compare

MAX_SIZE = 4 << 20
"""Bytes of a body that is compared."""

MAX_OPENINGS = 100_000
MAX_MARKS = 250_000
"""Opening brackets, and those and commas, of a body that is compared: the longest step on hostile
bodies within these limits takes 65 ms, one judgement 0.6 s and 115 MB. Claude Code's bodies have a
mark every 55 bytes; code in texts has one every 12 bytes, one in four of them a bracket."""

MAX_COMPARED = 16 << 20
"""Bytes of earlier bodies that one request is compared with."""

_MAX_DIGITS = 20


class Comparison(NamedTuple):
    """The earlier request that a prompt shares most with, both bodies parsed."""

    earlier: FinishedRequest
    before: dict[str, Any]
    after: dict[str, Any]
    shared: Shared
    budget: Budget

    def held(self, before: int, after: int) -> float:
        """Estimate up to which token the prompts are the same, given how many they have in all.

        Of two estimates the lower: images have tokens, but no characters.
        """
        chars = self.shared.chars(self.budget)
        both = (self.before, before), (self.after, after)
        return min(chars * size / (chars_of(body, self.budget) or 1) for body, size in both)

    def find_cause(self) -> Cause | None:
        """Name what keeps the prompt from being read as far as the earlier one; None: nothing."""
        return find_cause(self.before, self.after, self.shared.end, self.budget)


def nearest(
    earlier: Iterable[FinishedRequest], request: FinishedRequest, budget: Budget | None = None
) -> Comparison | None:
    """Find the earlier request that a prompt shares most with; None if none can be parsed.

    Of several alike it is the last. NotCompared if the budget does not do.
    """
    budget = budget or Budget()
    best: Comparison | None = None
    if (after := prompt_of(request, request)) is None:
        return None
    size = 0
    # A longer prompt can share more, so once one held, no shorter one has to be compared.
    for each in sorted(earlier, key=lambda each: (len(each.body), each.time), reverse=True):
        size += len(each.body)
        if size > MAX_COMPARED:
            break
        if (before := prompt_of(each, request)) is None:
            continue
        shared = compare(before, after, budget)
        if best is None or shared.depth > best.shared.depth:
            best = Comparison(each, before, after, shared, budget)
        if not shared.end:
            break
    return best


def parsed(body: bytes) -> dict[str, Any] | None:
    """Return the members of a body; None if it is no JSON object, or too large to compare."""
    openings = body.count(b"{") + body.count(b"[")
    if len(body) > MAX_SIZE or openings > MAX_OPENINGS:
        return None
    if openings + body.count(b",") > MAX_MARKS:
        return None
    try:
        value = _json.decode(body.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def prompt_of(of: FinishedRequest, judged: FinishedRequest) -> dict[str, Any] | None:
    """Return the body of a request as the upstream of the judged one caches it."""
    body = parsed(of.body)
    return as_cached_by_anthropic(body) if body and judged.upstream.is_anthropic else body


def _number(digits: str) -> int | float:
    # The text of a long int takes a time that grows with the square of its length.
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _float(digits: str) -> float:
    # In Python, so that other threads get a turn between two numbers.
    return float(digits)


_json = json.JSONDecoder(parse_int=_number, parse_float=_float)
