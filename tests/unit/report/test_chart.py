import re

import pytest
from prompt_cache_key.report.chart import (
    MAX_BARS,
    MAX_SPANS,
    Chart,
    requests_chart,
    split,
    trend,
)
from prompt_cache_key.usage.reader import Usage
from unit.requests_made import finished, miss

UNKNOWN = Usage(5000, None, None, None)
HIT = Usage(10_000, 9999, None, None)


def boxes(chart: Chart) -> dict[str, list[tuple[float, float, float]]]:
    """Return for each part its boxes: left, bottom and height."""
    pattern = re.compile(r"M([\d.]+) (-?[\d.]+)h\.8v-([\d.]+)h-\.8z")
    return {
        name: [tuple(map(float, box)) for box in pattern.findall(path)]  # type: ignore[misc]
        for name, path in chart.paths
    }


def test_a_bar_shows_what_became_of_the_tokens_of_a_request() -> None:
    chart = requests_chart(
        [
            finished(0, Usage(5000, 0, None, None)),
            finished(1, Usage(10_000, 2500, None, None), miss(5000)),
            finished(2, UNKNOWN),
            finished(3, None),
        ]
    )
    assert boxes(chart) == {
        "cached": [(1.1, 100, 25)],
        "missed": [(1.1, 75, 50)],
        "new": [(0.1, 100, 50), (1.1, 25, 25)],
        "unknown": [(2.1, 100, 50)],
    }
    assert chart.dots == "M1.5 -7h0"
    assert chart.scale == ("10.0k", "5.0k", "0")
    assert [bar.hit_rate for bar in chart.bars] == ["0%", "25%", "?%", "?%"]


def test_parts_that_do_not_occur_have_no_path() -> None:
    assert [name for name, _ in requests_chart([finished(usage=HIT)]).paths] == ["cached", "new"]
    assert requests_chart([finished(usage=HIT)]).dots == ""


def test_more_cached_tokens_than_the_prompt_has_draw_no_negative_part() -> None:
    chart = requests_chart([finished(usage=Usage(100, 900, None, None))])
    assert list(boxes(chart)) == ["cached"]


def test_only_the_last_requests_are_drawn() -> None:
    chart = requests_chart([finished(number) for number in range(MAX_BARS + 1)])
    assert len(chart.bars) == chart.width == MAX_BARS
    assert chart.bars[0].request == finished(1)


def test_few_bars_are_not_drawn_wide() -> None:
    assert requests_chart([finished()]).width == requests_chart([]).width == 24


@pytest.mark.parametrize(
    ("tokens", "scale"),
    [
        (7, ("7", "3.5", "0")),
        (2_000, ("2.0k", "1.0k", "0")),
        (1_500_000, ("1.5M", "750.0k", "0")),
    ],
)
def test_numbers_beside_a_chart(tokens: int, scale: tuple[str, str, str]) -> None:
    assert requests_chart([finished(usage=Usage(tokens, 0, None, None))]).scale == scale


@pytest.mark.parametrize(
    ("count", "step", "pattern", "labels"),
    [
        (1, 1, r"\d\d:\d\d:\d\d", 1),
        (23, 1, r"\d\d:\d\d:\d\d", 1),
        (24, 1, r"\d\d:\d\d:\d\d", 2),
        (24, 9000, r"\d\d-\d\d \d\d:\d\d", 2),
    ],
)
def test_times_beneath_a_chart(count: int, step: int, pattern: str, labels: int) -> None:
    times = requests_chart([finished(number * step) for number in range(count)]).times
    assert len(times) == labels
    assert all(re.fullmatch(pattern, time) for time in times)
    assert len(set(times)) == labels


# --- the trend ----------------------------------------------------------------------------------


def test_the_trend_has_a_bar_for_each_span_of_time() -> None:
    chart = trend(
        [
            finished(0, Usage(1000, 500, None, None)),
            finished(9, Usage(3000, 2500, None, None)),
            finished(20, Usage(100, 100, None, None)),
            finished(21, UNKNOWN),
            finished(22, None),
        ]
    )
    assert [(bar.at, bar.total, bar.hit_rate) for bar in chart.bars] == [
        (0, 4000, "75%"),
        (2, 100, "100%"),
    ]
    assert boxes(chart) == {"cached": [(0.1, 100, 75), (2.1, 100, 100)], "new": [(0.1, 25, 25)]}
    assert chart.scale == ("100%", "50%", "0%")


@pytest.mark.parametrize("length", [479, 480, 3600, 86_400, 10**7, 10**11])
def test_the_trend_of_any_time_fits(length: int) -> None:
    chart = trend([finished(0), finished(length / 2), finished(length)])
    assert len(chart.bars) == 3
    assert chart.width <= MAX_SPANS
    assert chart.bars[-1].at < MAX_SPANS


def test_nothing_has_no_trend() -> None:
    assert trend([]).bars == trend([finished(usage=UNKNOWN)]).bars == []


# --- one bar of all -----------------------------------------------------------------------------


def test_split() -> None:
    assert split([30, 20, 0, 50]) == [
        ("cached", "M0.00 0h30.00v1h-30.00z", 30),
        ("missed", "M30.00 0h20.00v1h-20.00z", 20),
        ("unknown", "M50.00 0h50.00v1h-50.00z", 50),
    ]
    assert split([0, 0, 0, 0]) == []
