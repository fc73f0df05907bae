"""What the page and its JSON say: requests, sums over them, and where their tokens went."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage

FIRST = "an agent's first request to a model"
NEW = "new text"


class RequestFacts(NamedTuple):
    """One request; names are as in log lines."""

    time: float
    """When it was sent, Unix time."""
    agent: str
    model: str
    endpoint: str
    key: str
    """The `prompt_cache_key` it had; empty without one."""
    usage: Usage | None
    is_first: bool = False
    """Whether it is the first of this agent to this model and endpoint."""
    miss: Miss | None = None
    """What it lost, and why; None if nothing."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Whose requests continue each other within a session."""
        return self.agent, self.model, self.endpoint

    @property
    def lost(self) -> int:
        """Tokens that should have been read from the cache and were not."""
        return self.miss.missed if self.miss else 0

    @property
    def new(self) -> int:
        """Tokens that nobody could have read from a cache."""
        if not self.usage or self.usage.cached is None:
            return 0
        return self.usage.input - self.usage.cached - self.lost


class Prices(NamedTuple):
    """Of a million tokens each, in any currency."""

    input: float
    cached: float
    written: float
    output: float

    def cost(self, usage: Usage) -> float:
        """Return what a request cost."""
        cached, written = usage.cached or 0, usage.written or 0
        fresh = max(0, usage.input - cached - written)
        tokens = (fresh, cached, written, usage.output or 0)
        return sum(price * count for price, count in zip(self, tokens, strict=True)) / 1e6


class Sums(NamedTuple):
    """Of a number of requests; those that reported no usage count no tokens and cost nothing.

    `measured_tokens` are the prompt tokens of those that reported cached tokens, if only 0: they
    were `cached_tokens`, `lost_tokens` or `new_tokens`.
    """

    requests: int
    without_usage: int
    misses: int
    prompt_tokens: int
    measured_tokens: int
    cached_tokens: int
    lost_tokens: int
    new_tokens: int
    written_tokens: int
    output_tokens: int
    hit_percent: float | None
    cost: float | None
    cost_without_cache: float | None


class Cause(NamedTuple):
    """Why tokens did not come from the cache: `is_lost` if they should have."""

    words: str
    is_lost: bool
    requests: int
    tokens: int
    remedy: str


class SessionFacts(NamedTuple):
    """A session's requests in order of time, and their sums in all and by `identity`."""

    id: str
    sums: Sums
    speakers: list[tuple[tuple[str, str, str], Sums]]
    requests: list[RequestFacts]


class Report(NamedTuple):
    """All that is shown. What lost most tokens comes first, then what had most new ones."""

    title: str
    warnings: list[str]
    """What keeps it from being whole, or right."""
    prices: Prices | None
    sums: Sums
    causes: list[Cause]
    sessions: list[SessionFacts]


def report_of(
    title: str,
    sessions: Mapping[str, Iterable[RequestFacts]],
    *,
    warnings: Iterable[str] = (),
    prices: Prices | None = None,
) -> Report:
    """Return the report of some sessions' requests, which come in any order."""
    made = []
    for id_, unsorted in sessions.items():
        requests = sorted(unsorted, key=lambda request: request.time)
        parts = defaultdict(list)
        for request in requests:
            parts[request.identity].append(request)
        speakers = [(identity, sums(part, prices)) for identity, part in parts.items()]
        speakers.sort(key=lambda identity: _rank(identity[1]))
        made.append(SessionFacts(id_, sums(requests, prices), speakers, requests))
    made.sort(key=lambda session: _rank(session.sums))
    requests = [request for session in made for request in session.requests]
    return Report(title, [*warnings], prices, sums(requests, prices), causes(requests), made)


def sums(requests: Iterable[RequestFacts], prices: Prices | None) -> Sums:
    """Sum requests up."""
    requests = list(requests)
    used = [request.usage for request in requests if request.usage]
    measured = sum(usage.input for usage in used if usage.cached is not None)
    cached = sum(usage.cached or 0 for usage in used)
    uncached = [usage._replace(cached=0, written=0) for usage in used]
    return Sums(
        requests=len(requests),
        without_usage=len(requests) - len(used),
        misses=sum(request.miss is not None for request in requests),
        prompt_tokens=sum(usage.input for usage in used),
        measured_tokens=measured,
        cached_tokens=cached,
        lost_tokens=sum(request.lost for request in requests),
        new_tokens=sum(request.new for request in requests),
        written_tokens=sum(usage.written or 0 for usage in used),
        output_tokens=sum(usage.output or 0 for usage in used),
        hit_percent=100 * cached / measured if measured else None,
        cost=sum(map(prices.cost, used)) if prices else None,
        cost_without_cache=sum(map(prices.cost, uncached)) if prices else None,
    )


def causes(requests: Iterable[RequestFacts]) -> list[Cause]:
    """Sum up what did not come from the cache: what should have first, each by its tokens."""
    found: dict[str, Cause] = {}

    def add(words: str, tokens: int, *, is_lost: bool = False, remedy: str = "") -> None:
        if tokens:
            before = found.get(words, Cause(words, is_lost, 0, 0, remedy))
            found[words] = before._replace(
                requests=before.requests + 1, tokens=before.tokens + tokens
            )

    for request in requests:
        if miss := request.miss:
            add(miss.kind, miss.missed, is_lost=True, remedy=miss.remedy)
        add(FIRST if request.is_first else NEW, request.new)
    return sorted(found.values(), key=lambda cause: (not cause.is_lost, -cause.tokens))


def as_json(value: Any) -> Any:
    """Return a report, or a part of it, as JSON has it; times are Unix times."""
    if hasattr(value, "_asdict"):
        members = {name: as_json(member) for name, member in value._asdict().items()}
        return members | ({"lost": value.missed} if isinstance(value, Miss) else {})
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _rank(of: Sums) -> tuple[int, int]:
    return -of.lost_tokens, -of.new_tokens
