import hashlib

import pytest
from lib.rules import (
    BEFORE_GPT_5_6,
    SINCE_GPT_5_6,
    PromptCache,
    Rules,
    count_tokens,
    prompt_text,
    rules_of,
)

TEXT = hashlib.shake_128(b"text").hexdigest(20_000)
OTHER = hashlib.shake_128(b"other").hexdigest(20_000)
MODELS = {
    BEFORE_GPT_5_6: ("gpt-5", "gpt-5.5", "gpt-4.1", "gpt-5-mini", "o3"),
    SINCE_GPT_5_6: ("gpt-5.6", "gpt-5.10", "gpt-6-mini", "gpt-10.1"),
}


def tokens(count: int, text: str = TEXT) -> str:
    return text[: 4 * count]


@pytest.mark.parametrize("rules", MODELS)
def test_the_rules_of_a_model(rules: Rules) -> None:
    assert {rules_of(model) for model in MODELS[rules]} == {rules}


def test_four_characters_are_a_token() -> None:
    assert [count_tokens(text) for text in ("", "abc", "abcd", "abcdefg", "äöü✓")] == [
        0,
        0,
        1,
        1,
        1,
    ]


def test_a_prompt_is_tools_then_instructions_then_conversation() -> None:
    body = {"model": "m", "input": ["hi"], "instructions": "rules", "tools": [{"name": "Read"}]}
    assert prompt_text({**body, "prompt_cache_key": "k"}) == '{"name": "Read"}\n"rules"\n"hi"\n'


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
@pytest.mark.parametrize("rules", MODELS)
def test_a_prefix_needs_1024_tokens_and_grows_by_128(
    rules: Rules, first: str, second: str, cached: int
) -> None:
    cache = PromptCache(rules)
    assert cache.read(first, "key", 0) == 0
    assert cache.read(second, "key", 0) == cached
    assert cache.read(second, "other", 0) == 0


@pytest.mark.parametrize(("idle", "cached"), [(0, 1024), (1799, 1024), (1800, 0), (3600, 0)])
def test_prefixes_idle_for_30_minutes_are_dropped(idle: float, cached: int) -> None:
    assert reads(SINCE_GPT_5_6, [-100, 1000, 1000 + idle])[-1] == cached


def test_what_is_lost_is_read_anew() -> None:
    cache = PromptCache(BEFORE_GPT_5_6)
    cache.read(tokens(1024), "key", 0)
    cache.clear()
    assert [cache.read(tokens(1024), "key", 0) for _ in range(2)] == [0, 1024]


def reads(rules: Rules, times: list[float]) -> list[int]:
    cache = PromptCache(rules)
    return [cache.read(tokens(1024), None, time) for time in times]


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
        cache.read(tokens(256) + tokens(1000, OTHER), None, 0)
    assert cache.read(tokens(256) + tokens(1000), None, 0) == 0, "on a new machine"
    for _ in range(15):
        cache.read(tokens(255) + tokens(1000, OTHER), None, 0)
    assert cache.read(tokens(256) + tokens(1000), None, 0) == 1152, "undisturbed by another route"
