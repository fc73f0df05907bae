from typing import Any

import pytest
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.comparison import (
    MAX_COMPARED,
    MAX_MARKS,
    MAX_OPENINGS,
    MAX_SIZE,
    nearest,
    parsed,
)
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import ATTRIBUTION, Object, body, finished

FIRST = (("user", "words " * 3000),)


def request(turns: Any, time: float = 0, **parts: Any) -> FinishedRequest:
    usage = Usage(20_000, 0, None, None)
    return finished(body("chat", turns=turns, **parts), usage, time=time)


def test_nearest_shares_most() -> None:
    turns = [*FIRST, *((role, str(n)) for n in range(9) for role in ("assistant", "user"))]
    requests = [request(turns[: 2 * number + 1]) for number in range(9)]
    stranger = request(turns, tools=["other"])
    rewritten = request([*turns[:9], ("assistant", "x"), *turns[10:]])
    later = request(turns[:11])
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
        assert found.earlier == best
        assert (found.find_cause() is None) == (best is not stranger and after is later)
    assert nearest([], later) is None


def test_tokens_that_held() -> None:
    earlier, later = request([*FIRST, ("user", "y" * 18_000)]), request(FIRST, system=["other"])
    found = nearest([earlier], request([*FIRST, ("user", "z" * 18_000)]))
    assert found
    assert 7000 < found.held(10_000, 20_000) < 8000
    assert 7000 < found.held(20_000, 10_000) < 8000  # most of the earlier one is an image
    found = nearest([earlier], later)
    assert found
    assert found.held(10_000, 10_000) < 4000


def test_only_so_many_bytes_are_compared() -> None:
    large = b'{"tools":[%d]' + b" " * (MAX_SIZE - 20) + b"}"
    at_most = MAX_COMPARED // MAX_SIZE
    requests = [finished(large % n, None, time=float(at_most - n)) for n in range(at_most + 1)]
    found = nearest(requests, finished(b'{"tools":[7]}', None))
    assert found
    assert found.earlier is requests[0]
    assert nearest([finished(b"[]", None), requests[-1]], finished(b'{"tools":[7]}', None))


DEFERRED = [{"name": "B", "defer_loading": True}]


@pytest.mark.parametrize("is_anthropic", [True, False])
def test_anthropic_caches_neither_attribution_nor_deferred_tools(is_anthropic: bool) -> None:
    upstream = Upstream(is_anthropic=is_anthropic)
    bodies: list[Object] = [
        {"tools": [{"name": "A"}, *DEFERRED[number:]], "system": f"{ATTRIBUTION}{number};"}
        for number in range(2)
    ]
    earlier, later = (finished(each, None, upstream=upstream) for each in bodies)
    found = nearest([earlier], later)
    assert found
    assert (found.find_cause() is None) == is_anthropic


@pytest.mark.parametrize(
    ("raw", "members"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a":12}', {"a": 12}),
        (b'{"a":1.5}', {"a": 1.5}),
        (b'{"a":' + b"9" * 30 + b"}", {"a": 1e30}),
        (b"[]", None),
        (b"{1}", None),
        (b"\xff", None),
        (b"[" * 99_999, None),
        (b"{" + b" " * MAX_SIZE + b"}", None),
        (b'{"a":[' + b"{}," * MAX_OPENINGS + b"{}]}", None),
        (b'{"a":[' + b"0," * MAX_MARKS + b"0]}", None),
        (b'{"a":[' + b"[]," * MAX_OPENINGS + b"0]}", None),
    ],
)
def test_bodies_are_bounded_before_they_are_parsed(raw: bytes, members: Object | None) -> None:
    assert parsed(raw) == members
