"""Which words and which ids of tool calls make a request the origin of a call."""

from collections import Counter
from collections.abc import Callable

import pytest
from prompt_cache_key.bridge.prompt import MAX_LINES
from prompt_cache_key.bridge.waiting import (
    WaitingRequests,
)
from unit.bridge.bridges import Clock, add, find, identity, origins, waiting
from unit.bridge.translators import (
    CONVERSATIONS,
    FIRST,
    LOOK,
    ONE,
    THREE,
    TRANSLATORS,
    TWO,
    Json,
    chat,
    encoded,
    environment,
    prompt,
    request,
    responses,
    result,
    says,
    text,
    told,
    turn,
    use,
)

# --- translators --------------------------------------------------------------------------------

# Words are not enough, where a translator strips tools and system prompt; "..." for an image
# neither.
NOT_FOUND = {
    (translator, name)
    for translator in ("strips system", "says something first")
    for name in ("its title", "a summary")
} | {("one text for all", "an image")}


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_each_call_finds_its_session_and_no_other(translator: str) -> None:
    for name, body in CONVERSATIONS.items():
        call = TRANSLATORS[translator](body)
        found = None if (translator, name) in NOT_FOUND else name
        assert find(waiting(CONVERSATIONS), call) == found
        others = {other: body for other, body in CONVERSATIONS.items() if other != name}
        assert find(waiting(others), call) is None


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_long_conversations(translator: str) -> None:
    def turns(name: str, count: int) -> list[Json]:
        log = "\n".join(f"{name} {number}" for number in range(500))
        messages = [prompt(f"begin {name}")]
        for number in range(count):
            messages.append(says("assistant", f"{name}, turn {number}", use()))
            messages.append(says("user", result(log, f"end of {number}")))
        return messages

    trunk = turns("trunk", 30)
    bodies = {name: request(*trunk, *turns(name, 2)) for name in ("one", "two")}
    bodies["grown"] = request(*bodies["two"]["messages"], says("user", "go on"))
    bodies["trunk"] = request(*trunk)
    log = "\n".join(map(str, range(MAX_LINES - 99)))
    bodies["a long prompt"] = request(says("user", "look at this", log))
    bodies["a long text and a prompt"] = request(says("user", log, "look at that"))
    bodies["a long result"] = request(FIRST, LOOK, says("user", result(log)))
    for name, body in bodies.items():
        assert find(waiting(bodies), TRANSLATORS[translator](body)) == name


# --- strangers, and who is like another ---------------------------------------------------------


NO_OBJECTS = [b"", b"[]", b"null", b"\xff", b'{"messages":', b"[" * 100_000]
STRANGERS: list[Json] = [
    {},
    {"messages": []},
    {"messages": [{"role": "user", "content": []}], "tools": [{"name": "Bash"}]},
    request(says("user", result("a.py"))),
    {"input": "fix the tests", "instructions": "Be concise."},
    {"messages": ["hi", 1, None, [], {"role": 1, "content": {"text": "hi"}}], "tools": [1, {}]},
    {"messages": {"role": "user", "content": "hi"}, "tools": {"function": {"name": "Bash"}}},
]


@pytest.mark.parametrize("call", [*NO_OBJECTS, *(encoded(each) for each in STRANGERS)])
def test_strangers_find_nothing(call: bytes) -> None:
    hi = says("user", "hi")
    bridge = waiting(CONVERSATIONS | {"hi": request(hi), "bare": request(hi, system=())})
    if call in NO_OBJECTS:
        bridge.add("broken", identity("broken"), lambda: call)
    assert origins(bridge, [call]) == [None]
    assert find(bridge, chat(request(hi))) == "hi"


KEEPS = ("anthropic", "responses", "keeps system messages", "adds notes", "cuts attribution")


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_the_same_words_in_eight_directories(translator: str) -> None:
    more: list[tuple[str, ...]] = [(), ("Git: yes", "Branch: main")]
    bodies = {
        f"/{n}": request(FIRST, says("system", environment(f"/{n}", *more[n % 2])))
        for n in range(8)
    }
    bridge = waiting(bodies)
    calls = [encoded(TRANSLATORS[translator](body)) for body in bodies.values()]
    found = [origin and origin.request for origin in origins(bridge, calls)]
    assert found == list(bodies) or (found == [None] * 8 and translator not in KEEPS)


@pytest.mark.parametrize("translate", [dict, chat, responses])
def test_random_ids_excuse_rewritten_results(translate: Callable[[Json], Json]) -> None:
    bridge = waiting({"one": turn(ONE), "two": turn(TWO)})
    for call, session in [(TWO, "two"), (TWO, "two"), (ONE, "one"), (TWO, "two")]:
        assert find(bridge, translate(turn(call, output="0 files"))) == session
    assert find(bridge, translate(turn(THREE))) is None  # of a request that is no more
    assert find(bridge, translate(turn("c1"))) is None  # ids of a translator's own: one or two
    bridge.remove("one", is_answered=True)
    assert find(bridge, translate(turn("c1"))) == "two"
    assert find(bridge, translate(turn("c1", output="other"))) is None
    assert find(bridge, told(turn(TWO))) == "two"


