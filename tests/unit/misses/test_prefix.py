import copy
import json
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.recordings import records
from prompt_cache_key.misses.prefix import (
    Budget,
    Difference,
    NotCompared,
    chars_in,
    compare,
    differ,
    elements,
    is_remembered,
)

Json: TypeAlias = Any
Object: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str | int, ...]

MARK = {"type": "ephemeral"}


def tool(name: str, **schema: Json) -> Object:
    return {"name": name, "description": f"The tool {name}", "input_schema": schema}


def function(name: str, **schema: Json) -> Object:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def text(value: str, **more: Json) -> Object:
    return {"type": "text", "text": value, **more}


def user(content: Json, **more: Json) -> Object:
    return {"role": "user", "content": content, **more}


def assistant(content: Json, **more: Json) -> Object:
    return {"role": "assistant", "content": content, **more}


def use(**arguments: Json) -> Object:
    return {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": arguments}


def tools(*each: Json) -> Object:
    return {"tools": [*each]}


def messages(*each: Json) -> Object:
    return {"messages": [*each]}


A, B, C = map(tool, "ABC")
ASK, ANSWER, MORE = user("one"), assistant("two"), user("three")
MARKED = text("x", cache_control=MARK)
NAN = float("nan")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (messages(ASK), messages(ASK, ANSWER, MORE)),
        ({}, messages(ASK)),
        ({"input": [ASK]}, {"input": [ASK, ANSWER]}),
        ({"input": "one"}, {"input": [ASK, ANSWER]}),
        ({"input": "one"}, {"input": [{"type": "message"} | user([text("one")])]}),
        ({"input": "one"}, {"input": [user([{"type": "input_text", "text": "one"}])]}),
        # no prompt
        (
            {"model": "a", "stream": True, "metadata": {"user_id": "x"}, "thinking": {}},
            {"model": "a", "stream": False, "user": "y", "prompt_cache_key": "z"},
        ),
        # markers
        (tools(A), tools(A | {"cache_control": MARK})),
        ({"system": [MARKED]}, {"system": "x"}),
        (messages(user([MARKED])), messages(user("x"), user("y"))),
        (
            messages(user([{"type": "tool_result", "content": "x"}])),
            messages(user([{"type": "tool_result", "content": [text("x")]}])),
        ),
        (messages(user("x", cache_control=MARK)), messages(user("x"))),
        # null or missing, and the order of an envelope's keys
        ({"tools": None, "system": []}, {"tools": [], "system": ""}),
        (messages(assistant(None, tool_calls=[])), messages({"role": "assistant"})),
        (messages({"content": "one", "role": "user"}), messages(ASK)),
        # the upstream remembers the messages
        ({"input": [ASK]}, {"input": [MORE], "previous_response_id": "resp_1"}),
        ({"input": [ASK], "conversation": "conv_1"}, {"input": [MORE], "conversation": "conv_1"}),
    ],
)
def test_held(before: Object, after: Object) -> None:
    assert compare(before, after).end is None


@pytest.mark.parametrize(
    ("section", "before", "after", "path", "at"),
    [
        # none may be added, even at the end
        ("tools", [A], [A, B], "[1]", 0),
        ("tools", [A, B], [A], "[1]", 0),
        ("tools", [B, A], None, "[0]", 0),
        ("tools", [A, B, C], [A, C, B], "[1].name", 0),
        ("tools", [A, tool("B", x="a")], [A, tool("B", x="b")], "[1].input_schema", 6),
        ("tools", [A | {"description": "b"}], [{"name": "A"}], "[0].description", 0),
        ("tools", [function("A", x=1)], [function("A", y=1)], "[0].function.parameters", 2),
        ("tools", [tool("A", x=1, y=1)], [tool("A", y=1, x=1)], "[0].input_schema", 2),
        # a marker's name inside a schema is no marker
        ("tools", [tool("A", cache_control=1)], [tool("A")], "[0].input_schema", 1),
        ("system", "a b", "a c", "", 2),
        ("system", [text("a")], [text("a"), text("b")], "[1]", 0),
        ("system", "a", [text("b")], "[0].text", 0),
        ("messages", [ASK, ANSWER, MORE], [ASK, ANSWER], "[2]", 0),
        # of another role or type they differ as a whole
        ("messages", [ASK, ANSWER], [ASK, MORE], "[1]", 9),
        ("messages", [user([text("a")])], [user([use()])], "[0].content[0]", 10),
        ("messages", [user([text("a"), text("b")])], [user([text("a")])], "[0].content[1]", 0),
        ("messages", [user("a")], [user([MARKED])], "[0].content[0].text", 0),
        ("messages", [user([use(n=1)])], [user([use(n=True)])], "[0].content[0].input", 5),
        ("messages", [{"calls": [{"id": "1"}]}], [{"calls": [{"id": "2"}]}], "[0].calls[0].id", 0),
        ("input", "a", "ab", "", 1),
        # wild types
        ("tools", 1, 2, "", 0),
        ("tools", {"a": 1}, [1], "", 0),
        ("tools", [{"a\n": 1}], [{"a\n": 2}], "[0].a\\n", 0),
        ("tools", [{"n" * 999: 1}], [{"n" * 999: 2}], "[0]." + "n" * 190 + "…", 0),
        ("tools", [{"\x1b" * 99: 1}], [{"\x1b" * 99: 2}], "[0]." + "\\x1b" * 47 + r"\x…", 0),
    ],
)
def test_where_they_part(section: str, before: Json, after: Json, path: str, at: int) -> None:
    end = compare({section: before}, {section: after}).end
    assert end
    assert (end.path, end.at) == (section + path, at)


