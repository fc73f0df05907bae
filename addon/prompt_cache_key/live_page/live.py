"""What the live page says: the last finished requests, as HTML or JSON."""

from __future__ import annotations

import json
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from prompt_cache_key.report.page import page, policy
from prompt_cache_key.screen_text import cut
from prompt_cache_key.stats.money import at_hand, load
from prompt_cache_key.stats.report import as_json, report_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prompt_cache_key.finished import FinishedRequest
    from prompt_cache_key.misses.miss import Miss

MAX_REQUESTS = 1000
"""The last requests that the page knows."""

MAX_TEXT = 256
"""Columns that are kept of a text of a request."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Answer(NamedTuple):
    """A response with status 200."""

    headers: dict[str, str]
    body: bytes


class Recent:
    """The last finished requests of all sessions, without their bodies."""

    def __init__(self) -> None:
        self._requests: deque[FinishedRequest] = deque(maxlen=MAX_REQUESTS)

    def add(self, request: FinishedRequest) -> None:
        """Add a finished request; its texts are cut and its body is dropped."""
        miss = request.miss and request.miss._replace(**_cut(request.miss))
        self._requests.append(request._replace(**_cut(request) | {"miss": miss, "body": b""}))

    def __call__(self) -> list[FinishedRequest]:
        """Return the requests so far, in the order in which they ended."""
        return list(self._requests)


def html(requests: Sequence[FinishedRequest], command: str, now: float) -> Answer:
    """Return the page; `command` starts Claude Code through this listener, "" if unknown.

    To be called in a thread: the first page loads the prices, which takes 0.3 s.
    """
    report = report_of(_title(requests), requests, prices=load(), now=now)
    body = page(report, is_live=True, command=command)
    policies = f"{policy(is_live=True)}; frame-ancestors 'none'"
    return _answer(body, "text/html; charset=utf-8", {"Content-Security-Policy": policies})


def facts(requests: Sequence[FinishedRequest], query: str, now: float) -> Answer:
    """Return the page's facts as JSON; with the query `session=ID` those of that session alone.

    They have no money until the prices are loaded: the status line does not wait so long.
    """
    try:
        asked = parse_qs(query, max_num_fields=10).get("session", [])
    except ValueError:  # too many fields
        asked = []
    only = {cut(each, MAX_TEXT) for each in asked}
    chosen = [each for each in requests if each.session in only or not only]
    report = report_of(_title(requests), chosen, prices=at_hand(), now=now)
    body = json.dumps(as_json(report))
    return _answer(body, "application/json", {"Content-Security-Policy": "default-src 'none'"})


def _cut(of: FinishedRequest | Miss) -> dict[str, Any]:
    """Return the fields that are texts, cut."""
    fields = of._asdict().items()
    return {name: cut(value, MAX_TEXT) for name, value in fields if isinstance(value, str)}


def _title(requests: Sequence[FinishedRequest]) -> str:
    return "live" if len(requests) < MAX_REQUESTS else f"live, the last {MAX_REQUESTS:,} requests"


def _answer(body: str, type_: str, more: dict[str, str]) -> Answer:
    content = body.encode(errors="replace")
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    return Answer(HEADERS | more | {"Content-Type": type_, "ETag": etag}, content)
