import json
from itertools import pairwise
from typing import Any

import pytest
from prompt_cache_key.misses.causes import (
    REMEDIES,
    Cause,
    as_cached_by_anthropic,
    cause_of,
    find_cause,
    system_added,
)
from prompt_cache_key.misses.prefix import compare
from unit.misses.prompts import ATTRIBUTION, COUNTDOWN, DIALECTS, TURNS, Object, body, recorded

ANSWER, MORE, OTHER = ("assistant", "2"), ("user", "3"), ("user", "4")
COUNT = [("system", COUNTDOWN.format(number)) for number in (998, 997)]
WAS, IS = ["s", COUNT[0][1]], ["s", COUNT[0][1], COUNT[1][1]]
RULES = [("system", "a"), ("system", "b")]
SETTINGS = (
    "model service_tier speed tool_choice parallel_tool_calls reasoning reasoning_effort thinking "
    "output_config response_format verbosity"
)


def found(before: Object, after: Object) -> Cause | None:
    return find_cause(before, after, compare(before, after).end)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("words", "before", "after"),
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
        (
            "system prompt changed",  # whoever moves some moves all
            {"system": ["a"]},
            {"system": ["a", "b"], "turns": [*TURNS, RULES[0]]},
        ),
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
def test_causes(dialect: str, words: str | None, before: Object, after: Object) -> None:
    usual: Object = {"tools": "ABC", "turns": TURNS[:1]}
    cause = found(body(dialect, **usual | before), body(dialect, **usual | after))
    assert (cause and cause.words) == words
    if cause:
        assert cause.kind == cause.words.partition(":")[0]
        assert cause.remedy == REMEDIES[cause.kind]


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
    found_cause = found({"tools": [before]}, {"tools": [after]})
    assert found_cause
    assert found_cause.words == f"tool edited: {cause}"


def test_where() -> None:
    before, after = body("messages", turns=[("user", "abc\x1b")]), body("messages", turns=[MORE])
    place = "messages[0].content"
    cause = found(before, after)
    assert cause
    assert (cause.kind, *cause[3:]) == ("messages rewritten", place, 0, "abc\\x1b", "3")
    cause = found(before | {"thinking": "a"}, after | {"thinking": "b"})
    assert cause
    assert (cause.words, *cause[3:]) == ("settings changed: thinking", "thinking", 0, "a", "b")
    # sections of any kind
    for kind, name in [("tools reordered", "tools"), ("messages removed", "messages")]:
        cause = found({name: 1}, {name: 2})
        assert cause
        assert (cause.kind, *cause[3:]) == (kind, name, 0, "1", "2")


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
        cause = found(latest.get(identity, request), request)
        latest[identity] = request
        if cause:
            causes[number] = cause.words
    assert causes == RECORDED


# --- Claude Code's tool search --------------------------------------------------------------------

PLACEHOLDER = {"name": "DeferredToolPlaceholder", "input_schema": {}, "defer_loading": True}


def tool(dialect: str, name: str) -> Object:
    if dialect == "chat":
        return {"type": "function", "function": {"name": name, "parameters": {}}}
    return {"name": name, "input_schema": {}}


