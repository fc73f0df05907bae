"""What each session asked for, what it got from the upstream's prompt cache, and what it lost."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from prompt_cache_key.log import pairs
from prompt_cache_key.usage.reader import Usage

MAX_LINES = 20
"""Sessions that a summary names, and causes of lost tokens."""

MAX_ROWS = 100
"""Agents and models of one session that are told apart; the least recently used one goes."""

MAX_CAUSES = 100
"""Causes that are told apart, as the names of tools are part of some."""

LARGE = 2000
"""Prompt tokens from which an upstream should have cached some: OpenAI begins at 1024."""

RECENT = 5
"""Large prompts of a session by which it is judged."""

NOTHING_CACHED = "nothing cached"
COLLAPSED = "collapsed"


@dataclass(slots=True)
class Total:
    """Sums over requests; the tokens are those of the responses that reported their usage.

    `measured` are the prompt tokens of those that reported cached tokens too, if only 0. `causes`
    are requests that lost tokens which should have been cached, and these tokens, by cause.
    """

    requests: int = 0
    input: int = 0
    cached: int = 0
    measured: int = 0
    causes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def hit(self) -> float | None:
        """Percent of the prompt tokens that were read from the cache; None if that is not known."""
        return 100 * self.cached / self.measured if self.measured else None

    @property
    def lost(self) -> int:
        """Tokens that should have been read from the cache and were not."""
        return sum(tokens for _, tokens in self.causes.values())

    @property
    def main_cause(self) -> str:
        """What lost most tokens; "" if nothing did."""
        return max(self.causes, key=lambda cause: self.causes[cause][1], default="")

    def add(self, usage: Usage | None, sign: int, requests: int) -> None:
        """Add requests and, with a sign of 1 or -1, a usage."""
        self.requests += requests
        if usage:
            self.input += sign * usage.input
            if usage.cached is not None:
                self.cached += sign * usage.cached
                self.measured += sign * usage.input

    def lose(self, tokens: int, cause: str) -> None:
        """Count tokens that a request lost."""
        if cause not in self.causes and len(self.causes) >= MAX_CAUSES:
            cause = "other causes"
        requests, lost = self.causes.get(cause, (0, 0))
        self.causes[cause] = requests + 1, lost + tokens

    def __str__(self) -> str:
        cached = self.cached if self.measured else "?"
        return pairs(requests=self.requests, input=self.input, cached=cached, hit=percent(self.hit))


@dataclass(slots=True)
class Row(Total):
    """One agent's requests to one model, with what the last one had."""

    key: str = ""
    state: str = ""
    scope: str = ""
    name: tuple[str, ...] = ()
    response_id: str = ""


@dataclass(slots=True)
class SessionTotal(Total):
    """One session's requests; `rows` are by agent and model, the least recently used one first.

    `recent` are cached and all tokens of its last large prompts.
    """

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    recent: list[tuple[int, int]] = field(default_factory=list)
    has_hit: bool = False
    is_told: bool = False

    def see(self, usage: Usage) -> str:
        """Look at a response; return NOTHING_CACHED or COLLAPSED when that begins, else "".

        Nothing cached: not one token of so many large prompts. Collapsed: under half of the last
        ones, where it had been over four fifths of three in a row.
        """
        if usage.cached is None or usage.input < LARGE:
            return ""
        self.recent = [*self.recent[1 - RECENT :], (usage.cached, usage.input)]
        self.has_hit |= len(self.recent) > 2 and _share(self.recent[-3:]) > 0.8  # noqa: PLR2004
        are_enough = len(self.recent) == RECENT
        if are_enough and not self.cached and not self.is_told:
            self.is_told = True
            return NOTHING_CACHED
        if are_enough and self.has_hit and _share(self.recent) < 0.5:  # noqa: PLR2004
            self.has_hit = False
            return COLLAPSED
        return ""


def _share(recent: list[tuple[int, int]]) -> float:
    return sum(cached for cached, _ in recent) / sum(input_ for _, input_ in recent)


def percent(share: float | None) -> str:
    """Return a share in percent as it is logged; `?` if it is not known."""
    return "?" if share is None else f"{share:.0f}%"


