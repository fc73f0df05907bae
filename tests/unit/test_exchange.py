import pytest
from prompt_cache_key.exchange import Endpoint, Exchange, thousands
from prompt_cache_key.request.speaker import Speaker
from prompt_cache_key.response.usage import Usage


@pytest.mark.parametrize(
    ("session", "model", "usage", "lost", "summary"),
    [
        ("3f6c1c1e-6d0b", "gpt-5.4", None, "", "3f6c1c1e main gpt-5.4 key=9a5f01e2"),
        ("s", "m", Usage(2048, 1920, None, 7), "", "s main m key=9a5f01e2 1920/2048 94%"),
        ("s", "m", Usage(9, None, None, 7), "", "s main m key=9a5f01e2 ?/9 ?"),
        ("s", "m", Usage(9, 0, None, 7), "9: x", "s main m key=9a5f01e2 0/9 0% lost 9: x"),
        ("s\n", "gpt 5", None, "", '"s\\n" main "gpt 5" key=9a5f01e2'),
    ],
)
def test_summary(session: str, model: str, usage: Usage | None, lost: str, summary: str) -> None:
    exchange = Exchange(Speaker(session, "main", "header"), Endpoint("h", "/", model), 0)
    exchange.key = "9a5f01e2-aaaa-4bbb-8ccc-dddddddddddd"
    assert exchange.summary(usage, lost) == summary


@pytest.mark.parametrize(("tokens", "short"), [(0, "0"), (999, "999"), (24_130, "24.1k")])
def test_thousands(tokens: int, short: str) -> None:
    assert thousands(tokens) == short
