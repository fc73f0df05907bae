"""One short line for Claude Code's status line: what its session got from the cache."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from prompt_cache_key.in_flight import thousands
from prompt_cache_key.screen_text import cut
from prompt_cache_key.stats.totals import percent

DEFAULT = ("127.0.0.1", 8080)

_COLUMNS = 60
_MOST = 1e12
_NEAR = ("127.0.0.1", "localhost", "::1")
_VARIABLES = ("ANTHROPIC_BASE_URL", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")


def session_of(given: bytes) -> str:
    """Return the session of the JSON that Claude Code hands to status-line commands, or ""."""
    try:
        session = _members(json.loads(given)).get("session_id")
    except (ValueError, RecursionError):
        return ""
    return session if isinstance(session, str) else ""


def listener_of(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port of the listener that Claude Code goes through, if on this machine."""
    for name in _VARIABLES:
        try:
            url = urlsplit(environment.get(name, ""))
            if url.scheme == "http" and url.hostname in _NEAR:
                return url.hostname, url.port or 80
        except ValueError:
            continue
    return DEFAULT


def status(answer: bytes) -> str:
    """Return the line for the live page's JSON of one session; "" if that says nothing."""
    try:
        facts = _members(json.loads(answer))
    except (ValueError, RecursionError):
        return ""
    sums, causes = _members(facts.get("sums")), facts.get("causes")
    hit, lost = (_number(sums.get(name)) for name in ("hit_percent", "lost_tokens"))
    if not _number(sums.get("requests")):
        return ""
    line = f"cache {percent(hit)}"
    if lost:
        line += f", lost {thousands(int(lost))}: "
        main = _members(causes[0]) if isinstance(causes, list) and causes else {}
        line += str(main.get("words"))
    return cut(line, _COLUMNS)


def _number(value: Any) -> float | None:
    """Return a number of any use: another program may answer at that port."""
    return value if isinstance(value, int | float) and 0 <= value < _MOST else None


def _members(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
