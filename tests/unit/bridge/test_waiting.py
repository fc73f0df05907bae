import asyncio
import json
import lzma
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from lib import ROOT
from lib.recordings import records
from prompt_cache_key.bridge.bridge import MAX_GONE, MAX_READ, MAX_WAITING, STEP, Bridge, Pace
from prompt_cache_key.bridge.prompt import MAX_LINES
from prompt_cache_key.identity import Identity
from unit.bridge.translators import (
    ATTRIBUTION,
    CONVERSATIONS,
    FIRST,
    LOOK,
    TRANSLATORS,
    Json,
    chat,
    cut,
    encoded,
    environment,
    prompt,
    request,
    responses,
    result,
    says,
    text,
    told,
    use,
)


def identity(session: str, agent: str = "main") -> Identity:
    return Identity(session, agent, "header")


def add(bridge: Bridge, name: Any, body: Json, session: str = "") -> None:
    bridge.add(name, identity(session or name), lambda: encoded(body))


def waiting(bodies: dict[str, Json]) -> Bridge:
    """Return a bridge with a request in flight for each of these sessions."""
    bridge = Bridge()
    for session, body in bodies.items():
        add(bridge, session, body)
    return bridge


def causes(bridge: Bridge, calls: list[bytes], at_pause: Any = list, session: str = "") -> Any:
    """Return the causes of calls that come together, each of which lets others go on in a pause."""

    async def pause() -> None:
        at_pause()
        await asyncio.sleep(0)

    async def find_all() -> list[Any]:
        return await asyncio.gather(*(bridge.find(call, pause, session) for call in calls))

    return asyncio.run(find_all())


def find(bridge: Bridge, call: Json, session: str = "", at_pause: Any = list) -> Any:
    (cause,) = causes(bridge, [encoded(call)], at_pause, session)
    return cause and cause[0]


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
        for turn in range(count):
            messages.append(says("assistant", f"{name}, turn {turn}", use()))
            messages.append(says("user", result(log, f"end of {turn}")))
        return messages

    trunk = turns("trunk", 30)
    bodies = {name: request(*trunk, *turns(name, 2)) for name in ("one", "two")}
    bodies["grown"] = request(*bodies["two"]["messages"], says("user", "go on"))
    bodies["trunk"] = request(*trunk)
    log = "\n".join(map(str, range(MAX_LINES)))
    bodies["a long prompt"] = request(says("user", "look at this", log))
    bodies["a long text and a prompt"] = request(says("user", log, "look at that"))
    bodies["a long result"] = request(FIRST, LOOK, says("user", result(log)))
    for name, body in bodies.items():
        assert find(waiting(bodies), TRANSLATORS[translator](body)) == name


RECORDED = {
    f"{record['client']} {record['scenario']} {record['seq']}": json.loads(record["body"])
    for record in records("claude_code")
    if record["path"].startswith("/v1/messages?")
}


def conversation(body: Json) -> list[Any]:
    """Return what is said, by blocks."""
    said = [(each["role"], each["content"]) for each in body["messages"]]
    return [
        (role, block)
        for role, content in said
        if role != "system"
        for block in (text(content) if isinstance(content, str) else content)
    ]


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_recorded_requests(translator: str) -> None:
    assert len(RECORDED) > 40
    for name, body in RECORDED.items():
        call = TRANSLATORS[translator](body)
        found = find(waiting(RECORDED), call)
        assert found is None or conversation(RECORDED[found]) == conversation(body)
        alone = find(waiting({name: body}), call)
        assert alone or (translator in {name for name, _ in NOT_FOUND} and not body.get("tools"))


def test_recorded_calls_find_no_stranger() -> None:
    calls = [record["body"].encode() for record in records("translators")]
    assert not any(causes(waiting(RECORDED), calls))


