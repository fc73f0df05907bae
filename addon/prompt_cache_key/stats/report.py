"""The report: finished requests by session and agent, with their sums."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from prompt_cache_key.stats.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prompt_cache_key.finished import FinishedRequest

LIVE = 300
"""Seconds since its last request for which a session is live."""


class AgentReport(NamedTuple):
    """The sums of one agent's requests to one model and endpoint."""

    agent: str
    model: str
    endpoint: str
    sums: Sums


class SessionReport(NamedTuple):
    """A session: its sums, its agents and its requests in order of time."""

    id: str
    project: str
    sums: Sums
    agents: list[AgentReport]
    requests: list[FinishedRequest]
    last_active: float
    is_live: bool


class Report(NamedTuple):
    """All that page, JSON and report show."""

    title: str
    warnings: list[str]
    sums: Sums
    sessions: list[SessionReport]


def report_of(
    title: str,
    requests: Iterable[FinishedRequest],
    *,
    warnings: Iterable[str] = (),
    prices: object = None,  # noqa: ARG001
    now: float | None = None,
) -> Report:
    """Return the report of some requests, which come in any order."""
    total = Sums()
    sessions: dict[str, list[FinishedRequest]] = {}
    for request in sorted(requests, key=lambda each: each.time):
        sessions.setdefault(request.session, []).append(request)
        total.add(request)
    return Report(title, [*warnings], total, [_session(each, now) for each in sessions.values()])


def _session(requests: list[FinishedRequest], now: float | None) -> SessionReport:
    sums, agents = Sums(), dict[tuple[str, str, str], AgentReport]()
    for request in requests:
        sums.add(request)
        key = request.conversation[1:]
        agents.setdefault(key, AgentReport(*key, Sums())).sums.add(request)
    last = requests[-1]
    is_live = now is not None and now - last.time < LIVE
    project = next(filter(None, (each.project for each in reversed(requests))), "")
    return SessionReport(
        last.session, project, sums, [*agents.values()], requests, last.time, is_live
    )


def as_json(report: Report) -> Any:
    """Return the report as JSON has it."""
    sessions = [
        {"id": each.id, "project": each.project, "sums": asdict(each.sums)}
        for each in report.sessions
    ]
    return {"title": report.title, "sums": asdict(report.sums), "sessions": sessions}