class Count:
    """What one request counts for. A prompt counts once, however many listeners it passes.

    The calls that a translator makes for a request count in its place. The upstream's usage
    counts; where it reports none the translator's; never both, in any order of arrival.
    `usage` is what it reported, None if that does not count; `causes` are the requests that it is
    made for, the nearest one first.
    """

    def __init__(self, all_: Total, session: SessionTotal, row: Row) -> None:
        self.session = session
        self.row = row
        self.is_open = True
        self.usage: Usage | None = None
        self.causes: tuple[Count, ...] = ()
        self._totals = (all_, session, row)
        self._calls: list[Count] = []
        self._added: Usage | None = None
        self._is_superseded = False
        self.add(requests=1)

    def begin_call(self, call: "Count") -> None:
        """Let a call count in place of this request, whose answer it is made for."""
        call.causes = self, *self.causes
        if not self._calls:
            call.add(self._added)
            self.add(self._added, -1, requests=-1)
        self._calls.append(call)

    def report(self, usage: Usage) -> None:
        """Count what a response reported, unless the calls for it have reported it."""
        if not self._is_superseded:
            for cause in self.causes:
                cause.supersede()
            self.usage = usage
            self.add(usage)

    def supersede(self) -> None:
        """Let what it reported, or is yet to report, not count: a call for it has reported."""
        if self.usage:
            self.add(self.usage, -1)
        self.usage = None
        self._is_superseded = True

    @property
    def is_final(self) -> bool:
        """Whether what it reported counts, and no call for it can still take its place."""
        return bool(self.usage) and not self.has_open_call

    @property
    def has_open_call(self) -> bool:
        """Whether a call for it, or one for that, is not over."""
        return any(call.is_open or call.has_open_call for call in self._calls)

    def lose(self, tokens: int, cause: str) -> None:
        """Count tokens that should have been read from the cache, and were not."""
        if self._calls:
            self._calls[0].lose(tokens, cause)
        else:
            for total in self._totals:
                total.lose(tokens, cause)

    def add(self, usage: Usage | None = None, sign: int = 1, requests: int = 0) -> None:
        """Add to its totals, or to those of the call that counts in its place."""
        if self._calls:
            self._calls[0].add(usage, sign, requests)
        else:
            self._added = usage if sign > 0 else None
            for total in self._totals:
                total.add(usage, sign, requests)


class Totals:
    """The sums of the last `max_sessions` sessions; `all` is that of every request ever."""

    def __init__(self, max_sessions: int = 10_000) -> None:
        self.max_sessions = max_sessions
        self.all = Total()
        self.sessions: OrderedDict[str, SessionTotal] = OrderedDict()

    def begin(self, session: str, agent: str, model: str) -> Count:
        """Count a request."""
        total = self.sessions.pop(session, None) or SessionTotal()
        self.sessions[session] = total
        row = total.rows.pop((agent, model), None) or Row()
        total.rows[agent, model] = row  # an OrderedDict takes 160 bytes more, for each session
        while len(self.sessions) > self.max_sessions:
            self.sessions.popitem(last=False)
        if len(total.rows) > MAX_ROWS:
            del total.rows[next(iter(total.rows))]
        return Count(self.all, total, row)

    def response_id(self, session: str, agent: str, model: str) -> str:
        """Return the id of the last response to who asks; "" if there is none."""
        total = self.sessions.get(session, SessionTotal())
        return total.rows.get((agent, model), Row()).response_id

    def names(self, session: str) -> set[tuple[str, ...]]:
        """Return what the keys of a session's rows are kept by."""
        total = self.sessions.get(session, SessionTotal())
        return {row.name for row in total.rows.values() if row.name}

    def rows(self) -> Iterator[tuple[str, str, str, Row]]:
        """Yield session, agent, model and their row, but for rows that no request counts in."""
        for session, total in self.sessions.items():
            for (agent, model), row in total.rows.items():
                if row.requests:
                    yield session, agent, model, row

    def summary(self) -> Iterator[str]:
        """Yield the lines of the end: the largest sessions, what lost most tokens, and all."""
        most = sorted(self.sessions.items(), key=lambda item: -item[1].input)
        for session, total in most[:MAX_LINES]:
            yield f"{pairs(session=session)} {total}"
        if len(most) > MAX_LINES:
            yield f"and {len(most) - MAX_LINES} more"
        worst = sorted(self.all.causes.items(), key=lambda item: -item[1][1])
        for cause, (requests, lost) in worst[:MAX_LINES]:
            yield f"lost {pairs(cause=cause, requests=requests, tokens=lost)}"
        yield f"total {pairs(sessions=len(most))} {self.all}"
