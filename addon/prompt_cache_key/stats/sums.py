"""Sum finished requests: the one sum that log, table, page, status line and report show."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.log import MAX_LENGTH, pairs
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage

MAX_CAUSES = 100
"""Causes that one sum distinguishes, as some hold words of an upstream."""

OTHER_CAUSES = "other causes"

MAX_BILLS = 20
"""Pairs of model and endpoint that one sum distinguishes to price them."""

OTHER_MODELS = "other models"

# A prompt beyond such a length costs more a token at OpenAI (272,000), Anthropic and Google
# (200,000), xAI and others (128,000, 256,000): https://github.com/pydantic/genai-prices
_PRICE_STEPS = (128_000, 200_000, 256_000, 272_000)


@dataclass(slots=True)
class CauseSum:
    """The misses of one cause."""

    requests: int = 0
    tokens: int = 0
    remedy: str = ""


@dataclass(slots=True)
class Bill:
    """The tokens that decide what requests to one model and endpoint cost."""

    requests: int = 0
    input: int = 0
    cached: int = 0
    written: int = 0
    missed: int = 0
    missed_written: int = 0
    """Missed tokens that were written to the cache, which costs more than mere input."""
    output: int = 0


BillKey = tuple[str, str, int]
"""Model, endpoint, and how many price steps the prompt is beyond."""


@dataclass(slots=True)
class Sums:
    """Sums of finished requests.

    The tokens are those of responses that reported usage. The dollars are set by `money.price`.
    """

    requests: int = 0
    without_usage: int = 0
    misses: int = 0
    input: int = 0
    measured: int = 0
    """Prompt tokens of the requests whose upstream reported cached tokens, if only 0."""
    cached: int = 0
    written: int = 0
    output: int = 0
    missed: int = 0
    new: int = 0
    """Measured tokens that no cache could have held; with `cached` and `missed` all of them."""
    first: int = 0
    """The part of `new` that stood in first requests of conversations."""
    causes: dict[str, CauseSum] = field(default_factory=dict)
    """Misses by kind of cause."""
    cost: float | None = None
    """Dollars that the requests cost; None if no price is known."""
    saved: float | None = None
    """Dollars that the cache saved, less what cache writes cost more; None: no price is known."""
    missed_cost: float | None = None
    """Dollars that misses cost; None if no price is known."""
    bills: dict[BillKey, Bill] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float | None:
        """Percent of the measured tokens that were read from the cache; None if there are none."""
        return share(self.cached, self.measured)

    @property
    def main_cause(self) -> str:
        """The cause of most missed tokens; empty without misses."""
        return max(self.causes, key=lambda cause: self.causes[cause].tokens, default="")

    def add(self, request: FinishedRequest) -> None:
        """Add a request."""
        self.requests += 1
        usage = request.usage
        if not usage:
            self.without_usage += 1
            return
        self.input += usage.input
        self.written += usage.written or 0
        self.output += usage.output or 0
        if usage.cached is not None:
            self.measured += usage.input
            self.cached += usage.cached
            self.new += request.new
            self.first += request.new if request.is_first else 0
        if miss := request.miss:
            self.misses += 1
            self.missed += miss.missed
            self._add_cause(miss.kind, CauseSum(1, miss.missed, miss.remedy))
        key = bounded(request.model), bounded(request.endpoint)
        self._add_bill((*key, bisect_right(_PRICE_STEPS, usage.input)), _bill(usage, miss))

    def add_sums(self, other: "Sums") -> None:
        """Add other requests' sums, but for their dollars."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for cause, of_cause in other.causes.items():
            self._add_cause(cause, of_cause)
        for key, bill in other.bills.items():
            self._add_bill(key, bill)

    def fields(self) -> str:
        """Return the fields of a log line; cache writes and dollars where they are known."""
        cached = self.cached if self.measured else "?"
        values: dict[str, object] = {"requests": self.requests, "input": self.input}
        values |= {"cached": cached, "hit": percent(self.hit_rate), "missed": self.missed}
        if self.written:
            values["written"] = self.written
        if self.saved is not None and self.missed_cost is not None:
            values |= {"saved": dollars(self.saved), "missed_cost": dollars(self.missed_cost)}
        return pairs(**values)

    def worst_causes(self) -> Iterator[tuple[str, CauseSum]]:
        """Yield causes with their misses, that of most missed tokens first."""
        yield from sorted(self.causes.items(), key=lambda item: -item[1].tokens)

    def _add_cause(self, cause: str, more: CauseSum) -> None:
        if cause not in self.causes and len(self.causes) >= MAX_CAUSES:
            cause, more = OTHER_CAUSES, CauseSum(more.requests, more.tokens)
        of_cause = self.causes.setdefault(cause, CauseSum())
        of_cause.requests += more.requests
        of_cause.tokens += more.tokens
        of_cause.remedy = more.remedy or of_cause.remedy

    def _add_bill(self, key: BillKey, more: Bill) -> None:
        if key not in self.bills and len(self.bills) >= MAX_BILLS:
            key = OTHER_MODELS, "", 0
        bill = self.bills.setdefault(key, Bill())
        for name in Bill.__slots__:
            setattr(bill, name, getattr(bill, name) + getattr(more, name))


_COUNTS = (
    *("requests", "without_usage", "misses", "input", "measured", "cached", "written", "output"),
    *("missed", "new", "first"),
)


def _bill(usage: Usage, miss: Miss | None) -> Bill:
    # Of cached and written tokens that are not parts of the prompt (an upstream may report
    # anything), no more is billed than there can be.
    cached = min(usage.cached or 0, usage.input)
    written = min(usage.written or 0, usage.input - cached)
    missed = min(miss.missed if miss else 0, usage.input - cached)
    output = usage.output or 0
    return Bill(1, usage.input, cached, written, missed, min(written, missed), output)


def share(part: int, whole: int) -> float | None:
    """Return a part in percent of the whole; None if there is no whole."""
    return 100 * part / whole if whole else None


def percent(rate: float | None) -> str:
    """Return a hit rate as it is shown: rounded down, as 99.9 % is not all; `?%` if unknown."""
    return "?%" if rate is None else f"{int(rate)}%"


def dollars(amount: float | None) -> str:
    """Return an amount such as $12.30, or $0.0042 where cents show nothing; `?` if unknown."""
    if amount is None:
        return "?"
    sign, size = "-" if amount < 0 else "", abs(amount)
    return f"{sign}${size:.{2 if size >= 0.01 or not size else 4}f}"  # noqa: PLR2004


def bounded(name: str) -> str:
    """Return a client's name for something, cut to what a log line may hold of it."""
    return name if len(name) <= MAX_LENGTH else name[: MAX_LENGTH - 1] + "…"
