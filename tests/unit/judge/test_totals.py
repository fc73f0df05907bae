import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_cache_key.judge.totals import (
    LARGE,
    MAX_LINES,
    MAX_ROWS,
    SUSPICIOUS,
    Entry,
    Row,
    SessionTotal,
    Total,
    Totals,
)


def count(totals: Totals, session: str = "s", agent: str = "main", model: str = "m") -> Entry:
    return totals.request(session, agent, model, "key", "new")


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input_", "cached", "hit", "text"),
    [
        (0, 0, 0.0, "requests=1 input=0 cached=0 hit=0%"),
        (4096, 0, 0.0, "requests=1 input=4096 cached=0 hit=0%"),
        (4096, 1024, 25.0, "requests=1 input=4096 cached=1024 hit=25%"),
        (3000, 2000, 200_000 / 3000, "requests=1 input=3000 cached=2000 hit=67%"),
        (4096, 4096, 100.0, "requests=1 input=4096 cached=4096 hit=100%"),
    ],
)
def test_hit_rate(input_: int, cached: int, hit: float, text: str) -> None:
    total = Total(1, input_, cached)
    assert total.hit == hit
    assert str(total) == text


def test_a_request_counts_in_all_its_session_and_its_row() -> None:
    totals = Totals()
    totals.request("s", "main", "m", "k1", "new")
    totals.request("s", "main", "m", "k2", "reused")
    totals.request("s", "a1", "m", "k3", "kept")
    totals.request("s", "main", "n", "k4", "replaced")
    totals.request("t", "main", "m", "k5", "new")
    assert totals.all.requests == 5
    assert {session: total.requests for session, total in totals.sessions.items()} == {
        "s": 4,
        "t": 1,
    }
    assert list(totals.rows()) == [
        ("s", "main", "m", Row(2, key="k2", state="reused")),
        ("s", "a1", "m", Row(1, key="k3", state="kept")),
        ("s", "main", "n", Row(1, key="k4", state="replaced")),
        ("t", "main", "m", Row(1, key="k5", state="new")),
    ]


def test_a_request_that_is_withdrawn_counts_nowhere() -> None:
    totals = Totals()
    first, second = count(totals), count(totals, agent="a1")
    second.add(100, 0)
    first.withdraw()
    assert totals.all == Total(1, 100, 0)
    assert str(totals.sessions["s"]) == "requests=1 input=100 cached=0 hit=0%"
    assert [agent for _, agent, _, _ in totals.rows()] == ["a1"]


def test_usage_counts_where_its_request_did() -> None:
    totals = Totals()
    first, second, other = count(totals), count(totals, agent="a1"), count(totals, "t")
    second.add(2000, 1024)
    first.add(1000, 0)
    other.add(500, 128)
    first.add(10, 1)
    assert totals.all == Total(3, 3510, 1153)
    assert str(totals.sessions["s"]) == "requests=2 input=3010 cached=1025 hit=34%"
    assert str(totals.sessions["t"]) == "requests=1 input=500 cached=128 hit=26%"
    assert [str(row) for *_, row in totals.rows()] == [
        "requests=1 input=1010 cached=1 hit=0%",
        "requests=1 input=2000 cached=1024 hit=51%",
        "requests=1 input=500 cached=128 hit=26%",
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("stuv"),
            st.sampled_from("abc"),
            st.sampled_from("mn"),
            st.integers(0, 10_000),
            st.integers(0, 10_000),
        )
    ),
    st.integers(1, 5),
)
def test_sums_agree(requests: list[tuple[str, str, str, int, int]], max_sessions: int) -> None:
    totals = Totals(max_sessions)
    for session, agent, model, input_, cached in requests:
        count(totals, session, agent, model).add(input_, cached)
    assert totals.all == Total(
        len(requests), sum(each[3] for each in requests), sum(each[4] for each in requests)
    )
    latest = list(dict.fromkeys(session for session, *_ in reversed(requests)))[:max_sessions]
    assert list(totals.sessions) == latest[::-1]
    for session, total in totals.sessions.items():
        rows = [row for of, _, _, row in totals.rows() if of == session]
        for name in ("requests", "input", "cached"):
            assert getattr(total, name) == sum(getattr(row, name) for row in rows)


# --- bounds -------------------------------------------------------------------------------------


def test_least_recently_used_session_goes_first() -> None:
    totals = Totals(max_sessions=2)
    for session in "abac":
        count(totals, session)
    assert list(totals.sessions) == ["a", "c"]
    assert totals.all.requests == 4
    count(totals, "b")
    assert totals.sessions["b"].requests == 1


def test_bound_of_sessions_can_be_changed() -> None:
    totals = Totals()
    assert totals.max_sessions == 10_000
    for session in "abc":
        count(totals, session)
    totals.max_sessions = 1
    count(totals, "d")
    assert list(totals.sessions) == ["d"]


