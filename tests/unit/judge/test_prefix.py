import copy
import json
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from prompt_cache_key.judge.prefix import (
    Difference,
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


def message(role: str, content: Json, **more: Json) -> Object:
    return {"role": role, "content": content, **more}


def user(content: Json, **more: Json) -> Object:
    return message("user", content, **more)


def assistant(content: Json, **more: Json) -> Object:
    return message("assistant", content, **more)


def use(**arguments: Json) -> Object:
    return {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": arguments}


A, B, C = map(tool, "ABC")
TOOL_B = '{"name":"B","description":"The tool B","input_schema":{}}'
ASK, ANSWER, MORE = user("one"), assistant("two"), user("three")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"messages": [ASK]}, {"messages": [ASK]}),
        ({"messages": [ASK]}, {"messages": [ASK, ANSWER, MORE]}),
        ({}, {"messages": [ASK]}),
        ({"input": [ASK]}, {"input": [ASK, ANSWER]}),
        ({"input": "one"}, {"input": [ASK, ANSWER]}),
        ({"input": "one"}, {"input": [{"type": "message", **ASK}]}),
        ({"input": "one"}, {"input": [user([{"type": "input_text", "text": "one"}])]}),
        # no prompt
        (
            {"model": "a", "stream": True, "metadata": {"user_id": "x"}, "thinking": {}},
            {"model": "a", "stream": False, "user": "y", "prompt_cache_key": "z"},
        ),
        # markers
        ({"tools": [A]}, {"tools": [A | {"cache_control": MARK}]}),
        ({"system": [text("s", cache_control=MARK)]}, {"system": "s"}),
        (
            {"messages": [user([text("x", cache_control=MARK)])]},
            {"messages": [user("x"), user([text("y", cache_control=MARK)])]},
        ),
        (
            {"messages": [user([{"type": "tool_result", "content": "x"}])]},
            {"messages": [user([{"type": "tool_result", "content": [text("x")]}])]},
        ),
        ({"messages": [user("x", cache_control=MARK)]}, {"messages": [user("x")]}),
        # null or missing, and the order of an envelope's keys
        ({"tools": None, "system": []}, {"tools": [], "system": ""}),
        ({"messages": [assistant(None, tool_calls=[])]}, {"messages": [{"role": "assistant"}]}),
        ({"messages": [{"content": "one", "role": "user"}]}, {"messages": [ASK]}),
        # the upstream remembers the messages
        (
            {"input": [ASK], "instructions": "i"},
            {"input": [MORE], "instructions": "i", "previous_response_id": "resp_1"},
        ),
        ({"input": [ASK], "conversation": "conv_1"}, {"input": [MORE], "conversation": "conv_1"}),
    ],
)
def test_held(before: Object, after: Object) -> None:
    assert compare(before, after).end is None


