from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.judge.totals import (
    COLLAPSED,
    LARGE,
    MAX_CAUSES,
    MAX_LINES,
    MAX_ROWS,
    NOTHING_CACHED,
    RECENT,
    Count,
    Row,
    SessionTotal,
    Total,
    Totals,
)
from prompt_cache_key.response.usage import Usage


def usage(input_: int, cached: int | None = 0) -> Usage:
    return Usage(input_, cached, None, None)


def begin(totals: Totals, session: str = "s", agent: str = "main", model: str = "m") -> Count:
    return totals.begin(session, agent, model)


def sums(total: Total) -> tuple[int, int, int]:
    return total.requests, total.input, total.cached


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reports", "hit", "text"),
    [
        ([], None, "requests=1 input=0 cached=? hit=?"),
        ([usage(4096)], 0, "requests=1 input=4096 cached=0 hit=0%"),
        ([usage(3000, 2000)], 200_000 / 3000, "requests=1 input=3000 cached=2000 hit=67%"),
        ([usage(4096, 4096)], 100, "requests=1 input=4096 cached=4096 hit=100%"),
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
    assert {name: sums(total) for name, total in totals.sessions.items()} == {
        "s": (4, 400, 40),
        "t": (1, 100, 10),
    }
    assert [(*names, sums(row)) for *names, row in totals.rows()] == [
        ("s", "1", "m", (2, 200, 20)),
        ("s", "2", "m", (1, 100, 10)),
        ("s", "1", "n", (1, 100, 10)),
        ("t", "1", "m", (1, 100, 10)),
    ]


def test_what_a_row_had_last() -> None:
    totals = Totals()
    assert totals.response_id("s", "main", "m") == ""
    assert totals.names("s") == set()
    count = begin(totals)
    assert totals.response_id("s", "main", "m") == ""
    assert totals.names("s") == set()
    count.row.response_id, count.row.name = "resp_1", ("m", "s")
    begin(totals, agent="a1").row.name = ("m", "s")
    begin(totals, model="n").row.name = ("n", "s")
    assert begin(totals).row is count.row
    assert totals.response_id("s", "main", "m") == "resp_1"
    assert totals.response_id("s", "a1", "m") == totals.response_id("t", "main", "m") == ""
    assert totals.names("s") == {("m", "s"), ("n", "s")}


@given(
    st.lists(
        st.tuples(
            *[st.sampled_from(letters) for letters in ("stuv", "abc", "mn")],
            st.integers(0, 10_000),
            st.none() | st.integers(0, 10_000),
        )
    ),
    st.integers(1, 5),
)
def test_sums_agree(requests: list[tuple[str, str, str, int, int | None]], bound: int) -> None:
    totals = Totals(bound)
    for session, agent, model, input_, cached in requests:
        begin(totals, session, agent, model).report(usage(input_, cached))
    assert sums(totals.all) == (
        len(requests),
        sum(each[3] for each in requests),
        sum(each[4] or 0 for each in requests),
    )
    latest = list(dict.fromkeys(session for session, *_ in reversed(requests)))[:bound]
    assert list(totals.sessions) == latest[::-1]
    for total in totals.sessions.values():
        of_rows = zip(*map(sums, total.rows.values()), strict=True)
        assert sums(total) == tuple(map(sum, of_rows))


# --- one prompt, several listeners --------------------------------------------------------------

FRONT, MIDDLE, UPSTREAM = usage(1000, 100), usage(1100, 200), usage(1200, None)


def orders(*steps: str) -> list[tuple[str, ...]]:
    """All orders in which a call begins only after its cause, and reports after it has begun."""
    return [
        order
        for order in permutations(steps)
        if all(
            order.index(f"begin {name}") < order.index(step)
            for step in order
            for name in ([step[-1]] if step.startswith("report") else "abc"[: "abc".find(step[-1])])
        )
    ]


def run(order: tuple[str, ...], usages: dict[str, Usage]) -> tuple[Totals, dict[str, Count]]:
    """Let each of a, b, c be a call for the one before it, each with a model of its own."""
    totals, counts = Totals(), dict[str, Count]()
    for step in order:
        what, name = step.split()
        if what == "report":
            counts[name].report(usages[name])
        else:
            counts[name] = begin(totals, model=name)
            if name != "a":
                counts["ab"["bc".index(name)]].begin_call(counts[name])
    return totals, counts


@pytest.mark.parametrize(
    ("order", "last", "counted"),
    [
        *((order, "b", "b") for order in orders("begin a", "begin b", "report a", "report b")),
        *((order, "b", "a") for order in orders("begin a", "begin b", "report a")),
        *((order, "b", "b") for order in orders("begin a", "begin b", "report b")),
        *((order, "b", "") for order in orders("begin a", "begin b")),
        *(
            (order, "c", reported[-1:])
            for reported in ("", "a", "b", "c", "ab", "ac", "bc", "abc")
            for order in orders(
                *[f"begin {name}" for name in "abc"], *[f"report {name}" for name in reported]
            )
        ),
    ],
)
def test_in_any_order_a_prompt_counts_once(order: tuple[str, ...], last: str, counted: str) -> None:
    usages = {"a": FRONT, "b": MIDDLE, "c": UPSTREAM}
    totals, counts = run(order, usages)
    expected = Row(requests=1)
    if counted:
        expected.add(usages[counted], 1, 0)
    # It is the last one's row that has it, whoever reported it.
    assert [(model, row) for *_, model, row in totals.rows()] == [(last, expected)]
    assert str(totals.all) == str(totals.sessions["s"]) == str(expected)
    assert {name for name, count in counts.items() if count.usage} == set(counted)
    # What it lost stands there too.
    if counted:
        counts[counted].lose(50, "x")
        assert counts[last].row.lost == totals.sessions["s"].lost == totals.all.lost == 50
        assert sum(row.lost for row in totals.sessions["s"].rows.values()) == 50


def test_the_orders_are_all() -> None:
    assert len(orders("begin a", "begin b", "report a", "report b")) == 3
    assert len(orders("begin a", "begin b", "begin c", "report a", "report b", "report c")) == 15


@pytest.mark.parametrize("silent", [(), ("cause",), ("first",), ("second",), ("first", "second")])
def test_each_call_of_a_request_counts_and_it_does_not(silent: tuple[str, ...]) -> None:
    for order in permutations(["begin second", "cause", "first", "second"]):
        if order.index("second") < order.index("begin second"):
            continue
        totals = Totals()
        counts = {name: begin(totals, model=name) for name in ("cause", "first")}
        counts["cause"].begin_call(counts["first"])
        for step in order:
            if step == "begin second":
                counts["second"] = begin(totals, model="second")
                counts["cause"].begin_call(counts["second"])
            elif step not in silent:
                counts[step].report(usage(1000, 10))
        told = [name for name in ("first", "second") if name not in silent] or ["first"]
        assert {model: sums(row) for *_, model, row in totals.rows()} == {
            name: (1, 1000, 10) if name in told else (1, 0, 0) for name in ("first", "second")
        }


def test_what_was_withdrawn_does_not_come_back() -> None:
    totals = Totals()
    cause, first, second, last = (begin(totals, model=name) for name in "abcd")
    cause.begin_call(first)
    cause.report(FRONT)
    cause.begin_call(second)
    second.report(MIDDLE)
    first.begin_call(last)
    assert {model: sums(row) for *_, model, row in totals.rows()} == {
        "c": (1, 1100, 200),
        "d": (1, 0, 0),
    }


def test_final_is_what_no_open_call_can_take_the_place_of() -> None:
    totals = Totals()
    front, middle, upstream = (begin(totals, model=name) for name in "abc")
    assert not front.is_final
    front.report(FRONT)
    assert front.is_final
    front.begin_call(middle)
    assert not front.is_final
    middle.begin_call(upstream)
    middle.is_open = False
    assert not front.is_final  # the last may still report
    upstream.is_open = False
    assert front.is_final
    upstream.report(UPSTREAM)
    assert upstream.is_final
    assert not front.is_final
    assert not middle.is_final


# --- tokens lost --------------------------------------------------------------------------------


def test_tokens_lost() -> None:
    totals = Totals()
    counts = [begin(totals), begin(totals, agent="a1"), begin(totals, "t")]
    assert totals.all.lost == 0
    assert totals.all.main_cause == ""
    for count, tokens, cause in [
        (counts[0], 3000, "key changed"),
        (counts[0], 2500, "tools edited"),
        (counts[1], 2600, "tools edited"),
        (counts[2], 9000, "a pause"),
    ]:
        count.lose(tokens, cause)
    assert totals.all.lost == 17_100
    session = totals.sessions["s"]
    assert session.causes == {"key changed": (1, 3000), "tools edited": (2, 5100)}
    assert [each.main_cause for each in (counts[0].row, session, totals.all)] == [
        "key changed",
        "tools edited",
        "a pause",
    ]
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
    assert totals.all.lost == 4 * MAX_CAUSES
    assert sum(line.startswith("lost ") for line in totals.summary()) == MAX_LINES


# --- bounds -------------------------------------------------------------------------------------


def test_least_recently_used_session_goes_first() -> None:
    totals = Totals(max_sessions=2)
    for session in "abac":
        begin(totals, session)
    assert list(totals.sessions) == ["a", "c"]
    totals.max_sessions = 1
    begin(totals, "b")
    assert list(totals.sessions) == ["b"]
    assert (totals.all.requests, totals.sessions["b"].requests) == (5, 1)


def test_least_recently_used_row_goes_first() -> None:
    totals = Totals()
    for agent in [*range(MAX_ROWS), 0, "new"]:
        begin(totals, agent=str(agent))
    rows = totals.sessions["s"].rows
    assert len(rows) == MAX_ROWS
    assert ("0", "m") in rows
    assert ("1", "m") not in rows
    assert totals.sessions["s"].requests == MAX_ROWS + 2


def test_usage_of_what_has_gone_still_counts_in_all() -> None:
    totals = Totals(max_sessions=1)
    count = begin(totals, "a")
    begin(totals, "b")
    count.report(usage(1000, 10))
    assert sums(totals.all) == (2, 1000, 10)
    assert sums(totals.sessions["b"]) == (1, 0, 0)


# --- when nothing, or hardly anything any more, comes from the cache ----------------------------

MISS, SMALL, HALF, HIT = (
    usage(LARGE),
    usage(LARGE - 1),
    usage(LARGE, LARGE // 2),
    usage(LARGE, LARGE),
)
UNKNOWN = usage(LARGE, None)


@pytest.mark.parametrize(
    ("usages", "seen"),
    [
        ([MISS] * (RECENT - 1), {}),
        ([MISS] * (RECENT + 3), {RECENT - 1: NOTHING_CACHED}),
        ([SMALL] * 20, {}),
        ([UNKNOWN] * 20, {}),
        ([MISS, SMALL, UNKNOWN] * RECENT, {3 * RECENT - 3: NOTHING_CACHED}),
        ([*[MISS] * (RECENT - 1), usage(LARGE, 1), *[MISS] * 10], {}),
        ([usage(1, 1), *[MISS] * 10], {}),
        ([HIT] * 20, {}),
        ([HALF] * 20, {}),
        ([HIT, HIT, MISS, MISS], {}),
        ([HIT, HIT, *[MISS] * 10], {}),  # two in a row are no habit
        ([*[HIT] * 3, *[MISS] * 10], {5: COLLAPSED}),
        ([*[HIT] * 9, MISS, MISS, *[HIT] * 9], {}),
        ([*[HIT] * 9, *[MISS] * 9], {11: COLLAPSED}),
        ([*[HIT] * 9, *[MISS] * 9, *[HIT] * 3, *[MISS] * 9], {11: COLLAPSED, 23: COLLAPSED}),
        ([*[MISS] * 5, *[HIT] * 5, *[MISS] * 5], {4: NOTHING_CACHED, 12: COLLAPSED}),
    ],
)
def test_warnings(usages: list[Usage], seen: dict[int, str]) -> None:
    totals, found = Totals(), {}
    for index, each in enumerate(usages):
        count = begin(totals, agent=str(index))
        count.report(each)
        if what := count.session.see(each):
            found[index] = what
        assert len(count.session.recent) <= RECENT
    assert found == seen


def test_warnings_are_of_one_session() -> None:
    for total in [SessionTotal() for _ in range(3 * RECENT)]:
        assert total.see(MISS) == ""


# --- summary ------------------------------------------------------------------------------------


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
    assert not more or summary[-2] == f"… and {more} more"
