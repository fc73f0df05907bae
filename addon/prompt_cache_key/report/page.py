"""The HTML page of a report, from the template `report.html`.

The page loads nothing. Its policy allows one style sheet and, on the live page, one script, each
by its hash. Autoescaping and `_shown` see to what comes from requests: no word of others gets into
the page as markup, unprintable or longer than `MAX_TEXT`.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_cache_key.report import chart
from prompt_cache_key.screen_text import cut
from prompt_cache_key.stats.sums import dollars, percent, share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jinja2 import Template

    from prompt_cache_key.finished import FinishedRequest
    from prompt_cache_key.stats.report import Report, SessionReport
    from prompt_cache_key.stats.sums import Sums

MAX_SESSIONS = 100
"""Sessions that one page shows: the last active; the JSON has all."""

MAX_AGENTS = 50
"""Agents of a session that it shows."""

MAX_MISSES = 20
"""Misses of a session that it shows: those with most missed tokens."""

FEW = 5
"""How many misses and causes it shows without a click."""

MAX_CAUSES = 50

MAX_TEXT = 300
"""Columns of a text that comes from a request."""

NO_JINJA = (
    "Jinja2 can't be imported: there is neither a live page nor a report; "
    "install Jinja2 beside mitmproxy"
)

_FOLDER = Path(__file__).parent


def can_render() -> bool:
    """Return whether Jinja2 is there; without it `page` raises ImportError."""
    return find_spec("jinja2") is not None


def page(report: Report, *, is_live: bool = False, command: str = "") -> str:
    """Return the page of a report as HTML.

    The live page has the script that keeps it up to date. `command` starts Claude Code through
    this proxy; the page shows it while there is nothing else to show.
    """
    groups, singles = _grouped(report.sessions)
    shown = groups[:MAX_SESSIONS]
    requests = sorted(
        (request for session in report.sessions for request in session.requests),
        key=lambda request: request.time,
    )
    total = report.sums
    return _template().render(
        report=report,
        total=total,
        sessions=shown,
        left_out=len(groups) - len(shown),
        singles=singles[:MAX_SESSIONS],
        singles_rate=percent(
            share(
                sum(each.sums.cached for each in singles),
                sum(each.sums.measured for each in singles),
            )
        ),
        singles_count=len(singles),
        split=chart.split((total.cached, total.missed, total.new, total.input - total.measured)),
        trend=chart.trend(requests),
        causes=sorted(total.causes.items(), key=lambda cause: -cause[1].tokens)[:MAX_CAUSES],
        period=period(requests),
        has_money=total.saved is not None,
        is_live=is_live,
        command=command,
        policy=policy(is_live=is_live),
    )


@lru_cache
def policy(*, is_live: bool) -> str:
    """Return the Content-Security-Policy: one style and, on the live page, one script."""
    rules = [
        "default-src 'none'",
        f"style-src {_hash('report.css')}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if is_live:
        rules += [f"script-src {_hash('report.js')}", "connect-src 'self'"]
    return "; ".join(rules)


def anchor(session: str) -> str:
    """Return the id of a session's part of the page: the same for each page, of plain letters."""
    return f"s-{sha256(session.encode(errors='replace')).hexdigest()[:12]}"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a count with its noun, such as `1 request` or `2,000 requests`."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def rate(sums: Sums) -> str:
    """Return the hit rate of some requests; a dash if it is unknown."""
    return "\N{EN DASH}" if sums.hit_rate is None else percent(sums.hit_rate)


def period(requests: Sequence[FinishedRequest]) -> str:
    """Return when the first and the last request were, in order of time; "" without any."""
    if not requests:
        return ""
    first, last = (chart.local(each.time) for each in (requests[0], requests[-1]))
    start, end = f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M %Z}"
    if end.startswith(start):
        return end
    is_one_day = first.date() == last.date()
    return f"{start} to {end[len('2026-11-30 ') :] if is_one_day else end}"


def _grouped(sessions: Iterable[SessionReport]) -> tuple[list[SessionReport], list[SessionReport]]:
    """Return the sessions by project, the last active first, and apart those of one request.

    One session of one request stands among the others: a group of one says nothing.
    """
    ordered = sorted(sessions, key=lambda session: -session.last_active)
    singles = [session for session in ordered if session.sums.requests == 1]
    if len(singles) > 1:
        ordered = [session for session in ordered if session.sums.requests != 1]
    else:
        singles = []
    latest: dict[str, float] = {}
    for session in ordered:
        latest.setdefault(session.project, session.last_active)
    ordered.sort(key=lambda session: (-latest[session.project], session.project))
    return ordered, singles


def _worst(session: SessionReport) -> list[tuple[int, Any]]:
    """Return the misses with most missed tokens, each with its request's number."""
    missed = [pair for pair in enumerate(session.requests, 1) if pair[1].miss]
    return sorted(missed, key=lambda pair: -pair[1].missed)[:MAX_MISSES]


def _shown(value: Any) -> Any:
    """Return a text printable and cut: Jinja2 calls this for each expression of the template."""
    return cut(value, MAX_TEXT) if type(value) is str else value


def _moment(time: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return f"{chart.local(time):{form}}"


@lru_cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(name: str) -> str:
    return f"'sha256-{b64encode(sha256(_file(name).encode()).digest()).decode()}'"


@lru_cache
def _template() -> Template:
    # Not at the top: a mitmproxy of the user's own may lack Jinja2, and the addon works without.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "dollars": dollars,
        "plural": plural,
        "rate": rate,
        "moment": _moment,
        "anchor": anchor,
        "worst": _worst,
        "chart": chart.requests_chart,
    }
    environment.globals |= {
        "style": Markup(_file("report.css")),  # noqa: S704  # files of this package
        "script": Markup(_file("report.js")),  # noqa: S704
        "parts": chart.PARTS,
        "FEW": FEW,
        "MAX_AGENTS": MAX_AGENTS,
        "MAX_BARS": chart.MAX_BARS,
    }
    return environment.from_string(_file("report.html"))
