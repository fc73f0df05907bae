"""The report: all requests of some sessions with their sums, for the page and as JSON."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.stats.money import Prices, price
from prompt_cache_key.stats.sessions import no_price
from prompt_cache_key.stats.sums import Sums


class AgentReport(NamedTuple):
    """The requests of one agent of a session to one model at one endpoint."""

    agent: str
    model: str
    endpoint: str
    sums: Sums


class SessionReport(NamedTuple):
    """One session; its agents in the order of sessions, its requests in order of time."""

    id: str
    project: str
    """The last folder of its working directory; empty if it is not known."""
    sums: Sums
    agents: list[AgentReport]
    requests: list[FinishedRequest]
    last_active: float
    """When its last request was sent: Unix time."""
    is_live: bool
    """Whether its upstream still has its prompt in the cache, as far as time tells."""


class Report(NamedTuple):
    """Sessions: those with most missed tokens first, then those that were active last."""

    title: str
    warnings: list[str]
    """Why the report is not complete or not right."""
    sums: Sums
    sessions: list[SessionReport]


def report_of(
    title: str,
    requests: Iterable[FinishedRequest],
    *,
    warnings: Iterable[str] = (),
    prices: Prices | None = None,
    now: float | None = None,
) -> Report:
    """Return the report of requests, which come in any order.

    No session is live without `now`, a Unix time.
    """
    by_session: dict[str, list[FinishedRequest]] = {}
    for request in sorted(requests, key=lambda request: request.time):
        by_session.setdefault(request.session, []).append(request)
    sessions = [_session(of_one, prices, now) for of_one in by_session.values()]
    sessions.sort(key=lambda session: (-session.sums.missed, -session.last_active))
    sums = Sums()
    for session in sessions:
        sums.add_sums(session.sums)
    unknown = price(sums, prices)
    warnings = [*warnings, *([f"{no_price(unknown)}."] if unknown else [])]
    return Report(title, warnings, sums, sessions)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON has it; times are Unix times, dollars null if no price is known."""
    return {
        "title": report.title,
        "warnings": report.warnings,
        "sums": _sums(report.sums),
        "sessions": [
            {
                "id": session.id,
                "project": session.project,
                "last_active": session.last_active,
                "is_live": session.is_live,
                "sums": _sums(session.sums),
                "agents": [
                    {**agent._asdict(), "sums": _sums(agent.sums)} for agent in session.agents
                ],
                "requests": [*map(_request, session.requests)],
            }
            for session in report.sessions
        ],
    }


def _session(
    requests: list[FinishedRequest], prices: Prices | None, now: float | None
) -> SessionReport:
    by_agent: dict[tuple[str, str, str], AgentReport] = {}
    last_active: dict[tuple[str, str, str], float] = {}
    for request in requests:
        key = request.agent, request.model, request.endpoint
        by_agent.setdefault(key, AgentReport(*key, Sums())).sums.add(request)
        last_active[key] = request.time
    rank = {key: (-by_agent[key].sums.missed, -time) for key, time in last_active.items()}
    agents = [by_agent[key] for key in sorted(rank, key=lambda key: rank[key])]
    sums = Sums()
    for agent in agents:
        sums.add_sums(agent.sums)
        price(agent.sums, prices)
    price(sums, prices)
    last = requests[-1]
    projects = (request.project for request in reversed(requests))
    return SessionReport(
        id=last.session,
        project=next(filter(None, projects), ""),
        sums=sums,
        agents=agents,
        requests=requests,
        last_active=last.time,
        is_live=now is not None and now - last.time <= last.upstream.retention,
    )


def _sums(sums: Sums) -> dict[str, Any]:
    names = [name for name in Sums.__slots__ if name not in ("causes", "bills")]
    causes = [
        {"cause": name, "requests": of.requests, "tokens": of.tokens, "remedy": of.remedy}
        for name, of in sums.worst_causes()
    ]
    return {
        **{name: getattr(sums, name) for name in names},
        "hit_rate": sums.hit_rate,
        "causes": causes,
    }


def _request(request: FinishedRequest) -> dict[str, Any]:
    usage, miss = request.usage, request.miss
    return {
        "time": request.time,
        "agent": request.agent,
        "model": request.model,
        "endpoint": request.endpoint,
        "key": request.key,
        "is_first": request.is_first,
        "usage": usage and usage._asdict(),
        "missed": request.missed,
        "new": request.new,
        "miss": miss and {**miss._asdict(), "missed": miss.missed, "kind": miss.kind},
    }