@pytest.mark.parametrize(
    ("before", "after", "path", "at", "excerpts"),
    [
        # tools: none may be added, even at the end
        ({"tools": [A]}, {"tools": [A, B]}, "tools[1]", 0, ("", TOOL_B)),
        ({"tools": [A, B]}, {"tools": [A]}, "tools[1]", 0, (TOOL_B, "")),
        ({"tools": [B, A]}, {}, "tools[0]", 0, (TOOL_B, "")),
        ({"tools": [A, B, C]}, {"tools": [A, C, B]}, "tools[1].name", 0, ("B", "C")),
        (
            {"tools": [A, tool("B", type="object")]},
            {"tools": [A, tool("B", type="abject")]},
            "tools[1].input_schema",
            9,
            ('{"type":"object"}', '{"type":"abject"}'),
        ),
        (
            {"tools": [A, B | {"description": "b"}]},
            {"tools": [A, {"name": "B", "input_schema": {}}]},
            "tools[1].description",
            0,
            ("b", ""),
        ),
        (
            {"tools": [function("A", x=1, y=2)]},
            {"tools": [function("A", y=2, x=1)]},
            "tools[0].function.parameters",
            2,
            ('{"x":1,"y":2}', '{"y":2,"x":1}'),
        ),
        # a marker's name inside a schema is no marker
        (
            {"tools": [tool("A", cache_control=1)]},
            {"tools": [tool("A", cache_control=2)]},
            "tools[0].input_schema",
            17,
            ('{"cache_control":1}', '{"cache_control":2}'),
        ),
        # system prompts
        ({"system": "a b"}, {"system": "a c"}, "system", 2, ("a b", "a c")),
        (
            {"system": [text("a")], "messages": [ASK]},
            {"system": [text("a"), text("b")], "messages": [ASK]},
            "system[1]",
            0,
            ("", '{"type":"text","text":"b"}'),
        ),
        ({"system": "a"}, {"system": [text("b")]}, "system[0].text", 0, ("a", "b")),
        (
            {"instructions": "a", "input": [ASK]},
            {"instructions": "b", "input": [MORE], "previous_response_id": "resp_1"},
            "instructions",
            0,
            ("a", "b"),
        ),
        # messages; of another role or type they differ as a whole
        (
            {"messages": [ASK, ANSWER, MORE]},
            {"messages": [ASK, ANSWER]},
            "messages[2]",
            0,
            ('{"role":"user","content":"three"}', ""),
        ),
        (
            {"messages": [ASK, ANSWER]},
            {"messages": [ASK, MORE]},
            "messages[1]",
            9,
            ('{"role":"assistant","content":"two"}', '{"role":"user","content":"three"}'),
        ),
        (
            {"messages": [assistant([text("a")])]},
            {"messages": [assistant([use()])]},
            "messages[0].content[0]",
            10,
            (
                '{"type":"text","text":"a"}',
                '{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}'[:58] + "…",
            ),
        ),
        (
            {"messages": [user([text("a"), text("b")]), ANSWER]},
            {"messages": [user([text("a")]), ANSWER]},
            "messages[0].content[1]",
            0,
            ('{"type":"text","text":"b"}', ""),
        ),
        (
            {"messages": [user("a"), ANSWER]},
            {"messages": [user([text("b", cache_control=MARK)]), ANSWER]},
            "messages[0].content[0].text",
            0,
            ("a", "b"),
        ),
        (
            {"messages": [assistant([use(limit=1)])]},
            {"messages": [assistant([use(limit=True)])]},
            "messages[0].content[0].input",
            9,
            ('{"limit":1}', '{"limit":true}'),
        ),
        (
            {"messages": [assistant(None, tool_calls=[function("A") | {"id": "1"}])]},
            {"messages": [assistant(None, tool_calls=[function("A") | {"id": "2"}])]},
            "messages[0].tool_calls[0].id",
            0,
            ("1", "2"),
        ),
        ({"input": "a"}, {"input": "ab"}, "input", 1, ("a", "ab")),
        # the order of the prompt, not of the body
        (
            {"messages": [ASK], "system": "a", "tools": [A]},
            {"messages": [MORE], "system": "b", "tools": [A]},
            "system",
            0,
            ("a", "b"),
        ),
        # wild types
        ({"tools": 1}, {"tools": 2}, "tools", 0, ("1", "2")),
        ({"tools": {"a": 1}}, {"tools": [1]}, "tools", 0, ('{"a":1}', "[1]")),
        ({"tools": [{"a\n": 1}]}, {"tools": [{"a\n": 2}]}, "tools[0].a\\n", 0, ("1", "2")),
        (
            {"tools": [{"\x1b" * 999: 1}]},
            {"tools": [{"\x1b" * 999: 2}]},
            ("tools[0]." + "\\x1b" * 99)[:199] + "…",
            0,
            ("1", "2"),
        ),
    ],
)
def test_difference(
    before: Object, after: Object, path: str, at: int, excerpts: tuple[str, str]
) -> None:
    end = compare(before, after).end
    assert end
    assert (end.path, end.at, (end.before, end.after)) == (path, at, excerpts)


IMAGE = {"type": "image", "source": {"data": "ab" * 999}}


@pytest.mark.parametrize(
    ("before", "after", "chars"),
    [
        ({"tools": [A]}, {"tools": [B]}, 0),
        ({"system": "abcd"}, {"system": "abxd"}, 2),
        # "A" and "The tool A" and "{}", then "B" and "The tool B" and '{"x":'
        ({"tools": [A, tool("B", x=1)]}, {"tools": [A, tool("B", x=2)]}, 13 + 11 + 5),
        # a marker that moved counts no more than one that stayed; then "user"
        (
            {"system": [text("sys", cache_control=MARK)], "messages": [user("a")]},
            {"system": "sys", "messages": [user("b")]},
            3 + 4,
        ),
        # NaN is no difference: "A", "The tool A", '{"x":NaN}', "user"
        (
            {"tools": [tool("A", x=float("nan"))], "messages": [user("a")]},
            {"tools": [tool("A", x=float("nan"))], "messages": [user("b")]},
            11 + 9 + 4,
        ),
        # "user" and "image", no matter how large it is
        (
            {"messages": [user([IMAGE, text("a")])]},
            {"messages": [user([IMAGE, text("b")])]},
            4 + 5,
        ),
        # what held: "sys", "user" and "one"
        ({"system": "sys", "messages": [ASK]}, {"system": "sys", "messages": [ASK, ANSWER]}, 10),
    ],
)
def test_chars(before: Object, after: Object, chars: int) -> None:
    assert compare(before, after).chars == chars


