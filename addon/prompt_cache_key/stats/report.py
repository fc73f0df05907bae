"""The report: finished requests by session and agent, with their sums."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prompt_cache_key.stats.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prompt_cache_key.finished import FinishedRequest

LIVE = 300
"""Seconds since its last request for which a session is live."""


@dataclass
class AgentReport:
    """The sums of one agent's requests to one model and endpoint."""

    agent: str
    model: str
    endpoint: str
    sums: Sums = field(default_factory=Sums)


@dataclass
class SessionReport:
    """A session: its sums, its agents and its requests in order of time."""

    id: str
    project: str
    sums: Sums
    agents: list[AgentReport]
    requests: list[FinishedRequest]
    last_active: float
    is_live: bool


@dataclass
class Report:
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
    now = time.time() if now is None else now
    report = Report(title, [*warnings], Sums(), [])
    sessions: dict[str, SessionReport] = {}
    agents: dict[tuple[str, str, str, str], AgentReport] = {}
    for request in sorted(requests, key=lambda each: each.time):
        session = sessions.setdefault(
            request.session, SessionReport(request.session, "", Sums(), [], [], 0, is_live=False)
        )
        agent = agents.get(request.conversation)
        if not agent:
            agent = agents[request.conversation] = AgentReport(*request.conversation[1:])
            session.agents.append(agent)
        for sums in (report.sums, session.sums, agent.sums):
            sums.add(request)
        session.requests.append(request)
        session.project = session.project or request.project
        session.last_active = request.time
        session.is_live = now - request.time < LIVE
    report.sessions = list(sessions.values())
    return report


def as_json(report: Report) -> Any:
    """Return the report as JSON has it."""
    sessions = [replace(session, requests=[]) for session in report.sessions]
    return asdict(replace(report, sessions=sessions))