@pytest.mark.parametrize("call_id", [ONE, "toolu_1", "functions.Bash:0"])
@pytest.mark.parametrize("translate", [dict, chat, responses])
def test_ids_alone_find_nothing(translate: Callable[[Json], Json], call_id: str) -> None:
    stop = says("user", "and stop")
    for call in (
        turn(call_id, said="fix the tools"),
        turn(call_id) | {"tools": [{"name": "Search"}]},
        turn(call_id) | {"system": text("You are a bot.")},
        turn(call_id, stop),
        turn(call_id, says("assistant", "Done."), stop),
    ):
        assert find(waiting({"one": turn(call_id)}), translate(call)) is None


NUMBERED = [
    *("functions.Bash:0", "functions.Bash:12", "functions.mcp__hub__getIssue2000Items12:0"),
    *("call_1", "toolu_1", "tool_0_Bash", "chatcmpl-tool-create-pull-request-100", "0"),
    *("call_1732873459123", "call_00000000000000000001", "Bash"),
]
RANDOM = [
    *(ONE, "call_0150d141f1f34f5da14f", "chatcmpl-tool-9a8b7c6d5e4f40918273645546372819"),
    *("fc_0150D141F1F34F5DA14F", "call_3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"),
]


@pytest.mark.parametrize("call_id", NUMBERED + RANDOM)
def test_only_random_ids_excuse_other_results(call_id: str) -> None:
    """Kimi K2 numbers ids in each conversation: `functions.Bash:0` is everybody's first."""
    bridge = waiting({"one": turn(call_id, output="a.py\nb.py")})
    found = "one" if call_id in RANDOM else None
    assert find(bridge, chat(turn(call_id, output="c.py\nd.py"))) == found
    assert find(bridge, chat(turn(call_id, output="a.py\nb.py"))) == "one"


def test_numbered_ids_of_another_turn_exclude() -> None:
    bridge = waiting({"one": turn("functions.Bash:0"), "two": turn("functions.Read:1")})
    assert find(bridge, chat(turn("functions.Read:1"))) == "two"
    assert find(bridge, chat(turn("functions.Read:2"))) is None


def test_sessions_with_the_same_words_and_numbered_ids_are_a_tie() -> None:
    bridge = waiting({name: turn("functions.Bash:0") for name in ("one", "two")})
    assert find(bridge, chat(turn("functions.Bash:0"))) is None
    assert find(bridge, chat(turn("functions.Bash:0", output="a.py"))) is None


def test_many_parallel_calls() -> None:
    def parallel(start: int) -> Json:
        ids = [f"toolu_{n:03}A09q90qw90lq917" for n in range(start, start + 50)]
        results = (result(f"no {n}", call=n) for n in ids)
        return request(FIRST, says("assistant", *map(use, ids)), says("user", *results))

    bridge = waiting({"one": parallel(0), "two": parallel(100)})
    assert [find(bridge, chat(parallel(start))) for start in (0, 100, 200)] == ["one", "two", None]


@pytest.mark.parametrize("call_id", ["toolu_1", ONE])
def test_forks_have_the_same_ids(call_id: str) -> None:
    push, commit = (
        turn(call_id, says("assistant", "Done."), says("user", what))
        for what in ("push it", "commit it")
    )
    bridge = waiting({"one": push, "two": commit})
    assert [find(bridge, chat(body)) for body in (commit, push)] == ["two", "one"]
    bridge.remove("one", is_answered=True)
    assert find(bridge, chat(push)) is None
    add(bridge, "three", commit)
    assert find(bridge, chat(commit)) is None  # two or three


def test_of_two_with_the_same_words_the_one_that_has_more_of_the_system_prompt() -> None:
    less, more = request(FIRST), request(FIRST, says("system", "Mind the gap."))
    for bodies in ({"less": less, "more": more}, {"more": more, "less": less}):
        assert find(waiting(bodies), chat(more, middle="system")) == "more"


def test_of_a_session_the_one_with_the_fewest_calls() -> None:
    bridge = WaitingRequests(Clock())
    for name in ("first", "second", "third"):
        add(bridge, name, turn("toolu_1"), "session")
    call = chat(turn("toolu_1"))
    assert [find(bridge, call) for _ in range(4)] == ["third", "second", "first", "third"]
    add(bridge, "fourth", turn("toolu_1"), "another session")
    assert find(bridge, call) is None


def test_a_call_that_shows_its_session() -> None:
    bridge = WaitingRequests(Clock())
    add(bridge, "title", CONVERSATIONS["its title"], "session")
    add(bridge, "main", request(FIRST), "session")
    add(bridge, "other", request(FIRST), "other session")
    assert find(bridge, chat(request(FIRST)), "session") == "main"
    assert find(bridge, chat(request(FIRST)), "other session") == "other"
    assert find(bridge, {"input": "whatever"}, "other session") == "other"
    shortest = [find(bridge, {"input": "whatever"}, "session") for _ in range(4)]
    assert Counter(shortest) == {"title": 2, "main": 2}
    assert shortest[0] == "title"
    assert find(bridge, chat(request(FIRST)), "unknown session") is None