def searched(dialect: str, names: str) -> Object:
    """Return a call of the tool search for these tools, as each dialect has it."""
    query = {"query": f"select:{','.join(names)}"}
    if dialect == "messages":
        block = {"type": "tool_use", "id": "1", "name": "ToolSearch", "input": query}
        return {"role": "assistant", "content": [block]}
    call = {"name": "ToolSearch", "arguments": json.dumps(query)}
    if dialect == "chat":
        return {"role": "assistant", "content": None, "tool_calls": [{"function": call}]}
    return call | {"type": "function_call", "call_id": "1"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        ("tool search loaded: B", "AC", "ABC"),
        ("tool search loaded: B, X", "AC", "ABCX"),
        ("tool search loaded: X", "A_C", "ACX_"),  # the placeholder moved in front of it
        ("tool search loaded: B, D, E, F, G and 2 more", "AC", "ABCDEFGHI"),
        ("tool search loaded", "A_C", "AC_"),
        ("tool removed: A", "AC", "CX"),
        ("tools reordered", "AC", "CAX"),
    ],
)
def test_tool_search(dialect: str, words: str, before: str, after: str) -> None:
    """The call is in the messages; translators pass the tools on as ordinary ones."""
    old, new = (
        [PLACEHOLDER if name == "_" else tool(dialect, name) for name in names]
        for names in (before, after)
    )
    turns = "input" if dialect == "responses" else "messages"
    first = {"role": "user", "content": "load a tool"}
    earlier = {"tools": old, turns: [first]}
    search = searched(dialect, after)
    cause = found(earlier, {"tools": new, turns: [first, search]})
    assert cause
    assert cause.words == words
    if words.startswith("tool search"):
        assert cause.kind == "tool search loaded"
        assert "ENABLE_TOOL_SEARCH=false" in cause.remedy
    # the call came before, so that it does not explain the change
    known = found(earlier | {turns: [first, search]}, {"tools": new, turns: [first]})
    assert known
    assert known.kind != "tool search loaded"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_that_was_not_searched_for_is_added(dialect: str) -> None:
    """As by an MCP server that connects meanwhile."""
    turns = "input" if dialect == "responses" else "messages"
    old, new = ([tool(dialect, name) for name in names] for names in ("KZ", "JKYZ"))
    cause = found({"tools": old}, {"tools": new, turns: [searched(dialect, "Y")]})
    assert cause
    assert cause.words == "tool added: J"


def test_deferred_tools_are_of_the_tool_search() -> None:
    """Where the messages do not show the call, `defer_loading` does."""
    names = ["\x1b" + "x" * 60, "C"]
    deferred = [tool("messages", name) | {"defer_loading": True} for name in names]
    cause = found({"tools": [tool("messages", "A")]}, {"tools": [*deferred, *"A"]})
    assert cause
    assert cause.words == rf"tool search loaded: \u001b{'x' * 46}\u2026, C"


TOOL_SEARCH = {"2.1.332 2": "CronList, Monitor", "2.1.332 4": "WebFetch"}


def test_recorded_tool_search() -> None:
    """Each call of it is named once; at Anthropic's own hosts deferred tools break nothing."""
    requests = [(number, request) for number, _, request in recorded("tool_search")]
    causes = {}
    for (_, before), (number, after) in pairwise(requests):
        if cause := found(before, after):
            causes[number] = cause.words
        there = map(as_cached_by_anthropic, (before, after))
        assert found(*there) is None
    assert causes == {number: f"tool search loaded: {each}" for number, each in TOOL_SEARCH.items()}


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (f"{ATTRIBUTION}1;", f"{ATTRIBUTION}2;", None),
        (f"{ATTRIBUTION}1;\nsame", f"{ATTRIBUTION}2;\nsame", None),
        (f"{ATTRIBUTION}1;\nsame", f"{ATTRIBUTION}2;\nother", "system"),
        (*([{"type": "text", "text": f"{ATTRIBUTION}{n};"}] for n in "12"), None),
        (*([{"type": "text", "text": "same"}, {"text": n}] for n in "12"), "system[1].text"),
        ([{"type": "image"}], [{"type": "image"}], None),
        (7, 7, None),
    ],
)
def test_anthropic_leaves_the_attribution_out(before: Any, after: Any, path: str | None) -> None:
    cause = found(*(as_cached_by_anthropic({"system": each}) for each in (before, after)))
    assert (cause and cause.path) == path


def test_each_remedy_names_a_switch_or_says_that_there_is_none() -> None:
    switches = ("prompt_cache_", "CLAUDE_CODE_", "ENABLE_TOOL_SEARCH", "--", "nothing to set")
    for kind, remedy in REMEDIES.items():
        assert any(switch in remedy for switch in switches)
        assert cause_of(kind, "x").words == f"{kind}: x"
