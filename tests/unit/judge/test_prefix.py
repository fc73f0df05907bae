import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from prompt_cache_key.judge.prefix import Break, compare

Json: TypeAlias = Any
Object: TypeAlias = dict[str, Any]
Seen: TypeAlias = tuple[str, int, str, str, str] | None

DATA = Path(__file__).parents[2] / "data"
MARK = {"type": "ephemeral"}

ATTRIBUTION = "attribution block changed (set CLAUDE_CODE_ATTRIBUTION_HEADER=0)"
TOOLS = "tools changed"
SYSTEM = "system prompt changed"
REWRITTEN = "earlier messages were rewritten (as /compact does)"
REMOVED = "messages were removed from the end (as /rewind does)"


def seen(found: Break | None) -> Seen:
    """Return all of a Break but `chars`."""
    return found and (found.path, found.at, found.before, found.after, found.cause)


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


# Recorded traffic


def shortened(length: int) -> str:
    """Return what stands for a long text in the recording."""
    return f"{length} characters of text \u2013 ✓"


def recorded() -> Iterator[tuple[str, tuple[str | None, ...], int, Object]]:
    """Yield each recorded generation: client, conversation, number, body."""
    for line in (DATA / "claude_code.jsonl").read_text("utf-8").splitlines():
        request = json.loads(line)
        if request["body"] and "count_tokens" not in request["path"]:
            body = json.loads(request["body"])
            headers = {name.lower(): value for name, value in request["headers"]}
            client = request["client"].removeprefix("claude-code ")
            agent = headers.get("x-claude-code-agent-id")
            conversation = (client, body["metadata"]["user_id"], agent, body["model"])
            yield client, conversation, request["seq"], body


BODIES = {(client, number): body for client, _, number, body in recorded()}


def neighbours() -> Iterator[tuple[str, int, int]]:
    latest: dict[tuple[str | None, ...], int] = {}
    for client, conversation, number, _ in sorted(recorded(), key=lambda request: request[2]):
        if conversation in latest:
            yield client, latest[conversation], number
        latest[conversation] = number


# Each request and the one before it of the same session, agent and model. Up to 2.1.138 there is
# no agent header, so a subagent's requests come between the main agent's; 2.0.76 warms up without
# tools.
PAIRS: dict[tuple[str, int, int], Seen] = {
    ("1.0.128", 155, 157): None,  # bash
    ("1.0.128", 158, 160): ("tools[0].name", 0, "Task", "Bash", TOOLS),
    ("1.0.128", 160, 162): None,  # within the subagent
    ("1.0.128", 162, 163): ("tools[0].name", 0, "Bash", "Task", TOOLS),
    ("1.0.128", 159, 161): (  # two kinds of helper call
        "system[0].text",
        0,
        "Summarize this coding conversation in under 50 characters.…",
        shortened(1040),
        SYSTEM,
    ),
    ("2.0.76", 93, 95): (
        "tools[0]",
        0,
        f'{{"name":"Task","description":"{shortened(5833)}"…',
        "",
        TOOLS,
    ),
    ("2.0.76", 104, 106): (
        "tools[0]",
        0,
        f'{{"name":"Task","description":"{shortened(5833)}"…',
        "",
        TOOLS,
    ),
    ("2.0.76", 106, 107): (
        "tools[0]",
        0,
        "",
        f'{{"name":"Bash","description":"{shortened(10100)}…',
        TOOLS,
    ),
    ("2.0.76", 105, 108): (
        "system[0].text",
        8,
        "You are Claude Code, Anthropic's official CLI for Claude.",
        "You are a Claude agent, built on Anthropic's Claude Agent …",
        SYSTEM,
    ),
    ("2.0.76", 107, 109): None,  # messages[0].content goes from a list to a string
    ("2.0.76", 109, 110): ("tools[0].name", 0, "Bash", "Task", TOOLS),
    ("2.1.90", 58, 59): ("tools[0].name", 0, "Agent", "Bash", TOOLS),
    ("2.1.90", 59, 60): None,
    ("2.1.90", 60, 61): ("tools[0].name", 0, "Bash", "Agent", TOOLS),
    ("2.1.330", 2, 3): None,  # --continue
    ("2.1.330", 4, 5): None,  # bash
    ("2.1.330", 5, 10): None,  # --resume
    ("2.1.330", 6, 9): None,  # the main agent
    ("2.1.330", 7, 8): None,  # its subagent
    ("2.1.330", 213, 214): (  # to Anthropic itself: a new cch= each time
        "system[0].text",
        79,
        "…; cc_entrypoint=sdk-cli; cch=744e2; cc_prompt_id=23441b93-…",
        "…; cc_entrypoint=sdk-cli; cch=6284d; cc_prev_req=req_stub02…",
        ATTRIBUTION,
    ),
    ("2.1.330", 472, 473): (  # /compact twice; what asked for the first summary is gone
        "messages[13].content",
        0,
        shortened(6912),
        shortened(7306),
        REWRITTEN,
    ),
}
# No neighbours, or of two sessions, yet telling.
OTHERS: dict[tuple[str, int, int], Seen] = {
    ("1.0.128", 158, 163): None,  # the main agent, before and after its subagent
    ("2.0.76", 104, 110): None,
    ("2.1.90", 58, 61): None,
    ("2.1.330", 10, 11): None,  # --fork-session: a new id, the same prompt
    ("2.1.330", 1, 241): None,  # two sessions that begin alike
    ("2.1.330", 1, 13): (  # without and with CLAUDE_CODE_ATTRIBUTION_HEADER=0
        "system[0].text",
        0,
        "x-anthropic-billing-header: cc_version=2.1.330.572; cc_ent…",
        "You are a Claude agent, built on Anthropic's Claude Agent …",
        ATTRIBUTION,
    ),
    ("2.1.330", 9, 6): (
        "messages[2]",
        0,
        '{"role":"assistant","content":[{"type":"text","text":"Usin…',
        "",
        REMOVED,
    ),
}


