from typing import Any

import pytest
from prompt_cache_key.misses.causes import Break, find_break, system_added
from prompt_cache_key.misses.prefix import compare
from unit.misses.prompts import ATTRIBUTION, COUNTDOWN, DIALECTS, TURNS, Object, body, recorded

ANSWER, MORE, OTHER = ("assistant", "2"), ("user", "3"), ("user", "4")
COUNT = [("system", COUNTDOWN.format(number)) for number in (998, 997)]
WAS, IS = ["s", COUNT[0][1]], ["s", COUNT[0][1], COUNT[1][1]]
RULES = [("system", "a"), ("system", "b")]
SETTINGS = (
    "model service_tier tool_choice parallel_tool_calls reasoning reasoning_effort thinking "
    "output_config response_format verbosity"
)


def found(before: Object, after: Object) -> Break | None:
    return find_break(before, after, compare(before, after).end)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("cause", "before", "after"),
    [
        (None, {}, {}),
        (None, {"stream": True, "temperature": 1}, {"stream": False, "max_tokens": 9}),
        (None, {"text": None}, {"text": {"format": None}}),
        ("tools reordered", {"tools": "ABC"}, {"tools": "ACB"}),
        ("tools reordered", {"tools": "ABC"}, {"tools": "BACD"}),
        ("tool added: B", {"tools": "AC"}, {"tools": "ABC"}),
        ("tool added: C", {"tools": "AB"}, {"tools": "ABC"}),
        ("tool added: X", {"tools": "ABC"}, {"tools": "AXC"}),
        ("tool removed: B", {"tools": "ABC"}, {"tools": "AC"}),
        ("tool removed: C", {"tools": "ABC"}, {"tools": "AB"}),
        ("tool removed: A", {"tools": "ABC"}, {"tools": ""}),
        ("tool edited: C", {"tools": "ABC"}, {"tools": "ABC", "schema": "x"}),
        (r"tool added: a b\u001b\u009b", {}, {"tools": ["a b\x1b\x9b", *"ABC"]}),
        (rf"tool added: {'x' * 255}\u2026", {}, {"tools": ["x" * 999]}),
        ("system prompt changed", {"system": ["on 1 May"]}, {"system": ["on 2 May"]}),
        ("system prompt changed", {"system": ["a"]}, {"system": ["a b"]}),
        ("system prompt changed", {"system": ["a", "b"]}, {"system": ["a"]}),
        ("system messages moved to the front", {"system": ["a"]}, {"system": ["a", "b"]}),
        ("total_tokens countdown", {"system": WAS}, {"system": IS}),
        ("total_tokens countdown", {"system": WAS}, {"system": ["s", COUNT[1][1]]}),
        ("total_tokens countdown", {"system": ["s"]}, {"system": WAS}),
        ("total_tokens countdown", {"system": [*WAS, "t"]}, {"system": ["s", "t"]}),
        (
            "total_tokens countdown",
            {"turns": [MORE, COUNT[0]]},
            {"turns": [MORE, ANSWER, COUNT[1]]},
        ),
        ("attribution block changed", {"system": [ATTRIBUTION + "1"]}, {"system": [ATTRIBUTION]}),
        ("attribution block changed", {"system": [ATTRIBUTION, "s"]}, {"system": ["s"]}),
        ("attribution block changed", *({"system": [f"{ATTRIBUTION}{n}\ns"]} for n in "12")),
        ("system prompt changed", *({"system": [f"{ATTRIBUTION}\ns{n}"]} for n in "12")),
        ("system prompt changed", *({"turns": [*TURNS, rule]} for rule in RULES)),
        ("messages rewritten", {"turns": [MORE]}, {"turns": [OTHER]}),
        ("messages rewritten", {"turns": [MORE, ANSWER, MORE]}, {"turns": [MORE, OTHER, ANSWER]}),
        ("messages rewritten", {"turns": [*TURNS, MORE]}, {"turns": [*TURNS, RULES[0]]}),
        ("messages removed", {"turns": TURNS}, {"turns": TURNS[:1]}),
        ("messages removed", {"turns": TURNS}, {"turns": TURNS[1:]}),
        ("messages removed", {"turns": TURNS}, {"turns": [TURNS[0], TURNS[2], ANSWER]}),
        *((f"settings changed: {name}", {name: 1}, {name: 2}) for name in SETTINGS.split()),
        ("settings changed: text.verbosity", *({"text": {"verbosity": n}} for n in (1, 2))),
        ("settings changed: text.format", {}, {"text": {"format": {"type": "json_schema"}}}),
        # of two the one that breaks more
        ("settings changed: model", {"model": "a", "turns": TURNS}, {"model": "b", "turns": []}),
        ("system prompt changed", {"model": "a"}, {"model": "b", "system": ["x"]}),
        ("tools reordered", {"tools": "ABC"}, {"tools": "CBA", "system": ["x"]}),
    ],
)
def test_causes(dialect: str, cause: str | None, before: Object, after: Object) -> None:
    usual: Object = {"tools": "ABC", "turns": TURNS[:1]}
    broke = found(body(dialect, **usual | before), body(dialect, **usual | after))
    assert (broke and broke.cause) == cause


