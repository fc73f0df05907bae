import pytest
from prompt_cache_key.exchange import Exchange, Speaker
from prompt_cache_key.judge.totals import Totals
from prompt_cache_key.response.usage import Usage


@pytest.mark.parametrize(
    ("speaker", "usage", "summary"),
    [
        (
            Speaker("3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a", "main", "gpt-5.4"),
            None,
            "3f6c1c1e main gpt-5.4 key=9a5f01e2",
        ),
        (Speaker("s", "a1", "m"), Usage(2048, 1920, None, 7), "s a1 m key=9a5f01e2 1920/2048 94%"),
        (Speaker("s", "a\n", "gpt 5"), None, 's "a\\n" "gpt 5" key=9a5f01e2'),
    ],
)
def test_summary(speaker: Speaker, usage: Usage | None, summary: str) -> None:
    key = "9a5f01e2-aaaa-4bbb-8ccc-dddddddddddd"
    total = Totals().request(*speaker, key, "new")
    assert Exchange(speaker, key, "new", total).summary(usage) == summary


def test_of_the_calls_for_a_request_each_counts_and_it_does_not() -> None:
    totals = Totals()
    speaker = Speaker("s", "main", "m")
    front, *calls = (
        Exchange(speaker, "key", "new", totals.request(*speaker, "key", "new")) for _ in range(3)
    )
    front.replace_cause()
    assert totals.all.requests == 3
    for call in calls:
        call.cause = front
        call.replace_cause()
        assert totals.all.requests == 2
    assert front.is_replaced
    assert not any(call.is_replaced for call in calls)