TURNS = [user("1"), assistant("2"), user("3"), assistant("4"), user("5")]


@pytest.mark.parametrize(
    ("less", "more", "after"),
    [
        ({"tools": [A]}, {"tools": [B]}, {"tools": [B, C]}),
        ({"tools": [A]}, {"tools": [B], "system": "a"}, {"tools": [B], "system": "b"}),
        ({"system": "abx"}, {"system": "abcx"}, {"system": "abcd"}),
        ({"messages": TURNS[:1]}, {"messages": TURNS[:3]}, {"messages": TURNS}),
        ({"messages": TURNS[:1]}, {"messages": [*TURNS[:3], MORE]}, {"messages": TURNS}),
        # a branch that was left where the other ends
        ({"messages": [*TURNS[:3], ANSWER, MORE]}, {"messages": TURNS[:3]}, {"messages": TURNS}),
        # a turn that was changed, and one that was removed
        ({"messages": TURNS[:1]}, {"messages": TURNS[:3]}, {"messages": [TURNS[0], *TURNS[2:]]}),
        ({"messages": TURNS[:1]}, {"messages": [TURNS[0], ANSWER, TURNS[2]]}, {"messages": TURNS}),
    ],
)
def test_depth(less: Object, more: Object, after: Object) -> None:
    assert compare(less, after).depth < compare(more, after).depth


@pytest.mark.parametrize("depth", [800, 3000])
def test_deep_lists(depth: int) -> None:
    before: Json = "1"
    after: Json = "2"
    for _ in range(depth):
        before, after = [before], [after]
    end = compare({"messages": before}, {"messages": after}).end
    assert end == Difference(("messages", *[0] * depth), 0, "1", "2")
    assert compare({"messages": before}, {"messages": [*before, "3"]}).end is None


def test_parts_of_a_body() -> None:
    assert elements("system", "a") == [{"text": "a"}]
    assert elements("input", "a") == [user("a")]
    assert elements("tools", [A]) == [A]
    assert elements("tools", None) == elements("tools", 7) == []
    assert chars_in("messages", [ASK, ANSWER]) == 7 + 12
    assert is_remembered({"conversation": "c"})
    assert not is_remembered({"conversation": None})
    assert differ(("messages", 0), ASK, user([text("one", cache_control=MARK)])) is None
    assert differ(("model",), "a", "b") == Difference(("model",), 0, "a", "b")


def test_a_long_text_that_differs_in_its_last_character() -> None:
    same = "✓" * 1_000_000
    shared = compare({"messages": [user(same + "a")]}, {"messages": [user(same + "b")]})
    assert shared.chars == 1_000_004
    assert shared.end
    assert (shared.end.at, shared.end.after) == (1_000_000, "…" + "✓" * 29 + "b")


# Random requests

TOUCH = "¤"
WORDS = st.text(st.characters(exclude_characters=TOUCH), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text("abcxyz_", min_size=1, max_size=5), VALUES, max_size=4)
Strategy: TypeAlias = st.SearchStrategy[Any]


def some(*elements: Strategy) -> Strategy:
    return st.lists(st.one_of(*elements), max_size=4)


def typed(kind: str, **members: Strategy) -> Strategy:
    return st.fixed_dictionaries({"type": st.just(kind), **members})


def said(roles: list[str], **members: Strategy) -> Strategy:
    return st.fixed_dictionaries({"role": st.sampled_from(roles), **members})


def words_or_blocks(kind: str) -> Strategy:
    return WORDS | some(typed(kind, text=WORDS))