def test_the_table_has_every_pair() -> None:
    assert set(neighbours()) == set(PAIRS)


@pytest.mark.parametrize(("pair", "expected"), (PAIRS | OTHERS).items(), ids=str)
def test_recorded(pair: tuple[str, int, int], expected: Seen) -> None:
    client, before, after = pair
    assert seen(compare(BODIES[client, before], BODIES[client, after])) == expected


def test_recorded_before_and_after_compact() -> None:
    before = BODIES["2.1.330", 473]
    after = before | {"messages": [user("This session continues another one.")]}
    assert seen(compare(before, after)) == (
        "messages[0].content[0].text",
        0,
        shortened(580),
        "This session continues another one.",
        REWRITTEN,
    )


# Pairs changed in one known place

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
        ({"messages": []}, {"messages": [ASK]}),
        ({"input": [ASK]}, {"input": [ASK, ANSWER]}),
        ({"input": "one"}, {"input": [ASK, ANSWER]}),
        ({"input": "one"}, {"input": [{"type": "message", **ASK}]}),
        ({"input": "one"}, {"input": [user([{"type": "input_text", "text": "one"}])]}),
        (
            {"input": [assistant("two")]},
            {"input": [assistant([{"type": "output_text", "text": "two"}])]},
        ),
        # no prompt
        (
            {"model": "a", "stream": True, "metadata": {"user_id": "x"}, "max_tokens": 1},
            {"model": "a", "stream": False, "user": "y", "prompt_cache_key": "z", "top_p": 1},
        ),
        (
            {"temperature": 1, "thinking": {"type": "enabled"}},
            {"output_config": {"effort": "low"}, "tool_choice": "auto"},
        ),
        # markers
        ({"tools": [A]}, {"tools": [A | {"cache_control": MARK}]}),
        ({"system": [text("s", cache_control=MARK)]}, {"system": [text("s")]}),
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
    assert compare(before, after) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # tools: none may be added, even at the end
        ({"tools": [A]}, {"tools": [A, B]}, ("tools[1]", 0, "", TOOL_B, TOOLS)),
        ({"tools": [A, B]}, {"tools": [A]}, ("tools[1]", 0, TOOL_B, "", TOOLS)),
        ({"tools": [B, A]}, {}, ("tools[0]", 0, TOOL_B, "", TOOLS)),
        ({"tools": [A, B, C]}, {"tools": [A, C, B]}, ("tools[1].name", 0, "B", "C", TOOLS)),
        ({"tools": [A, B, C]}, {"tools": [A, C]}, ("tools[1].name", 0, "B", "C", TOOLS)),
        ({"tools": [A, C]}, {"tools": [A, B, C]}, ("tools[1].name", 0, "C", "B", TOOLS)),
        (
            {"tools": [A, tool("B", type="object")]},
            {"tools": [A, tool("B", type="abject")]},
            ("tools[1].input_schema", 9, '{"type":"object"}', '{"type":"abject"}', TOOLS),
        ),
        (
            {"tools": [A, B | {"description": "b"}]},
            {"tools": [A, {"name": "B", "input_schema": {}}]},
            ("tools[1].description", 0, "b", "", TOOLS),
        ),
        (
            {"tools": [A, {"name": "B", "input_schema": {}}]},
            {"tools": [A, B | {"description": "b"}]},
            ("tools[1].description", 0, "", "b", TOOLS),
        ),
        (
            {"tools": [function("A", x=1, y=2)]},
            {"tools": [function("A", y=2, x=1)]},
            ("tools[0].function.parameters", 2, '{"x":1,"y":2}', '{"y":2,"x":1}', TOOLS),
        ),
        (
            {"tools": [tool("A", cache_control=1)]},
            {"tools": [tool("A", cache_control=2)]},
            (
                "tools[0].input_schema",
                17,
                '{"cache_control":1}',
                '{"cache_control":2}',
                TOOLS,
            ),
        ),
        # system prompts, in all dialects
        ({"system": "a b"}, {"system": "a c"}, ("system", 2, "a b", "a c", SYSTEM)),
        (
            {"system": [text("a")], "messages": [ASK]},
            {"system": [text("a"), text("b")], "messages": [ASK]},
            ("system[1]", 0, "", '{"type":"text","text":"b"}', SYSTEM),
        ),
        (
            {"system": "a"},
            {"system": [text("b")]},
            ("system[0].text", 0, "a", "b", SYSTEM),
        ),
        (
            {"instructions": "on 1 May"},
            {"instructions": "on 2 May"},
            ("instructions", 3, "on 1 May", "on 2 May", SYSTEM),
        ),
        (
            {"instructions": "a", "input": [ASK]},
            {"instructions": "b", "input": [MORE], "previous_response_id": "resp_1"},
            ("instructions", 0, "a", "b", SYSTEM),
        ),
        (
            {"messages": [message("system", "a"), ASK]},
            {"messages": [message("system", "b"), ASK]},
            ("messages[0].content", 0, "a", "b", SYSTEM),
        ),
        (
            {"messages": [message("system", [text("a")]), ASK]},
            {"messages": [message("system", [text("b")]), ASK]},
            ("messages[0].content[0].text", 0, "a", "b", SYSTEM),
        ),
        (
            {"messages": [message("system", "a"), ASK]},
            {"messages": [user("a"), ASK]},
            ("messages[0].role", 0, "system", "user", SYSTEM),
        ),
        (
            {"input": [message("developer", "a"), ASK]},
            {"input": [message("developer", "b"), ASK]},
            ("input[0].content", 0, "a", "b", SYSTEM),
        ),
        (
            {"messages": [message("system", "x-anthropic-billing-header: a")]},
            {"messages": [message("system", "x-anthropic-billing-header: b")]},
            (
                "messages[0].content",
                28,
                "x-anthropic-billing-header: a",
                "x-anthropic-billing-header: b",
                ATTRIBUTION,
            ),
        ),
        (
            {"system": "x-anthropic-billing-header: a\non 1 May"},
            {"system": "x-anthropic-billing-header: a\non 2 May"},
            (
                "system",
                33,
                "…hropic-billing-header: a\\non 1 May",
                "…hropic-billing-header: a\\non 2 May",
                SYSTEM,
            ),
        ),
        # messages
        (
            {"messages": [ASK, ANSWER, MORE]},
            {"messages": [ASK, ANSWER]},
            ("messages[2]", 0, '{"role":"user","content":"three"}', "", REMOVED),
        ),
        (
            {"messages": [ASK, ANSWER]},
            {},
            ("messages[0]", 0, '{"role":"user","content":"one"}', "", REMOVED),
        ),
        (
            {"messages": [ASK, ANSWER, MORE]},
            {"messages": [ASK, MORE, ANSWER, MORE]},
            ("messages[1].role", 0, "assistant", "user", REWRITTEN),
        ),
        (
            {"messages": [user([text("a"), text("b")]), ANSWER]},
            {"messages": [user([text("a")]), ANSWER]},
            ("messages[0].content[1]", 0, '{"type":"text","text":"b"}', "", REWRITTEN),
        ),
        (
            {"messages": [user([text("a")]), ANSWER]},
            {"messages": [user([text("a"), text("b")]), ANSWER]},
            ("messages[0].content[1]", 0, "", '{"type":"text","text":"b"}', REWRITTEN),
        ),
        (
            {"messages": [user("a"), ANSWER]},
            {"messages": [user([text("b", cache_control=MARK)]), ANSWER]},
            ("messages[0].content[0].text", 0, "a", "b", REWRITTEN),
        ),
        (
            {"messages": [assistant([text("t"), use(command="ls", limit=1)])]},
            {"messages": [assistant([text("t"), use(command="ls", limit=2)])]},
            (
                "messages[0].content[1].input",
                24,
                '{"command":"ls","limit":1}',
                '{"command":"ls","limit":2}',
                REWRITTEN,
            ),
        ),
        (
            {"messages": [assistant([use(limit=1)])]},
            {"messages": [assistant([use(limit=True)])]},
            ("messages[0].content[0].input", 9, '{"limit":1}', '{"limit":true}', REWRITTEN),
        ),
        (
            {"messages": [user([{"type": "tool_result", "content": [text("a"), text("b")]}])]},
            {"messages": [user([{"type": "tool_result", "content": [text("a"), text("c")]}])]},
            ("messages[0].content[0].content[1].text", 0, "b", "c", REWRITTEN),
        ),
        (
            {"messages": [assistant(None, tool_calls=[function("A") | {"id": "1"}])]},
            {"messages": [assistant(None, tool_calls=[function("A") | {"id": "2"}])]},
            ("messages[0].tool_calls[0].id", 0, "1", "2", REWRITTEN),
        ),
        (
            {"input": [{"type": "function_call", "arguments": '{"a":1}'}]},
            {"input": [{"type": "function_call", "arguments": '{"a":2}'}]},
            ("input[0].arguments", 5, '{"a":1}', '{"a":2}', REWRITTEN),
        ),
        ({"input": "a"}, {"input": "ab"}, ("input", 1, "a", "ab", REWRITTEN)),
        # the order of the prompt, not of the body
        (
            {"messages": [ASK], "system": "a", "tools": [A]},
            {"messages": [MORE], "system": "b", "tools": [A]},
            ("system", 0, "a", "b", SYSTEM),
        ),
        # wild types
        ({"tools": 1}, {"tools": 2}, ("tools", 0, "1", "2", TOOLS)),
        ({"tools": {"a": 1}}, {"tools": [1]}, ("tools", 0, '{"a":1}', "[1]", TOOLS)),
        (
            {"messages": [1, [2]]},
            {"messages": [1, [3]]},
            ("messages[1][0]", 0, "2", "3", REWRITTEN),
        ),
        ({"tools": [{"a\n": 1}]}, {"tools": [{"a\n": 2}]}, ("tools[0].a\\n", 0, "1", "2", TOOLS)),
    ],
)
def test_break(before: Object, after: Object, expected: Seen) -> None:
    assert seen(compare(before, after)) == expected


