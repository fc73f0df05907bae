from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.stats.collapse import NOTHING_CACHED
from prompt_cache_key.stats.money import GivenPrices
from prompt_cache_key.stats.sessions import MAX_LISTED, MAX_ROWS, Sessions, Ticket, no_price
from prompt_cache_key.stats.sums import Sums
from prompt_cache_key.usage.reader import Usage
from unit.requests_made import SESSION, finished, miss, usage


def begin(
    sessions: Sessions, session: str = "s", agent: str = "main", model: str = "gpt-5.4"
) -> Ticket:
    return sessions.begin(session, agent, model)


def finish(
    sessions: Sessions, ticket: Ticket, request: FinishedRequest | None
) -> list[FinishedRequest]:
    """Finish a request; return what counts now."""
    return [counted for _, counted in sessions.finish(ticket, request) if counted]


def close(sessions: Sessions) -> list[FinishedRequest]:
    """Finish what is in flight as not sent; return what counts now."""
    return [each for ticket in sessions.close() for each in finish(sessions, ticket, None)]


def add(sessions: Sessions, of: Usage | None = None, **more: Any) -> None:
    """Let one request begin, finish and count."""
    request = finished(usage=of, **more)
    ticket = sessions.begin(request.session, request.agent, request.model)
    for counted in finish(sessions, ticket, request):
        sessions.add(counted)


def counts(sums: Sums) -> tuple[int, int, int]:
    return sums.requests, sums.input, sums.cached


def test_a_request_counts_in_the_total_its_session_and_its_row() -> None:
    sessions = Sessions()
    for session, agent, model in map(tuple, ["s1m", "s1m", "s2m", "s1n", "t1m"]):
        add(sessions, usage(100, 10), session=session, agent=agent, model=model)
    assert counts(sessions.total) == (5, 500, 50)
    assert [(row.session, row.agent, row.model, *counts(row.sums)) for row in sessions.rows()] == [
        ("s", "1", "m", 2, 200, 20),
        ("s", "2", "m", 1, 100, 10),
        ("s", "1", "n", 1, 100, 10),
        ("t", "1", "m", 1, 100, 10),
    ]


def test_the_first_request_with_usage_is_the_first() -> None:
    sessions = Sessions()
    found = []
    for of in (None, usage(100), usage(100)):
        found += finish(sessions, begin(sessions), finished(usage=of))
    assert [each.is_first for each in found] == [False, True, False]


# --- a prompt counts once -----------------------------------------------------------------------

USAGES = {"a": usage(1000, 100), "b": usage(1100, 200), "c": usage(1200, None)}


def orders(chain: str) -> list[tuple[str, ...]]:
    """All orders in which each of a chain begins before it ends, and before its origin ends.

    `A` is where a begins, and `a` where it ends.
    """
    return [
        order
        for order in permutations(chain.upper() + chain)
        if [step for step in order if step.isupper()] == [*chain.upper()]
        and all(order.index(name.upper()) < order.index(name) for name in chain)
        and all(order.index(b.upper()) < order.index(a) for a, b in pairwise(chain))
    ]


@pytest.mark.parametrize(
    ("chain", "reported"),
    [
        *(("ab", reported) for reported in ("", "a", "b", "ab")),
        *(("abc", reported) for reported in ("", "a", "b", "c", "ab", "ac", "bc", "abc")),
    ],
)
def test_in_any_order_a_prompt_counts_once(chain: str, reported: str) -> None:
    for order in orders(chain):
        sessions, tickets = Sessions(), dict[str, Ticket]()
        found: list[str] = []
        for step in order:
            if step.isupper():
                origin = next(reversed(tickets.values()), None)
                tickets[step.lower()] = ticket = begin(sessions)
                if origin:
                    sessions.begin_call(origin, ticket)
            else:
                request = finished(usage=USAGES[step] if step in reported else None, agent=step)
                found += [each.agent for each in finish(sessions, tickets[step], request)]
        # The last that reported counts, else the first of all.
        assert found == [(reported or "a")[-1]]
        assert close(sessions) == []


def test_each_call_of_a_request_counts_that_reports_and_the_request_does_not() -> None:
    for order in permutations("a123"):
        sessions = Sessions()
        tickets = {name: begin(sessions) for name in "a123"}
        found: list[str] = []
        for name in "123":
            sessions.begin_call(tickets["a"], tickets[name])
        for name in order:
            request = finished(usage=usage(1000) if name != "2" else None, agent=name)
            found += [each.agent for each in finish(sessions, tickets[name], request)]
        assert sorted(found) == ["1", "3"]


@pytest.mark.parametrize(
    ("own", "late", "counted"),
    [
        (usage(1000), usage(1100), ["a"]),
        (usage(1000), None, ["a"]),
        (None, usage(1100), ["a", "c"]),
        (None, None, ["a"]),
    ],
)
def test_what_has_counted_is_not_taken_back(
    own: Usage | None, late: Usage | None, counted: list[str]
) -> None:
    sessions = Sessions()
    origin, call, its_call = (begin(sessions) for _ in range(3))
    found = finish(sessions, origin, finished(usage=own, agent="a"))
    sessions.begin_call(origin, call)
    sessions.begin_call(call, its_call)
    found += finish(sessions, call, finished(usage=late, agent="b"))
    found += finish(sessions, its_call, finished(usage=late, agent="c"))
    assert [each.agent for each in found] == counted


