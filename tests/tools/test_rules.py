import hashlib
import json
from typing import Any

import pytest
from lib.dialects import DIALECTS
from lib.recordings import conversations, encoded
from lib.rules import (
    BEFORE_GPT_5_6,
    SINCE_GPT_5_6,
    PromptCache,
    Rules,
    count_tokens,
    pieces_of,
    rules_of,
)
from unit.context import addon_context

TEXT = hashlib.shake_128(b"text").hexdigest(20_000)
OTHER = hashlib.shake_128(b"other").hexdigest(20_000)
MODELS = {
    BEFORE_GPT_5_6: ("gpt-5", "gpt-5.5", "gpt-4.1", "gpt-5-mini", "o3"),
    SINCE_GPT_5_6: ("gpt-5.6", "gpt-5.10", "gpt-6-mini", "gpt-10.1"),
}


def tokens(count: int, text: str = TEXT) -> str:
    return text[: 4 * count]


def read(cache: PromptCache, pieces: list[str], key: str | None = "key", now: float = 0) -> int:
    """Return the tokens that come from cache."""
    return cache.read(pieces, key, now) // 4


@pytest.mark.parametrize("rules", MODELS)
def test_the_rules_of_a_model(rules: Rules) -> None:
    assert {rules_of(model) for model in MODELS[rules]} == {rules}


def test_four_characters_are_a_token() -> None:
    counts = [count_tokens(text) for text in ("", "abc", "abcd", "abcdefg", "äöü✓")]
    assert counts == [0, 0, 1, 1, 1]


def test_a_prompt_is_tools_and_system_prompt_then_messages() -> None:
    tool, rules = {"name": "Read"}, [{"type": "text", "text": "rules"}]
    hi, late = {"role": "user", "content": "hi"}, {"role": "system", "content": "late"}
    developer = {"role": "developer", "content": "rules"}
    bodies: list[dict[str, Any]] = [
        {"tools": [tool], "system": "rules", "messages": [hi, late]},
        {"tools": [tool], "instructions": "rules", "input": [hi, late]},
        {"tools": [tool], "messages": [developer, hi, late]},
        {"tools": [tool], "prompt_cache_key": "k", "input": [developer, hi, late]},
        {"tools": [tool], "messages": [{**developer, "content": rules}, hi, late]},
    ]
    assert [len(pieces_of(body)) for body in bodies] == [3] * 5
    assert pieces_of(bodies[2]) == pieces_of(bodies[3]) == pieces_of(bodies[4])
    assert [json.loads(piece)["role"] for piece in pieces_of(bodies[0])[1:]] == ["user", "system"]


def test_where_a_client_marks_its_cache_is_no_part_of_the_prompt() -> None:
    block = {"type": "text", "text": "hi"}
    marked = {**block, "cache_control": {"type": "ephemeral"}}
    bodies = [{"messages": [{"role": "user", "content": c}]} for c in ("hi", [block], [marked])]
    assert [pieces_of(body) for body in bodies] == [pieces_of(bodies[0])] * 3


@pytest.mark.parametrize(
    ("first", "second", "cached"),
    [
        (tokens(1023), tokens(1023), 0),
        (tokens(1024), tokens(1024), 1024),
        (tokens(1023), tokens(2000), 0),
        (tokens(1024), tokens(2000), 1024),
        (tokens(1151), tokens(2000), 1024),
        (tokens(1152), tokens(2000), 1152),
        (tokens(1500), tokens(1279), 1152),
        (tokens(1920) + tokens(128, OTHER), tokens(2048), 1920),
        (tokens(2048, OTHER), tokens(2048), 0),
        # The same route, but the prompts differ in the eighth block.
        (tokens(1000) + tokens(1000, OTHER), tokens(2000), 0),
        # What follows a difference is not a prefix, however alike.
        (tokens(1100) + "!" + TEXT[4401:8000], tokens(2000), 1024),
    ],
)
def test_before_gpt_5_6_a_prefix_grows_by_128_tokens(first: str, second: str, cached: int) -> None:
    cache = PromptCache(BEFORE_GPT_5_6)
    assert [read(cache, [first]), read(cache, [second])] == [0, cached]
    assert read(cache, [second], "other") == 0


HEAD, SHORT = tokens(2000), tokens(1023)
MESSAGES = [tokens(100, OTHER[at:]) for at in range(30)]