@pytest.mark.parametrize(
    ("before", "after", "chars"),
    [
        ({"tools": [A]}, {"tools": [B]}, 0),
        ({"system": "abcd"}, {"system": "abxd"}, 2),
        # "A" and "The tool A" and "{}", then "B" and "The tool B" and '{"x":'
        ({"tools": [A, tool("B", x=1)]}, {"tools": [A, tool("B", x=2)]}, 13 + 11 + 5),
        # then "user" and "one"
        (
            {"tools": [A], "system": [text("sys")], "messages": [ASK, ANSWER]},
            {"tools": [A], "system": [text("sys")], "messages": [ASK, MORE]},
            13 + 3 + 7,
        ),
        # a marker that moved counts no more than one that stayed
        (
            {"system": [text("sys", cache_control=MARK)], "messages": [user("a")]},
            {"system": "sys", "messages": [user("b")]},
            3 + 4,
        ),
        (
            {"system": [text("sys", cache_control=MARK)], "messages": [user("a")]},
            {"system": [text("sys", cache_control=MARK)], "messages": [user("b")]},
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
            {"messages": [user([{"type": "image", "source": {"data": "ab" * 999}}, text("a")])]},
            {"messages": [user([{"type": "image", "source": {"data": "ab" * 999}}, text("b")])]},
            4 + 5,
        ),
        (
            {"messages": [user([{"type": "image", "source": {"data": "ab" * 999}}])]},
            {"messages": [user([{"type": "image", "source": {"data": "ac" * 999}}])]},
            4 + 5,
        ),
    ],
)
def test_chars(before: Object, after: Object, chars: int) -> None:
    found = compare(before, after)
    assert found is not None
    assert found.chars == chars


