from typing import Any

import pytest
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.explain import explain
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import ATTRIBUTION, finished

TOOLS = [{"name": "a", "description": "a" * 9000}, {"name": "b"}]
SAID: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "go on"},
]


def sent(time: float, cached: int | None, raw: bytes = b"", **members: Any) -> FinishedRequest:
    request = raw or {"tools": TOOLS, "messages": SAID} | members
    return finished(request, Usage(9000, cached, None, None), time=time)


BEFORE = sent(0, 0)
ATTRIBUTED = [
    sent(time, 0, system=[{"type": "text", "text": f"{ATTRIBUTION}{time};"}], tools=[])
    for time in (0, 1)
]
DEEP = b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"
MANY = b'{"messages":[' + b"0," * 240_000 + b"%d]}"
PLACE = ", at tools[0].name, character 0; the upstream reports hit="


@pytest.mark.parametrize(
    ("before", "this", "line", "details"),
    [
        (BEFORE, sent(1, 9000), "no miss; the prompt continues the earlier one; ", []),
        (
            BEFORE,
            sent(1, 0)._replace(usage=None),
            "no miss can be determined; the prompt continues the earlier one; "
            "the upstream reports no usage",
            [],
        ),
        (
            BEFORE,
            sent(1, None, tools=TOOLS[::-1]),
            "no miss can be determined; the prompt changed: tools reordered"
            f"{PLACE}?% input=9000 cached=?",
            ["was: a", "is: b"],
        ),
        (
            BEFORE,
            sent(1, 0, tools=TOOLS[::-1]),
            f"missed 9000 of 9000 expected tokens: tools reordered{PLACE}0% input=9000 cached=0",
            ["was: a", "is: b", "nothing to set: "],
        ),
        (
            BEFORE,
            sent(1, 0),
            "missed 9000 of 9000 expected tokens: server-side: evicted or rerouted; the ",
            ["nothing to set: "],
        ),
        (BEFORE, sent(1, 0, b"?"), "no miss; not compared: ", []),
        (sent(0, 0, DEEP), sent(1, 0, DEEP), "no miss; not compared: ", []),
        (sent(0, 0, MANY % 1), sent(1, 0, MANY % 2), "no miss; not compared: ", []),
        (
            *ATTRIBUTED,
            "missed 9000 of 9000 expected tokens: attribution block changed, at system[0].text, ",
            ["was: ", "is: ", "set CLAUDE_CODE_ATTRIBUTION_HEADER=0"],
        ),
    ],
)
def test_explain(
    before: FinishedRequest, this: FinishedRequest, line: str, details: list[str]
) -> None:
    found, more = explain([before], this)
    assert found.startswith(line)
    assert len(more.splitlines()) == len(details)
    assert all(each.startswith(d) for each, d in zip(more.splitlines(), details, strict=True))
