"""What an upstream should have read of a prompt from its cache and, where it read less, why."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from prompt_cache_key.body import NAME, Body
from prompt_cache_key.misses.causes import (
    IN_TURNS,
    KEY,
    OWN,
    REMEDIES,
    REMOVED,
    TOO_MANY,
    Break,
    find_break,
    is_system,
    system_added,
    turns,
)
from prompt_cache_key.misses.excerpt import escape
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.misses.prefix import Shared, compare, differ, is_remembered
from prompt_cache_key.usage.reader import Usage

MAX_SIZE = 8 << 20
"""Bytes of a body from which on it is not compared."""

ROUNDING = 2048
"""Tokens by which upstreams round down: GPT-5.5 has a breakpoint every 2,048."""

_FRONT_SLACK = 1.25  # tools and texts have not quite the same characters to a token
_LONGEST = 256


class Sent(NamedTuple):
    """One request of a identity."""

    time: float
    """When it was sent, in seconds of any clock."""
    key: str
    """The `prompt_cache_key` it had; empty without one."""
    content: bytes
    """The body as it was sent."""
    usage: Usage | None
    """What its response reported."""


class Match(NamedTuple):
    """The earlier request that a prompt shares most with, both bodies parsed."""

    sent: Sent
    before: dict[str, Any]
    after: dict[str, Any]
    shared: Shared

    @property
    def held(self) -> float:
        """Up to where the prompts are the same: the share of the earlier one, from 0 to 1."""
        return self.shared.chars / (compare(self.before, self.before).chars or 1)

    def find_break(self) -> Break | None:
        """Say what keeps the prompt from being read as far as the earlier one; None: nothing."""
        return find_break(self.before, self.after, self.shared.end)


def nearest(earlier: Iterable[Sent], sent: Sent) -> Match | None:
    """Find the earlier request that a prompt shares most with; None if none can be read.

    Of several alike it is the last. Bodies of 8 MB and more are not looked at.
    """
    best: Match | None = None
    if (after := _parsed(sent)) is None:
        return None
    # A longer prompt can share more, so once one held, no shorter one has to be looked at.
    for each in sorted(earlier, key=lambda each: (len(each.content), each.time), reverse=True):
        if (before := _parsed(each)) is None:
            continue
        shared = compare(before, after)
        if best is None or shared.depth > best.shared.depth:
            best = Match(each, before, after, shared)
        if not shared.end:
            break
    return best


def may_have_lost(earlier: Iterable[Sent], sent: Sent) -> bool:
    """Tell, from numbers alone, whether `judge` has to look at the bodies."""
    if not sent.usage or not _is_lost(sent.usage.input, sent):
        return False
    return _is_lost(max((_most(each, sent) for each in earlier), default=0), sent)


def judge(
    earlier: Iterable[Sent], sent: Sent, keep: float, diagnosis: str = "", *, is_busy: bool = False
) -> Miss | None:
    """Judge a request by what its identity sent before; None if it lost nothing, or who knows.

    `keep` is for how many seconds the upstream keeps a prefix; `diagnosis` what it says itself of
    its miss; `is_busy` that the key had too many requests in this minute.
    """
    earlier = [each for each in earlier if _most(each, sent)]
    if not may_have_lost(earlier, sent) or not (match := nearest(earlier, sent)):
        return None
    expected, broke = _most(match.sent, sent), match.find_break()
    if not _is_lost(expected, sent) or not _continues(match, broke):
        return None
    if broke and not _costs(match, broke, expected):
        broke = None
    key, pause = match.sent.key, sent.time - match.sent.time
    if key != sent.key:
        broke = Break(KEY, NAME, 0, escape(key[:_LONGEST]), escape(sent.key[:_LONGEST]))
    elif not broke and pause > keep:
        broke = _nowhere(f"a pause of {_span(pause)}")
    elif not broke:
        broke = _nowhere(TOO_MANY if is_busy else _behind(match, earlier, sent) or OWN)
    if diagnosis:
        broke = broke._replace(cause=escape(diagnosis[:_LONGEST]))
    return Miss(expected, _cached(sent) or 0, *broke, REMEDIES.get(broke.cause, ""))


def _parsed(sent: Sent) -> dict[str, Any] | None:
    try:
        return Body(sent.content).whole if len(sent.content) <= MAX_SIZE else None
    except ValueError:
        return None


def _cached(sent: Sent) -> int | None:
    return sent.usage.cached if sent.usage else None


def _most(earlier: Sent, sent: Sent) -> int:
    """Return how many tokens two prompts can have in common; 0 if that can't be known."""
    if not earlier.usage or not sent.usage or earlier.time > sent.time:
        return 0
    return min(earlier.usage.input, sent.usage.input)


def _is_lost(expected: int, sent: Sent) -> bool:
    cached = _cached(sent)
    return cached is not None and _is_much(expected - cached, expected)


def _is_much(tokens: float, expected: int) -> bool:
    return tokens > max(ROUNDING, expected / 10)


def _costs(match: Match, broke: Break, expected: int) -> bool:
    """Whether much stands behind the place where a prompt broke, or nobody knows how much.

    A last message in other words does not explain why all before it was not read.
    """
    end, usage = match.shared.end, match.sent.usage
    is_known = end and broke.path == end.path and broke.cause != REMOVED
    if not is_known or is_remembered(match.after) or not usage:
        return True
    return _is_much(expected - match.held * usage.input, expected)


def _continues(match: Match, broke: Break | None) -> bool:
    """Whether a prompt goes on with the conversation of the earlier one.

    Not if nothing in it is answered yet: so begin the subagents and helpers of old clients, under
    their session's name. Nor if both what stands in front and the first message are others.
    """
    if is_remembered(match.after):
        return True
    before, after = (
        [turn for turn in turns(body) if not is_system(turn)]
        for body in (match.before, match.after)
    )
    if all(isinstance(turn, dict) and turn.get("role") == "user" for turn in after):
        return False
    is_front_same = not match.shared.end or not broke or broke.cause in IN_TURNS
    return is_front_same or not differ(("messages", 0), before[:1], after[:1])


def _behind(match: Match, earlier: Iterable[Sent], sent: Sent) -> str:
    """Name what a translator or engine behind here seems to do to system messages; "" if nothing.

    It does if only what stands before them was read, and never more of this conversation.
    """
    if match.shared.end:
        return ""
    cause, share = system_added(match.before, match.after)
    most = _FRONT_SLACK * share * sent.usage.input if sent.usage else 0
    read = [_cached(each) or 0 for each in earlier]
    return cause if 0 < (_cached(sent) or 0) <= most and max(read, default=0) <= most else ""


def _nowhere(cause: str) -> Break:
    return Break(cause, "", 0, "", "")


def _span(seconds: float) -> str:
    """Return a time as `90s`, `12m`, `5h` or `3d`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f}{name}"
    return f"{int(seconds)}s"
