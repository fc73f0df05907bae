import pytest
from prompt_cache_key.stats.collapse import (
    COLLAPSED,
    LARGE,
    NONE_YET,
    NOTHING_CACHED,
    RECENT,
    CacheWarning,
    look,
)
from unit.requests_made import usage

SEEN = {
    "m": usage(LARGE),  # a miss
    "s": usage(LARGE - 1),  # too small
    "?": usage(LARGE, None),
    "1": usage(LARGE, 1),
    "t": usage(1, 1),
    "h": usage(LARGE, LARGE // 2),  # half
    "H": usage(LARGE, LARGE),  # a hit
}


@pytest.mark.parametrize(
    ("usages", "warnings"),
    [
        ("mmmm", {}),
        ("mmmmmmmm", {4: NOTHING_CACHED}),
        ("ssssssssss", {}),
        ("??????????", {}),
        ("ms?ms?ms?ms?ms?", {12: NOTHING_CACHED}),
        ("mmmm1mmmmmmmmmm", {}),
        ("tmmmmmmmmmm", {}),
        ("HHHHHHHHHH", {}),
        ("hhhhhhhhhh", {}),
        ("HHmm", {}),
        ("HHmmmmmmmmmm", {}),  # two in a row are no habit
        ("HHHmmmmmmmmmm", {5: COLLAPSED}),
        ("HHHHHHHHHmmHHHHHHHHH", {}),
        ("HHHHHHHHHmmmmmmmmmHHHmmmmmmmmm", {11: COLLAPSED, 23: COLLAPSED}),
        ("mmmmmHHHHHmmmmm", {4: NOTHING_CACHED, 12: COLLAPSED}),
    ],
)
def test_when_nothing_or_hardly_anything_comes_from_the_cache_it_warns(
    usages: str, warnings: dict[int, str]
) -> None:
    recent, found = NONE_YET, {}
    for index, each in enumerate(usages):
        recent, what = look(recent, SEEN[each])
        if what:
            found[index] = what
        assert len(recent.prompts) <= RECENT
    assert found == warnings


def test_the_line_says_what_happened_why_and_what_to_do() -> None:
    prompts = (0, 2000), (50, 3000)
    known = CacheWarning(COLLAPSED, "a b", prompts, "tools reordered", "keep them in order")
    assert known.line == (
        'the cache hit rate has collapsed in session="a b"; main cause: tools reordered; '
        "keep them in order (tokens read of the last large prompts: 0/2000, 50/3000)"
    )
    unknown = CacheWarning(NOTHING_CACHED, "s", prompts, "", "")
    assert "the upstream caches nothing" in unknown.line
