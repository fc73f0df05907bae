import json
from typing import Any

import pytest
from prompt_cache_key.misses.explain import explain
from prompt_cache_key.misses.judge import Sent
from prompt_cache_key.usage.reader import Usage

TOOLS = [{"name": "a", "description": "a" * 9000}, {"name": "b"}]
SAID: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "go on"},
]


def sent(time: float, usage: Usage | None, content: bytes | None = None, **members: Any) -> Sent:
    body = {"tools": TOOLS, "messages": SAID} | members
    return Sent(time, "k", json.dumps(body).encode() if content is None else content, usage)


def used(cached: int | None) -> Usage:
    return Usage(9000, cached, None, None)


BEFORE = sent(0, used(0))
ATTRIBUTION = [
    [{"type": "text", "text": f"x-anthropic-billing-header: cch={each};"}] for each in ("1", "2")
]
ATTRIBUTED = [sent(time, used(0), system=ATTRIBUTION[time], tools=[]) for time in (0, 1)]
REORDERED = (
    "tools reordered, at tools[0].name, character 0; the upstream reports input=9000 cached="
)


@pytest.mark.parametrize(
    ("before", "this", "line", "details"),
    [
        (BEFORE, sent(1, used(9000)), "the prefix held; ", ""),
        (BEFORE, sent(1, None), "the prefix held; the upstream reports no usage", ""),
        (
            BEFORE,
            sent(1, used(None), tools=TOOLS[::-1]),
            f"the prefix broke: {REORDERED}? hit=?",
            "was: a\nis: b",
        ),
        (
            BEFORE,
            sent(1, used(0), tools=TOOLS[::-1]),
            f"lost 9000 of 9000: {REORDERED}0 hit=0%",
            "was: a\nis: b",
        ),
        (BEFORE, sent(1, used(0)), "lost 9000 of 9000: the upstream's own; the upstream ", ""),
        (BEFORE, sent(1, used(0), b"?"), "the prompts could not be compared; ", ""),
        (
            *ATTRIBUTED,
            "lost 9000 of 9000: attribution block changed, at system[0].text, character ",
            "CLAUDE_CODE_ATTRIBUTION_HEADER=0",
        ),
    ],
)
def test_explain(before: Sent, this: Sent, line: str, details: str) -> None:
    found, more = explain([before], this, 600)
    assert found.startswith(line)
    assert details in more
    assert bool(details) == bool(more)
