import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from threading import Event, current_thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from prompt_cache_key.stats import money
from prompt_cache_key.stats.money import GivenPrices, ListedPrices, Tokens, at_hand, load, price
from prompt_cache_key.stats.sums import Sums
from unit.requests_made import finished, miss, usage

MILLION = 1_000_000
PRICES = GivenPrices(input=2.0, cached=0.2, written=2.5, output=10.0)


def priced(prices: money.Prices | None, *requests: Any) -> Sums:
    sums = Sums()
    for request in requests:
        sums.add(request)
    price(sums, prices)
    return sums


@pytest.mark.parametrize(
    ("of", "missed", "dollars"),
    [
        # What it cost, what the cache saved, what misses cost.
        (usage(MILLION, None), 0, (2.0, 0, 0)),
        (usage(MILLION, 0), 0, (2.0, 0, 0)),
        (usage(MILLION, MILLION), 0, (0.2, 1.8, 0)),
        (usage(MILLION, 500_000, 0, 100_000), 0, (0.1 + 1.0 + 1.0, 0.9, 0)),
        # Cache writes cost more than the input, so a first request costs more than without a cache.
        (usage(MILLION, 0, MILLION), 0, (2.5, -0.5, 0)),
        (usage(MILLION, 500_000, 500_000), 0, (0.1 + 1.25, 0.9 - 0.25, 0)),
        # Missed tokens were paid for as input, or as cache writes where they were written anew.
        (usage(MILLION, 0), 500_000, (2.0, 0, 1.0 - 0.1)),
        (usage(MILLION, 0, MILLION), 500_000, (2.5, -0.5, 1.25 - 0.1)),
        (usage(MILLION, 0, 400_000), 500_000, (2.2, -0.2, (1.0 + 0.2) - 0.1)),
    ],
)
def test_dollars(of: Any, missed: int, dollars: tuple[float, float, float]) -> None:
    sums = priced(PRICES, finished(usage=of, miss=miss(missed) if missed else None))
    assert (sums.cost, sums.saved, sums.missed_cost) == pytest.approx(dollars)


def test_dollars_of_several_requests_and_models_add_up() -> None:
    requests = [
        finished(usage=usage(MILLION, 500_000), model=model, miss=miss(100_000)) for model in "aab"
    ]
    one, all_ = priced(PRICES, requests[0]), priced(PRICES, *requests)
    for name in ("cost", "saved", "missed_cost"):
        assert getattr(all_, name) == pytest.approx(3 * getattr(one, name))


def test_without_prices_or_requests_there_are_no_dollars() -> None:
    for sums in (
        priced(None, finished(usage=usage(5))),
        priced(PRICES),
        priced(PRICES, finished(usage=None)),
    ):
        assert (sums.cost, sums.saved, sums.missed_cost) == (None, None, None)


class OnlyA:
    """Prices of one model, which depend on the length of a prompt."""

    def cost(self, model: str, _endpoint: str, tokens: Tokens) -> float | None:
        if model != "a":
            return None
        return tokens.input * (2.0 if tokens.input > 200_000 else 1.0)


def test_models_without_a_price_are_counted_and_do_not_hide_the_others() -> None:
    sums = Sums()
    for model in "abbc":
        sums.add(finished(usage=usage(1000), model=model))
    assert price(sums, OnlyA()) == {"b": 2, "c": 1}
    assert sums.cost == 1000


def test_long_prompts_are_priced_apart_from_short_ones() -> None:
    requests = [finished(usage=usage(size), model="a") for size in (1000, 300_000)]
    assert priced(OnlyA(), *requests).cost == 1000 + 2 * 300_000


# --- the price list -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    load.cache_clear()
    yield
    load.cache_clear()


def test_without_the_package_there_is_no_price_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert load() is None


class Listed:
    """A package with one model of one provider, with the members that the real one has."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def find_provider(self, model: str | None, _id: None, url: str | None) -> str:
        if url == "https://known.test":
            return "known"
        raise LookupError(model)

    def find_provider_model(
        self, model: str, provider: str | None, _id: None, _url: None
    ) -> tuple[str, Any]:
        self.asked.append((model, provider))
        if model != "m":
            raise LookupError(model)
        return provider or "maker", SimpleNamespace(calc_price=self.calc_price)

    @staticmethod
    def calc_price(usage: Any, provider: str) -> SimpleNamespace:
        assert vars(usage).keys() == {
            "input_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "output_tokens",
        }
        return SimpleNamespace(total_price=usage.input_tokens * (2 if provider == "known" else 1))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    package: Any = ModuleType("genai_prices")
    package.Usage = SimpleNamespace
    data: Any = ModuleType("genai_prices.data_snapshot")
    data.get_snapshot = lambda: SimpleNamespace(providers=())
    data.DataSnapshot = lambda _providers, **_: Listed(asked)
    monkeypatch.setitem(sys.modules, "genai_prices", package)
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", data)
    return asked


def test_the_price_list_is_loaded_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    is_allowed, threads = Event(), []

    def load_later() -> money.Prices | None:
        is_allowed.wait(10)
        threads.append(current_thread())
        return load()

    monkeypatch.setattr(money, "load", load_later)
    money._loading.cache_clear()
    try:
        assert at_hand() is at_hand() is None
        is_allowed.set()
        assert money._loading().result(10) is at_hand() is load()
    finally:
        money._loading.cache_clear()
    assert threads != [current_thread()]
    assert asked == []


@pytest.mark.parametrize(
    ("model", "endpoint", "cost", "name"),
    [
        ("m", "https://known.test", 20, ("m", "known")),
        ("maker/m", "https://known.test", None, ("maker/m", "known")),
        ("m", "http://127.0.0.1:4000", 10, ("m", None)),
        ("maker/m", "http://127.0.0.1:4000", 10, ("m", None)),
        ("n", "", None, ("n", None)),
    ],
)
def test_the_provider_counts_where_it_is_known_else_the_models_maker(
    asked: list[Any], model: str, endpoint: str, cost: float | None, name: Any
) -> None:
    prices = load()
    assert prices
    for _ in range(2):
        assert prices.cost(model, endpoint, Tokens(10, 1, 1, 1)) == cost
    assert asked == [name]  # and is remembered
    assert load() is prices


@pytest.mark.skipif(not find_spec("genai_prices"), reason="the extra `prices` is not installed")
def test_the_real_price_list_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    prices = ListedPrices()
    sonnet = ("claude-sonnet-4-6", "https://api.anthropic.com/v1/messages")
    fresh = prices.cost(*sonnet, Tokens(100_000, 0, 0, 0))
    cached = prices.cost(*sonnet, Tokens(100_000, 100_000, 0, 0))
    written = prices.cost(*sonnet, Tokens(100_000, 0, 100_000, 0))
    assert fresh
    assert cached == pytest.approx(fresh / 10)
    assert written == pytest.approx(fresh * 1.25)
    for model, endpoint in (
        ("claude-sonnet-4-6", "http://127.0.0.1:4000/v1/messages"),
        ("anthropic/claude-sonnet-4-6", "http://gateway.test"),
    ):
        assert prices.cost(model, endpoint, Tokens(100_000, 0, 0, 0)) == fresh
    assert prices.cost("nobody's", sonnet[1], Tokens(1, 0, 0, 0)) is None
    assert prices.cost("\ud83d" * 256, "\x00" * 256, Tokens(1, 0, 0, 0)) is None
