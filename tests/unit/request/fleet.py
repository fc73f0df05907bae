"""Fifty Claude Codes at once behind one translator, and strangers who talk like them."""

import heapq
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from prompt_cache_key.request.bridge import Bridge
from prompt_cache_key.request.speaker import Speaker
from unit.request.translators import (
    ATTRIBUTION,
    Json,
    encoded,
    environment,
    prompt,
    request,
    result,
    says,
    use,
)

SYSTEM = (ATTRIBUTION, "You are Claude Code.", "\n".join(f"Rule {n}." for n in range(20)))
STRANGERS = [
    {"messages": [{"role": "user", "content": "run the tests"}]},
    request(prompt("run the tests"), system=(), tools=()),
    request(prompt("run the tests"), system=("You are a bot.", "Be brief.\nBe kind.")),
    request(prompt("run the tests"), says("system", environment("/elsewhere")), system=SYSTEM),
]

Event = Callable[[], Awaitable[None]]


async def pause() -> None:
    pass


class Session:
    """A conversation of three prompts; half of all sessions say the same, each in a directory."""

    def __init__(self, number: int, chance: random.Random, *, in_words: bool) -> None:
        self.name = f"session {number}"
        self.chance = chance
        project = f" of project {number}" if number % 2 else ""
        first, *self.prompts = (each + project for each in ("run the tests", "commit", "push it"))
        here = environment(f"/home/{number}", *["Git: yes", "Branch: main"][: number % 3])
        self.messages = [prompt(here, first)] if in_words else [prompt(first), says("system", here)]

    def answer(self) -> bool:
        """Have the model answer, and return whether the client goes on."""
        if self.chance.random() < 0.6:
            calls = [f"call_{self.chance.getrandbits(64):016x}" for _ in range(2)]
            calls = calls[: self.chance.randint(1, 2)]
            results = (result("no output\nto show", call=each) for each in calls)
            self.messages.append(says("assistant", "I look.", *map(use, calls)))
            self.messages.append(says("user", *results))
            return True
        self.messages.append(says("assistant", "Done."))
        self.messages += [says("user", each) for each in self.prompts[:1]]
        return bool(self.prompts and self.prompts.pop(0))


class Fleet:
    """What happens to sessions by chance: retries of clients and translators, kills, strangers."""

    def __init__(self, translate: Callable[[Json], Json], seed: int, *, in_words: bool) -> None:
        self.translate = translate
        self.in_words = in_words
        self.chance = random.Random(seed)  # noqa: S311
        self.bridge = Bridge()
        self.events: list[tuple[float, float, Event]] = []
        self.found = Counter[str]()
        self.now = 0.0
        self.requests = 0

    async def run(self) -> Counter[str]:
        """Return how many calls were right, wrong, without a key, late, or a stranger's."""
        for number in range(50):
            session = Session(number, self.chance, in_words=self.in_words)
            self.after(0, 0.2, partial(self.send, session))
        for number in range(100):
            self.after(0, 5, partial(self.call, STRANGERS[number % 4], "", "stranger's"))
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            await event()
        return self.found

    def after(self, least: float, most: float, event: Event) -> None:
        time = self.now + self.chance.uniform(least, most)
        heapq.heappush(self.events, (time, self.chance.random(), event))

    async def send(self, session: Session) -> None:
        self.requests += 1
        number, fate = self.requests, self.chance.random()
        content = encoded(request(*session.messages, system=SYSTEM))
        self.bridge.add(number, Speaker(session.name, "main", "header"), lambda: content)
        call = partial(self.call, self.translate(json.loads(content)), session.name)
        is_killed = fate < 0.04
        self.after(0.01, 0.06, partial(call, "late" if is_killed else "none"))
        if fate > 0.95:  # the translator tries again
            self.after(0.06, 0.09, partial(call, "none"))
        if is_killed:  # maybe before its call; the client goes on
            self.after(0, 0.06, partial(self.end, number))
            self.after(0.06, 0.5, partial(self.send, session))
        elif fate < 0.08:  # it takes too long, and the client tries again, maybe while it waits
            self.after(0.1, 0.3, partial(self.end, number))
            self.after(0.1, 0.3, partial(self.send, session))
        else:
            self.after(0.06, 0.6, partial(self.end, number, session))

    async def end(self, number: int, answered: Session | None = None) -> None:
        self.bridge.remove(number)
        if answered and answered.answer():
            self.after(0, 0.05, partial(self.send, answered))

    async def call(self, body: Json, session: str, otherwise: str) -> None:
        if cause := await self.bridge.find(encoded(body), pause):
            self.found["right" if cause[1].session == session else "wrong"] += 1
        else:
            self.found[otherwise] += 1
