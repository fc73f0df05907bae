"""Fifty Claude Codes at once behind one translator, and strangers who talk like them."""

import heapq
import json
import random
from collections import Counter
from collections.abc import Callable

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
NO_OUTPUT = "no output\nto show"

Event = Callable[[], tuple[Json, str, bool] | None]


async def pause() -> None:
    pass


class Session:
    """A conversation of three prompts; half of all sessions say the same, each in a directory."""

    def __init__(self, number: int, chance: random.Random, *, in_words: bool) -> None:
        self.name = f"session {number}"
        self.chance = chance
        project = f" of project {number}" if number % 2 else ""
        self.prompts = [f"{each}{project}" for each in ("run the tests", "commit it", "push it")]
        here = environment(f"/home/{number}", *["Git: yes", "Branch: main"][: number % 3])
        first = self.prompts.pop(0)
        self.messages = [prompt(here, first)] if in_words else [prompt(first), says("system", here)]

    def request(self) -> Json:
        return request(*self.messages, system=SYSTEM)

    def answer(self) -> bool:
        """Have the model answer, and return whether the client goes on."""
        if self.chance.random() < 0.6:
            calls = [f"call_{self.chance.getrandbits(64):016x}" for _ in range(2)]
            calls = calls[: self.chance.randint(1, 2)]
            self.messages.append(says("assistant", "I look.", *map(use, calls)))
            self.messages.append(says("user", *(result(NO_OUTPUT, call=each) for each in calls)))
            return True
        self.messages.append(says("assistant", "Done."))
        self.messages += [says("user", each) for each in self.prompts[:1]]
        return bool(self.prompts and self.prompts.pop(0))


class Fleet:
    """What happens to sessions by chance: retries of clients and translators, kills, strangers."""

    def __init__(self, translate: Callable[[Json], Json], seed: int, kind: str) -> None:
        self.translate = translate
        self.kind = kind
        self.chance = random.Random(seed)  # noqa: S311
        self.bridge = Bridge()
        self.events: list[tuple[float, float, Event]] = []
        self.found = Counter[str]()
        self.now = 0.0
        self.requests = 0

    async def run(self) -> Counter[str]:
        """Return how many calls were right, wrong, without a key, late, or a stranger's."""
        for number in range(50):
            session = Session(number, self.chance, in_words="no ids" in self.kind)
            self.after(0, 0.2, self.sending(session))
        for number in range(100):
            self.after(0, 5, self.calling(STRANGERS[number % 4]))
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            if call := event():
                await self.call(*call)
        return self.found

    def after(self, least: float, most: float, event: Event) -> None:
        time = self.now + self.chance.uniform(least, most)
        heapq.heappush(self.events, (time, self.chance.random(), event))

    def calling(self, call: Json, session: str = "", *, is_killed: bool = False) -> Event:
        return lambda: (call, session, is_killed)

    def sending(self, session: Session) -> Event:
        return lambda: self.send(session)

    def send(self, session: Session) -> None:
        self.requests += 1
        number, fate = self.requests, self.chance.random()
        content = encoded(session.request())
        self.bridge.add(number, Speaker(session.name, "main", "header"), lambda: content)
        call = self.translate(json.loads(content))
        if "rewrites" in self.kind:
            call = json.loads(
                encoded(call).replace(json.dumps(NO_OUTPUT)[1:-1].encode(), b"0 lines")
            )
        is_killed = fate < 0.04
        self.after(0.01, 0.06, self.calling(call, session.name, is_killed=is_killed))
        if fate > 0.95:  # the translator tries again
            self.after(0.06, 0.09, self.calling(call, session.name))
        if is_killed:  # maybe before its call; the client goes on
            self.after(0, 0.06, lambda: self.bridge.remove(number))
            self.after(0.06, 0.5, self.sending(session))
        elif fate < 0.08:  # it takes too long, and the client tries again, maybe while it waits
            self.after(0.1, 0.3, lambda: self.bridge.remove(number))
            self.after(0.1, 0.3, self.sending(session))
        else:
            self.after(0.06, 0.6, lambda: self.end(session, number))

    def end(self, session: Session, number: int) -> None:
        self.bridge.remove(number)
        if session.answer():
            self.after(0, 0.05, self.sending(session))

    async def call(self, body: Json, session: str, is_killed: bool) -> None:
        cause = await self.bridge.find(encoded(body), pause)
        if not session:
            self.found["stranger's"] += cause is not None
        elif cause:
            self.found["right" if cause[1].session == session else "wrong"] += 1
        else:
            self.found["late" if is_killed else "none"] += 1
