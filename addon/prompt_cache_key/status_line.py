"""One short line for Claude Code's status line: what its session read from the cache.

The numbers are the proxy's, from the JSON of its live page; where no proxy answers, Claude Code's
own, which it hands to the command on standard input (`prompt_cache`, since 2.1.251). These are
about the main conversation, and what its gateway reports.
"""

import json
from collections.abc import Mapping
from typing import Any

from prompt_cache_key.screen_text import cut, thousands, width
from prompt_cache_key.stats.sums import dollars, percent

_COLUMNS = 60
_MOST = 1e12


def session_of(given: bytes) -> str:
    """Return the session of the JSON that Claude Code hands to status-line commands, or ""."""
    session = _read(given).get("session_id")
    return session if isinstance(session, str) else ""


def status(answer: bytes, given: bytes = b"") -> str:
    """Return the line for a session; "" if nothing is known.

    `answer` is the live page's JSON, of that session alone or, on a terminal, of all; empty without
    a proxy. `given` is what Claude Code hands to the command: both are shown where both fit.
    """
    own = _members(_read(given).get("prompt_cache"))
    return _of_proxy(_read(answer), own) or _of_claude_code(own)


def _of_proxy(facts: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return the line for a report as JSON.

    `cache 96%` is the last request's hit rate, `session 91%` that of all but the first requests of
    conversations, which have nothing to read.
    """
    sums = _members(facts.get("sums"))
    if not _number(sums.get("requests")):
        return ""
    sessions = [*map(_members, _list(facts.get("sessions")))]
    requests = [_members(each) for session in sessions for each in _list(session.get("requests"))]
    requests.sort(key=lambda request: _number(request.get("time")) or 0)
    usages = [_members(request.get("usage")) for request in requests]
    rates = [_rate(usage.get("cached"), usage.get("input")) for usage in usages]
    known = [rate for rate in rates if rate is not None]
    before = [f"cache {percent(known[-1] if known else None)}"]
    first, measured = _number(sums.get("first")), _number(sums.get("measured"))
    if len(known) > 1 and first is not None and measured and measured > first:
        of = "session" if len(sessions) == 1 else "all"
        before.append(f"{of} {percent(_rate(sums.get('cached'), measured - first))}")
    saved = _number(sums.get("saved"), -_MOST)
    after = [f"{dollars(saved)} saved"] if saved else []
    misses = [_members(request.get("miss")) for request in requests if request.get("miss")]
    last_cause = misses[-1].get("kind") if misses else ""
    own_rate = _rate(own.get("hit_ratio"), 1)
    optional = "" if own_rate is None else f"Claude Code: {percent(own_rate)}"
    return _line(before, _misses(sums, "missed", last_cause), after, optional)


def _of_claude_code(own: Mapping[str, Any]) -> str:
    rate = _rate(own.get("hit_ratio"), 1)
    if not _number(own.get("requests")) or rate is None:
        return ""
    causes = _list(_members(own.get("last_miss_cause")).get("causes"))
    last_cause = str(causes[0]).replace("_", " ") if causes else ""
    misses = _misses(own, "miss_recache_tokens", last_cause)
    return _line([f"Claude Code: cache {percent(rate)}"], misses, [])


def _misses(sums: Mapping[str, Any], name: str, last_cause: Any) -> tuple[str, str]:
    """Return how many misses there were and the last one's cause, with and without tokens."""
    if not (count := _number(sums.get("misses"))):
        return "", ""
    words = f"{int(count)} {'miss' if count == 1 else 'misses'}"
    cause = cut(str(last_cause), _COLUMNS) if last_cause else ""
    cause = f"{', last: ' if count > 1 else ': '}{cause}" if cause else ""
    tokens = _number(sums.get(name))
    return f"{words} of {thousands(int(tokens or 0))}{cause}", f"{words}{cause}"


def _line(before: list[str], misses: tuple[str, str], after: list[str], optional: str = "") -> str:
    """Join the parts; where they take too many columns, what matters least is left out or cut."""
    long, short = misses
    for words, last in ((long, optional), (long, ""), (short, "")):
        line = ", ".join(filter(None, (*before, words, *after, last)))
        if width(line) <= _COLUMNS:
            return line
    room = _COLUMNS - sum(len(part) + 2 for part in (*before, *after))
    return ", ".join((*before, cut(short, room), *after))


def _read(given: bytes) -> dict[str, Any]:
    try:
        return _members(json.loads(given))
    except (ValueError, RecursionError):
        return {}


def _rate(cached: Any, of: Any) -> float | None:
    part, whole = _number(cached), _number(of)
    return 100 * min(part / whole, 1) if part is not None and whole else None


def _number(value: Any, least: float = 0) -> float | None:
    """Return a number of any use: another program may answer at that port."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and least <= value < _MOST else None


def _members(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
