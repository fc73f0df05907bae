from typing import Any

import pytest
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.comparison import MAX_SIZE
from prompt_cache_key.misses.judge import judge, may_have_missed
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import ATTRIBUTION, COUNTDOWN, Object, body, finished

FIRST = (("user", "words " * 3000),)
LATER = (*FIRST, ("assistant", "an answer"), ("user", "more"))
KEY, SERVER_SIDE = "prompt_cache_key changed", "server-side: evicted or rerouted"
SHORT = Upstream(retention=60)
ANTHROPIC = Upstream(is_anthropic=True)


def sent(
    request: Object, cached: int | None = 0, *, tokens: int = 20_000, **fields: Any
) -> FinishedRequest:
    return finished(request, Usage(tokens, cached, None, None), **fields)


BEFORE, AFTER = sent(body("chat", turns=FIRST)), sent(body("chat", turns=LATER), time=1)
CHANGED = sent(body("chat", turns=LATER, tools=["X"]), time=1)


@pytest.mark.parametrize(
    ("before", "now", "cached", "missed"),
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
def test_missed_tokens(before: int, now: int, cached: int | None, missed: int) -> None:
    earlier = [sent(body("chat", turns=FIRST), tokens=before)]
    later = sent(body("chat", turns=LATER), cached, tokens=now, time=1)
    found = judge(earlier, later)
    assert (found.missed if found else 0) == missed
    assert may_have_missed(earlier, later) == bool(missed)


@pytest.mark.parametrize(
    ("cause", "later", "is_busy"),
    [
        (SERVER_SIDE, AFTER, False),
        ("over 15 requests a minute", AFTER, True),
        ("expired: idle for 10m", AFTER._replace(time=601), True),
        ("expired: idle for 119s", AFTER._replace(time=119.9, upstream=SHORT), False),
        ("expired: idle for 40m", AFTER._replace(time=40 * 60), False),
        ("expired: idle for 5h", AFTER._replace(time=5 * 3600), False),
        ("expired: idle for 3d", AFTER._replace(time=3.5 * 86400), False),
        ("routing header changed", AFTER._replace(routing=(("x-a", "2"),)), True),
        ("expired: idle for 10m", AFTER._replace(time=601, routing=(("x-a", "2"),)), False),
        ("tool added: X", CHANGED._replace(time=601, routing=(("x-a", "2"),)), True),
        (KEY, CHANGED._replace(time=601, key="l"), True),
        ("tools changed", CHANGED._replace(key="l", diagnosis="tools changed"), False),
        ("a\\x1b" + "a" * 254, AFTER._replace(diagnosis="a\x1b" + "a" * 999), False),
    ],
)
def test_the_first_cause_that_applies(cause: str, later: FinishedRequest, is_busy: bool) -> None:
    found = judge([BEFORE], later, is_busy=is_busy)
    assert found
    assert (found.cause, found.expected, found.missed) == (cause, 20_000, 20_000)
    assert found.kind == cause.partition(":")[0]


def test_where_the_prompt_changed_and_what_to_do() -> None:
    found = judge([BEFORE], CHANGED)
    assert found
    assert found[4:8] == ("tools[0].function.name", 0, "Bash", "X")
    said = judge([BEFORE], CHANGED._replace(diagnosis="said"))
    assert said == found._replace(cause="said", kind="said")
    said = judge([BEFORE], AFTER._replace(diagnosis="said"))
    assert said
    assert (said.path, said.remedy.partition(":")[0]) == ("", "nothing to set")


@pytest.mark.parametrize(
    ("earlier", "later", "remedy"),
    [
        ({"key": "j\x1b"}, {"key_state": "new"}, "prompt_cache_ttl"),
        ({"key": "j\x1b"}, {"key_state": "kept"}, "prompt_cache_overwrite=true"),
        ({"key": "j\x1b", "key_state": "forgotten"}, {"key_state": "new"}, "promptcache.forget"),
    ],
)
def test_the_remedy_of_a_changed_key(earlier: Object, later: Object, remedy: str) -> None:
    """By expiry or a restart, by the client, by `forget`."""
    found = judge([BEFORE._replace(**earlier)], AFTER._replace(**later))
    assert found
    assert found[3:8] == (KEY, "prompt_cache_key", 0, "j\\x1b", "k")
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("before", "after", "was", "is_"),
    [
        ((("x-a", "1\x1b"),), (("x-a", "2"),), "1\\x1b", "2"),
        ((), (("x-a", "2"),), "", "2"),
        ((("x-a", "1"),), (), "1", ""),  # a held request gets no header
    ],
)
def test_routing_header(before: Any, after: Any, was: str, is_: str) -> None:
    found = judge([BEFORE._replace(routing=before)], AFTER._replace(routing=after))
    assert found
    assert (found.kind, found.path) == ("routing header changed", "x-a")
    assert (found.before, found.after) == (was, is_)