def test_recorded_chains() -> None:
    with lzma.open(ROOT / "tests" / "data" / "chains.jsonl.xz", "rt", encoding="utf-8") as lines:
        chains = list(map(json.loads, lines))
    order = ["end", "client", "upstream"]  # of what happens at the same time
    events = [(each["start"], order.index(each["side"]), n) for n, each in enumerate(chains)]
    events += [(each["end"], 0, n) for n, each in enumerate(chains) if each["side"] == "client"]
    bridges: dict[str, Bridge] = {}
    right = Counter[str]()
    for _, event, number in sorted(events):
        record = chains[number]
        bridge = bridges.setdefault(record["chain"], Bridge())
        if order[event] == "client":
            add(bridge, number, record["body"], record["session"])
        elif order[event] == "end":
            bridge.remove(number)
        else:
            (cause,) = causes(bridge, [encoded(record["body"])])
            assert cause
            assert cause[1].session == record["session"]
            right[record["chain"]] += 1
    assert len(right) == 9
    assert right.total() == len(chains) / 2 == 293


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
    assert causes(bridge, [call]) == [None]
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
    found = [cause and cause[0] for cause in causes(bridge, calls)]
    assert found == list(bodies) or (found == [None] * 8 and translator not in KEEPS)


def turn(call: str, *more: Json, output: str = "no output") -> Json:
    """Return a request with the result of one tool call."""
    return request(
        FIRST, says("assistant", use(call)), says("user", result(output, call=call)), *more
    )


@pytest.mark.parametrize("translate", [dict, chat, responses])
def test_ids_of_tool_calls(translate: Callable[[Json], Json]) -> None:
    bridge = waiting({"one": turn("toolu_1"), "two": turn("toolu_2")})
    for number, session in [(2, "two"), (2, "two"), (1, "one"), (2, "two")]:
        rewritten = turn(f"toolu_{number}", output="0 files")
        assert find(bridge, translate(rewritten)) == session
    assert find(bridge, translate(turn("toolu_3"))) is None  # of a request that is no more
    assert find(bridge, translate(turn("toolu_2") | {"tools": [{"name": "Search"}]})) is None
    assert find(bridge, translate(turn("c1"))) is None  # ids of a translator's own: one or two
    bridge.remove("one")
    assert find(bridge, translate(turn("c1"))) == "two"
    assert find(bridge, translate(turn("c1", output="other"))) is None
    assert find(bridge, told(turn("toolu_2"))) == "two"


def test_forks_have_the_same_ids() -> None:
    push, commit = (
        turn("toolu_1", says("assistant", "Done."), says("user", what))
        for what in ("push it", "commit it")
    )
    bridge = waiting({"one": push, "two": commit})
    assert [find(bridge, chat(body)) for body in (commit, push)] == ["two", "one"]
    bridge.remove("one")
    assert find(bridge, chat(push)) is None
    add(bridge, "three", commit)
    assert find(bridge, chat(commit)) is None  # two or three


def test_of_two_with_the_same_words_the_one_that_has_more_of_the_system_prompt() -> None:
    less, more = request(FIRST), request(FIRST, says("system", "Mind the gap."))
    for bodies in ({"less": less, "more": more}, {"more": more, "less": less}):
        assert find(waiting(bodies), chat(more, middle="system")) == "more"


def test_of_a_session_the_one_with_the_fewest_calls() -> None:
    bridge = Bridge()
    for name in ("first", "second", "third"):
        add(bridge, name, turn("toolu_1"), "session")
    call = chat(turn("toolu_1"))
    assert [find(bridge, call) for _ in range(4)] == ["third", "second", "first", "third"]
    add(bridge, "fourth", turn("toolu_1"), "another session")
    assert find(bridge, call) is None


def test_a_call_that_shows_its_session() -> None:
    bridge = Bridge()
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


def test_a_late_call_finds_no_other_session() -> None:
    bridge = waiting({"one": request(FIRST), "two": request(FIRST)})
    bridge.remove("one")  # before its call came
    assert find(bridge, chat(request(FIRST))) is None
    for number in range(MAX_GONE):
        add(bridge, number, request(prompt(str(number))), "more")
        bridge.remove(number)
    assert find(bridge, chat(request(FIRST))) == "two"
    bridge.remove("two")  # it has had its call
    add(bridge, "three", request(FIRST))
    assert find(bridge, chat(request(FIRST))) == "three"


