"""Whole conversations of Claude Code with a cache that works: what is no miss, and what is one."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from lib.dialects import DIALECTS
from lib.recordings import conversations, excerpt, tool_turn
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.history import History
from unit.misses.prompts import Cache, Object, finished

Place = tuple[float, float, FinishedRequest, set[bytes]]


class Play:
    """An upstream whose cache has a prompt from the time on at which its answer begins."""

    def __init__(self, dialect: str) -> None:
        self.translate = DIALECTS[dialect].translate if dialect != "messages" else deepcopy
        self.history, self.cache, self.now = History(), Cache(), 0.0
        self.open: list[Place] = []
        self.causes: list[str] = []

    def ask(self, body: Object, after: float = 20, lasts: float = 5, agent: str = "main") -> None:
        """Send a request some seconds after the last one; its answer begins half-way."""
        self.now += after
        self.land(self.now)
        known = self.cache.prefixes.copy()
        request = self.translate(body)
        usage = self.cache.read(request)
        new, self.cache.prefixes = self.cache.prefixes - known, known
        begins = self.now + lasts / 2
        made = finished(request, usage, time=self.now, answered=begins, agent=agent)
        self.open.append((begins, self.now + lasts, made, new))

    def land(self, now: float = float("inf")) -> None:
        """Let the answers begin and end that are due."""
        for begins, ends, request, new in sorted(self.open, key=lambda each: each[1]):
            if begins <= now:
                self.cache.prefixes |= new
            if ends <= now:
                self.open.remove((begins, ends, request, new))
                if miss := self.history.judge(request):
                    self.causes.append(miss.cause)
                self.history.add(request)


def grown(body: Object, turns: int, seed: str = "", size: int = 8000) -> Object:
    """Return a body with so many calls of a tool; the first of the same seed are the same."""
    added = [tool_turn(turn, excerpt(f"{seed} {turn}", size)) for turn in range(turns)]
    return body | {"messages": [*body["messages"], *(each for turn in added for each in turn)]}


def said(role: str, text: str) -> Object:
    return {"role": role, "content": [{"type": "text", "text": text}]}


BASE: Object = conversations()[0]["body"]
SUMMARY = said("user", "This session is being continued. " + excerpt("summary", 9000))


def compaction(play: Play) -> None:
    for turns in range(4):
        play.ask(grown(BASE, turns))
    last = grown(BASE, 4)
    play.ask(last | {"messages": [*last["messages"], said("user", "Create a summary.")]})
    compacted = BASE | {"messages": [SUMMARY, *BASE["messages"][1:]]}
    for turns in range(3):
        play.ask(grown(compacted, turns, "after"))


def subagents_of_old_clients(play: Play) -> None:
    """More than are kept, all named `main`; each begins with the same call."""
    tasks = [
        said("user", f"task {number} " + excerpt(f"task {number}", 3000)) for number in range(12)
    ]
    for turns in range(5):
        for number, task in enumerate(tasks):
            play.ask(grown(BASE | {"messages": [task]}, turns, str(number)), 1, 0.9)


def retries_at_once(play: Play) -> None:
    play.ask(BASE)
    for after in (20, 1, 1):
        play.ask(grown(BASE, 1, size=40_000), after, lasts=60)
    play.ask(grown(BASE, 1, size=40_000), 90)


def a_question_on_the_side(play: Play) -> None:
    play.ask(BASE)
    play.ask(large := grown(BASE, 1, size=40_000), lasts=60)
    play.ask(large | {"messages": [*large["messages"], said("user", "By the way?")]}, 2)


def rewind(play: Play) -> None:
    for turns in range(6):
        play.ask(grown(BASE, turns))
    earlier = grown(BASE, 2)
    play.ask(earlier | {"messages": [*earlier["messages"], said("user", "Rather this.")]})


def helpers(play: Play) -> None:
    """Web searches and recaps have prompts of their own."""
    for turns in range(3):
        play.ask(grown(BASE, turns, size=15_000))
        search = BASE | {"system": BASE["system"][:1], "tools": BASE["tools"][:1]}
        play.ask(search | {"messages": [said("user", excerpt(f"search {turns}", 20_000))]})
        recap = [
            said("user", excerpt("recap", 20_000)),
            said("assistant", "Yes"),
            said("user", "Go"),
        ]
        play.ask(search | {"tools": [], "messages": recap})


def results_cleared(play: Play) -> None:
    for turns in range(6):
        play.ask(grown(BASE, turns))
    cleared = deepcopy(grown(BASE, 7))
    for message in cleared["messages"][3:8:2]:
        message["content"][0]["content"] = "[Old tool result content cleared]"
    play.ask(cleared)


def oldest_turns_dropped(play: Play) -> None:
    for turns in range(6):
        play.ask(grown(BASE, turns))
    whole = grown(BASE, 7)
    play.ask(whole | {"messages": whole["messages"][:2] + whole["messages"][6:]})


def reminders_edited(play: Play) -> None:
    """As when CLAUDE.md is edited: it stands before what the user wrote."""
    for turns in range(2):
        play.ask(grown(BASE, turns))
    edited = deepcopy(grown(BASE, 2))
    edited["messages"][0]["content"][0]["text"] += " edited"
    play.ask(edited)


def instructions_added(play: Play) -> None:
    """As of an MCP server, behind the system prompt; no system message is moved there."""
    for turns in range(2):
        play.ask(grown(BASE, turns))
    text = {"type": "text", "text": "# MCP Server Instructions"}
    play.ask(grown(BASE, 2) | {"system": [*BASE["system"], text]})


def evicted(play: Play) -> None:
    for turns in range(3):
        play.ask(grown(BASE, turns))
    play.land()
    play.cache.prefixes.clear()
    play.ask(grown(BASE, 3))


Scenario = Callable[[Play], None]
NO_MISSES: list[Scenario] = [
    compaction,
    subagents_of_old_clients,
    retries_at_once,
    a_question_on_the_side,
    rewind,
    helpers,
]
MISSES: dict[Scenario, str] = {
    results_cleared: "messages rewritten",
    oldest_turns_dropped: "messages removed",
    reminders_edited: "messages rewritten",
    instructions_added: "system prompt changed",
    evicted: "server-side: evicted or rerouted",
}


def name_of(value: Any) -> str:
    return value.__name__ if callable(value) else ""


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("scenario", "cause"),
    [*((each, "") for each in NO_MISSES), *MISSES.items()],
    ids=name_of,
)
def test_conversation(dialect: str, scenario: Scenario, cause: str) -> None:
    play = Play(dialect)
    scenario(play)
    play.land()
    assert play.causes == ([cause] if cause else [])
