import json
from typing import Any

import pytest
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
    f"      200        400  system[0] text      {'s' * 57}…",
    f"      300        400  [0] user text       {'u' * 57}…",
    f"      400        400  [1] assistant text  {'a' * 57}…",
    f"      500        400  [2] user text       {'v' * 57}…",
]


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
        "",
        "tokens: estimated, up to the line's end; four characters each",
    ]


@pytest.mark.parametrize(
    ("cached", "before"), [(0, 0), (49, 0), (151, 2), (300, 3), (349, 3), (500, 5), (900, 5)]
)
def test_where_the_cache_ends(cached: int, before: int) -> None:
    lines = draw(BODY, input=500, cached=cached)
    rule = f"──── read from the cache up to here: {cached} of 500 ────"
    assert lines[4:-2] == [*LINES[:before], rule, *LINES[before:]]


def test_the_estimate_is_scaled_to_what_was_reported() -> None:
    lines = draw(BODY, input=50_000, cached=29_952)
    starts = [line.split()[0] for line in lines[4:9]]
    assert starts == ["10,000", "20,000", "30,000", "────", "40,000"]
    assert lines[-1].endswith("four characters each, scaled to the 50,000 reported")
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
def test_where_the_prefix_broke(path: str, before: int) -> None:
    lines = draw(BODY, lost=1234, cause="tools reordered", path=path, before="x\x1b", after="")
    assert lines[4:-2] == [
        *LINES[:before],
        f"──── the prefix broke at {path}: tools reordered, 1,234 tokens lost ────",
        "               before   x\\x1b",
        "                after   (nothing)",
        *LINES[before:],
    ]


def test_what_was_lost_without_a_break() -> None:
    lines = draw(BODY, lost=1234, cause="a pause of 0:12:00")
    assert lines[4:-2] == ["──── a pause of 0:12:00, 1,234 tokens lost ────", *LINES]


TOOLS_OF_CHAT = [{"type": "function", "function": {"name": "A"}}, {"type": "web_search"}, 1]
NO_PROMPT = "There is no prompt: no tools, no system prompt, no messages, no input."


@pytest.mark.parametrize(
    ("body", "heading", "lines"),
    [
        (
            {"instructions": "be good", "input": "hello", "previous_response_id": "resp_1"},
            ["follows  resp_1"],
            ["2          7  instructions text  be good", "3          5  input text         hello"],
        ),
        (
            {"tools": TOOLS_OF_CHAT, "messages": [{"role": "system", "content": "be good"}]},
            [],
            [
                "17         69  tools: 3         A, web_search, 1",
                "20         13  [0] system text  be good",
            ],
        ),
        (
            {"tools": {"a": "b"}, "input": [{"type": "item_reference", "id": "1"}]},
            [],
            ["3         11  tools: 1            None", "6         15  [0] item_reference"],
        ),
    ],
)
def test_other_bodies(body: Any, heading: list[str], lines: list[str]) -> None:
    drawn = draw(body)[:-2]
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
        (b'{"a":' + b"[" * 100_000, ["The body is nested too deep to be read."]),
        (b'{"input":' + b"[" * 100_000, ["The body is nested too deep to be read."]),
    ],
)
def test_broken_bodies(content: bytes, lines: list[str]) -> None:
    assert outline(content, Facts()) == lines


def test_many_and_long_things_stay_in_bounds() -> None:
    evil = "\x1b[31m\u202e</script>中\n" * 20_000
    block = {"type": evil, "name": evil, "input": {evil: evil}}
    lines = draw(
        {
            "model": evil,
            "tools": [{"name": evil}] * (MAX_TOOLS + 1),
            "system": evil,
            "messages": [{"role": evil, "content": [block]}, *["m"] * MAX_PARTS],
        },
        **dict.fromkeys(("session", "agent", "cause", "path", "before", "after"), evil),
    )
    assert all(line.isprintable() for line in lines)
    assert max(map(width, lines)) <= COLUMNS
    assert "… and 1 more" in " ".join(" ".join(lines).split())
    assert lines[-3].split(maxsplit=2)[2] == "1 more"
    assert len(lines) < 2 * MAX_PARTS
