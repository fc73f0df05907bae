"""What the cache saved and what misses cost, in dollars.

Prices are given (`report --price-input 2 …`), or those of the optional package `genai-prices`,
which has them in its wheel; nothing is fetched. A model's price at the provider that its endpoint
belongs to counts; behind a gateway or translator, which no list knows, it is that of the model's
maker. So the dollars of an engine on one's own machine are those of a hosted one: no list knows
that the engine costs nothing.

Not considered: cache writes for an hour cost Anthropic's customers more than those for 5 minutes,
and usage does not tell the two apart here.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from prompt_cache_key.stats.sums import Bill, Sums

MAX_MODELS = 1000
"""Pairs of model and endpoint whose price is remembered."""


class Tokens(NamedTuple):
    """The tokens of one request; `cached` and `written` are parts of `input`."""

    input: int
    cached: int
    written: int
    output: int


class Prices(Protocol):
    """A price list."""

    def cost(self, model: str, endpoint: str, tokens: Tokens) -> float | None:
        """Return what a request costs; None if no price is known."""


class GivenPrices(NamedTuple):
    """Prices of a million tokens each, whatever the model, in any currency."""

    input: float
    cached: float
    written: float
    output: float

    def cost(self, _model: str, _endpoint: str, tokens: Tokens) -> float:
        """Return what a request costs."""
        fresh = tokens.input - tokens.cached - tokens.written
        return sum(a * b for a, b in zip(self, (fresh, *tokens[1:]), strict=True)) / 1e6


class ListedPrices:
    """The prices of `genai-prices`; ImportError if that is not installed."""

    def __init__(self) -> None:
        self._usage = import_module("genai_prices").Usage
        library = import_module("genai_prices.data_snapshot")
        providers = library.get_snapshot().providers

        def find(model: str, endpoint: str) -> Any:
            # A snapshot remembers all names that it was ever asked for: each is asked for one.
            snapshot = library.DataSnapshot(providers, from_auto_update=False)
            try:
                provider = snapshot.find_provider(None, None, endpoint)
            except LookupError:  # a router's or translator's: its models may be named maker/model
                provider, model = None, model.rpartition("/")[2]
            with suppress(LookupError):
                return snapshot.find_provider_model(model, provider, None, None)
            return None

        self._find = lru_cache(MAX_MODELS)(find)

    def cost(self, model: str, endpoint: str, tokens: Tokens) -> float | None:
        """Return what a request costs; None if no price is known."""
        if not (found := self._find(model, endpoint)):
            return None
        provider, listed = found
        usage = self._usage(
            input_tokens=tokens.input,
            cache_read_tokens=tokens.cached,
            cache_write_tokens=tokens.written,
            output_tokens=tokens.output,
        )
        return float(listed.calc_price(usage, provider).total_price)


@lru_cache(1)
def load() -> Prices | None:
    """Load the price list; None if it is not installed.

    The first call takes 0.3 s: where that is too long, call `at_hand`.
    """
    try:
        return ListedPrices()
    except ImportError:
        return None


def at_hand() -> Prices | None:
    """Return the price list if it has been loaded; else None, and a thread begins to load it."""
    loading = _loading()
    return loading.result() if loading.done() else None


@lru_cache(1)
def _loading() -> Future[Prices | None]:
    return ThreadPoolExecutor(1, "prices").submit(load)


def price(sums: Sums, prices: Prices | None) -> dict[str, int]:
    """Set the dollars of sums; return how many requests have no known price, by model."""
    sums.cost = sums.saved = sums.missed_cost = None
    unknown: dict[str, int] = {}
    if not prices:
        return unknown
    for (model, endpoint, _), bill in sums.bills.items():
        if not (costs := _costs(bill, partial(prices.cost, model, endpoint))):
            unknown[model] = unknown.get(model, 0) + bill.requests
            continue
        cost, saved, missed_cost = costs
        sums.cost = (sums.cost or 0) + cost
        sums.saved = (sums.saved or 0) + saved
        sums.missed_cost = (sums.missed_cost or 0) + missed_cost
    return unknown


def _costs(bill: Bill, cost: Callable[[Tokens], float | None]) -> tuple[float, float, float] | None:
    """Return what requests cost, what the cache saved of it and what misses added to it.

    They are priced as so many of their mean, as some prices depend on a prompt's length. Without
    misses the missed tokens would have been read from the cache, and not been written to it again.
    """
    count = bill.requests

    def mean(cached: int, written: int) -> Tokens:
        return Tokens(*(part // count for part in (bill.input, cached, written, bill.output)))

    real, uncached = mean(bill.cached, bill.written), mean(0, 0)
    ideal = mean(bill.cached + bill.missed, bill.written - bill.missed_written)
    costs = [cost(tokens) for tokens in (real, uncached, ideal)]
    known = [count * each for each in costs if each is not None]
    if len(known) < len(costs):
        return None
    paid, paid_uncached, paid_ideal = known
    return paid, paid_uncached - paid, paid - paid_ideal