def test_least_recently_used_row_goes_first() -> None:
    totals = Totals()
    for agent in range(MAX_ROWS):
        count(totals, agent=str(agent))
    count(totals, agent="0")
    count(totals, agent="new")
    rows = totals.sessions["s"].rows
    assert len(rows) == MAX_ROWS
    assert ("0", "m") in rows
    assert ("1", "m") not in rows
    assert list(rows)[-1] == ("new", "m")
    assert totals.sessions["s"].requests == MAX_ROWS + 2


def test_usage_of_what_has_gone_still_counts_in_all() -> None:
    totals = Totals(max_sessions=1)
    entry = count(totals, "a")
    count(totals, "b")
    entry.add(1000, 10)
    assert totals.all == Total(2, 1000, 10)
    assert totals.sessions == {
        "b": SessionTotal(1, rows=totals.sessions["b"].rows),
    }


# --- when nothing comes from the cache ----------------------------------------------------------

MISS = (LARGE, 0)
SMALL = (LARGE - 1, 0)


@pytest.mark.parametrize(
    ("usages", "last_straw"),
    [
        ([MISS] * (SUSPICIOUS - 1), None),
        ([MISS] * (SUSPICIOUS + 3), SUSPICIOUS - 1),
        ([SMALL] * 20, None),
        ([MISS, SMALL] * SUSPICIOUS, 2 * SUSPICIOUS - 2),
        ([*[MISS] * (SUSPICIOUS - 1), SMALL], None),
        ([*[MISS] * (SUSPICIOUS - 1), SMALL, MISS, SMALL], SUSPICIOUS),
        ([*[MISS] * (SUSPICIOUS - 1), (LARGE, 1), *[MISS] * 10], None),
        ([(1, 1), *[MISS] * 10], None),
        ([*[MISS] * SUSPICIOUS, (LARGE, 1), MISS], SUSPICIOUS - 1),
    ],
)
def test_last_straw(usages: list[tuple[int, int]], last_straw: int | None) -> None:
    totals = Totals()
    told = [
        index
        for index, (input_, cached) in enumerate(usages)
        if count(totals, agent=str(index)).add(input_, cached)
    ]
    assert told == ([] if last_straw is None else [last_straw])
    assert totals.sessions["s"].large == sum(input_ >= LARGE for input_, _ in usages)


def test_last_straw_is_of_one_session() -> None:
    totals = Totals()
    assert not any(count(totals, str(session)).add(*MISS) for session in range(3 * SUSPICIOUS))


@pytest.mark.parametrize(
    ("blocks", "unstable"),
    [
        ([b""], False),
        ([b"a", b"a", b"a"], False),
        ([b"", b"a", b"a"], False),
        ([b"a", b"b"], True),
        ([b"a", b""], True),
        ([b"a", b"a", b"b", b"b"], True),
    ],
)
def test_attribution_block_that_changes(blocks: list[bytes], unstable: bool) -> None:
    totals = Totals()
    for block in blocks:
        count(totals).see_attribution(block)
    assert totals.sessions["s"].unstable is unstable


def test_an_attribution_block_that_changes_is_the_likeliest_cause() -> None:
    entry = count(Totals())
    causes = entry.likely_causes()
    assert causes == "the upstream reports no cached tokens; another addon rewrites bodies"
    entry.see_attribution(b"a")
    entry.see_attribution(b"b")
    first, _, rest = entry.likely_causes().partition("; ")
    assert "CLAUDE_CODE_ATTRIBUTION_HEADER=0" in first
    assert rest == causes


def test_attribution_blocks_of_two_agents_are_two() -> None:
    totals = Totals()
    for agent in ["main", "a1", "main", "a1"]:
        count(totals, agent=agent).see_attribution(agent.encode())
    assert not totals.sessions["s"].unstable


# --- summary ------------------------------------------------------------------------------------


def test_summary_of_nothing() -> None:
    assert list(Totals().summary()) == ["total sessions=0 requests=0 input=0 cached=0 hit=0%"]


def test_summary_begins_with_the_most_prompt_tokens() -> None:
    totals = Totals()
    for session, input_, cached in [("a", 100, 0), ("b c", 300, 60), ("d", 200, 200)]:
        count(totals, session).add(input_, cached)
    assert list(totals.summary()) == [
        'session="b c" requests=1 input=300 cached=60 hit=20%',
        "session=d requests=1 input=200 cached=200 hit=100%",
        "session=a requests=1 input=100 cached=0 hit=0%",
        "total sessions=3 requests=3 input=600 cached=260 hit=43%",
    ]


@pytest.mark.parametrize(
    ("sessions", "lines", "more"),
    [
        (MAX_LINES, MAX_LINES + 1, None),
        (MAX_LINES + 1, MAX_LINES + 2, "… and 1 more"),
        (3 * MAX_LINES, MAX_LINES + 2, f"… and {2 * MAX_LINES} more"),
    ],
)
def test_summary_is_short(sessions: int, lines: int, more: str | None) -> None:
    totals = Totals()
    for session in range(sessions):
        count(totals, str(session)).add(session, 0)
    summary = list(totals.summary())
    assert len(summary) == lines
    assert summary[0].startswith(f"session={sessions - 1} ")
    assert summary[-1].startswith(f"total sessions={sessions} requests={sessions} ")
    assert more is None or summary[-2] == more
