"""The sums of live sessions: each prompt counts once, and when it is finished.

The problem: a prompt may pass two listeners, one before a translator and one behind it. Then it is
seen as a request and as the upstream call made for it, possibly several calls (retries, a web
search), and a call may be the origin of others where translators are chained. Both may report
usage. The upstream's counts, else the translator's, never both.

The idea: a request is begun (`begin`), its calls are named (`begin_call`), and it is finished with
its usage. A finished request is held while a call for it is open. Once it and its calls are over:

| one of its calls counts | it reported usage | it is a call | then                              |
|-------------------------|-------------------|--------------|-----------------------------------|
| yes                     | any               | any          | its calls count in its place      |
| no                      | yes               | any          | it counts                         |
| no                      | no                | no           | it counts, as one without usage   |
| no                      | no                | yes          | it does not; its origin may count |

What has counted is not taken back: a call that begins after its origin has counted with usage
does not count, nor do calls for that call. If the origin has counted without usage, the late call
counts too if it reports usage: no tokens are left out, and the prompt is then two requests.

Bounded: sessions (`max_sessions`), agents and models of a session, causes, bills, the length of
names. A request in flight is known until it is finished, and by then to mitmproxy too.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.identity import UNKNOWN_SESSION
from prompt_cache_key.keys import Name
from prompt_cache_key.log import pairs, text
from prompt_cache_key.stats.collapse import NONE_YET, CacheWarning, Recent, look
from prompt_cache_key.stats.money import Prices, price
from prompt_cache_key.stats.sums import Sums, bounded

MAX_LISTED = 20
"""Sessions, and causes, that the summary names."""

MAX_NAMED = 3
"""Models without a price that are named."""

MAX_ROWS = 100
"""Agents and models of one session that are distinguished; the least recently used is dropped."""


@dataclass(slots=True)
class Row:
    """The requests of one agent to one model, and the state of the last that began.

    `state` is new, reused, kept, replaced or observed; `scope` is who shares the key, empty if it
    is the client's own; `mapping` identifies the key in its store; `response_id` is the last
    response's, to compare the next request with.
    """

    session: str
    agent: str
    model: str
    key: str = ""
    state: str = ""
    scope: str = ""
    mapping: Name = ()
    response_id: str = ""
    has_reported: bool = False
    """Whether a request has counted with usage: then no later one is the first."""
    sums: Sums = field(default_factory=Sums)

    def set_key(self, key: str, state: str, scope: str = "", mapping: Name = ()) -> None:
        """Set the key of the request that began last, and where it is from."""
        self.key, self.state, self.scope, self.mapping = bounded(key), state, scope, mapping


@dataclass(slots=True)
class SessionSums:
    """One session: its rows, the least recently used first, and the sums of dropped rows."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    dropped: Sums | None = None
    recent: Recent = NONE_YET

    @property
    def sums(self) -> Sums:
        """The sums of the whole session."""
        sums = Sums()
        for each in (self.dropped, *(row.sums for row in self.rows.values())):
            if each:
                sums.add_sums(each)
        return sums


@dataclass(eq=False, slots=True)
class Ticket:
    """A request in flight, as far as it matters for counting."""

    row: Row
    origin: "Ticket | None" = None
    open_calls: int = 0
    has_counted_calls: bool = False
    """Whether a call for it has counted with usage."""
    is_superseded: bool = False
    """Whether a request that it was made for has counted with usage before it began."""
    is_finished: bool = False
    is_settled: bool = False
    """Whether it is decided what counts."""
    has_counted: bool = False
    """Whether it has counted itself, with usage."""
    request: FinishedRequest | None = None