@pytest.mark.parametrize(
    ("cause", "before", "after"),
    [
        ("web_search", {"type": "web_search"}, {"type": "web_search", "n": 1}),
        ("unnamed", {"x": 1}, {"x": 2}),
        ("unnamed", 1, 2),
        (r"{\"a\":1}", {"name": {"a": 1}}, {"name": {"a": 1}, "x": 1}),
    ],
)
def test_tools_of_any_kind(cause: str, before: Any, after: Any) -> None:
    broke = found({"tools": [before]}, {"tools": [after]})
    assert broke
    assert broke.cause == f"tool edited: {cause}"


def test_where() -> None:
    before, after = body("messages", turns=[("user", "abc\x1b")]), body("messages", turns=[MORE])
    place = "messages[0].content"
    assert found(before, after) == Break("messages rewritten", place, 0, "abc\\x1b", "3")
    broke = found(before | {"thinking": "a"}, after | {"thinking": "b"})
    assert broke == Break("settings changed: thinking", "thinking", 0, "a", "b")
    # sections of any kind
    for cause, name in [("tool edited: unnamed", "tools"), ("messages removed", "messages")]:
        assert found({name: 1}, {name: 2}) == Break(cause, name, 0, "1", "2")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("added", "cause"),
    [
        ([ANSWER, MORE], ""),
        ([ANSWER, COUNT[0]], "total_tokens countdown"),
        ([ANSWER, ("system", "# Environment")], "system messages moved to the front"),
    ],
)
def test_system_added(dialect: str, added: list[tuple[str, str]], cause: str) -> None:
    turns = [("user", "x" * 6000), ("system", "y" * 2000)]
    before = body(dialect, tools=[], system=["z" * 2000], turns=turns)
    after = body(dialect, tools=[], system=["z" * 2000], turns=[*turns, *added])
    named, share = system_added(before, after)
    assert (named, round(share, 1)) == (cause, 0.4 if cause else 0)


# Each pair of neighbours in the recording that parts, by number. Up to 2.1.138 there is no agent
# header, so a subagent's requests come between the main agent's; 2.0.76 warms up without tools.
RECORDED = {
    "1.0.128 160": "tool removed: Task",
    "1.0.128 161": "system prompt changed",  # two kinds of helper call
    "1.0.128 163": "tool added: Task",
    "2.0.76 95": "tool removed: Task",
    "2.0.76 106": "tool removed: Task",
    "2.0.76 107": "tool added: Bash",
    "2.0.76 108": "system prompt changed",
    "2.0.76 110": "tool added: Task",
    "2.1.90 59": "tool removed: Agent",
    "2.1.90 61": "tool added: Agent",
    "2.1.330 214": "attribution block changed",  # to Anthropic itself: a new cch= each time
    "2.1.330 473": "messages rewritten",  # /compact twice; what asked for the first is gone
}


def test_recorded() -> None:
    latest: dict[str, Object] = {}
    causes: dict[str, str] = {}
    for number, identity, request in recorded("claude_code"):
        broke = found(latest.get(identity, request), request)
        latest[identity] = request
        if broke:
            causes[number] = broke.cause
    assert causes == RECORDED