def test_tokens_are_a_quarter_of_the_characters() -> None:
    found = compare({"system": "x" * 4003 + "a"}, {"system": "x" * 4003 + "b"})
    assert found is not None
    assert (found.chars, found.tokens) == (4003, 1000)


LEFT, RIGHT = "<" * 29, ">" * 28


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a" * 59, "", ("a" * 58 + "…", "")),
        ("a" * 58, "", ("a" * 58, "")),
        (LEFT + "1" + RIGHT, LEFT + "2" + RIGHT, (LEFT + "1" + RIGHT, LEFT + "2" + RIGHT)),
        ("." + LEFT + "1" + RIGHT, "." + LEFT + "2", ("…" + LEFT + "1" + RIGHT, "…" + LEFT + "2")),
        (LEFT + "1" + RIGHT + ".", LEFT, (LEFT + "1" + RIGHT + "…", LEFT)),
        ("a\n\t\x00b", "a\r\x1b[31m", ("a\\n\\t\\x00b", "a\\r\\x1b[31m")),
        ("\\n", "\n", ("\\\\n", "\\n")),
        ("\ud83d", "\u2028", ("\\ud83d", "\\u2028")),
        ("é✓😀", "é✓😁", ("é✓😀", "é✓😁")),
        # never half an escape
        ("\x00" * 20 + "a", "\x00" * 20 + "b", ("…" + "\\x00" * 7 + "a", "…" + "\\x00" * 7 + "b")),
        ("\x00" * 20, "", ("\\x00" * 14 + "…", "")),
    ],
)
def test_excerpts(before: str, after: str, expected: tuple[str, str]) -> None:
    found = compare({"system": before}, {"system": after})
    assert found is not None
    assert (found.before, found.after) == expected