CONTENT = WORDS | some(
    typed("text", text=WORDS),
    typed("tool_use", id=WORDS, name=WORDS, input=OBJECTS),
    typed("tool_result", tool_use_id=WORDS, content=words_or_blocks("text")),
    typed("image", source=OBJECTS),
)
TOOL = st.fixed_dictionaries({"name": WORDS, "description": WORDS, "input_schema": OBJECTS})
FUNCTION = st.fixed_dictionaries({"name": WORDS, "description": WORDS, "parameters": OBJECTS})
CALL = st.fixed_dictionaries({"name": WORDS, "arguments": WORDS})
CALLS = some(typed("function", id=WORDS, function=CALL))
ANTHROPIC = st.fixed_dictionaries(
    {
        "messages": some(said(["user", "assistant", "system"], content=CONTENT)),
        "system": words_or_blocks("text"),
        "tools": some(TOOL),
    }
)
CHAT = st.fixed_dictionaries(
    {
        "messages": some(
            said(["system", "user"], content=words_or_blocks("text")),
            said(["assistant"], content=st.none() | WORDS, tool_calls=CALLS),
        ),
        "tools": some(typed("function", function=FUNCTION)),
    }
)
RESPONSES = st.fixed_dictionaries(
    {
        "input": WORDS
        | some(
            said(["developer", "user"], content=words_or_blocks("input_text")),
            typed("function_call", call_id=WORDS, name=WORDS, arguments=WORDS),
            typed("function_call_output", call_id=WORDS, output=words_or_blocks("input_text")),
        ),
        "instructions": WORDS,
        "tools": some(typed("function", name=WORDS, description=WORDS, parameters=OBJECTS)),
    }
)
REQUESTS = ANTHROPIC | CHAT | RESPONSES
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SECTIONS = ("tools", "system", "instructions", "messages", "input")
GROWING = ("messages", "input")
WHOLE = ("input_schema", "parameters", "input", "source")


def walk(value: Json, place: Place = ()) -> Iterator[tuple[Place, Json]]:
    """Yield `value` and all that it holds, but for the inside of what is compared whole."""
    yield place, value
    if isinstance(value, dict | list) and not any(key in WHOLE for key in place[1:]):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(member, (*place, key))


def get(value: Json, place: Place) -> Json:
    for key in place:
        value = value[key]
    return value


def next_turn(data: st.DataObject, request: Object) -> Object:
    """Return `request` with other markers and more messages."""
    after: Object = copy.deepcopy(request)
    for place, element in list(walk(after)):
        if place and isinstance(place[-1], int) and isinstance(element, dict):
            element.update(data.draw(st.sampled_from([{}, {"cache_control": MARK}])))
    for name in GROWING:
        if isinstance(after.get(name), list):
            after[name] += [ANSWER, MORE]
    return after


@relaxed
@given(st.data(), REQUESTS)
def test_one_changed_text_is_found(data: st.DataObject, before: Object) -> None:
    after = next_turn(data, before)
    texts = [
        place
        for place, value in walk(before)
        if isinstance(value, str) and place[-1] not in ("type", "role")
    ]
    assume(texts)
    place = data.draw(st.sampled_from(texts))
    value = get(before, place)
    at = data.draw(st.integers(0, len(value)))
    get(after, place[:-1])[place[-1]] = value[:at] + TOUCH + value[at:]
    end = compare(before, after).end
    assert end
    assert (end.place, end.at) == (place, at)
    assert TOUCH in end.after
    assert TOUCH not in end.before


@relaxed
@given(st.data(), REQUESTS)
def test_one_new_element_is_found(data: st.DataObject, before: Object) -> None:
    after = next_turn(data, before)
    name = data.draw(st.sampled_from([n for n in SECTIONS if isinstance(before.get(n), list)]))
    at = data.draw(st.integers(0, len(before[name])))
    after[name].insert(at, {"role": TOUCH, "name": TOUCH, "type": TOUCH, "text": TOUCH})
    added, removed = compare(before, after).end, compare(after, before).end
    if name in GROWING and at == len(before[name]):
        assert added is None
    else:
        assert added
        assert added.place[:2] == (name, at)
    assert removed
    assert removed.place[:2] == (name, at)


@relaxed
@given(st.data(), REQUESTS)
def test_a_next_turn_holds(data: st.DataObject, before: Object) -> None:
    after = next_turn(data, before)
    for place, value in list(walk(after)):
        if value and isinstance(value, str) and place[-1] in ("system", "content", "output"):
            get(after, place[:-1])[place[-1]] = [text(value, cache_control=MARK)]
    assert compare(before, after).end is None


NAMES = st.sampled_from([*SECTIONS, "content", "role", "type", "text", "function", "source", "\n"])
WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
BODIES_OF_ANYTHING = st.dictionaries(st.sampled_from([*SECTIONS, "conversation"]), WILD)


@relaxed
@given(BODIES_OF_ANYTHING, BODIES_OF_ANYTHING)
def test_any_json(before: Object, after: Object) -> None:
    assert compare(before, json.loads(json.dumps(before))).end is None
    if end := compare(before, after).end:
        assert end.path.startswith(SECTIONS)
        assert end.before != end.after
        assert max(len(end.before), len(end.after)) <= 60
        assert (end.path + end.before + end.after).isprintable()