class Sessions:
    """The sums of the last `max_sessions` sessions, and of all requests."""

    def __init__(self, max_sessions: int = 10_000) -> None:
        self.max_sessions = max_sessions
        self.total = Sums()
        self._sessions: OrderedDict[str, SessionSums] = OrderedDict()
        self._evicted = 0
        self._unsettled: dict[Ticket, None] = {}

    def begin(self, session: str, agent: str, model: str) -> Ticket:
        """Register a request that is sent on."""
        row = self._row(session, agent, model)
        ticket = Ticket(row)
        self._unsettled[ticket] = None
        return ticket

    def begin_call(self, origin: Ticket, call: Ticket) -> None:
        """Register that a call is made for another request, before the call is finished."""
        call.is_superseded |= origin.is_superseded
        above: Ticket | None = origin
        while above and above.is_settled:
            call.is_superseded |= above.has_counted
            above = above.origin
        call.origin = above or origin
        if above:
            above.open_calls += 1

    def finish(
        self, ticket: Ticket, request: FinishedRequest | None
    ) -> list[tuple[Ticket, FinishedRequest | None]]:
        """Finish a request; return those that are decided now, each with what counts of it.

        That is the request itself, to be judged and added, with `is_first` set, or None. A request
        that is None was not sent, and does not count.
        """
        ticket.is_finished, ticket.request = True, request
        settled = []
        each: Ticket | None = ticket
        while each and each.is_finished and not each.is_settled and not each.open_calls:
            settled.append((each, self._settle(each)))
            each = each.origin
        return settled

    def close(self) -> list[Ticket]:
        """Return the requests in flight, to be finished, as none gets a response any more."""
        return [each for each in self._unsettled if not each.is_finished]

    def add(self, request: FinishedRequest) -> CacheWarning | None:
        """Add a request that counts, after it was judged; return a warning if there is one."""
        row = self._row(request.session, request.agent, request.model)
        row.sums.add(request)
        self.total.add(request)
        session = self._sessions[row.session]
        if row.session == UNKNOWN_SESSION or not request.usage:
            return None
        session.recent, what = look(session.recent, request.usage)
        if not what:
            return None
        sums = session.sums
        remedy = sums.causes[sums.main_cause].remedy if sums.main_cause else ""
        return CacheWarning(what, row.session, session.recent.prompts, sums.main_cause, remedy)

    def ids(self, start: str) -> list[str]:
        """Return the sessions whose ids begin so, the least recently used first."""
        return [session for session in self._sessions if session.startswith(start)]

    def mappings(self, session: str) -> set[Name]:
        """Return what identifies the keys of a session's rows in their store."""
        found = self._sessions.get(bounded(session), SessionSums())
        return {row.mapping for row in found.rows.values() if row.mapping}

    def response_id(self, session: str, agent: str, model: str) -> str:
        """Return the id of the last response to an agent's request to a model, or ""."""
        found = self._sessions.get(bounded(session), SessionSums())
        row = found.rows.get((bounded(agent), bounded(model)))
        return row.response_id if row else ""

    def rows(self) -> Iterator[Row]:
        """Yield the rows in which a request has counted, those of the newest session last."""
        for session in self._sessions.values():
            yield from (row for row in session.rows.values() if row.sums.requests)

    def summary(self, prices: Prices | None = None) -> Iterator[str]:
        """Yield the log lines of the end: the largest sessions, the worst causes, and the total."""
        sums = {name: of.sums for name, of in self._sessions.items()}
        named = sorted(
            (name for name in sums if sums[name].requests), key=lambda name: -sums[name].input
        )
        for name in named[:MAX_LISTED]:
            price(sums[name], prices)
            yield f"{pairs(session=name)} {sums[name].fields()}"
        if len(named) > MAX_LISTED:
            yield f"and {len(named) - MAX_LISTED} more"
        for cause, missed in [*self.total.worst_causes()][:MAX_LISTED]:
            counts = pairs(requests=missed.requests, tokens=missed.tokens)
            yield f'missed cause="{cause}" {counts}'
        unknown = price(self.total, prices)
        count = self._evicted + sum(name != UNKNOWN_SESSION for name in named)
        yield f"total {pairs(sessions=count)} {self.total.fields()}"
        if unknown:
            yield no_price(unknown)

    def _row(self, session: str, agent: str, model: str) -> Row:
        """Return the row of an agent and a model, and mark it as the last one used."""
        session, agent, model = map(bounded, (session, agent, model))
        found = self._sessions.pop(session, None) or SessionSums()
        self._sessions[session] = found
        row = found.rows.pop((agent, model), None) or Row(session, agent, model)
        found.rows[agent, model] = row  # an OrderedDict takes 160 bytes more, for each session
        if len(found.rows) > MAX_ROWS:
            dropped = found.rows.pop(next(iter(found.rows)))
            found.dropped = found.dropped or Sums()
            found.dropped.add_sums(dropped.sums)
        while len(self._sessions) > self.max_sessions:
            name, evicted = self._sessions.popitem(last=False)
            self._evicted += name != UNKNOWN_SESSION and evicted.sums.requests > 0
        return row

    def _settle(self, ticket: Ticket) -> FinishedRequest | None:
        """Decide whether a request counts whose calls are over; return it if so."""
        ticket.is_settled = True
        del self._unsettled[ticket]
        origin, request, ticket.request = ticket.origin, ticket.request, None
        has_usage = bool(request and request.usage)
        ticket.has_counted = has_usage and not ticket.has_counted_calls and not ticket.is_superseded
        if origin:
            origin.open_calls -= not origin.is_settled
            origin.has_counted_calls |= ticket.has_counted or ticket.has_counted_calls
        is_silent = not has_usage and not ticket.has_counted_calls and not origin
        if not request or not (ticket.has_counted or is_silent):
            return None
        row = ticket.row
        is_first = has_usage and not row.has_reported
        row.has_reported |= has_usage
        return request._replace(is_first=is_first)


def no_price(requests: dict[str, int]) -> str:
    """Return the words for models without a known price, and how many requests they had."""
    models = sorted(requests, key=lambda model: -requests[model])
    named = ", ".join(map(text, models[:MAX_NAMED]))
    more = f" and {len(models) - MAX_NAMED} more models" if len(models) > MAX_NAMED else ""
    count = sum(requests.values())
    return f"no price is known for {named}{more}: {count} request{'' if count == 1 else 's'}"