BLOCKS: Any = [("user", [{"type": "text", "text": "another one"}]), ("assistant", "b")]
LARGE = b'{"model":"m"' + b" " * MAX_SIZE + b"}"
DEEP = b'{"messages":' + b"[" * 5000 + b"1" + b"]" * 5000 + b"}"
MANY = b'{"messages":[' + b"0," * 240_000 + b"%d]}"
WORDS = b'{"tools":[' + b'{"content":[' * 5000 + b'"1"' + b"]}" * 5000 + b"]}"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ([], AFTER),
        ([BEFORE._replace(time=2)], AFTER),  # it was sent later and answered sooner
        ([BEFORE._replace(usage=None)], AFTER),
        ([BEFORE], AFTER._replace(usage=None)),
        ([BEFORE._replace(usage=Usage(20_000, 0, None, None, is_certain=False))], AFTER),
        ([BEFORE], AFTER._replace(usage=Usage(20_000, 0, None, None, is_certain=False))),
        ([BEFORE], AFTER._replace(session="?")),
        ([BEFORE._replace(body=b"[]")], AFTER),
        ([BEFORE], AFTER._replace(body=b"{1}")),
        ([BEFORE._replace(body=LARGE)], AFTER),
        ([BEFORE], AFTER._replace(body=LARGE)),
        ([BEFORE._replace(body=DEEP)], AFTER._replace(body=DEEP)),
        ([BEFORE._replace(body=MANY % 1)], AFTER._replace(body=MANY % 2)),
        ([BEFORE._replace(body=WORDS)], AFTER._replace(body=WORDS.replace(b"1", b"2"))),
        # a conversation of its own
        ([AFTER], sent(body("chat", turns=[("user", "a"), ("user", "b")]), time=1)),
        ([AFTER], sent(body("responses", turns=FIRST), time=1)),
        # sent before the first answer began, as a retry and a question on the side
        ([BEFORE._replace(answered=2)], AFTER),
        # of subagents that began alike, as old clients name them
        ([AFTER], sent(body("chat", turns=[("user", "a"), ("assistant", "b")]), time=1)),
        ([AFTER], sent(body("chat", turns=BLOCKS), time=1)),
        ([AFTER], sent(body("chat", turns=[("user", "a"), LATER[1], ("user", "b")]), time=1)),
        # another one of which nothing is left
        ([AFTER], sent(body("chat", tools=["X"], turns=[("user", "a"), *LATER[1:]]), time=1)),
        # what it shares most with is another one's, but too short to lose much of
        ([sent(body("chat", turns=FIRST), tokens=2000), sent(body("chat", tools=["X"]))], AFTER),
    ],
)
def test_not_judged(earlier: list[FinishedRequest], later: FinishedRequest) -> None:
    assert judge(earlier, later) is None


@pytest.mark.parametrize(
    ("kind", "last", "time"),
    [
        ("server-side", "other", 1),
        ("expired", "other", 601),
        ("messages removed", None, 601),
        ("messages rewritten", "words " * 3000, 601),
    ],
)
def test_a_change_that_costs_little_is_no_cause(kind: str, last: str | None, time: float) -> None:
    turns = [*LATER, ("user", last)] if last else LATER[:2]
    earlier = sent(body("chat", turns=[*LATER, ("user", (last or "more").upper())]))
    found = judge([earlier], sent(body("chat", turns=turns), time=time))
    assert found
    assert found.kind == kind


