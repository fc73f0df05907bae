import json
from typing import Any

import pytest
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.stats.money import GivenPrices
from prompt_cache_key.stats.report import as_json, report_of
from prompt_cache_key.status_line import session_of, status
from unit.requests_made import finished, miss, usage

NO_JSON = [b"", b"<html>", b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("given", [b'{"session_id": 5}', b"{}", b"[]", *NO_JSON])
def test_session_of(given: bytes) -> None:
    assert session_of(given) == ""
    assert session_of(b'{"session_id": "abc", "model": {}}') == "abc"


def facts(*requests: FinishedRequest, prices: GivenPrices | None = None) -> bytes:
    """Return what the live page answers."""
    return json.dumps(as_json(report_of("live", requests, prices=prices))).encode()


PRICES = GivenPrices(2.0, 0.2, 2.5, 10.0)
FIRST = finished(1, usage(12_000, 0), is_first=True)
WARM = finished(1, usage(12_000, 11_000), is_first=True)
SECOND = finished(2, usage(14_000, 11_900))
MISSED = finished(3, usage(27_000, 2000), miss(24_000, "tool search loaded", 2000))
LAST = finished(4, usage(28_000, 27_999))
ALL = (FIRST, SECOND, MISSED, LAST)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (facts(), ""),
        (facts(finished(usage=None)), "cache ?%"),
        (facts(FIRST), "cache 0%"),
        (facts(WARM), "cache 91%"),
        (facts(FIRST, SECOND), "cache 85%, session 85%"),
        # A response without usage says nothing of the last request that had some.
        (facts(FIRST, SECOND, finished(9, usage=None)), "cache 85%, session 85%"),
        (facts(FIRST, SECOND, prices=PRICES), "cache 85%, session 85%, $0.02 saved"),
        (facts(*ALL), "cache 99%, session 60%, 1 miss of 24.0k: tool search loaded"),
        # What does not fit is left out or cut: the tokens, then the cause.
        (
            facts(*ALL, prices=PRICES),
            "cache 99%, session 60%, 1 miss: tool search lo…, $0.08 saved",
        ),
        (facts(*ALL, MISSED), "cache 99%, session 45%, 2 misses, last: tool search loaded"),
        # Several sessions, on a terminal.
        (
            facts(*ALL, SECOND._replace(time=2e9, session="t")),
            "cache 85%, all 64%, 1 miss of 24.0k: tool search loaded",
        ),
    ],
)
def test_the_numbers_of_the_proxy(answer: bytes, line: str) -> None:
    assert status(answer) == line
    assert len(line) <= 60


OWN = {
    "warm": True,
    "ttl": "5m",
    "requests": 7,
    "misses": 1,
    "hit_ratio": 0.719,
    "miss_recache_tokens": 12_000,
    "last_miss_cause": {"causes": ["tools_changed", "system_changed"]},
}


def given(**own: object) -> bytes:
    return json.dumps({"session_id": "abc", "prompt_cache": own}).encode()


@pytest.mark.parametrize(
    ("own", "line"),
    [
        (OWN, "Claude Code: cache 71%, 1 miss of 12.0k: tools changed"),
        (OWN | {"misses": 0}, "Claude Code: cache 71%"),
        (OWN | {"misses": 2, "last_miss_cause": None}, "Claude Code: cache 71%, 2 misses of 12.0k"),
        (OWN | {"hit_ratio": None}, ""),
        (OWN | {"requests": 0}, ""),
        ({}, ""),
    ],
)
def test_claude_codes_own_numbers_where_no_proxy_answers(own: Any, line: str) -> None:
    assert status(b"", given(**own)) == line


def test_claude_codes_own_hit_rate_stands_beside_the_proxys_where_it_fits() -> None:
    assert status(facts(FIRST, SECOND), given(**OWN)) == (
        "cache 85%, session 85%, Claude Code: 71%"
    )
    assert "Claude Code" not in status(facts(*ALL), given(**OWN))


def test_without_either_there_is_no_line() -> None:
    assert status(b"") == ""


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        # Another program at that port.
        ({}, ""),
        ([1], ""),
        ({"sums": 1}, ""),
        ({"sums": {"requests": 10**400}}, ""),
        ({"sums": {"requests": True}}, ""),
        ({"sums": {"requests": 1, "misses": "many"}, "sessions": 5}, "cache ?%"),
        ({"sums": {"requests": 1, "first": 0, "measured": 5, "saved": 1e400}}, "cache ?%"),
        ({"sums": {"requests": 1}, "sessions": [5, {"requests": [6, {"usage": 7}]}]}, "cache ?%"),
        (
            {
                "sums": {"requests": 1, "misses": 1, "missed": 9},
                "sessions": [{"requests": [{"miss": {"kind": "\x1b[31m\u202e" * 99}}]}],
            },
            "cache ?%, 1 miss: \\x1b[31m\\u202e\\x1b[31m\\u202e\\x1b[31m\\u202…",
        ),
    ],
)
def test_an_answer_of_another_program(answer: Any, line: str) -> None:
    assert status(json.dumps(answer).encode()) == line
    assert len(line) <= 60


@pytest.mark.parametrize("answer", NO_JSON)
def test_what_is_no_json(answer: bytes) -> None:
    assert status(answer) == ""
