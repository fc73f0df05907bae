from typing import Any

import pytest
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.stats.facts import (
    Cause,
    Prices,
    Sums,
    as_json,
    causes,
    report_of,
    sums,
)
from prompt_cache_key.usage.reader import Usage
from unit.report.saved import TIME, facts

PRICES = Prices(input=2.0, cached=0.2, written=3.0, output=10.0)
MISS = Miss(1500, 500, "tool added: B", "tool added", "tools[1]", 0, "", "B", "a remedy")


REQUESTS = [
    facts(1, Usage(1000, 0, 500, 10), is_first=True),
    facts(2, Usage(3000, 500, None, None), MISS),
    facts(3),
    facts(4, Usage(5000, None, None, None)),
    facts(5, Usage(4000, 500, None, None), MISS._replace(cause="tool added: C")),
]


@pytest.mark.parametrize(
    ("counts", "cost"),
    [
        ((0, None, None), 2.0),
        ((None, None, None), 2.0),
        ((1_000_000, None, None), 0.2),
        ((500_000, 500_000, 100_000), 0.1 + 1.5 + 1.0),
        ((500_000, 250_000, 0), 0.1 + 0.75 + 0.5),
        ((0, 2_000_000, None), 6.0),  # more written than there was
    ],
)
def test_cost(counts: Any, cost: float) -> None:
    assert PRICES.cost(Usage(1_000_000, *counts)) == pytest.approx(cost)


def test_sums() -> None:
    assert sums(REQUESTS, None) == Sums(
        requests=5,
        without_usage=1,
        misses=2,
        prompt_tokens=13_000,
        measured_tokens=8000,
        cached_tokens=1000,
        lost_tokens=2000,
        new_tokens=5000,
        written_tokens=500,
        output_tokens=10,
        hit_percent=12.5,
        cost=None,
        cost_without_cache=None,
    )
    priced = sums(REQUESTS[:2], PRICES)
    assert priced.cost == pytest.approx((500 * 2 + 500 * 3 + 2500 * 2 + 500 * 0.2 + 100) / 1e6)
    assert priced.cost_without_cache == pytest.approx((4000 * 2 + 10 * 10) / 1e6)


def test_no_cache_data_is_no_hit_rate() -> None:
    assert sums([], None).hit_percent is None
    assert sums([facts(usage=Usage(5000, None, None, None))], None).hit_percent is None
    assert sums([facts(usage=Usage(5000, 0, None, None))], None).hit_percent == 0


def test_causes() -> None:
    """What should have been read comes first, and all tokens that were not read are in it."""
    found = causes(REQUESTS)
    assert found == [
        Cause("tool added", True, 2, 2000, "a remedy"),
        Cause("new text", False, 2, 4000, ""),
        Cause("an agent's first request to a model", False, 1, 1000, ""),
    ]
    total = sums(REQUESTS, None)
    assert sum(cause.tokens for cause in found) == total.measured_tokens - total.cached_tokens


def test_what_lost_most_comes_first() -> None:
    new = facts(usage=Usage(9000, 0, None, None), model="n")
    made = report_of(
        "flows",
        {"a": [new], "b": [REQUESTS[1], new._replace(time=TIME)], "c": [facts()]},
        warnings=["w"],
        prices=PRICES,
    )
    assert (made.title, made.warnings, made.prices) == ("flows", ["w"], PRICES)
    assert [session.id for session in made.sessions] == ["b", "a", "c"]
    session = made.sessions[0]
    assert [each.time - TIME for each in session.requests] == [0, 2]
    assert [identity[1] for identity, _ in session.speakers] == ["m", "n"]
    assert [of.lost_tokens for _, of in session.speakers] == [1000, 0]
    assert (made.sums.requests, session.sums.requests) == (4, 2)


def test_as_json() -> None:
    made = as_json(report_of("flows", {"a": [REQUESTS[1]]}))
    assert made["prices"] is None
    assert made["causes"][0]["tokens"] == 1000
    [session] = made["sessions"]
    assert session["speakers"] == [[["main", "m", "https://gateway.test"], session["sums"]]]
    usage = Usage(3000, 500, None, None)._asdict()
    miss = {**MISS._asdict(), "lost": 1000}
    assert session["requests"] == [REQUESTS[1]._asdict() | {"usage": usage, "miss": miss}]
