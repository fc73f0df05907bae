import json
from collections import Counter
from functools import cache
from itertools import groupby, pairwise
from typing import Any

from lib.sessions import PAUSE, Call, calls, unlucky_calls
from mitmproxy.http import Headers
from prompt_cache_key.body import Body
from prompt_cache_key.identity import find_identity, find_user
from prompt_cache_key.misses.prefix import compare


@cache
def found() -> list[Call]:
    return calls(150)


def conversations() -> list[list[Call]]:
    """The calls of each agent of a session."""

    def name(call: Call) -> tuple[str, str]:
        return call.session, str(call.headers)

    return [list(of) for _, of in groupby(sorted(found(), key=name), name)]


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
    assert len(set(users.values())) == len(users) == 3


def test_conversations_grow_at_their_end() -> None:
    assert len(conversations()) == 3 * (7 + 6)
    assert len({call.session for call in found()}) == 3 * 7
    for of in conversations():
        assert len(of) > 3
        for before, after in pairwise(of):
            assert before.at + 20 <= after.at <= before.at + 25
            assert compare(json.loads(before.body), json.loads(after.body)).end is None
            assert len(after.body) > len(before.body)
    assert calls(150) == found()


def test_what_conversations_have_in_common() -> None:
    """The tools, of main agents and of subagents, and a user's project; never the attribution."""
    firsts = [json.loads(of[0].body) for of in conversations()]
    assert len({json.dumps(first["tools"]) for first in firsts}) == 2
    prompts = [first["instructions"].partition("\n\n") for first in firsts]
    assert len({attribution for attribution, _, _ in prompts}) > 30
    assert len({prompt for _, _, prompt in prompts}) == 3 * 3


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
    assert sum(call.finds_nothing_cached for call in unlucky) == 1
    assert not {call.session for call in unlucky} & {call.session for call in found()}