def test_a_first_message_that_changed_before_what_the_user_wrote() -> None:
    reminder, wrote = ({"type": "text", "text": f"{n} " * 9000} for n in ("old", "wrote"))
    old: Any = [("user", [reminder, wrote])]
    new: Any = [("user", [reminder | {"text": "new"}, wrote]), ("assistant", "b"), ("user", "c")]
    earlier, later = (sent(body("messages", turns=each)) for each in (old, new))
    found = judge([earlier], later)
    assert found
    assert found.kind == "messages rewritten"


def test_what_the_upstream_remembers_goes_on() -> None:
    earlier = sent(body("responses", turns=FIRST))
    later = sent(body("responses", turns=LATER[2:], previous_response_id="resp_1"), time=1)
    found = judge([earlier], later)
    assert found
    assert found.kind == "server-side"


@pytest.mark.parametrize(
    ("cached", "read", "time", "kind"),
    [
        (0, 0, 1, "server-side"),
        (12_000, 0, 1, "total_tokens countdown"),
        (12_000, 12_000, 1, "total_tokens countdown"),
        (12_000, 12_000, 601, "total_tokens countdown"),
        (12_000, 18_000, 1, "server-side"),  # what is behind here does not move them
        (16_000, 0, 1, "server-side"),
    ],
)
def test_a_countdown_that_is_moved_behind_here(
    cached: int, read: int, time: float, kind: str
) -> None:
    turns = [("user", "x" * 40_000)]
    count = ("system", COUNTDOWN.format(9))
    front: Object = {"tools": [], "system": ["x" * 40_000]}
    before = sent(body("messages", turns=turns, **front), read)
    later = sent(body("messages", turns=[*turns, *LATER[1:], count], **front), cached, time=time)
    found = judge([before], later)
    assert found
    assert found.kind == kind
    there = later._replace(upstream=ANTHROPIC, time=1)  # system messages stay where they are
    found = judge([before], there)
    assert found
    assert found.kind == "server-side"


# --- Anthropic ------------------------------------------------------------------------------------

FIVE, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


def marked(*markers: Object | None, turns: Any = FIRST, cch: int = 0) -> FinishedRequest:
    """Return a request with these `cache_control`s: of the body, a tool, a block, a message."""
    request = body("messages", turns=turns, system=[f"{ATTRIBUTION}{cch};", "be brief"])
    request["messages"][0]["content"] = [{"type": "text", "text": turns[0][1]}]
    places = (
        request,
        request["tools"][0],
        request["system"][1],
        request["messages"][0]["content"][0],
    )
    for place, marker in zip(places, markers, strict=False):
        place["cache_control"] = marker
    return sent(request, upstream=ANTHROPIC, key="")


@pytest.mark.parametrize(
    ("markers", "seconds"),
    [
        ((), 300),
        ((FIVE,), 300),
        ((HOUR,), 3600),
        ((None, HOUR, HOUR, HOUR), 3600),
        ((None, HOUR, HOUR, FIVE), 300),  # what stands behind the last hour's goes first
        ((None, None, None, FIVE), 300),
        ((None, None, FIVE, HOUR), 300),
        ((None, 7, {"ttl": "1h"}), 3600),
    ],
)
@pytest.mark.parametrize(
    ("agent", "switch"),
    [("main", "CLAUDE_CODE_PROMPT_CACHE_TTL"), ("a1", "CLAUDE_CODE_SUBAGENT_PROMPT_CACHE_TTL")],
)
def test_anthropic_keeps_a_prompt_for_as_long_as_it_was_asked_to(
    markers: Any, seconds: int, agent: str, switch: str
) -> None:
    """The attribution block changes with each request, and is never the cause."""
    before = marked(*markers)
    after = marked(*markers, turns=LATER, cch=1)._replace(agent=agent)
    for time, kind in ((seconds - 1.0, "server-side"), (seconds + 1.0, "expired")):
        found = judge([before], after._replace(time=time))
        assert found
        assert (found.kind, found.path) == (kind, "")
        is_asked = kind == "expired" and seconds == 300
        assert (switch in found.remedy) == is_asked
