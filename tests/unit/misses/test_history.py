import json
import random
from collections.abc import Callable

import pytest
from prompt_cache_key.misses.causes import COUNTDOWN, OWN, TOO_MANY
from prompt_cache_key.misses.history import KEPT_EACH, KEPT_SIZE, History
from prompt_cache_key.misses.judge import MAX_SIZE, Sent
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import DIALECTS, SYSTEM, TURNS, Cache, Object, body, moved, recorded

KEEP = 600.0
MORE = [*TURNS, ("assistant", "answer " * 2000), ("user", "more")]


class Play:
    """Requests a second apart, to an upstream with a cache, and the verdicts on them."""

    def __init__(self, step: int = 128) -> None:
        self.history = History()
        self.cache = Cache(step)
        self.clock = 0.0

    def __call__(self, identity: str, request: Object, key: str = "k") -> Miss | None:
        """Return the miss on one request, and keep the request."""
        self.clock += 1
        usage = self.cache.read(request)
        sent = Sent(self.clock, key, json.dumps(request).encode(), usage)
        may_have_lost = self.history.may_have_lost(identity, sent)
        found = self.history.judge(identity, sent, KEEP)
        assert may_have_lost or not found
        self.history.add(identity, sent)
        return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("", {}),
        ("tools reordered", {"tools": ("Edit", "Bash", "Read")}),
        ("tool added: Grep", {"tools": ("Bash", "Grep", "Edit", "Read")}),
        ("tool removed: Bash", {"tools": ("Edit", "Read")}),
        ("tool edited: Read", {"schema": "changed"}),
        ("system prompt changed", {"system": ("You are Claude Code!", *SYSTEM[1:])}),
        ("settings changed: tool_choice", {"tool_choice": "none"}),
        ("messages rewritten", {"turns": [("user", "else"), *MORE[1:]]}),
        ("messages removed", {"turns": [TURNS[0], *MORE[2:]]}),
    ],
)
@pytest.mark.parametrize("step", [128, 2048])
def test_one_change(dialect: str, cause: str, change: Object, step: int) -> None:
    play, unchanged = Play(step), Cache(step)
    for turns in (TURNS[:1], TURNS):
        unchanged.read(body(dialect, turns=turns))
        assert play("s", body(dialect, turns=turns)) is None
    new: Object = {"turns": MORE} | change
    changed = body(dialect, **new)
    found = play("s", changed)
    assert (found.cause if found else "") == cause
    if found:
        would_be = unchanged.read(body(dialect, turns=MORE)).cached or 0
        assert found.expected >= min(would_be, unchanged.read(changed).input)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("countdown", dict, {}),
        ("countdown", moved, dict.fromkeys(["2.1.330 2", "2.1.330 3", "2.1.330 4"], COUNTDOWN)),
        ("claude_code", dict, {"2.1.330 214": "attribution block changed"}),
        ("claude_code", moved, {"2.1.330 214": "attribution block changed"}),
    ],
)
def test_recorded(name: str, change: Callable[[Object], Object], expected: dict[str, str]) -> None:
    """As they were sent, and as a translator that moves system messages sends them."""
    play = Play()
    found = {
        number: play(identity, change(request)) for number, identity, request in recorded(name)
    }
    assert {number: miss.cause for number, miss in found.items() if miss} == expected


@pytest.mark.parametrize("agents_are_shown", [True, False])
@pytest.mark.parametrize("lets_go", [True, False])
def test_sessions_with_subagents_at_once(agents_are_shown: bool, lets_go: bool) -> None:
    """No matter how they come, and whether old clients show all agents as one."""
    chance = random.Random(7)  # noqa: S311  # the same each time
    talks = [(turn + chance.random() * 2, turn, who) for turn in range(5) for who in range(48)]
    play = Play()
    seen = set[str]()
    turns = [0] * 48
    for number, (*_, who) in enumerate(sorted(talks)):
        session, agent = divmod(who, 4)
        said = [
            ("assistant" if each % 2 else "user", f"{session} {agent} {each} " + "words " * 900)
            for each in range(2 * turns[who] + 1)
        ]
        turns[who] += 1
        tools = ("Bash", "Read") if agent else ("Agent", "Bash", "Read")
        system = (f"You are agent {agent}." if agent else "You are Claude Code.", *SYSTEM[1:])
        if lets_go and number == 200:
            play.cache = Cache()
        identity = f"{session} {agent if agents_are_shown else 'main'}"
        request = body("messages", tools=tools, system=system, turns=said)
        if found := play(identity, request, identity):
            seen.add(found.cause)
    assert seen == ({OWN} if lets_go else set())


def small(time: float, key: str = "k", size: int = 60) -> Sent:
    content = b'{"messages":[{"role":"user"},{"role":"assistant"}]' + b"}".rjust(size - 50)
    return Sent(time, key, content, Usage(20_000, 0, None, None))


@pytest.mark.parametrize(
    ("times", "key", "cause"),
    [
        ([0] * 14, "k", TOO_MANY),
        ([0] * 13, "k", OWN),
        ([0] * 14, "", OWN),
        ([-1, *[0] * 13], "k", OWN),
        ([90] * 14, "k", TOO_MANY),  # sent later, answered sooner
    ],
)
def test_requests_a_minute(times: list[float], key: str, cause: str) -> None:
    history = History()
    history.add("s", small(0, key))
    for time in times:
        history.add("other", small(time, key))
        history.add("another", small(time, "l"))
    sent = small(59.5, key)
    found = history.judge("s", sent, KEEP, is_limited=True), history.judge("s", sent, KEEP)
    assert [each and each.cause for each in found] == [cause, OWN]


def test_the_last_bodies_are_kept() -> None:
    """Of one identity so many; of all so many bytes, and who has not spoken for longest goes."""
    history = History()
    for number in range(KEPT_EACH):
        history.add("s", small(number))
    assert history.judge("s", small(99), KEEP)
    for number in range(KEPT_EACH):
        history.add("s", small(number)._replace(content=b"[]"))
    assert history.judge("s", small(99), KEEP) is None
    speakers = KEPT_SIZE // MAX_SIZE
    for number in range(speakers):
        history.add(number, small(number, size=MAX_SIZE))
    history.add(0, small(9, size=100))
    kept = [number for number in range(speakers) if history.judge(number, small(99), KEEP)]
    assert kept == [0, *range(2, speakers)]


def test_what_is_not_kept() -> None:
    history = History()
    history.add("s", small(0)._replace(usage=None))
    history.add("s", small(0, size=MAX_SIZE + 1))
    assert history.judge("s", small(1), KEEP) is None