def test_a_call_for_a_call_that_is_over_counts_for_the_first_origin() -> None:
    sessions = Sessions()
    first, second, third = (begin(sessions) for _ in range(3))
    sessions.begin_call(first, second)
    assert finish(sessions, second, finished(usage=None)) == []
    sessions.begin_call(second, third)
    assert finish(sessions, first, finished(usage=usage(1000))) == []
    [counted] = finish(sessions, third, finished(usage=usage(1100)))
    assert counted.usage == usage(1100)


def test_at_the_end_what_is_held_counts_and_what_is_in_flight_does_not() -> None:
    sessions = Sessions()
    tickets = [begin(sessions) for _ in range(3)]
    sessions.begin_call(tickets[0], tickets[1])
    assert finish(sessions, tickets[0], finished(usage=usage(1000), agent="held")) == []
    assert [each.agent for each in close(sessions)] == ["held"]
    assert close(sessions) == []
    assert finish(sessions, tickets[1], finished(usage=usage(1000))) == []  # too late


class Counting(RuleBasedStateMachine):
    """Requests with calls, and calls for calls, begin and end in any order.

    An origin is in flight when a call for it begins, as the bridge finds no other. The truth is
    worked out from the whole tree once all are over.
    """

    tickets = Bundle("tickets")

    @initialize()
    def start(self) -> None:
        self.sessions = Sessions()
        self.origins: dict[int, int | None] = {}
        self.ended: dict[int, FinishedRequest | None] = {}
        self.by_number: dict[int, Ticket] = {}
        self.counted: list[FinishedRequest] = []

    @rule(target=tickets, origin=st.none() | tickets)
    def begin(self, origin: int | None) -> int:
        number = len(self.origins)
        self.by_number[number] = ticket = self.sessions.begin("s", str(number), "m")
        self.origins[number] = None if origin in self.ended else origin
        if (above := self.origins[number]) is not None:
            self.sessions.begin_call(self.by_number[above], ticket)
        return number

    @rule(number=consumes(tickets), input_=st.none() | st.integers(1, 10**6), is_sent=st.booleans())
    def end(self, number: int, input_: int | None, is_sent: bool) -> None:
        of = usage(input_) if input_ else None
        request = finished(usage=of, agent=str(number)) if of or is_sent else None
        self.ended[number] = request
        self.counted += finish(self.sessions, self.by_number[number], request)

    @invariant()
    def nothing_counts_twice(self) -> None:
        agents = [each.agent for each in self.counted]
        assert len(agents) == len(set(agents))

    def teardown(self) -> None:
        if not hasattr(self, "sessions"):
            return
        self.counted += close(self.sessions)
        roots = [number for number, origin in self.origins.items() if origin is None]
        expected = [each for root in roots for each in self.truth(root)]
        assert sorted(each.agent for each in self.counted) == sorted(expected)

    def truth(self, number: int) -> Iterator[str]:
        """Yield what counts of a request and the calls for it."""
        calls = [call for call, origin in self.origins.items() if origin == number]
        of_calls = [each for call in calls for each in self.truth(call)]
        with_usage = [each for each in of_calls if self.has_usage(int(each))]
        request = self.ended.get(number)
        if with_usage:
            yield from with_usage
        elif request and (request.usage or self.origins[number] is None):
            yield str(number)

    def has_usage(self, number: int) -> bool:
        request = self.ended.get(number)
        return bool(request and request.usage)


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


# --- sessions and rows --------------------------------------------------------------------------


def test_the_key_of_the_last_request_that_began() -> None:
    sessions = Sessions()
    for _ in range(2):
        assert sessions.response_id("s", "main", "gpt-5.4") == ""
        assert sessions.mappings("s") == set()
        ticket = begin(sessions)
    ticket.row.set_key("k" * 2_000_000, "new", "session", ("m", "s"))
    ticket.row.response_id = "resp_1"
    begin(sessions, agent="a1").row.set_key("k", "new", "session", ("m", "s"))
    begin(sessions, model="n").row.set_key("k", "reused", "session", ("n", "s"))
    assert begin(sessions).row is ticket.row
    assert len(ticket.row.key) == 256
    assert sessions.response_id("s", "main", "gpt-5.4") == "resp_1"
    assert sessions.response_id("s", "a1", "gpt-5.4") == ""
    assert sessions.response_id("t", "main", "gpt-5.4") == ""
    assert sessions.mappings("s") == {("m", "s"), ("n", "s")}


def test_the_table_has_no_row_in_which_nothing_has_counted() -> None:
    sessions = Sessions()
    begin(sessions)
    assert [*sessions.rows()] == []
    assert sessions.ids("") == ["s"]
    assert sessions.ids("t") == []