# Random requests. A place is the keys and indexes that lead to a value.

Place: TypeAlias = tuple[str | int, ...]

TOUCH = "¤"
WORDS = st.text(st.characters(exclude_characters=TOUCH), max_size=20)
KEYS = st.text("abcxyz_", min_size=1, max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)
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
ANTHROPIC = st.fixed_dictionaries(
    {
        "model": WORDS,
        "messages": some(said(["user", "assistant", "system"], content=CONTENT)),
        "system": words_or_blocks("text"),
        "tools": some(TOOL),
    }
)
FUNCTION = st.fixed_dictionaries({"name": WORDS, "description": WORDS, "parameters": OBJECTS})
CALL = st.fixed_dictionaries({"name": WORDS, "arguments": WORDS})
CALLS = some(typed("function", id=WORDS, function=CALL))
CHAT = st.fixed_dictionaries(
    {
        "model": WORDS,
        "messages": some(
            said(["system", "user"], content=words_or_blocks("text")),
            said(["assistant"], content=st.none() | WORDS, tool_calls=CALLS),
            said(["tool"], tool_call_id=WORDS, content=WORDS),
        ),
        "tools": some(typed("function", function=FUNCTION)),
    }
)
OUTPUT = words_or_blocks("input_text")
RESPONSES = st.fixed_dictionaries(
    {
        "model": WORDS,
        "input": WORDS
        | some(
            said(["developer", "user"], content=words_or_blocks("input_text")),
            said(["assistant"], type=st.just("message"), content=words_or_blocks("output_text")),
            typed("function_call", call_id=WORDS, name=WORDS, arguments=WORDS),
            typed("function_call_output", call_id=WORDS, output=OUTPUT),
        ),
        "instructions": WORDS,
        "tools": some(typed("function", name=WORDS, description=WORDS, parameters=OBJECTS)),
    }
)
REQUESTS = ANTHROPIC | CHAT | RESPONSES
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SETTINGS = st.sampled_from(["stream", "metadata", "temperature", "prompt_cache_key"])

SECTIONS = ("tools", "system", "instructions", "messages", "input")
GROWING = ("messages", "input")
TEXT_TYPES = ("message", "text", "input_text", "output_text")
# Objects that are compared as one JSON text.
WHOLE = ("input_schema", "parameters", "input", "source")


def walk(value: Json, place: Place = ()) -> Iterator[tuple[Place, Json]]:
    """Yield `value` and all that it holds, each with its place."""
    yield place, value
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(member, (*place, key))


def parts(request: Object) -> Iterator[tuple[Place, Json]]:
    """Yield what `walk` does, but for the inside of the objects that are compared whole."""
    for place, value in walk(request):
        if not any(key in WHOLE for key in place[1:-1]):
            yield place, value


