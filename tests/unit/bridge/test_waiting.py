import json
import weakref
from functools import partial
from typing import Any

import pytest
from prompt_cache_key.bridge.prompt import MAX_BYTES
from prompt_cache_key.bridge.waiting import (
    BUDGET,
    GONE_SECONDS,
    MAX_DELAY,
    MAX_GONE,
    MAX_GONE_BYTES,
    MAX_WAITING,
    STEP,
    Origin,
    WaitingRequests,
)
from prompt_cache_key.identity import Identity
from unit.bridge.bridges import Clock, add, find, identity, origins, waiting
from unit.bridge.translators import (
    CONVERSATIONS,
    FIRST,
    ONE,
    Json,
    chat,
    encoded,
    prompt,
    request,
    says,
    turn,
)

# --- a client has gone, and its call comes, or comes again ---------------------------------------


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("body", [request(FIRST), turn("functions.Bash:0"), turn(ONE)])
def test_a_retry_whose_client_has_gone_finds_no_other_session(body: Json, calls: int) -> None:
    bridge = WaitingRequests(Clock())
    add(bridge, "one", body)
    assert [find(bridge, chat(body)) for _ in range(calls)] == ["one"] * calls
    bridge.remove("one")
    assert find(bridge, chat(body)) is None
    add(bridge, "two", body)
    assert find(bridge, chat(body)) is None
    add(bridge, "three", body, "one")  # the client's own retry: of "one" or of "two"
    assert find(bridge, chat(body)) is None
    bridge.remove("two", is_answered=True)
    assert find(bridge, chat(body)) is None  # "two" had no call yet
    bridge = WaitingRequests(Clock())
    add(bridge, "one", body)
    bridge.remove("one")
    add(bridge, "three", body, "one")
    assert find(bridge, chat(body)) == "three"


def test_what_is_answered_after_its_call_is_forgotten() -> None:
    bridge = waiting({"one": request(FIRST)})
    assert find(bridge, chat(request(FIRST))) == "one"
    bridge.remove("one", is_answered=True)
    add(bridge, "two", request(FIRST))
    assert find(bridge, chat(request(FIRST))) == "two"


def test_what_has_gone_is_remembered_for_a_time() -> None:
    clock = Clock()
    bridge = WaitingRequests(clock)
    for name in ("one", "two"):
        add(bridge, name, request(FIRST))
    bridge.remove("one")
    clock.now = GONE_SECONDS - 1
    assert find(bridge, chat(request(FIRST))) is None
    clock.now = GONE_SECONDS
    assert find(bridge, chat(request(FIRST))) == "two"