def test_the_least_recently_used_session_is_evicted() -> None:
    sessions = Sessions(max_sessions=2)
    for session in "abac":
        add(sessions, usage(100), session=session)
    assert sessions.ids("") == ["a", "c"]
    sessions.max_sessions = 1
    begin(sessions, "d")
    assert sessions.ids("") == ["d"]
    assert counts(sessions.total) == (4, 400, 0)
    assert [*sessions.summary()] == [
        "total sessions=3 requests=4 input=400 cached=0 hit=0% missed=0"
    ]


def test_the_least_recently_used_row_is_dropped_and_still_counts() -> None:
    sessions = Sessions()
    for agent in [*range(MAX_ROWS), 0, "new", "newer"]:
        add(sessions, usage(1), agent=str(agent))
    agents = [row.agent for row in sessions.rows()]
    assert len(agents) == MAX_ROWS
    assert "0" in agents
    assert "1" not in agents
    [session, total] = sessions.summary()
    assert session.startswith(f"session={SESSION} requests={MAX_ROWS + 3} ")
    assert total.startswith(f"total sessions=1 requests={MAX_ROWS + 3} ")


def test_long_names_do_not_fill_the_memory() -> None:
    sessions = Sessions()
    long = "n" * 2_000_000
    add(sessions, usage(1), session=long, agent=long, model=long)
    [row] = sessions.rows()
    assert {len(name) for name in (row.session, row.agent, row.model)} == {256}
    assert sessions.ids("n") == [row.session]


# --- warnings and the summary -------------------------------------------------------------------


def test_a_warning_names_the_main_cause_and_its_remedy() -> None:
    sessions = Sessions()
    found = [
        sessions.add(finished(usage=usage(9000), miss=miss(8000, "tools reordered", remedy="do")))
        for _ in range(6)
    ]
    assert [each is not None for each in found] == [False] * 4 + [True, False]
    warning = found[4]
    assert warning
    assert (warning.what, warning.session) == (NOTHING_CACHED, SESSION)
    assert (warning.cause, warning.remedy) == ("tools reordered", "do")


def test_a_warning_without_a_known_cause() -> None:
    sessions = Sessions()
    found = [sessions.add(finished(usage=usage(9000))) for _ in range(5)]
    assert found[4]
    assert found[4][3:] == ("", "")


def test_no_warning_where_the_session_is_not_known() -> None:
    sessions = Sessions()
    assert [sessions.add(finished(usage=usage(9000), session="?")) for _ in range(9)] == [None] * 9
    assert [*sessions.summary()] == [
        "session=? requests=9 input=81000 cached=0 hit=0% missed=0",
        "total sessions=0 requests=9 input=81000 cached=0 hit=0% missed=0",
    ]


def test_the_summary_begins_with_the_most_prompt_tokens() -> None:
    sessions = Sessions()
    assert [*sessions.summary()] == ["total sessions=0 requests=0 input=0 cached=? hit=?% missed=0"]
    begin(sessions, "in flight")
    add(sessions, usage(100, None), session="a")
    add(sessions, usage(3000, 600), session="b c", miss=miss(2100, "expired", 600))
    add(sessions, usage(200, 199, 1), session="d")
    assert [*sessions.summary()] == [
        'session="b c" requests=1 input=3000 cached=600 hit=20% missed=2100',
        "session=d requests=1 input=200 cached=199 hit=99% missed=0 written=1",
        "session=a requests=1 input=100 cached=? hit=?% missed=0",
        'missed cause="expired" requests=1 tokens=2100',
        "total sessions=3 requests=3 input=3300 cached=799 hit=24% missed=2100 written=1",
    ]


@pytest.mark.parametrize("more", [0, 1, 2 * MAX_LISTED])
def test_the_summary_names_so_many_sessions_and_causes(more: int) -> None:
    sessions = Sessions()
    for number in range(MAX_LISTED + more):
        lost = miss(number + 1, f"cause {number}")
        add(sessions, usage(1000 + number), session=str(number), miss=lost)
    lines = [*sessions.summary()]
    assert sum(line.startswith("session=") for line in lines) == MAX_LISTED
    assert sum(line.startswith("missed cause=") for line in lines) == MAX_LISTED
    assert (f"and {more} more" in lines) == bool(more)
    assert lines[0].startswith(f"session={MAX_LISTED + more - 1} ")


def test_the_summary_has_money_where_prices_are_known() -> None:
    sessions = Sessions()
    add(sessions, usage(10**6, 500_000))
    session, total = sessions.summary(GivenPrices(2.0, 0.2, 2.0, 0.0))
    assert session.endswith(" missed=0 saved=$0.90 missed_cost=$0.00")
    assert total.endswith(" missed=0 saved=$0.90 missed_cost=$0.00")


class NoPrices:
    def cost(self, *_: object) -> None:
        return None


def test_the_summary_says_where_no_price_is_known() -> None:
    sessions = Sessions()
    add(sessions, usage(100), model="a b")
    *_, total, unknown = sessions.summary(NoPrices())
    assert "saved" not in total
    assert unknown == 'no price is known for "a b": 1 request'


def test_few_models_without_a_price_are_named() -> None:
    words = no_price({"a": 1, "b": 5, "c": 2, "d": 3, "e": 1})
    assert words == "no price is known for b, d, c and 2 more models: 12 requests"
