import json
from typing import Any

import pytest
from prompt_cache_key.prompt_view.blocks import MAX_VALUES
from prompt_cache_key.prompt_view.outline import MAX_PARTS, MAX_TOOLS, Facts, outline
from prompt_cache_key.screen_text import COLUMNS, width

TOOLS = [{"name": "Bash", "input_schema": {}}, {"name": "Read", "d": "x" * 342}]
BODY = {
    "model": "claude-opus-5-5",
    "prompt_cache_key": "5bff22e6",
    "messages": [
        {"role": "user", "content": "u" * 396},
        {"role": "assistant", "content": [{"type": "text", "text": "a" * 387}]},
        {"role": "user", "content": "v" * 396},
    ],
    "system": [{"type": "text", "text": "s" * 396}],
    "tools": TOOLS,
}
LINES = [
    "      100        400  tools: 2            Bash, Read",
    f"      100        400  system[0] text      {'s' * 57}…",
    f"      100        400  [0] user text       {'u' * 57}…",
    f"      100        400  [1] assistant text  {'a' * 57}…",
    f"      100        400  [2] user text       {'v' * 57}…",
]
ALL = "      500      2,000  in all"


def draw(body: Any, **facts: Any) -> list[str]:
    return outline(json.dumps(body).encode(), Facts(**facts))


def test_the_whole() -> None:
    assert draw(BODY, session="abc", agent="main") == [
        "model    claude-opus-5-5",
        "key      5bff22e6",
        "session  abc",
        "agent    main",
        "",
        "   tokens characters",
        *LINES,
        ALL,
        "",
        "tokens: estimated from the characters of a line",
    ]


@pytest.mark.parametrize(
    ("cached", "before"), [(0, 0), (49, 0), (151, 2), (300, 3), (349, 3), (500, 5), (900, 5)]
)
def test_where_the_cache_ends(cached: int, before: int) -> None:
    lines = draw(BODY, input=500, cached=cached)
    rule = f"──── read from the cache up to here: {cached} of 500 ────"
    assert lines[5:-2] == [*LINES[:before], rule, *LINES[before:], ALL]


def test_the_estimate_is_scaled_to_what_was_reported() -> None:
    lines = draw(BODY, input=50_000, cached=29_952)
    starts = [line.split()[0] for line in lines[5:-2]]
    assert starts == ["10,000", "10,000", "10,000", "────", "10,000", "10,000", "50,000"]
    assert lines[-1].endswith("characters of a line, scaled to the 50,000 reported")
    assert not any("cache up to" in line for line in draw(BODY, input=50_000))


@pytest.mark.parametrize(
    ("path", "before"),
    [
        ("tools[1].description", 1),
        ("system[0].text", 2),
        ("system", 2),
        ("messages[0].content", 3),
        ("messages[2].content[0].text", 5),
        ("messages[3]", 5),
        ("reasoning.effort", 0),
    ],
)
def test_where_the_prompt_changed(path: str, before: int) -> None:
    lines = draw(BODY, missed=1234, cause="tools reordered", path=path, before="x\x1b", after="")
    assert lines[5:-2] == [
        *LINES[:before],
        f"──── changed at {path}: tools reordered, 1,234 tokens missed ────",
        "               before   x\\x1b",
        "                after   (nothing)",
        *LINES[before:],
        ALL,
    ]


def test_a_miss_without_a_change() -> None:
    lines = draw(BODY, missed=1234, cause="expired: idle for 12m")
    rule = "──── expired: idle for 12m, 1,234 tokens missed ────"
    assert lines[5:-2] == [rule, *LINES, ALL]


@pytest.mark.parametrize(
    ("facts", "summary"),
    [
        ({"input": 500, "cached": 499}, "hit 99%: 499 of 500 tokens cached"),
        ({"input": 0, "cached": 0}, "hit ?%: 0 of 0 tokens cached"),
        ({"input": 5000}, "5,000 tokens, cached tokens not reported"),
        (
            {"input": 5000, "cached": 0, "missed": 4000, "cause": "tools reordered"},
            "hit 0%: 0 of 5,000 tokens cached, 4,000 missed: tools reordered",
        ),
        ({"missed": 4000}, "4,000 missed"),
    ],
)
def test_the_first_line_says_what_happened(facts: dict[str, Any], summary: str) -> None:
    assert draw(BODY, **facts)[0] == summary


TOOLS_OF_CHAT = [{"type": "function", "function": {"name": "A"}}, {"type": "web_search"}, 1]
NO_PROMPT = "There is no prompt: no tools, no system prompt, no messages, no input."


@pytest.mark.parametrize(
    ("body", "heading", "lines"),
    [
        (
            {"instructions": "be good", "input": "hello", "previous_response_id": "resp_1"},
            ["follows  resp_1"],
            ["2          7  instructions text  be good", "1          5  input text         hello"],
        ),
        (
            {"tools": TOOLS_OF_CHAT, "messages": [{"role": "system", "content": "be good"}]},
            [],
            [
                "17         69  tools: 3         A, web_search, 1",
                "3         13  [0] system text  be good",
            ],
        ),
        (
            {"tools": {"a": "b"}, "input": [{"type": "item_reference", "id": "1"}]},
            [],
            ["3         11  tools: 1            None", "4         15  [0] item_reference"],
        ),
    ],
)
def test_other_bodies(body: Any, heading: list[str], lines: list[str]) -> None:
    drawn = draw(body)[:-3]
    assert drawn[:-2] == [*heading, "", "   tokens characters"]
    assert [line.strip() for line in drawn[-2:]] == lines


def test_a_body_without_a_prompt() -> None:
    assert draw({"model": 5, "messages": []}) == ["model    5", "", NO_PROMPT]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", ["The body is empty"]),
        (b"[1]", ["The body is no JSON object: [1]"]),
        (b'{"a": }', ["The body is no JSON: Expecting value (character 6 of 7):", '{"a": ▶ }']),
        (b'{"a":' + b"[" * 90_000, ["The body is nested too deep to be read."]),
        (b'{"input":' + b"[" * 90_000, ["The body is nested too deep to be read."]),
    ],
)
def test_broken_bodies(content: bytes, lines: list[str]) -> None:
    assert outline(content, Facts()) == lines


def test_large_bodies_are_one_line() -> None:
    size = 32 << 20
    assert outline(b"{" + b" " * size + b"}", Facts()) == [
        "The body is too large to be shown: 33,554,434 bytes"
    ]
    body = {"messages": [1] * MAX_VALUES}
    assert draw(body) == ["The body is too large to be shown: over 100,000 values"]


@pytest.mark.parametrize("columns", [80, COLUMNS, 120])
def test_many_and_long_things_stay_in_bounds(columns: int) -> None:
    evil = "\x1b[31m\u202e</script>中\n" * 100
    block = {"type": evil, "name": evil, "input": {evil: evil}}
    body = {
        "model": evil,
        "tools": [{"name": evil}] * (MAX_TOOLS + 1),
        "system": evil,
        "messages": [{"role": evil, "content": [block]}, *["m"] * MAX_PARTS],
    }
    facts = Facts(evil, evil, 10, 5, 3, evil, evil, evil, evil)
    lines = outline(json.dumps(body).encode(), facts, columns)
    assert all(line.isprintable() for line in lines)
    assert max(map(width, lines)) == columns
    assert "… and 1 more" in " ".join(" ".join(lines).split())
    assert lines[-4].split(maxsplit=2)[2] == "1 more"
    assert len(lines) < 2 * MAX_PARTS