@pytest.mark.parametrize(("count", "size"), [(MAX_GONE, 1), (5, MAX_GONE_BYTES // 5)])
def test_what_has_gone_is_remembered_up_to_a_number_and_a_size(count: int, size: int) -> None:
    bridge = waiting({"one": request(FIRST), "two": request(FIRST)})
    bridge.remove("one")
    for number in range(count):
        add(bridge, number, request(prompt("x" * size + str(number))), "more")
        bridge.remove(number)
    assert find(bridge, chat(request(FIRST))) == "two"


@pytest.mark.parametrize("body", [b"", b" " * (MAX_BYTES + 1)])
def test_what_has_gone_without_a_body_to_read_is_not_remembered(body: bytes) -> None:
    bridge = waiting({"two": request(FIRST)})
    bridge.add("one", identity("one"), lambda: body)
    bridge.remove("one")
    assert find(bridge, chat(request(FIRST))) == "two"


def test_what_has_gone_keeps_no_flow_and_so_no_response_in_memory() -> None:
    class Flow:
        pass

    bridge, flow = WaitingRequests(Clock()), Flow()
    add(bridge, flow, request(FIRST), "one")
    bridge.remove(flow)
    name = weakref.ref(flow)
    del flow
    assert name() is None
    add(bridge, "two", request(FIRST))
    assert find(bridge, chat(request(FIRST))) is None


# --- one key per user ----------------------------------------------------------------------------

ANN, BOB = ("account", "device of Ann"), ("account", "device of Bob")


def user_of(bridge: WaitingRequests, call: Json) -> Origin | None:
    return origins(bridge, [encoded(call)], is_user_scope=True)[0]


def test_several_sessions_of_one_user() -> None:
    bridge = WaitingRequests(Clock())
    for name in ("one", "two"):
        add(bridge, name, request(FIRST), user=ANN)
    call = chat(request(FIRST))
    assert find(bridge, call) is None
    unsure = Identity("?", "main", "header")
    assert user_of(bridge, call) == Origin(None, unsure, ANN, ("two", "one"))
    assert user_of(bridge, call) == Origin(None, unsure, ANN, ("one", "two"))
    bridge.remove("one")
    assert user_of(bridge, call) == Origin(None, unsure, ANN, ("two",))
    bridge.remove("two")
    assert user_of(bridge, call) is None


def test_agents_of_one_user_that_differ() -> None:
    bridge = WaitingRequests(Clock())
    for name in ("one", "two"):
        body = encoded(request(FIRST))
        bridge.add(name, identity(name, f"agent {name}"), lambda body=body: body, user=ANN)  # type: ignore[misc]
    origin = user_of(bridge, chat(request(FIRST)))
    assert origin
    assert origin.identity == Identity("?", "?", "header")


def test_one_session_is_found_for_its_user() -> None:
    bridge = WaitingRequests(Clock())
    add(bridge, "one", request(FIRST), user=ANN)
    add(bridge, "two", turn(ONE), user=ANN)
    found = user_of(bridge, chat(request(FIRST)))
    assert found == Origin("one", identity("one"), ANN, ("one",))


@pytest.mark.parametrize(
    ("users", "models"),
    [
        ((ANN, BOB), ("m", "m")),
        ((None, None), ("m", "m")),
        ((ANN, None), ("m", "m")),
        ((ANN, ANN), ("m", "n")),
    ],
)
@pytest.mark.parametrize("is_gone", [False, True])
def test_users_and_models_are_never_mixed_up(users: Any, models: Any, is_gone: bool) -> None:
    bridge = WaitingRequests(Clock())
    body = encoded(request(FIRST))
    for name, user, model in zip("ab", users, models, strict=True):
        bridge.add(name, identity(name), lambda: body, user=user, model=model)
    if is_gone:
        bridge.remove("a")
    assert user_of(bridge, chat(request(FIRST))) is None


# --- the requests that wait ----------------------------------------------------------------------


def test_an_origin_has_the_identity_of_its_request() -> None:
    bridge = waiting(CONVERSATIONS)
    call = chat(CONVERSATIONS["a result"])
    assert find(bridge, call) == "a result"
    bridge.remove("a result", is_answered=True)
    bridge.remove("never there")
    assert find(bridge, call) is None
    bridge.add("again", identity("s", "a1"), lambda: encoded(CONVERSATIONS["a result"]))
    assert origins(bridge, [encoded(call)]) == [
        Origin("again", identity("s", "a1"), None, ("again",))
    ]


def test_requests_to_the_endpoint_of_the_call_are_no_candidates() -> None:
    bridge = WaitingRequests(Clock())
    body = encoded(request(FIRST))
    for name, endpoint in (("front", "translator"), ("gone", "upstream"), ("direct", "upstream")):
        bridge.add(name, identity(name), lambda: body, endpoint=endpoint)
    bridge.remove("gone")
    for endpoint, found in (("upstream", "front"), ("translator", None)):
        (origin,) = origins(bridge, [encoded(chat(request(FIRST)))], endpoint=endpoint)
        assert (origin and origin.request) == found


def test_the_oldest_are_left_out() -> None:
    bodies = {str(n): request(prompt(f"do this {n}")) for n in range(MAX_WAITING + 2)}
    bridge = waiting(bodies)
    found = [find(bridge, chat(body)) for body in bodies.values()]
    assert found == [None, None, *list(bodies)[2:]]


def test_the_oldest_that_are_left_out_still_wait() -> None:
    bridge = waiting({str(n): request(FIRST) for n in range(2)})
    for n in range(MAX_WAITING - 1):
        add(bridge, f"more {n}", request(prompt(f"do this {n}")))
    assert find(bridge, chat(request(FIRST))) is None


def test_a_body_that_is_not_known_yet() -> None:
    bodies = [b"", b""]
    bridge = WaitingRequests(Clock())
    for number in range(2):
        bridge.add(number, identity("s"), lambda number=number: bodies[number])  # type: ignore[misc]
    for body in (request(FIRST), turn("toolu_1")):
        bodies[:] = [b"", b""]
        assert find(bridge, chat(body)) is None
        bodies[0] = encoded(body)
        assert find(bridge, chat(body)) == 0
        bridge.remove(0)
        bridge.add(0, identity("s"), lambda: bodies[0])


def test_a_call_without_pauses_waits_for_nothing() -> None:
    bridge = waiting(CONVERSATIONS)
    finding = bridge.find(encoded(chat(CONVERSATIONS["a result"])))
    with pytest.raises(StopIteration) as end:
        finding.send(None)
    assert end.value.value.request == "a result"


# --- slices of time, and bounds -------------------------------------------------------------------

LONG = [says("user", "\n".join(f"{n} {line}" for line in range(3000))) for n in range(2)]


def test_requests_that_come_and_go_in_a_pause() -> None:
    bridge = waiting({str(n): request(*LONG, prompt(f"do {n}")) for n in range(9)})
    pauses: list[int] = []

    def at_pause() -> None:
        pauses.append(1)
        for n in range(9):
            bridge.remove(str(n), is_answered=True)
        add(bridge, f"new {len(pauses)}", request(*LONG, prompt("do 4")))

    # It waited as the call came, unlike the new ones.
    assert find(bridge, chat(request(*LONG, prompt("do 4"))), at_pause=at_pause) == "4"
    assert len(pauses) > 9


def test_a_call_while_another_is_compared() -> None:
    """One call is compared at a time: one that cannot wait finds only what its session shows."""
    bridge = waiting({str(n): request(*LONG, prompt(f"do {n}")) for n in range(2)})
    body = encoded(chat(request(*LONG, prompt("do 1"))))
    found: list[Any] = []

    def at_pause() -> None:
        for session in ("", "1"):
            finding = bridge.find(body, session=session)
            with pytest.raises(StopIteration) as end:
                finding.send(None)
            found.append(end.value.value and end.value.value.request)

    assert find(bridge, json.loads(body), at_pause=at_pause) == "1"
    assert found[:2] == [None, "1"]
    add(bridge, "2", request(*LONG, prompt("do 2")), "1")
    found.clear()
    assert find(bridge, json.loads(body), at_pause=at_pause) == "1"
    assert found[1] == "2"  # nothing tells which: one with the fewest calls


def test_a_call_waits_only_so_long_for_others() -> None:
    clock = Clock()
    bridge = WaitingRequests(clock)
    add(bridge, "one", request(*LONG, prompt("do it")))

    def at_pause() -> None:
        clock.now += MAX_DELAY + 1

    calls = [encoded(chat(request(*LONG, prompt("do it"))))] * 2
    first, second = origins(bridge, calls, at_pause)
    assert first
    assert second is None


def test_work_for_one_call_has_a_budget() -> None:
    """What is read stays read, so that a later call finds its request."""
    requests = {str(n): request(LONG[0], prompt(f"do {n}")) for n in range(99)}
    bridge = waiting(requests)
    call = chat(requests["0"])
    pauses: list[int] = []
    found = []
    for _ in range(9):
        pauses.clear()
        found.append(find(bridge, call, at_pause=partial(pauses.append, 1)))
        assert len(pauses) <= 2 * BUDGET / STEP
    assert found[0] is None
    assert found[-1] == "0"


SYSTEM_MESSAGES = [says("system", f"a: {n}") for n in range(19_999)]


def test_a_request_that_takes_too_long_to_read_is_no_origin() -> None:
    body = request(*SYSTEM_MESSAGES, FIRST)
    bridge = waiting({"hostile": body, "one": request(FIRST)})
    pauses: list[int] = []
    for call, name in ((body, None), (request(FIRST), "one")):
        assert find(bridge, call, at_pause=partial(pauses.append, 1)) == name
    pauses.clear()
    assert find(bridge, request(FIRST), at_pause=partial(pauses.append, 1)) == "one"
    assert len(pauses) < 5  # it is not read again


@pytest.mark.parametrize("size", [MAX_BYTES - 1000, MAX_BYTES])
def test_bodies_are_compared_up_to_a_size(size: int) -> None:
    body = turn(ONE, output="x" * size)
    found = "one" if size < MAX_BYTES else None
    assert find(waiting({"one": body}), chat(body)) == found
