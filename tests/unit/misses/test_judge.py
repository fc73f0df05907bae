import json
from typing import Any

import pytest
from prompt_cache_key.misses.judge import MAX_SIZE, Sent, judge, may_have_lost, nearest
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import COUNTDOWN, Object, body

KEEP = 600.0
FIRST = (("user", "words " * 3000),)
LATER = (*FIRST, ("assistant", "an answer"), ("user", "more"))


def sent(request: Object, cached: int | None = 0, *, tokens: int = 20_000, time: float = 0) -> Sent:
    usage = Usage(tokens, cached, None, None)
    return Sent(time, "k", json.dumps(request).encode(), usage)


BEFORE, AFTER = sent(body("chat", turns=FIRST)), sent(body("chat", turns=LATER), time=1)
BROKEN = sent(body("chat", turns=LATER, tools=["X"]), time=1)


@pytest.mark.parametrize(
    ("before", "now", "cached", "lost"),
    [
        (20_000, 21_000, 20_000, 0),
        (20_000, 21_000, 20_000 - 2048, 0),
        (20_000, 21_000, 20_000 - 2049, 2049),
        (20_000, 10_000, 0, 10_000),  # it can't be more than the prompt has
        (100_000, 110_000, 90_000, 0),  # a tenth
        (100_000, 110_000, 89_999, 10_001),
        (2048, 2048, 0, 0),
        (20_000, 21_000, None, 0),  # no cache data
    ],
)
def test_lost(before: int, now: int, cached: int | None, lost: int) -> None:
    earlier = [sent(body("chat", turns=FIRST), tokens=before)]
    later = sent(body("chat", turns=LATER), cached, tokens=now, time=1)
    found = judge(earlier, later, KEEP)
    assert (found.missed if found else 0) == lost
    assert may_have_lost(earlier, later) == bool(lost)


@pytest.mark.parametrize(
    ("cause", "later", "more"),
    [
        ("the upstream's own", AFTER, {}),
        ("more than 15 requests a minute", AFTER, {"is_busy": True}),
        ("a pause of 10m", AFTER._replace(time=601), {"is_busy": True}),
        ("a pause of 119s", AFTER._replace(time=119.9), {"keep": 60}),
        ("a pause of 2m", AFTER._replace(time=120), {"keep": 60}),
        ("a pause of 5h", AFTER._replace(time=5 * 3600), {}),
        ("a pause of 3d", AFTER._replace(time=3.5 * 86400), {}),
        ("tool added: X", BROKEN._replace(time=601), {"is_busy": True}),
        ("the key changed", BROKEN._replace(time=601, key="l"), {}),
        ("tools_changed", BROKEN._replace(key="l"), {"diagnosis": "tools_changed"}),
        ("a\\x1b" + "a" * 254, AFTER, {"diagnosis": "a\x1b" + "a" * 999}),
    ],
)
def test_causes(cause: str, later: Sent, more: dict[str, Any]) -> None:
    found = judge([BEFORE], later, **{"keep": KEEP} | more)
    assert found
    assert (found.cause, found.expected, found.missed) == (cause, 20_000, 20_000)


def test_where_and_what_to_do() -> None:
    broken = Miss(20_000, 0, "tool added: X", "tools[0].function.name", 0, "Bash", "X", "")
    assert judge([BEFORE], BROKEN, KEEP) == broken
    assert judge([BEFORE], BROKEN, KEEP, "said") == broken._replace(cause="said")
    kinds = [broken._replace(cause=cause).kind for cause in (broken.cause, "a pause of 2m", "own")]
    assert kinds == ["tool added", "a pause", "own"]
    changed = judge([BEFORE._replace(key="j\x1b")], AFTER, KEEP)
    assert changed
    assert changed[3:7] == ("prompt_cache_key", 0, "j\\x1b", "k")
    assert changed.remedy.startswith("prompt_cache_keys=derived")
    busy = judge([BEFORE], AFTER, KEEP, is_busy=True)
    assert busy
    assert busy[3:7] == ("", 0, "", "")
    assert busy.remedy.startswith("prompt_cache_scope=agent")