# --- the requests in flight ---------------------------------------------------------------------


def test_who_speaks_in_it() -> None:
    bridge = waiting(CONVERSATIONS)
    call = chat(CONVERSATIONS["a result"])
    assert find(bridge, call) == "a result"
    bridge.remove("a result")
    bridge.remove("never there")
    assert find(bridge, call) is None
    bridge.add("again", identity("s", "a1"), lambda: encoded(CONVERSATIONS["a result"]))
    assert causes(bridge, [encoded(call)]) == [("again", identity("s", "a1"))]


def test_the_oldest_goes_first() -> None:
    bodies = {str(n): request(prompt(f"do this {n}")) for n in range(MAX_WAITING + 2)}
    bridge = waiting(bodies)
    found = [find(bridge, chat(body)) for body in bodies.values()]
    assert found == [None, None, *list(bodies)[2:]]


def test_a_body_that_is_not_known_yet() -> None:
    bodies = [b"", b""]
    bridge = Bridge()
    for number in range(2):
        bridge.add(number, identity("s"), lambda number=number: bodies[number])  # type: ignore[misc]
    for body in (request(FIRST), turn("toolu_1")):
        bodies[:] = [b"", b""]
        assert find(bridge, chat(body)) is None
        bodies[0] = encoded(body)
        assert find(bridge, chat(body)) == 0
        bridge.remove(0)
        bridge.add(0, identity("s"), lambda: bodies[0])


def test_long_bodies_are_told_by_their_ids() -> None:
    long = "x" * MAX_READ
    bodies = {name: turn(name, output=long) for name in ("toolu_1", "toolu_2")}
    bridge = waiting(bodies | {"words": request(prompt(long))})
    for name, body in bodies.items():
        assert find(bridge, chat(body)) == name
    assert find(bridge, chat(turn("toolu_1"))) == "toolu_1"  # a translator has shortened it
    assert find(bridge, chat(turn("toolu_3", output=long))) is None
    assert find(bridge, chat(request(prompt(long)))) is None