def test_they_part_in_the_order_of_the_prompt() -> None:
    before, after = messages(ASK) | {"system": "a"}, messages(MORE) | {"system": "b"}
    assert compare(before, after).end == Difference(("system",), 0, "a", "b")
    remembered = {"input": [MORE], "instructions": "b", "previous_response_id": "resp_1"}
    end = compare({"input": [ASK], "instructions": "a"}, remembered).end
    assert end == Difference(("instructions",), 0, "a", "b")


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        ("a", "b", "a", "b"),
        ([A], [A, tool("B")], "", '{"name":"B","description":"The tool B","input_schema":{}}'),
        ([tool("A", x=1)], [tool("A", x=True)], '{"x":1}', '{"x":true}'),
        ([text("a")], [], '{"type":"text","text":"a"}', ""),
        (["a" * 60], ["b"], "a" * 58 + "…", "b"),
    ],
)
def test_what_stands_there(old: Json, new: Json, before: str, after: str) -> None:
    end = compare({"tools": old}, {"tools": new}).end
    assert end
    assert (end.before, end.after) == (before, after)


IMAGE = {"type": "image", "source": {"data": "ab" * 999}}


@pytest.mark.parametrize(
    ("before", "after", "shared"),
    [
        (tools(A), tools(B), []),
        ({"system": "abcd"}, {"system": "abxd"}, ["ab"]),
        (
            tools(A, tool("B", x=1)),
            tools(A, tool("B", x=2)),
            ["A", "The tool A", "{}", "B", "The tool B", '{"x":'],
        ),
        # a marker that moved counts no more than one that stayed
        (
            {"system": [MARKED]} | messages(ASK),
            {"system": "x"} | messages(MORE),
            ["x", "user"],
        ),
        # NaN is no difference
        (tools(tool("A", x=NAN)), tools(tool("A", x=NAN), B), ["A", "The tool A", '{"x":NaN}']),
        # an image counts no matter how large it is
        (messages(user([IMAGE, text("a")])), messages(user([IMAGE, text("b")])), ["user", "image"]),
        # all that held
        (messages(ASK), messages(ASK, ANSWER), ["user", "one"]),
    ],
)
def test_chars(before: Object, after: Object, shared: list[str]) -> None:
    assert compare(before, after).chars() == len("".join(shared))


TURNS = [user("1"), assistant("2"), user("3"), assistant("4"), user("5")]


@pytest.mark.parametrize(
    ("less", "more", "after"),
    [
        (tools(A), tools(B), tools(B, C)),
        (tools(A), tools(B) | {"system": "a"}, tools(B) | {"system": "b"}),
        ({"system": "abx"}, {"system": "abcx"}, {"system": "abcd"}),
        (messages(*TURNS[:1]), messages(*TURNS[:3]), messages(*TURNS)),
        (messages(*TURNS[:1]), messages(*TURNS[:3], MORE), messages(*TURNS)),
        # a branch that was left where the other ends
        (messages(*TURNS[:3], ANSWER, MORE), messages(*TURNS[:3]), messages(*TURNS)),
        # a turn that was changed, and one that was removed
        (messages(*TURNS[:1]), messages(*TURNS[:3]), messages(TURNS[0], *TURNS[2:])),
        (messages(*TURNS[:1]), messages(TURNS[0], ANSWER, TURNS[2]), messages(*TURNS)),
    ],
)
def test_depth(less: Object, more: Object, after: Object) -> None:
    assert compare(less, after).depth < compare(more, after).depth


def nested(value: Json, depth: int, name: str = "") -> Json:
    for _ in range(depth):
        value = {name: value} if name else [value]
    return value


def test_what_nests_deeper_than_prompts_do_is_compared_as_a_whole() -> None:
    before, after = nested("1", 300), nested("2", 300)
    end = compare({"messages": before}, {"messages": after}).end
    assert end
    assert end.place == ("messages", *[0] * 7)
    assert end.at == 294
    assert compare({"messages": before}, {"messages": [*before, "3"]}).end is None


@pytest.mark.parametrize("name", ["", "a"])
@pytest.mark.parametrize(("old", "new"), [("1", "1"), ("1", "2")])
def test_what_nests_deeper_than_c_code_goes_is_not_compared(name: str, old: str, new: str) -> None:
    before, after = ({"messages": [nested(each, 60_000, name)]} for each in (old, new))
    for other in (after, {"messages": ["x"]}):
        with pytest.raises(NotCompared):
            compare(before, other)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (messages(*[ASK] * 999), messages(*[user([MARKED])] * 999)),  # each is taken apart
        (messages(*[ASK] * 999), messages(MORE)),  # whether the next turns are the same
        (messages("a" * (1 << 20)), messages("b" * (1 << 20))),  # each kB that is spelled out
    ],
)
def test_a_budget_ends_a_comparison(before: Object, after: Object) -> None:
    with pytest.raises(NotCompared):
        compare(before, after, Budget(900))


