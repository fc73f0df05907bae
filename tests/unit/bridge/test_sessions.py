"""Many sessions at once: whatever happens, no call finds another session."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from prompt_cache_key.bridge.waiting import (
    User,
    WaitingRequests,
)
from unit.bridge.bridges import Clock, add
from unit.bridge.translators import (
    ATTRIBUTION,
    TRANSLATORS,
    Json,
    chat,
    cut,
    encoded,
    environment,
    prompt,
    request,
    result,
    says,
    told,
    use,
)

# --- 25 Claude Codes at once behind one translator, and strangers who talk like them -----------

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
    bridge, found = WaitingRequests(Clock()), Counter[str]()

    async def wait(most: int) -> None:
        for _ in range(chance.randrange(most)):
            await asyncio.sleep(0)

    async def call(body: Json, session: str, otherwise: str, after: int = 9) -> None:
        await wait(after)
        origin = await bridge.find(encoded(body), partial(asyncio.sleep, 0))
        is_right = origin is not None and origin.identity.session == session
        found["right" if is_right else "wrong" if origin else otherwise] += 1

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
        bridge.remove(number, is_answered=True)

    async def talk(number: int) -> None:
        for body in requests_of(number, chance, in_words=in_words):
            await send(f"session {number}", body)

    strangers = (call(TALKERS[n % 4], "", "stranger's", 99) for n in range(50))
    await asyncio.gather(*map(talk, range(25)), *strangers)
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
def test_a_fleet_of_sessions(translator: str) -> None:
    found = asyncio.run(fleet(FLEETS[translator], seed=0, in_words=translator == "keeps no ids"))
    assert found["wrong"] == 0
    assert found["stranger's"] == 50
    assert found["right"] > 150
    if "drops" not in translator:
        assert found["none"] < found["right"] / 100


# --- any order of what may happen -----------------------------------------------------------------

LINES = st.sampled_from(["fix it", "hi", "Be concise.", "a: 1", "a: 2", "fix", "it"])
TEXTS = st.lists(LINES, min_size=1, max_size=3).map("\n".join)
PROMPTS = st.lists(TEXTS, min_size=1, max_size=2)
STYLES = [*TRANSLATORS.values(), partial(chat, middle="assistant"), rewritten]
MANY = 6


@dataclass(eq=False)
class Session:
    """A session with one request at a time; `number` counts its tool calls."""

    name: str
    messages: list[Json]
    user: User | None
    are_ids_random: bool
    number: int = 0

    def next_id(self, chance: random.Random) -> str:
        self.number += 1
        random_id = f"toolu_{chance.getrandbits(96):024x}"
        return random_id if self.are_ids_random else f"functions.Bash:{self.number}"


@dataclass(eq=False)
class Sent:
    """A request, with the calls that were made for it."""

    session: Session
    body: Json
    calls: list[bytes] = field(default_factory=list)


class AnyOrder(RuleBasedStateMachine):
    """Sessions with the same words, of several users, behind translators of all styles."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(0)  # noqa: S311
        self.bridge = WaitingRequests(Clock())
        self.idle: list[Session] = []
        self.waiting: list[Sent] = []
        self.gone: list[Sent] = []
        self.count = 0

    def one_of(self, things: list[Any], data: st.DataObject) -> Any:
        return things[data.draw(st.integers(0, len(things) - 1))]

    def send(self, session: Session) -> None:
        system = ("You are Claude Code.", "Be concise.\na: 1")
        sent = Sent(session, request(*session.messages, system=system))
        self.waiting.append(sent)
        add(self.bridge, sent, sent.body, session.name, session.user)

    @precondition(lambda self: len(self.idle) + len(self.waiting) < MANY)
    @rule(
        blocks=PROMPTS,
        directory=st.sampled_from(["", "/a", "/b"]),
        user=st.sampled_from([None, ("account", "1"), ("account", "2")]),
        are_ids_random=st.booleans(),
    )
    def begin(
        self, blocks: list[str], directory: str, user: User | None, are_ids_random: bool
    ) -> None:
        self.count += 1
        messages = [says("user", *blocks)]
        messages += [says("system", environment(directory))] if directory else []
        self.send(Session(f"session {self.count}", messages, user, are_ids_random))

    @precondition(lambda self: self.waiting and len(self.waiting) < MANY)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = self.one_of(self.waiting, data).session
        self.count += 1
        name = f"session {self.count}"
        self.send(replace(parent, name=name, messages=list(parent.messages)))

    def check(self, sent: Sent, call: bytes, *, is_user_scope: bool) -> None:
        finding = self.bridge.find(call, is_user_scope=is_user_scope)
        try:
            finding.send(None)
        except StopIteration as end:
            origin = end.value
        if origin and origin.request is None:
            assert is_user_scope
            assert origin.user == sent.session.user is not None
        elif origin:
            assert origin.identity.session == sent.session.name

    @precondition(lambda self: self.waiting + self.gone)
    @rule(data=st.data(), style=st.sampled_from(STYLES), is_user_scope=st.booleans())
    def call(self, data: st.DataObject, style: Any, is_user_scope: bool) -> None:
        sent = self.one_of(self.waiting + self.gone, data)
        sent.calls.append(encoded(style(sent.body)))
        self.check(sent, sent.calls[-1], is_user_scope=is_user_scope)

    @precondition(lambda self: any(each.calls for each in self.waiting + self.gone))
    @rule(data=st.data(), is_user_scope=st.booleans())
    def retry(self, data: st.DataObject, is_user_scope: bool) -> None:
        sent = self.one_of([each for each in self.waiting + self.gone if each.calls], data)
        self.check(sent, sent.calls[-1], is_user_scope=is_user_scope)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), goes_on=st.booleans())
    def kill(self, data: st.DataObject, goes_on: bool) -> None:
        sent = self.one_of(self.waiting, data)
        self.waiting.remove(sent)
        self.gone.append(sent)
        self.bridge.remove(sent)
        if goes_on:
            self.idle.append(sent.session)

    @precondition(lambda self: any(each.calls for each in self.waiting))
    @rule(data=st.data(), said=TEXTS, outputs=st.lists(TEXTS, max_size=2), blocks=PROMPTS)
    def answer(self, data: st.DataObject, said: str, outputs: list[str], blocks: list[str]) -> None:
        sent = self.one_of([each for each in self.waiting if each.calls], data)
        self.waiting.remove(sent)
        self.bridge.remove(sent, is_answered=True)
        session = sent.session
        ids = [session.next_id(self.chance) for _ in outputs]
        results = [result(text, call=each) for each, text in zip(ids, outputs, strict=True)]
        session.messages += [says("assistant", said, *map(use, ids))]
        session.messages += [says("user", *results) if ids else says("user", *blocks)]
        self.idle.append(session)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        session = self.one_of(self.idle, data)
        self.idle.remove(session)
        self.send(session)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