@pytest.mark.parametrize(
    ("first", "second", "cached"),
    [
        ([HEAD, "a"], [HEAD, "b"], 2000),
        ([HEAD, *MESSAGES[:2]], [HEAD, *MESSAGES[:4]], 2200),
        ([HEAD, *MESSAGES[:4]], [HEAD, *MESSAGES[:2], "b"], 2200),
        ([HEAD, *MESSAGES[:4]], [HEAD, *MESSAGES[:4]], 2400),
        ([HEAD[1:], "a"], [HEAD, "a"], 0),
        ([SHORT, "a"], [SHORT, "b"], 0),
        # A prefix ends with a piece, and is looked for at 20 endings before the last.
        ([HEAD + "a"], [HEAD, "b"], 0),
        ([HEAD, *MESSAGES[:1]], [HEAD, *MESSAGES[:21]], 2100),
        ([HEAD, *MESSAGES[:1]], [HEAD, *MESSAGES[:22]], 2000),
    ],
)
def test_since_gpt_5_6_a_prefix_ends_with_the_developer_block_or_a_message(
    first: list[str], second: list[str], cached: int
) -> None:
    cache = PromptCache(SINCE_GPT_5_6)
    assert [read(cache, first), read(cache, second)] == [0, cached]
    assert read(cache, second, "other") == 0


@pytest.mark.parametrize(("idle", "cached"), [(0, 1024), (1799, 1024), (1800, 0), (3600, 0)])
def test_prefixes_idle_for_30_minutes_are_dropped(idle: float, cached: int) -> None:
    assert reads(SINCE_GPT_5_6, [-100, 1000, 1000 + idle])[-1] == cached


def test_what_is_evicted_is_computed_anew() -> None:
    cache = PromptCache(BEFORE_GPT_5_6)
    read(cache, [tokens(1024)])
    cache.clear()
    assert [read(cache, [tokens(1024)]) for _ in range(2)] == [0, 1024]


def reads(rules: Rules, times: list[float]) -> list[int]:
    cache = PromptCache(rules)
    return [read(cache, [tokens(1024)], None, time) for time in times]


def test_the_16th_request_of_a_minute_goes_elsewhere() -> None:
    times = [float(second) for second in range(16)]
    assert reads(SINCE_GPT_5_6, times) == [0, *[1024] * 15]
    assert reads(BEFORE_GPT_5_6, times) == [0, *[1024] * 14, 0]
    later = reads(BEFORE_GPT_5_6, [*times, *(60 + time for time in times)])[16:]
    assert later == [1024] * 16, "the second machine knows the prompt by now"
    assert reads(BEFORE_GPT_5_6, [0.0] * 15 + [59.9])[-1] == 0
    assert reads(BEFORE_GPT_5_6, [0.0] * 15 + [60.0])[-1] == 1024


def test_the_first_256_tokens_decide_the_route() -> None:
    cache = PromptCache(BEFORE_GPT_5_6)
    for _ in range(15):
        read(cache, [tokens(256) + tokens(1000, OTHER)], None)
    assert read(cache, [tokens(256) + tokens(1000)], None) == 0, "on a new machine"
    for _ in range(15):
        read(cache, [tokens(255) + tokens(1000, OTHER)], None)
    assert read(cache, [tokens(256) + tokens(1000)], None) == 1152, "undisturbed by another route"


# --- new conversations and subagents: what the addon gets of what can be had ----------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("options", "first", "all_"),
    [({}, 57, 76), ({"strip": ()}, 4, 49), ({"scope": "session"}, 15, 55)],
)
def test_new_conversations_read_all_that_is_possible(
    dialect: str, options: dict[str, object], first: int, all_: int
) -> None:
    """Percent of the first requests of 13 conversations and subagents, and of all requests."""
    cache, first_requests, all_requests = PromptCache(SINCE_GPT_5_6), [0, 0], [0, 0]
    path, translate, _ = DIALECTS[dialect]
    with addon_context() as context:
        context.set(**options)
        for record in conversations():
            body, session = record["body"], "x-claude-code-session-id"
            content = encoded(translate(body | {"model": "gpt-5.6"}))
            shown = {session: record["headers"][session]} if dialect == "messages" else {}
            sent = context.send(content, shown, f"https://api.openai.com{path}").request.content
            pieces = pieces_of(json.loads(sent or b""))
            cached = cache.read(pieces, json.loads(sent or b"")["prompt_cache_key"], 0)
            for sums in [all_requests, first_requests][: 1 + (len(body["messages"]) == 2)]:
                sums[0] += cached
                sums[1] += len("".join(pieces))
    assert 100 * first_requests[0] / first_requests[1] == pytest.approx(first, abs=1.5)
    assert 100 * all_requests[0] / all_requests[1] == pytest.approx(all_, abs=1.5)
