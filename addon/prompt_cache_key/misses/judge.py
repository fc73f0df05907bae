"""Judge what an upstream should have read of a prompt from its cache and, where it read less, why.

The problem. A response reports how many tokens were cached, but not how many should have been. A
first prompt, new text at the end and a changed beginning look alike: few cached tokens. Only the
last one is a miss.

The idea. The conversation's earlier prompts are the yardstick. Of those the most similar one is
taken (`comparison.nearest`). If nothing of that had been edited, this prompt would share all of it,
and the upstream has counted both: so `min(earlier input, this input)` are expected. No tokenizer is
needed. Missed tokens are expected minus cached, where that is over 2,048 and over a
tenth of expected. Only then are the bodies compared, in a thread, for the cause.

Invariants:

- Only requests whose answer had begun when this one was sent are a yardstick: no prompt is in the
  cache before. Of requests at once, such as a retry, none is a yardstick for the others.
- Without cached tokens in the usage, or with an undecided prompt count, there is no judgement.
- A session of `?` is several sessions, so it is never judged.
- The prompt has to continue the earlier one (`_continues`): subagents and helpers of old clients
  share a conversation with the main agent, and begin with a prompt of their own.
- What is not comparable (too large, too many values, nested too deep, no JSON) is no miss.

Not promised: that the cause is the only one. Where a prompt changed in several places the first in
the prompt is named, and a cause of which this side sees nothing is `server-side`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from prompt_cache_key.body import NAME
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.identity import UNKNOWN_SESSION
from prompt_cache_key.misses.causes import (
    DIAGNOSED,
    EXPIRED,
    IN_TURNS,
    KEY,
    KEY_FORGOTTEN,
    KEY_OF_CLIENT,
    LONGER_CACHE,
    REMOVED,
    ROUTING,
    SERVER_SIDE,
    TOO_MANY,
    Cause,
    cause_of,
    is_system,
    system_added,
    turns,
)
from prompt_cache_key.misses.comparison import Comparison, nearest
from prompt_cache_key.misses.excerpt import escape
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.misses.prefix import NotCompared, differ, elements, is_remembered
from prompt_cache_key.upstreams import Upstream

ROUNDING = 2048
"""Tokens by which upstreams round down: GPT-5.5 has a breakpoint every 2,048."""

# https://platform.claude.com/docs/en/build-with-claude/prompt-caching
_FIVE_MINUTES = 300
_HOUR = 3600

_FRONT_SLACK = 1.25  # tools and texts have not quite the same characters to a token
_LONGEST = 256


def may_have_missed(earlier: Iterable[FinishedRequest], request: FinishedRequest) -> bool:
    """Return, from numbers alone, whether `judge` has to compare the bodies."""
    if request.session == UNKNOWN_SESSION or not is_known(request):
        return False
    return is_missed(max((_expected(each, request) for each in earlier), default=0), request)


def judge(
    earlier: Iterable[FinishedRequest], request: FinishedRequest, *, is_busy: bool = False
) -> Miss | None:
    """Judge a request by the earlier ones of its conversation.

    None if nothing was missed or it cannot be determined. `is_busy`: the key had too many requests
    in this minute.
    """
    earlier = [each for each in earlier if _expected(each, request)]
    if not may_have_missed(earlier, request):
        return None
    try:
        return _judge(earlier, request, is_busy=is_busy)
    except (NotCompared, RecursionError):
        return None


# The first case that applies, in the order of the causes in docs/log.md.
#
# case                                            cause
# ----------------------------------------------- --------------------------------------------------
# the upstream gives a diagnosis                  its words, with what was found by comparing
# the key is another one than the earlier's       prompt_cache_key changed; the remedy by how
# the prompt changed where much stands behind     see causes.find_cause
# the prompt goes on; only what stands before     total_tokens countdown, or system messages moved
# system messages was read, now and before        to the front (countdown.jsonl)
# idle for longer than the retention              expired
# a routing header has another value              routing header changed
# over 15 requests with the key in this minute,   over 15 requests a minute
# where that is a documented limit (OpenAI)
# else                                            server-side
def _judge(
    earlier: list[FinishedRequest], request: FinishedRequest, *, is_busy: bool
) -> Miss | None:
    found = nearest(earlier, request)
    if not found:
        return None
    expected, cause = _expected(found.earlier, request), found.find_cause()
    if not is_missed(expected, request) or not _continues(found, cause):
        return None
    if cause and not _costs(found, cause, expected, request):
        cause = None
    if found.earlier.key != request.key:
        cause = key_changed(found.earlier, request)
    cause = cause or _unchanged(found, earlier, request, is_busy=is_busy)
    if request.diagnosis:
        said = escape(request.diagnosis[:_LONGEST])
        remedy = cause.remedy if cause.path else DIAGNOSED
        cause = cause._replace(kind=said, words=said, remedy=remedy)
    return miss_of(expected, request, cause)


def _unchanged(
    found: Comparison, earlier: list[FinishedRequest], request: FinishedRequest, *, is_busy: bool
) -> Cause:
    """Return the cause where the prompt begins with the earlier one."""
    if kind := _moved_behind(found, earlier, request):
        return cause_of(kind)
    idle = request.time - found.earlier.time
    kept_for = retention(found.before, request.upstream)
    if idle > kept_for:
        cause = cause_of(EXPIRED, f"idle for {_span(idle)}")
        if request.upstream.is_anthropic and kept_for < _HOUR:
            cause = cause._replace(remedy=LONGER_CACHE[request.agent == "main"])
        return cause
    if changed := routing_changed(found.earlier, request):
        return changed
    return cause_of(TOO_MANY) if is_busy else cause_of(SERVER_SIDE, "evicted or rerouted")


def key_changed(earlier: FinishedRequest, request: FinishedRequest) -> Cause:
    """Return the cause of two different keys; the remedy depends on who ended the first."""
    cause = cause_of(KEY)._replace(
        path=NAME, before=escape(earlier.key[:_LONGEST]), after=escape(request.key[:_LONGEST])
    )
    if request.key_state == "kept":
        return cause._replace(remedy=KEY_OF_CLIENT)
    if earlier.key_state == "forgotten":
        return cause._replace(remedy=KEY_FORGOTTEN)
    return cause


def routing_changed(earlier: FinishedRequest, request: FinishedRequest) -> Cause | None:
    """Return the cause of two different values of a routing header; None without one.

    A header that was sent with one of the requests only counts too: the other was routed otherwise.
    """
    old, new = dict(earlier.routing), dict(request.routing)
    for name in sorted(old | new):
        if old.get(name) != new.get(name):
            before, after = (escape(each.get(name, "")[:_LONGEST]) for each in (old, new))
            return cause_of(ROUTING)._replace(path=escape(name), before=before, after=after)
    return None


def miss_of(expected: int, request: FinishedRequest, cause: Cause) -> Miss:
    """Return the miss of a request with its cause."""
    return Miss(
        expected=expected,
        cached=_cached(request) or 0,
        cause=cause.words,
        kind=cause.kind,
        path=cause.path,
        at=cause.at,
        before=cause.before,
        after=cause.after,
        remedy=cause.remedy,
    )


def _cached(request: FinishedRequest) -> int | None:
    return request.usage.cached if request.usage else None


def is_known(request: FinishedRequest) -> bool:
    """Return whether a request reports cached tokens, and how many prompt tokens it had."""
    return _cached(request) is not None and bool(request.usage and request.usage.is_certain)


def precedes(earlier: FinishedRequest, request: FinishedRequest) -> bool:
    """Return whether a prompt can have been in the cache when a request was sent."""
    return max(earlier.time, earlier.answered) <= request.time


def _expected(earlier: FinishedRequest, request: FinishedRequest) -> int:
    """Return how many tokens two prompts can have in common; 0 if that cannot be known."""
    if not earlier.usage or not earlier.usage.is_certain or not precedes(earlier, request):
        return 0
    return min(earlier.usage.input, request.usage.input) if request.usage else 0


def is_missed(expected: int, request: FinishedRequest) -> bool:
    """Return whether a request read much less than expected from the cache."""
    return _is_much(expected - (_cached(request) or 0), expected)


def _is_much(tokens: float, expected: int) -> bool:
    return tokens > max(ROUNDING, expected / 10)


def _costs(found: Comparison, cause: Cause, expected: int, request: FinishedRequest) -> bool:
    """Return whether much stands behind the place where a prompt changed, or that is unknown.

    A last message in other words does not explain why all before it was not read.
    """
    end, usage = found.shared.end, found.earlier.usage
    is_known = end and cause.path == end.path and cause.kind != REMOVED
    if not is_known or is_remembered(found.after) or not usage or not request.usage:
        return True
    return _is_much(expected - found.held(usage.input, request.usage.input), expected)


def _continues(found: Comparison, cause: Cause | None) -> bool:
    """Return whether a prompt goes on with the conversation of the earlier one.

    It does not if nothing in it is answered yet: so begin the subagents and helpers of old clients,
    under their session's name. If the first message is another one, it does only if the last one
    of the earlier prompt is still there, or what the user wrote in the first is the same.
    """
    if is_remembered(found.after):
        return True
    before, after = (
        [turn for turn in turns(body) if not is_system(turn)]
        for body in (found.before, found.after)
    )
    if all(isinstance(turn, dict) and turn.get("role") == "user" for turn in after):
        return False

    def is_same(old: Any, new: Any) -> bool:
        return not differ(("messages", 0), old, new, found.budget)

    if is_same(before[:1], after[:1]):
        return True
    is_front_same = not found.shared.end or not cause or cause.kind in IN_TURNS
    is_there = any(is_same(before[-1:], [turn]) for turn in after[1:])
    return is_front_same and (is_there or is_same(_end(before), _end(after)))


def _end(turns: list[Any]) -> Any:
    """Return the last block of the first turn: behind reminders stands what the user wrote."""
    content = turns[0].get("content") if turns and isinstance(turns[0], dict) else None
    return content[-1] if isinstance(content, list) and content else content


def _moved_behind(
    found: Comparison, earlier: Iterable[FinishedRequest], request: FinishedRequest
) -> str:
    """Name what a translator or engine behind here seems to do to system messages; "" if nothing.

    It moves them if only what stands before them was read, now and earlier in this conversation.
    Anthropic itself leaves them in place.
    """
    if found.shared.end or request.upstream.is_anthropic or not request.usage:
        return ""
    kind, share = system_added(found.before, found.after, found.budget)
    most = _FRONT_SLACK * share * request.usage.input
    read = [_cached(each) or 0 for each in earlier]
    return kind if 0 < (_cached(request) or 0) <= most and max(read, default=0) <= most else ""


def retention(before: dict[str, Any], upstream: Upstream) -> float:
    """Return for how many seconds an upstream keeps the prompt of a body without use.

    For Anthropic the body's own `cache_control` says so: an hour if all the markers say so.
    """
    if not upstream.is_anthropic:
        return upstream.retention
    lives = [marker.get("ttl") for marker in _markers(before)]
    return _HOUR if lives and all(life == "1h" for life in lives) else _FIVE_MINUTES


def _markers(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each `cache_control` of a body in Anthropic's dialect."""
    parts = [body]
    for name in ("tools", "system", "messages"):
        parts += elements(name, body.get(name))
    for turn in turns(body):
        content = turn.get("content") if isinstance(turn, dict) else None
        parts += content if isinstance(content, list) else ()
    for part in parts:
        marker = part.get("cache_control") if isinstance(part, dict) else None
        if isinstance(marker, dict):
            yield marker


def _span(seconds: float) -> str:
    """Return a time as `90s`, `12m`, `5h` or `3d`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f}{name}"
    return f"{int(seconds)}s"
