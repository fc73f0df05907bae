"""What each session asked for, and how much of it came from the upstream's prompt cache."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from prompt_cache_key.log import pairs

MAX_LINES = 20
"""Sessions that a summary names."""

MAX_ROWS = 100
"""Agents and models of one session that are told apart; the least recently used one goes."""

LARGE = 2000
"""Prompt tokens from which an upstream should have cached some: OpenAI begins at 1024."""

SUSPICIOUS = 5
"""Large prompts of a session without one cached token after which something must be wrong."""


@dataclass(slots=True)
class Total:
    """Sums over requests; the tokens are those of the responses that reported their usage."""

    requests: int = 0
    input: int = 0
    cached: int = 0

    @property
    def hit(self) -> float:
        """The share of the prompt tokens that was read from the cache, in percent."""
        return 100 * self.cached / self.input if self.input else 0.0

    def __str__(self) -> str:
        return pairs(
            requests=self.requests, input=self.input, cached=self.cached, hit=f"{self.hit:.0f}%"
        )


@dataclass(slots=True)
class Row(Total):
    """One agent's requests to one model, with the key and state of the last one."""

    key: str = ""
    state: str = ""
    attribution: bytes = b""


@dataclass(slots=True)
class SessionTotal(Total):
    """One session's requests, `large` of them with large prompts.

    `unstable` says that an agent's attribution block has changed from one request to the next;
    `rows` are by agent and model, the least recently used one first.
    """

    large: int = 0
    unstable: bool = False
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)


class Entry(NamedTuple):
    """The sums that one request counts in."""

    all: Total
    session: SessionTotal
    row: Row

    def add(self, input_: int, cached: int) -> bool:
        """Add what the response reported: all prompt tokens, and those read from the cache.

        Return True once for a session: after so many large prompts without one cached token.
        """
        for total in self:
            total.input += input_
            total.cached += cached
        self.session.large += input_ >= LARGE
        return input_ >= LARGE and self.session.large == SUSPICIOUS and not self.session.cached

    def withdraw(self) -> None:
        """Count the request no more."""
        for total in self:
            total.requests -= 1

    def likely_causes(self) -> str:
        """Return why nothing may have been cached, the likeliest first."""
        causes = ["the upstream reports no cached tokens", "another addon rewrites bodies"]
        if self.session.unstable:
            causes.insert(
                0,
                "Claude Code's attribution block changes on each request: set "
                "CLAUDE_CODE_ATTRIBUTION_HEADER=0 there, or prompt_cache_strip_attribution here",
            )
        return "; ".join(causes)

    def see_attribution(self, block: bytes) -> None:
        """Compare the attribution block of the request with that of the one before."""
        if self.row.attribution and block != self.row.attribution:
            self.session.unstable = True
        self.row.attribution = block


class Totals:
    """The sums of the last `max_sessions` sessions; `all` is that of every request ever."""

    def __init__(self, max_sessions: int = 10_000) -> None:
        self.max_sessions = max_sessions
        self.all = Total()
        self.sessions: OrderedDict[str, SessionTotal] = OrderedDict()

    def request(self, session: str, agent: str, model: str, key: str, state: str) -> Entry:
        """Count a request; return where its usage is to be added."""
        total = self.sessions.setdefault(session, SessionTotal())
        self.sessions.move_to_end(session)
        row = total.rows.pop((agent, model), None) or Row()
        total.rows[agent, model] = row  # an OrderedDict takes 160 bytes more, for each session
        row.key, row.state = key, state
        entry = Entry(self.all, total, row)
        for each in entry:
            each.requests += 1
        while len(self.sessions) > self.max_sessions:
            self.sessions.popitem(last=False)
        if len(total.rows) > MAX_ROWS:
            del total.rows[next(iter(total.rows))]
        return entry

    def rows(self) -> Iterator[tuple[str, str, str, Row]]:
        """Yield session, agent, model and their row, but for rows that no request counts in."""
        for session, total in self.sessions.items():
            for (agent, model), row in total.rows.items():
                if row.requests:
                    yield session, agent, model, row

    def summary(self) -> Iterator[str]:
        """Yield a line for each of the sessions with the most prompt tokens, and one for all."""
        most = sorted(self.sessions.items(), key=lambda item: -item[1].input)
        for session, total in most[:MAX_LINES]:
            yield f"{pairs(session=session)} {total}"
        if len(most) > MAX_LINES:
            yield f"… and {len(most) - MAX_LINES} more"
        yield f"total {pairs(sessions=len(most))} {self.all}"