LARGE = b'{"model":"m"' + b" " * MAX_SIZE + b"}"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ([], AFTER),
        ([BEFORE._replace(time=2)], AFTER),  # it was sent later and answered sooner
        ([BEFORE._replace(usage=None)], AFTER),
        ([BEFORE], AFTER._replace(usage=None)),
        ([BEFORE._replace(content=b"[]")], AFTER),
        ([BEFORE], AFTER._replace(content=b"{1}")),
        ([BEFORE._replace(content=LARGE)], AFTER),
        ([BEFORE], AFTER._replace(content=LARGE)),
        # a conversation of its own
        ([AFTER], sent(body("chat", turns=[("user", "a"), ("user", "b")]), time=1)),
        ([AFTER], sent(body("responses", turns=FIRST), time=1)),
        # another one of which nothing is left
        ([AFTER], sent(body("chat", tools=["X"], turns=[("user", "a"), *LATER[1:]]), time=1)),
        # what it shares most with is another one's, but too short to lose much of
        ([sent(body("chat", turns=FIRST), tokens=2000), sent(body("chat", tools=["X"]))], AFTER),
    ],
)
def test_no_verdict(earlier: list[Sent], later: Sent) -> None:
    assert judge(earlier, later, KEEP) is None


@pytest.mark.parametrize(
    ("cause", "last", "time"),
    [
        ("the upstream's own", "other", 1),
        ("a pause of 10m", "other", 601),
        ("messages removed", None, 601),
        ("messages rewritten", "words " * 3000, 601),
    ],
)
def test_a_break_that_costs_little_is_no_cause(cause: str, last: str | None, time: float) -> None:
    turns = [*LATER, ("user", last)] if last else LATER[:2]
    earlier = sent(body("chat", turns=[*LATER, ("user", (last or "more").upper())]))
    found = judge([earlier], sent(body("chat", turns=turns), time=time), KEEP)
    assert found
    assert found.cause == cause


def test_what_the_upstream_remembers_goes_on() -> None:
    earlier = sent(body("responses", turns=FIRST))
    later = sent(body("responses", turns=LATER[2:], previous_response_id="resp_1"), time=1)
    found = judge([earlier], later, KEEP)
    assert found
    assert found.cause == "the upstream's own"


def test_nearest() -> None:
    turns = [*FIRST, *((role, str(n)) for n in range(9) for role in ("assistant", "user"))]
    requests = [sent(body("chat", turns=turns[: 2 * number + 1])) for number in range(9)]
    stranger = sent(body("chat", tools=["other"], turns=turns))
    rewritten = sent(body("chat", turns=[*turns[:9], ("assistant", "x"), *turns[10:]]))
    later = sent(body("chat", turns=turns[:11]))
    for earlier, best, after in [
        (requests[:6], requests[5], later),
        (requests[:3], requests[2], later),
        ([requests[1], stranger], requests[1], later),
        ([stranger], stranger, later),
        ([later, later._replace(time=2), later._replace(time=1)], later._replace(time=2), later),
        ([requests[0], requests[6]], requests[6], rewritten),
    ]:
        found = nearest(earlier, after)
        assert found
        assert found.sent == best
        assert (found.find_break() is None) == (best is not stranger and after is later)
    assert nearest([], later) is None


@pytest.mark.parametrize(
    ("cached", "read", "cause"),
    [
        (0, 0, "the upstream's own"),
        (12_000, 0, "total_tokens countdown"),
        (12_000, 12_000, "total_tokens countdown"),
        (12_000, 18_000, "the upstream's own"),  # what is behind here does not move them
        (16_000, 0, "the upstream's own"),
    ],
)
def test_a_countdown_that_is_moved_behind_here(cached: int, read: int, cause: str) -> None:
    turns = [("user", "x" * 40_000)]
    count = ("system", COUNTDOWN.format(9))
    front: Object = {"tools": [], "system": ["x" * 40_000]}
    before = sent(body("messages", turns=turns, **front), read)
    later = sent(body("messages", turns=[*turns, *LATER[1:], count], **front), cached, time=1)
    found = judge([before], later, KEEP)
    assert found
    assert found.cause == cause
