import re
from itertools import pairwise

import pytest
from prompt_cache_key.misses.causes import COUNTDOWN, EXPIRED, KEY, SERVER_SIDE, TOO_MANY
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.report.chart import MAX_BARS, chart, legend, mark, split, swatch
from prompt_cache_key.stats.facts import RequestFacts, sums
from prompt_cache_key.usage.reader import Usage
from unit.report.saved import facts

BROKE = Miss(8000, 3000, "tools reordered", "tools reordered", "tools[0].name", 0, "A", "B")


def drawn(*requests: RequestFacts) -> str:
    return chart(requests, [f"<{number}>" for number in range(len(requests))])


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("tools reordered", "tools[0].name", "broke"),
        ("settings changed", "model", "broke"),
        (COUNTDOWN, "", "broke"),
        (KEY, "prompt_cache_key", "key"),
        ("prompt cache key changed", "prompt_cache_key", "key"),
        (EXPIRED, "", "pause"),
        (TOO_MANY, "", "busy"),
        (SERVER_SIDE, "", "own"),
        ("unavailable", "", "own"),
    ],
)
def test_each_kind_of_cause_has_its_mark(kind: str, path: str, name: str) -> None:
    made = mark(BROKE._replace(kind=kind, path=path))
    assert f'class="{name}"' in made
    assert made in legend()


def test_the_legend_names_all_parts() -> None:
    for name in ("cached", "lost", "new", "unknown"):
        assert swatch(name) in legend()


def test_bars() -> None:
    made = drawn(
        facts(0, Usage(5000, 0, None, None)),
        facts(1, Usage(10_000, 3000, None, None), BROKE),
        facts(2, Usage(2500, None, None, None)),
        facts(3),
    )
    bars = made.split("<g>")[1:]
    parts = [re.findall(r'class="(\w+)" d="M([\d.]+) ([\d.]+)h.84v-([\d.]+)', bar) for bar in bars]
    assert parts == [
        [("new", "0.08", "140.0", "70.0")],
        [
            ("cached", "1.08", "140.0", "42.0"),
            ("lost", "1.08", "98.0", "70.0"),
            ("new", "1.08", "28.0", "28.0"),
        ],
        [("unknown", "2.08", "140.0", "35.0")],
        [],
    ]
    assert re.findall("<title>(.*?)</title>", made) == [f"&lt;{number}&gt;" for number in range(4)]
    assert re.findall(r'<svg style="left:([\d.]+)%" viewBox="0 0 12 12">', made) == ["37.50"]


def test_only_the_last_requests_are_drawn() -> None:
    made = drawn(*(facts(number) for number in range(MAX_BARS + 1)))
    assert made.count("<g>") == MAX_BARS
    assert "&lt;0&gt;" not in made
    assert f"&lt;{MAX_BARS}&gt;" in made


@pytest.mark.parametrize(
    ("count", "times", "hidden"),
    [(1, 1, 0), (4, 1, 0), (10, 2, 0), (14, 3, 0), (20, 4, 2), (500, 5, 2)],
)
def test_times_fit(count: int, times: int, hidden: int) -> None:
    """Not more than fit a wide screen, and three on a phone."""
    made = drawn(*(facts(number) for number in range(count)))
    labels = re.findall(r"<span(?: class=\"more\")?>(\d\d:\d\d:\d\d)</span>", made)
    assert len(labels) == times
    assert made.count('class="more"') == hidden
    assert all(a < b for a, b in pairwise(labels))


def test_times_of_several_days_have_dates() -> None:
    made = drawn(*(facts(number * 9000) for number in range(20)))
    assert re.search(r"<span>11-2\d \d\d:\d\d</span>", made)


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        (7, ["7", "3.5", "0"]),
        (2_000, ["2.0k", "1.0k", "0"]),
        (184_213, ["184.2k", "92.1k", "0"]),
        (1_500_000, ["1.5M", "750.0k", "0"]),
    ],
)
def test_numbers_beside_a_chart(tokens: int, labels: list[str]) -> None:
    made = drawn(facts(usage=Usage(tokens, 0, None, None)))
    assert re.findall(r"<span>([^<:]*)</span>", made) == labels


def test_split() -> None:
    requests = [
        facts(usage=Usage(8000, 3000, None, None), miss=BROKE._replace(expected=5000)),
        facts(usage=Usage(2000, None, None, None)),
    ]
    parts = re.findall(r'class="(\w+)" d="M([\d.]+) 0h([\d.]+)v1h', split(sums(requests, None)))
    assert parts == [
        ("cached", "0.00", "30.00"),
        ("lost", "30.00", "20.00"),
        ("new", "50.00", "30.00"),
        ("unknown", "80.00", "20.00"),
    ]
    assert "path" not in split(sums([], None))
