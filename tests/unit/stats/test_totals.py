from itertools import permutations

import pytest
from prompt_cache_key.stats.totals import (
    COLLAPSED,
    LARGE,
    MAX_CAUSES,
    MAX_LINES,
    MAX_ROWS,
    NOTHING_CACHED,
    RECENT,
    Count,
    Row,
    Total,
    Totals,
)
from prompt_cache_key.usage.reader import Usage


def usage(input_: int, cached: int | None = 0) -> Usage:
    return Usage(input_, cached, None, None)


def begin(totals: Totals, session: str = "s", agent: str = "main", model: str = "m") -> Count:
    return totals.begin(session, agent, model)


def sums(total: Total) -> tuple[int, int, int]:
    return total.requests, total.input, total.cached


def by_model(totals: Totals) -> dict[str, tuple[int, int, int]]:
    return {model: sums(row) for *_, model, row in totals.rows()}


@pytest.mark.parametrize(
    ("reports", "hit", "text"),
    [
        ([], None, "requests=1 input=0 cached=? hit=?"),
        ([usage(4096)], 0, "requests=1 input=4096 cached=0 hit=0%"),
        ([usage(3000, 2000)], 200_000 / 3000, "requests=1 input=3000 cached=2000 hit=67%"),
        ([usage(4096, None)], None, "requests=1 input=4096 cached=? hit=?"),
        # Only what reported cached tokens is measured.
        ([usage(900, None), usage(100, 50)], 50, "requests=2 input=1000 cached=50 hit=50%"),
    ],
)
def test_hit_rate(reports: list[Usage], hit: float | None, text: str) -> None:
    totals = Totals()
    counts = [begin(totals) for _ in reports or "1"]
    for count, each in zip(counts, reports, strict=False):
        count.report(each)
    for total in (totals.all, totals.sessions["s"], totals.sessions["s"].rows["main", "m"]):
        assert total.hit == hit
        assert str(total) == text


def test_a_request_counts_in_all_its_session_and_its_row() -> None:
    totals = Totals()
    for who in ["s1m", "s1m", "s2m", "s1n", "t1m"]:
        begin(totals, *who).report(usage(100, 10))
    assert sums(totals.all) == (5, 500, 50)
    assert [sums(totals.sessions[name]) for name in "st"] == [(4, 400, 40), (1, 100, 10)]
    assert [(*names, sums(row)) for *names, row in totals.rows()] == [
        ("s", "1", "m", (2, 200, 20)),
        ("s", "2", "m", (1, 100, 10)),
        ("s", "1", "n", (1, 100, 10)),
        ("t", "1", "m", (1, 100, 10)),
    ]


def test_what_a_row_had_last() -> None:
    totals = Totals()
    for _ in range(2):
        assert totals.response_id("s", "main", "m") == ""
        assert totals.names("s") == set()
        count = begin(totals)
    count.row.response_id, count.row.name = "resp_1", ("m", "s")
    begin(totals, agent="a1").row.name = ("m", "s")
    begin(totals, model="n").row.name = ("n", "s")
    assert begin(totals).row is count.row
    assert totals.response_id("s", "main", "m") == "resp_1"
    assert totals.response_id("s", "a1", "m") == totals.response_id("t", "main", "m") == ""
    assert totals.names("s") == {("m", "s"), ("n", "s")}


USAGES = {"a": usage(1000, 100), "b": usage(1100, 200), "c": usage(1200, None)}


def orders(chain: str, reported: str) -> list[tuple[str, ...]]:
    """All orders in which each of a chain begins after its cause, and reports after that.

    `A` is where a begins, and `a` where it reports.
    """
    return [
        order
        for order in permutations(chain.upper() + reported)
        if [step for step in order if step.isupper()] == [*chain.upper()]
        and all(order.index(name.upper()) < order.index(name) for name in reported)
    ]


def test_the_orders_are_all() -> None:
    assert len(orders("ab", "ab")) == 3
    assert len(orders("abc", "abc")) == 15