# --- slices of time -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("works", "pauses"),
    [([STEP], 0), ([1, STEP], 1), ([STEP // 2] * 9, 4), ([9 * STEP] * 3, 2)],
)
def test_it_pauses_before_much_work(works: list[int], pauses: int) -> None:
    made: list[int] = []

    async def spend() -> None:
        async def pause() -> None:
            made.append(1)

        pace = Pace(pause)
        for work in works:
            await pace.spend(work)

    asyncio.run(spend())
    assert len(made) == pauses


LONG = [says("user", "\n".join(f"{n} {line}" for line in range(3000))) for n in range(9)]


def test_requests_that_come_and_go_in_a_pause() -> None:
    bridge = waiting({str(n): request(*LONG, prompt(f"do {n}")) for n in range(9)})
    pauses: list[int] = []

    def at_pause() -> None:
        pauses.append(1)
        for n in range(9):
            bridge.remove(str(n))
        add(bridge, f"new {len(pauses)}", request(*LONG, prompt("do 4")))

    # It waited as the call came, unlike the new ones.
    assert find(bridge, chat(request(*LONG, prompt("do 4"))), at_pause=at_pause) == "4"
    assert len(pauses) > 9


def test_bodies_are_read_once_and_only_for_a_call() -> None:
    bridge = Bridge()
    bodies = [encoded(request(*LONG, prompt(f"do {n}"))) for n in range(3)]
    read: list[int] = []

    def read_body(number: int) -> bytes:
        read.append(number)
        return bodies[number]

    for number in range(3):
        bridge.add(number, identity(str(number)), partial(read_body, number))
    assert not read
    pauses = Counter[str]()
    call = chat(json.loads(bodies[1]))
    found = causes(bridge, [encoded(call)] * 9, partial(pauses.update, ["together"]))
    assert {cause[0] for cause in found} == {1}
    assert find(bridge, call, at_pause=partial(pauses.update, ["later"])) == 1
    assert 0 < pauses["later"] < pauses["together"]


# --- fifty Claude Codes at once behind one translator, and strangers who talk like them -----------

SYSTEM = (ATTRIBUTION, "You are Claude Code.", "\n".join(f"Rule {n}." for n in range(20)))
TALKERS = [
    {"messages": [{"role": "user", "content": "run the tests"}]},
    request(prompt("run the tests"), system=(), tools=()),
    request(prompt("run the tests"), system=("You are a bot.", "Be brief.\nBe kind.")),
    request(prompt("run the tests"), says("system", environment("/elsewhere")), system=SYSTEM),
]


def requests_of(number: int, chance: random.Random, *, in_words: bool) -> Iterator[Json]:
    """Yield a session's requests; half of all sessions say the same, each in a directory."""
    project = f" of project {number}" if number % 2 else ""
    here = environment(f"/home/{number}", *["Git: yes", "Branch: main"][: number % 3])
    first = f"run the tests{project}"
    messages = [prompt(here, first)] if in_words else [prompt(first), says("system", here)]
    for then in ("commit it", "push it", "thanks"):
        yield request(*messages, system=SYSTEM)
        while chance.random() < 0.6:
            calls = [f"call_{chance.getrandbits(64):016x}" for _ in range(chance.randint(1, 2))]
            results = (result("no output\nto show", call=each) for each in calls)
            messages += [says("assistant", "I look.", *map(use, calls)), says("user", *results)]
            yield request(*messages, system=SYSTEM)
        messages += [says("assistant", "Done."), says("user", then + project)]


async def fleet(translate: Callable[[Json], Json], seed: int, *, in_words: bool) -> Counter[str]:
    """Return how many calls were right, wrong, without a session, late, or a stranger's."""
    chance = random.Random(seed)  # noqa: S311
    bridge, found = Bridge(), Counter[str]()

    async def wait(most: int) -> None:
        for _ in range(chance.randrange(most)):
            await asyncio.sleep(0)

    async def call(body: Json, session: str, otherwise: str, after: int = 9) -> None:
        await wait(after)
        cause = await bridge.find(encoded(body), partial(asyncio.sleep, 0))
        is_right = cause is not None and cause[1].session == session
        found["right" if is_right else "wrong" if cause else otherwise] += 1

    async def send(session: str, body: Json) -> None:
        number, fate = object(), chance.random()
        add(bridge, number, body, session)
        translated = translate(body)
        if fate < 0.05:  # it is killed, maybe before its call, and sent again
            late = asyncio.create_task(call(translated, session, "late"))
            await wait(9)
            bridge.remove(number)
            await asyncio.gather(late, send(session, body))
            return
        await call(translated, session, "none")
        if fate > 0.95:  # the translator tries again
            await call(translated, session, "none")
        await wait(9)
        bridge.remove(number)

    async def talk(number: int) -> None:
        for body in requests_of(number, chance, in_words=in_words):
            await send(f"session {number}", body)

    strangers = (call(TALKERS[n % 4], "", "stranger's", 99) for n in range(100))
    await asyncio.gather(*map(talk, range(50)), *strangers)
    return found


def rewritten(body: Json) -> Json:
    """Translate as something that cuts the attribution, and says results of tools in its words."""
    call: Json = json.loads(encoded(cut(body)).replace(rb"no output\nto show", b"0 lines"))
    return call


FLEETS: dict[str, Callable[[Json], Json]] = {
    "keeps all": partial(chat, middle="system"),
    "cuts attribution, rewrites results": rewritten,
    "keeps no ids": told,
    "drops system messages": chat,
    "drops system messages, adds a line": partial(chat, extra="Be yourself."),
}


@pytest.mark.parametrize("translator", FLEETS)
@pytest.mark.parametrize("seed", range(2))
def test_a_fleet_of_sessions(translator: str, seed: int) -> None:
    found = asyncio.run(fleet(FLEETS[translator], seed, in_words=translator == "keeps no ids"))
    assert found["wrong"] == 0
    assert found["stranger's"] == 100
    assert found["right"] > 300
    if "drops" not in translator:
        assert found["none"] < found["right"] / 100
