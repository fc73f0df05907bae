import json
from collections import Counter
from functools import cache
from itertools import groupby, pairwise
from typing import Any

from lib.sessions import PAUSE, TURNS, Call, calls, unlucky_calls
from mitmproxy.http import Headers
from prompt_cache_key.body import Body
from prompt_cache_key.identity import find_identity, find_user
from prompt_cache_key.misses.prefix import compare


@cache
def found() -> list[Call]:
    return calls(150)


def conversations() -> dict[tuple[str, str, bool], list[Call]]:
    """The calls of each agent of a session to each model."""

    def name(call: Call) -> tuple[str, str, bool]:
        return call.session, str(call.headers), call.is_for_small_model

    return {key: list(of) for key, of in groupby(sorted(found(), key=name), name)}


def test_calls_show_whose_they_are() -> None:
    users: dict[Any, Any] = {}
    for call in found():
        body = Body(call.body_for("gpt-6"))
        assert body.model == "gpt-6"
        headers = Headers([(name.encode(), value.encode()) for name, value in call.headers])
        identity = find_identity(headers, body)
        assert identity
        assert identity.session == call.session
        assert users.setdefault(call.user, find_user(body)) == find_user(body)
    assert len(set(users.values())) == len(users) == 5


def test_conversations_grow_at_their_end_until_they_are_cleared() -> None:
    lengths: Counter[int] = Counter()
    for name, of in conversations().items():
        lengths[len(of)] += 1
        for before, after in pairwise(of):
            assert before.at + 9 <= after.at <= before.at + 17
            assert compare(json.loads(before.body), json.loads(after.body)).end is None
            assert (len(after.body) > len(before.body)) is not name[2]
    assert max(lengths) == TURNS
    assert len({call.session for call in found()}) > 11
    assert calls(150) == found()


def test_each_session_alone_stays_below_the_limit_that_a_user_exceeds() -> None:
    minute = [call for call in found() if 60 <= call.at < 120]
    assert max(Counter(call.session for call in minute).values()) < 15
    assert max(Counter(call.user for call in minute).values()) > 2 * 15


def test_an_unlucky_session() -> None:
    unlucky = unlucky_calls()
    bodies = [json.loads(call.body) for call in unlucky]
    breaks = [compare(before, after).end for before, after in pairwise(bodies)]
    assert [end.path for end in breaks if end] == ["tools[0].name"]
    assert sum("prompt_cache_key" in body for body in bodies) == 1
    assert sum(after.at - before.at >= PAUSE for before, after in pairwise(unlucky)) == 1
    assert sum(call.finds_cache_lost for call in unlucky) == 1
    assert not {call.session for call in unlucky} & {call.session for call in found()}