@pytest.mark.parametrize(
    ("chain", "reported"),
    [
        *(("ab", reported) for reported in ("", "a", "b", "ab")),
        *(("abc", reported) for reported in ("", "a", "b", "c", "ab", "ac", "bc", "abc")),
    ],
)
def test_in_any_order_a_prompt_counts_once(chain: str, reported: str) -> None:
    for order in orders(chain, reported):
        totals, counts = Totals(), dict[str, Count]()
        for step in order:
            if step.islower():
                counts[step].report(USAGES[step])
                continue
            cause = next(reversed(counts.values()), None)
            counts[step.lower()] = begin(totals, model=step.lower())
            if cause:
                cause.begin_call(counts[step.lower()])
        # The last one's row has what the last one reported that did.
        last, counted = chain[-1], reported[-1:]
        expected = Row(requests=1)
        expected.add(USAGES.get(counted), 1, 0)
        assert [(model, row) for *_, model, row in totals.rows()] == [(last, expected)]
        assert str(totals.all) == str(totals.sessions["s"]) == str(expected)
        assert {name for name, count in counts.items() if count.usage} == set(counted)
        # What it lost stands there too.
        counts[counted or last].lose(50, "x")
        assert counts[last].row.lost == totals.sessions["s"].lost == totals.all.lost == 50
        assert sum(row.lost for row in totals.sessions["s"].rows.values()) == 50


@pytest.mark.parametrize("silent", ["", "c", "1", "2", "12"])
def test_each_call_of_a_request_counts_and_it_does_not(silent: str) -> None:
    for order in permutations(["begin 2", "c", "1", "2"]):
        if order.index("2") < order.index("begin 2"):
            continue
        totals = Totals()
        counts = {name: begin(totals, model=name) for name in "c12"[:2]}
        counts["c"].begin_call(counts["1"])
        for step in order:
            if step == "begin 2":
                counts["2"] = begin(totals, model="2")
                counts["c"].begin_call(counts["2"])
            elif step not in silent:
                counts[step].report(usage(1000, 10))
        # Where no call tells, what the cause reports is the first one's.
        told = [name for name in "12" if name not in silent] or ["1"]
        assert by_model(totals) == {
            name: (1, 1000, 10) if name in told else (1, 0, 0) for name in "12"
        }


def test_what_was_withdrawn_does_not_come_back() -> None:
    totals = Totals()
    cause, first, second, last = (begin(totals, model=name) for name in "abcd")
    cause.begin_call(first)
    cause.report(USAGES["a"])
    cause.begin_call(second)
    second.report(USAGES["b"])
    first.begin_call(last)
    assert by_model(totals) == {"c": (1, 1100, 200), "d": (1, 0, 0)}


def test_final_is_what_no_open_call_can_take_the_place_of() -> None:
    totals = Totals()
    front, middle, upstream = (begin(totals, model=name) for name in "abc")
    assert not front.is_final
    front.report(USAGES["a"])
    assert front.is_final
    front.begin_call(middle)
    assert not front.is_final
    middle.begin_call(upstream)
    middle.is_open = False
    assert not front.is_final  # the last may still report
    upstream.is_open = False
    assert front.is_final
    upstream.report(USAGES["c"])
    assert [count.is_final for count in (front, middle, upstream)] == [False, False, True]


def test_tokens_lost() -> None:
    totals = Totals()
    main, agent, other = begin(totals), begin(totals, agent="a1"), begin(totals, "t")
    assert (totals.all.lost, totals.all.main_cause) == (0, "")
    main.lose(3000, "key changed")
    main.lose(2500, "tools edited")
    agent.lose(2600, "tools edited")
    other.lose(9000, "a pause")
    session = totals.sessions["s"]
    assert session.causes == {"key changed": (1, 3000), "tools edited": (2, 5100)}
    assert (totals.all.lost, totals.all.main_cause) == (17_100, "a pause")
    assert (session.main_cause, main.row.main_cause) == ("tools edited", "key changed")
    assert list(totals.summary())[-4:-1] == [
        'lost cause="a pause" requests=1 tokens=9000',
        'lost cause="tools edited" requests=2 tokens=5100',
        'lost cause="key changed" requests=1 tokens=3000',
    ]


def test_causes_are_bounded() -> None:
    totals = Totals()
    for number in range(2 * MAX_CAUSES):
        begin(totals).lose(1, f"tool {number} edited")
        begin(totals).lose(1, "tool 0 edited")
    causes = totals.all.causes
    assert len(causes) == MAX_CAUSES + 1
    assert causes["other causes"] == (MAX_CAUSES, MAX_CAUSES)
    assert causes["tool 0 edited"] == (2 * MAX_CAUSES + 1,) * 2
    assert sum(line.startswith("lost ") for line in totals.summary()) == MAX_LINES