def places(request: Object) -> list[Place]:
    """Return where there is a text that is prompt."""
    return [
        place
        for place, value in walk(request)
        if isinstance(value, str)
        and place[0] in SECTIONS
        and not (place[-1] == "type" and value in TEXT_TYPES)
    ]


def get(value: Json, place: Place) -> Json:
    for key in place:
        value = value[key]
    return value


def rendered(place: Place) -> str:
    names = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return "".join(names).removeprefix(".")


def next_turn(data: st.DataObject, request: Object) -> Object:
    """Return `request` with other markers, other settings and more messages."""
    after: Object = copy.deepcopy(request)
    elements = [value for place, value in parts(after) if place and isinstance(place[-1], int)]
    for element in elements:
        if isinstance(element, dict) and data.draw(st.booleans()):
            element["cache_control"] = MARK
    for name in GROWING:
        if isinstance(after.get(name), list):
            after[name] += [ANSWER, MORE]
    return after | data.draw(st.dictionaries(SETTINGS, VALUES))


@relaxed
@given(st.data(), REQUESTS)
def test_one_changed_place_is_found(data: st.DataObject, before: Object) -> None:
    after = next_turn(data, before)
    place = data.draw(st.sampled_from(places(before) or [()]))
    assume(place)
    value = get(before, place)
    at = data.draw(st.integers(0, len(value)))
    get(after, place[:-1])[place[-1]] = value[:at] + TOUCH + value[at:]
    found = compare(before, after)
    for depth, key in enumerate(place):
        if depth and key in WHOLE:
            place = place[: depth + 1]
            whole = json.dumps(get(after, place), ensure_ascii=False, separators=(",", ":"))
            at = whole.index(TOUCH)
            break
    assert found is not None
    assert (found.path, found.at) == (rendered(place), at)
    assert TOUCH in found.after
    assert TOUCH not in found.before


@relaxed
@given(st.data(), REQUESTS)
def test_one_new_element_is_found(data: st.DataObject, before: Object) -> None:
    after = next_turn(data, before)
    name = data.draw(st.sampled_from([n for n in SECTIONS if isinstance(before.get(n), list)]))
    at = data.draw(st.integers(0, len(before[name])))
    after[name].insert(at, {"role": TOUCH, "name": TOUCH, "type": TOUCH, "text": TOUCH})
    added, removed = compare(before, after), compare(after, before)
    if name in GROWING and at == len(before[name]):
        assert added is None
    else:
        assert added is not None
        assert added.path.startswith(f"{name}[{at}]")
    assert removed is not None
    assert removed.path.startswith(f"{name}[{at}]")


@relaxed
@given(st.data(), REQUESTS)
def test_a_next_turn_holds(data: st.DataObject, before: Object) -> None:
    after = next_turn(data, before)
    for place, value in list(parts(after)):
        if value and isinstance(value, str) and place[-1] in ("system", "content", "output"):
            get(after, place[:-1])[place[-1]] = [text(value, cache_control=MARK)]
        elif value and isinstance(value, str) and place == ("input",):
            after["input"] = [user(value), ANSWER]
    assert compare(before, after) is None


# Wild JSON

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
    assert compare(before, json.loads(json.dumps(before))) is None
    found = compare(before, after)
    if found is not None:
        assert found.path.startswith(SECTIONS)
        assert found.before != found.after
        assert max(len(found.before), len(found.after)) <= 60
        assert (found.path + found.before + found.after).isprintable()


@pytest.mark.parametrize("depth", [800, 3000])
def test_deep_lists(depth: int) -> None:
    before: Json = "1"
    after: Json = "2"
    for _ in range(depth):
        before, after = [before], [after]
    found = compare({"messages": before}, {"messages": after})
    assert found is not None
    assert found.path == "messages" + "[0]" * depth
    assert (found.before, found.after, found.chars) == ("1", "2", 0)
    assert compare({"messages": before}, {"messages": [*before, "3"]}) is None


def test_a_long_text_that_differs_in_its_last_character() -> None:
    same = "✓" * 1_000_000
    assert compare({"messages": [user(same + "a")]}, {"messages": [user(same + "b")]}) == Break(
        path="messages[0].content",
        at=1_000_000,
        before="…" + "✓" * 29 + "a",
        after="…" + "✓" * 29 + "b",
        chars=1_000_004,
        cause=REWRITTEN,
    )
