from itertools import chain

import pytest
from prompt_cache_key.stats.sums import (
    MAX_BILLS,
    MAX_CAUSES,
    OTHER_CAUSES,
    OTHER_MODELS,
    Bill,
    CauseSum,
    Sums,
    dollars,
    percent,
)
from unit.requests_made import OPENAI, finished, miss, usage

REQUESTS = [
    finished(1, usage(1000, 0, 500, 10), is_first=True),
    finished(2, usage(3000, 500), miss(1000, "tool added", 500, "a remedy")),
    finished(3, usage=None),
    finished(4, usage(5000, None)),
    finished(5, usage(4000, 500, 600), miss(1000, "tool added", 500)),
]


def summed(requests: list) -> Sums:  # type: ignore[type-arg]
    sums = Sums()
    for request in requests:
        sums.add(request)
    return sums


def test_sums() -> None:
    sums = summed(REQUESTS)
    assert sums == Sums(
        requests=5,
        without_usage=1,
        misses=2,
        input=13_000,
        measured=8000,
        cached=1000,
        written=1100,
        output=10,
        missed=2000,
        new=5000,
        first=1000,
        causes={"tool added": CauseSum(2, 2000, "a remedy")},
        bills={("gpt-5.4", OPENAI, 0): Bill(4, 13_000, 1000, 1100, 2000, 600, 10)},
    )
    assert sums.hit_rate == 12.5
    assert sums.measured == sums.cached + sums.missed + sums.new


def test_sums_of_parts_are_the_sum_of_all() -> None:
    whole, parts = summed(REQUESTS), Sums()
    for request in REQUESTS:
        parts.add_sums(summed([request]))
    assert parts == whole


def test_without_cache_data_there_is_no_hit_rate() -> None:
    assert Sums().hit_rate is None
    assert summed([finished(usage=usage(5000, None))]).hit_rate is None
    assert summed([finished(usage=usage(5000))]).hit_rate == 0


@pytest.mark.parametrize(
    ("requests", "fields"),
    [
        ([], "requests=0 input=0 cached=? hit=?% missed=0"),
        ([finished(usage=None)], "requests=1 input=0 cached=? hit=?% missed=0"),
        ([finished(usage=usage(4096))], "requests=1 input=4096 cached=0 hit=0% missed=0"),
        ([finished(usage=usage(4096, None))], "requests=1 input=4096 cached=? hit=?% missed=0"),
        (REQUESTS, "requests=5 input=13000 cached=1000 hit=12% missed=2000 written=1100"),
        # Only what reported cached tokens is measured.
        (
            [finished(usage=usage(900, None)), finished(usage=usage(100, 50))],
            "requests=2 input=1000 cached=50 hit=50% missed=0",
        ),
    ],
)
def test_fields_of_a_log_line(requests: list, fields: str) -> None:  # type: ignore[type-arg]
    assert summed(requests).fields() == fields


def test_dollars_stand_in_a_log_line_once_they_are_known() -> None:
    sums = summed([finished(usage=usage(100, 50))])
    sums.cost, sums.saved, sums.missed_cost = 2.0, 12.3, 0.0
    assert sums.fields().endswith(" missed=0 saved=$12.30 missed_cost=$0.00")


def test_the_main_cause_has_most_missed_tokens() -> None:
    sums = Sums()
    assert sums.main_cause == ""
    for tokens, cause in ((3000, "key changed"), (2500, "edited"), (2600, "edited")):
        sums.add(finished(usage=usage(9000), miss=miss(tokens, cause)))
    assert sums.main_cause == "edited"
    assert [*sums.worst_causes()] == [
        ("edited", CauseSum(2, 5100)),
        ("key changed", CauseSum(1, 3000)),
    ]


def test_causes_are_bounded() -> None:
    sums = Sums()
    for number in range(2 * MAX_CAUSES):
        for cause in (f"tool {number} edited", "tool 0 edited"):
            sums.add(finished(usage=usage(9000), miss=miss(2, cause, remedy="a remedy")))
    assert len(sums.causes) == MAX_CAUSES + 1
    assert sums.causes[OTHER_CAUSES] == CauseSum(MAX_CAUSES, 2 * MAX_CAUSES)
    assert sums.causes["tool 0 edited"].requests == 2 * MAX_CAUSES + 1


def test_bills_are_bounded_in_number_and_size() -> None:
    sums = Sums()
    for number in range(2 * MAX_BILLS):
        sums.add(finished(usage=usage(5), model=f"{number}", endpoint="u" * 2_000_000))
    assert len(sums.bills) == MAX_BILLS + 1
    assert sums.bills[OTHER_MODELS, "", 0].requests == MAX_BILLS
    assert max(map(len, chain.from_iterable(key[:2] for key in sums.bills))) == 256


def test_prompts_are_billed_by_the_step_of_their_length() -> None:
    sums = summed([finished(usage=usage(size)) for size in (1000, 200_000, 271_999, 272_000)])
    assert [step for _, _, step in sums.bills] == [0, 2, 3, 4]


def test_no_more_is_billed_than_a_prompt_has() -> None:
    [bill] = summed([finished(usage=usage(100, 80, 90), miss=miss(70))]).bills.values()
    assert bill == Bill(1, 100, 80, 20, 20, 20)


@pytest.mark.parametrize(
    ("rate", "words"), [(None, "?%"), (0, "0%"), (99.99, "99%"), (100.0, "100%")]
)
def test_percent_is_rounded_down(rate: float | None, words: str) -> None:
    assert percent(rate) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [(None, "?"), (0, "$0.00"), (1234.567, "$1234.57"), (-0.42, "-$0.42"), (0.0042, "$0.0042")],
)
def test_dollars(amount: float | None, words: str) -> None:
    assert dollars(amount) == words