def test_least_recently_used_session_goes_first() -> None:
    totals = Totals(max_sessions=2)
    a, b, *_ = [begin(totals, session) for session in "abac"]
    assert list(totals.sessions) == ["a", "c"]
    totals.max_sessions = 1
    begin(totals, "b")
    assert list(totals.sessions) == ["b"]
    # What comes of those that have gone still counts in all.
    a.report(usage(1000, 10))
    b.report(usage(1000, 10))
    assert sums(totals.all) == (5, 2000, 20)
    assert sums(totals.sessions["b"]) == (1, 0, 0)


def test_least_recently_used_row_goes_first() -> None:
    totals = Totals()
    for agent in [*range(MAX_ROWS), 0, "new"]:
        begin(totals, agent=str(agent))
    rows = totals.sessions["s"].rows
    assert len(rows) == MAX_ROWS
    assert ("0", "m") in rows
    assert ("1", "m") not in rows
    assert totals.sessions["s"].requests == MAX_ROWS + 2


SEEN = {
    "m": usage(LARGE),  # a miss
    "s": usage(LARGE - 1),  # too small
    "?": usage(LARGE, None),
    "1": usage(LARGE, 1),
    "t": usage(1, 1),
    "h": usage(LARGE, LARGE // 2),  # half
    "H": usage(LARGE, LARGE),  # a hit
}


@pytest.mark.parametrize(
    ("usages", "warnings"),
    [
        ("mmmm", {}),
        ("mmmmmmmm", {4: NOTHING_CACHED}),
        ("ssssssssss", {}),
        ("??????????", {}),
        ("ms?ms?ms?ms?ms?", {12: NOTHING_CACHED}),
        ("mmmm1mmmmmmmmmm", {}),
        ("tmmmmmmmmmm", {}),
        ("HHHHHHHHHH", {}),
        ("hhhhhhhhhh", {}),
        ("HHmm", {}),
        ("HHmmmmmmmmmm", {}),  # two in a row are no habit
        ("HHHmmmmmmmmmm", {5: COLLAPSED}),
        ("HHHHHHHHHmmHHHHHHHHH", {}),
        ("HHHHHHHHHmmmmmmmmmHHHmmmmmmmmm", {11: COLLAPSED, 23: COLLAPSED}),
        ("mmmmmHHHHHmmmmm", {4: NOTHING_CACHED, 12: COLLAPSED}),
    ],
)
def test_when_nothing_or_hardly_anything_comes_from_the_cache_it_warns(
    usages: str, warnings: dict[int, str]
) -> None:
    totals, found = Totals(), {}
    for index, each in enumerate(usages):
        count = begin(totals, agent=str(index))
        count.report(SEEN[each])
        what = count.session.see(SEEN[each])
        if what != "":
            found[index] = what
        assert len(count.session.recent) <= RECENT
    assert found == warnings


def test_summary_begins_with_the_most_prompt_tokens() -> None:
    totals = Totals()
    assert list(totals.summary()) == ["total sessions=0 requests=0 input=0 cached=? hit=?"]
    for session, input_, cached in [("a", 100, None), ("b c", 300, 60), ("d", 200, 200)]:
        begin(totals, session).report(usage(input_, cached))
    assert list(totals.summary()) == [
        'session="b c" requests=1 input=300 cached=60 hit=20%',
        "session=d requests=1 input=200 cached=200 hit=100%",
        "session=a requests=1 input=100 cached=? hit=?",
        "total sessions=3 requests=3 input=600 cached=260 hit=52%",
    ]


@pytest.mark.parametrize("more", [0, 1, 2 * MAX_LINES])
def test_summary_is_short(more: int) -> None:
    totals = Totals()
    for session in range(MAX_LINES + more):
        begin(totals, str(session)).report(usage(session))
    summary = list(totals.summary())
    assert len(summary) == MAX_LINES + (2 if more else 1)
    assert summary[0].startswith(f"session={MAX_LINES + more - 1} ")
    assert summary[-1].startswith(f"total sessions={MAX_LINES + more} ")
    assert not more or summary[-2] == f"and {more} more"