@pytest.mark.parametrize("part", [[1] * 999, {str(n): 1 for n in range(999)}])
def test_a_budget_ends_a_count_of_characters(part: Json) -> None:
    with pytest.raises(NotCompared):
        chars_in("messages", [part], Budget(900))


def test_parts_of_a_body() -> None:
    assert elements("system", "a") == [{"text": "a"}]
    assert elements("input", "a") == [user("a")]
    assert elements("tools", [A]) == [A]
    assert elements("tools", None) == elements("tools", 7) == []
    assert chars_in("messages", [ASK, ANSWER]) == 7 + 12
    assert is_remembered({"conversation": "c"})
    assert not is_remembered({"conversation": None})
    assert differ(("messages", 0), user("x"), user([MARKED])) is None
    assert differ(("model",), "a", "b") == Difference(("model",), 0, "a", "b")


def test_a_long_text_that_differs_in_its_last_character() -> None:
    same = "✓" * 1_000_000
    shared = compare(messages(user(same + "a")), messages(user(same + "b")))
    assert shared.chars() == 1_000_004
    assert shared.end
    assert (shared.end.at, shared.end.after) == (1_000_000, "…" + "✓" * 29 + "b")


# --- recorded requests, of Claude Code and of translators, changed in each place ------------------

GROWING = ("messages", "input")
SECTIONS = ("tools", "system", "instructions", *GROWING)
BODIES = [
    json.loads(record["body"])
    for name in ("claude_code", "translators")
    for record in records(name)
    if record["body"]
]
REQUESTS = [{name: body[name] for name in SECTIONS if name in body} for body in BODIES]
WHOLE = {"input_schema", "parameters", "input", "source", "cache_control", "output_config"}
TOUCH = "¤"


def walk(value: Json, place: Place = ()) -> Iterator[tuple[Place, Json]]:
    """Yield `value` and all that it holds, but for the inside of what is compared whole."""
    yield place, value
    if isinstance(value, dict | list) and WHOLE.isdisjoint(place[1:]):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(member, (*place, key))


def put(body: Object, place: Place, value: Json) -> None:
    inner: Json = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value


def next_turn(request: Object) -> Object:
    """Return `request` with other markers and more messages."""
    after: Object = copy.deepcopy(request)
    for place, element in list(walk(after)):
        if place and isinstance(place[-1], int) and isinstance(element, dict):
            element["cache_control"] = None if element.get("cache_control") else MARK
    for name in GROWING:
        if isinstance(after.get(name), list):
            after[name] += [ANSWER, MORE]
    return after


def test_a_next_turn_holds() -> None:
    assert len(REQUESTS) > 100
    for before in REQUESTS:
        after = next_turn(before)
        assert compare(before, after).end is None
        for place, value in list(walk(after)):
            if value and isinstance(value, str) and place[-1] in ("system", "content", "output"):
                put(after, place, [text(value, cache_control=MARK)])
        assert compare(before, after).end is None


def test_one_changed_text_is_found() -> None:
    for before in REQUESTS:
        for place, value in walk(before):
            if isinstance(value, str) and place[-1] not in ("type", "role"):
                after, at = next_turn(before), len(value) // 2
                put(after, place, value[:at] + TOUCH + value[at:])
                end = compare(before, after).end
                assert end
                assert (end.place, end.at) == (place, at)
                assert TOUCH in end.after
                assert TOUCH not in end.before


def test_one_new_element_is_found() -> None:
    for before in REQUESTS:
        lists = [(name, value) for name, value in before.items() if isinstance(value, list)]
        for name, at in [(name, at) for name, value in lists for at in range(len(value) + 1)]:
            after = next_turn(before)
            after[name].insert(at, {"role": TOUCH, "name": TOUCH, "type": TOUCH, "text": TOUCH})
            added, removed = compare(before, after).end, compare(after, before).end
            is_next = name in GROWING and at == len(before[name])
            assert (added and added.place[:2]) == (None if is_next else (name, at))
            assert removed
            assert removed.place[:2] == (name, at)


# --- anything at all ------------------------------------------------------------------------------

NAMES = st.sampled_from([*SECTIONS, "content", "role", "type", "text", "function", "source", "\n"])
WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
BODIES_OF_ANYTHING = st.dictionaries(st.sampled_from([*SECTIONS, "conversation"]), WILD)


@given(BODIES_OF_ANYTHING, BODIES_OF_ANYTHING)
def test_any_json(before: Object, after: Object) -> None:
    assert compare(before, json.loads(json.dumps(before))).end is None
    if end := compare(before, after).end:
        assert end.path.startswith(SECTIONS)
        assert end.before != end.after
        assert max(len(end.before), len(end.after)) <= 60
        assert (end.path + end.before + end.after).isprintable()
