import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.causes import COUNTDOWN, SERVER_SIDE, TOO_MANY
from prompt_cache_key.misses.comparison import MAX_SIZE
from prompt_cache_key.misses.history import KEPT_EACH, KEPT_SIZE, History
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import (
    DIALECTS,
    SYSTEM,
    TURNS,
    Cache,
    Object,
    body,
    finished,
    moved,
    recorded,
)

LIMITED = Upstream(is_limited=True)
MORE = [*TURNS, ("assistant", "answer " * 2000), ("user", "more")]


class Play:
    """Requests a second apart, to an upstream with a cache, and the misses of them."""

    def __init__(self, step: int = 128, upstream: Upstream | None = None) -> None:
        self.history = History()
        self.upstream = upstream or Upstream()
        self.cache = Cache(step)
        self.clock = 0.0

    def __call__(self, session: str, request: Object, key: str = "k") -> Miss | None:
        """Return the miss of one request, and keep the request."""
        self.clock += 1
        usage = self.cache.read(request)
        names: Object = {"session": session, "key": key, "upstream": self.upstream}
        each = finished(request, usage, time=self.clock, **names)
        may_have_missed = self.history.may_have_missed(each)
        found = self.history.judge(each)
        assert may_have_missed or not found
        self.history.add(each)
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


LOADED = {
    "2.1.332 2": "tool search loaded: CronList, Monitor",
    "2.1.332 4": "tool search loaded: WebFetch",
}


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("countdown", dict, {}),
        ("countdown", moved, dict.fromkeys(["2.1.330 2", "2.1.330 3", "2.1.330 4"], COUNTDOWN)),
        ("claude_code", dict, {"2.1.330 214": "attribution block changed"}),
        ("claude_code", moved, {"2.1.330 214": "attribution block changed"}),
        ("tool_search", dict, LOADED),
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
            seen.add(found.kind)
    assert seen == ({SERVER_SIDE} if lets_go else set())


def small(time: float, size: int = 60, **fields: Any) -> FinishedRequest:
    raw = b'{"messages":[{"role":"user"},{"role":"assistant"}]' + b"}".rjust(size - 50)
    return finished(raw, Usage(20_000, 0, None, None), time=time, **fields)


@pytest.mark.parametrize(
    ("times", "key", "upstream", "kind"),
    [
        ([0] * 14, "k", LIMITED, TOO_MANY),
        ([0] * 14, "k", Upstream(), SERVER_SIDE),
        ([0] * 13, "k", LIMITED, SERVER_SIDE),
        ([0] * 14, "", LIMITED, SERVER_SIDE),
        ([-1, *[0] * 13], "k", LIMITED, SERVER_SIDE),
        ([90] * 14, "k", LIMITED, TOO_MANY),  # sent later, answered sooner
    ],
)
def test_requests_a_minute(times: list[float], key: str, upstream: Upstream, kind: str) -> None:
    history = History()
    history.add(small(0, key=key, upstream=upstream))
    for time in times:
        history.add(small(time, session="other", key=key, upstream=upstream))
        history.add(small(time, session="another", key="l", upstream=upstream))
    found = history.judge(small(59.5, key=key, upstream=upstream))
    assert found
    assert found.kind == kind


def test_the_requests_of_an_earlier_minute_do_not_count() -> None:
    history = History()
    for _ in range(15):
        history.add(small(0, upstream=LIMITED))
    history.add(small(99, key="l", upstream=LIMITED))
    found = history.judge(small(59.5, upstream=LIMITED))
    assert found
    assert found.kind == SERVER_SIDE


def test_the_last_bodies_are_kept() -> None:
    """So many of one conversation; so many bytes of all, the least recently used dropped first."""
    history = History()
    for number in range(KEPT_EACH):
        history.add(small(number))
    assert history.judge(small(99))
    for number in range(KEPT_EACH):
        history.add(small(number)._replace(body=b"[]"))
    assert history.judge(small(99)) is None
    conversations = KEPT_SIZE // MAX_SIZE
    for number in range(conversations):
        history.add(small(number, size=MAX_SIZE - 1, agent=str(number)))
    history.add(small(9, size=100, agent="0"))
    kept = [n for n in range(conversations) if history.judge(small(99, agent=str(n)))]
    assert kept == [0, *range(2, conversations)]


@pytest.mark.parametrize(
    "fields", [{"usage": None}, {"session": "?"}, {"body": b"{" + b" " * MAX_SIZE + b"}"}]
)
def test_what_is_not_kept(fields: Object) -> None:
    history = History()
    history.add(small(0)._replace(**fields))
    assert history.judge(small(1, session=fields.get("session", "s"))) is None


def test_forget_is_a_cause_of_its_own() -> None:
    history = History()
    for session in ("s", "t"):
        history.add(small(0, session=session))
    history.forget("s")
    for session, is_forgotten in (("s", True), ("t", False)):
        found = history.judge(small(1, session=session, key="l", key_state="new"))
        assert found
        assert ("promptcache.forget" in found.remedy) == is_forgotten


USER = ("account", "device")


def opening(session: str, system: str, **fields: Any) -> FinishedRequest:
    """Return the first request of a session, which read nothing."""
    request = body("messages", system=[system, *SYSTEM], turns=TURNS[:1])
    usual: Object = {"session": session, "user": USER, "project": "p"} | fields
    return finished(request, Usage(20_000, 0, None, None), **usual)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "system prompt changed"),
        ({"session": "a"}, None),  # not the session's first
        ({"user": None}, None),
        ({"user": ("account", "other")}, None),
        ({"project": ""}, None),
        ({"project": "q"}, None),
        ({"agent": "a1"}, None),
        ({"model": "n"}, None),
        ({"usage": Usage(20_000, 128, None, None)}, None),
        ({"time": -1.0}, None),  # sent before the other was answered
    ],
)
def test_cold_start(fields: Object, kind: str | None) -> None:
    """Another session of the user and project, at the same endpoint, model and agent, was there."""
    history = History()
    history.add(opening("a", "1"))
    request = opening("b", "2", time=1.0)._replace(**fields)
    found = history.cold_start(request)
    assert (found and found.kind) == kind
    assert history.may_be_cold(request) == bool(kind)
    history.add(opening("c", "2"))  # the latest one counts: nothing differs from that
    assert history.cold_start(request) is None


def test_keys_of_clients_are_not_kept_as_they_are() -> None:
    history = History()
    tracemalloc.start()
    for number in range(10):
        key = f"{number} {'k' * 1_000_000}"
        request = finished({}, None, time=number, key=key, upstream=LIMITED, session="s")
        history.add(request)
    del key, request
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000
