from typing import Any

import pytest
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.cold_start import cold_start, may_be_cold
from prompt_cache_key.misses.comparison import MAX_MARKS
from prompt_cache_key.upstreams import RoutingHeader, Upstream
from prompt_cache_key.usage.reader import Usage
from unit.misses.prompts import ATTRIBUTION, DIALECTS, SYSTEM, Object, body, finished

NOTHING = Usage(12_000, 0, None, None)
LARGE = b'{"tools":[' + b"0," * (MAX_MARKS - 9) + b"0]}"


def first(dialect: str, session: str, *, cch: str = "1", **parts: Any) -> FinishedRequest:
    """Return the first request of a session in one project."""
    system = [f"{ATTRIBUTION}{cch};", *SYSTEM]
    usual: Object = {"system": system, "turns": [("user", f"{session} " * 100)]}
    return finished(body(dialect, **usual | parts), NOTHING, session=session)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("kind", "parts", "fields"),
    [
        ("attribution block changed", {"cch": "2"}, {}),
        ("tool added", {"tools": ["Bash", "Edit", "Read", "Write"]}, {}),
        ("tools reordered", {"tools": ["Read", "Bash", "Edit"]}, {}),
        ("system prompt changed", {"system": [f"{ATTRIBUTION}1;", "Other.", SYSTEM[1]]}, {}),
        ("settings changed", {"tool_choice": "none"}, {}),
        ("prompt_cache_key changed", {"cch": "2"}, {"key": "l"}),
        (None, {"cch": "2"}, {"routing": (("x-a", "2"),)}),  # the upstream routes by session
        (None, {}, {}),  # nothing differs that can be seen here
        (None, {"tools": ["X"], "system": ["Something else."]}, {}),  # it does not begin alike
        (None, {"cch": "2"}, {"time": 601.0}),  # it was too long ago
        (None, {"cch": "2"}, {"usage": Usage(2060, 0, None, None)}),  # little to read
    ],
)
def test_a_new_conversation_that_read_nothing(
    dialect: str, kind: str | None, parts: Object, fields: Object
) -> None:
    earlier = first(dialect, "a")
    found = cold_start([earlier], first(dialect, "b", **parts)._replace(**fields))
    assert (found and found.kind) == kind
    if found:
        assert found.cached == 0
        assert 9000 < found.expected < 12_000  # tools and system prompt
        assert found.remedy


@pytest.mark.parametrize(
    ("upstream", "helps"),
    [
        (Upstream(), True),
        (Upstream(headers=(RoutingHeader("x-a"),)), True),
        (Upstream(headers=(RoutingHeader("x-a", "session"),)), False),
        (Upstream(is_limited=True), False),
    ],
)
def test_another_key_is_a_cause_where_a_shared_one_helps(upstream: Upstream, helps: bool) -> None:
    new = first("chat", "b")._replace(key="l", routing=(("x-a", "l"),), upstream=upstream)
    found = cold_start([first("chat", "a")], new)
    assert bool(found) == helps
    assert not found or "prompt_cache_scope=user" in found.remedy


def test_the_first_that_begins_alike_is_taken() -> None:
    stranger = first("chat", "c", tools=["X"], system=["Something else."])
    no_usage = first("chat", "c", cch="2")._replace(usage=None)
    broken = first("chat", "c")._replace(body=b"{1}")
    others = [stranger, no_usage, broken, first("chat", "a", tool_choice="none")]
    found = cold_start(others, first("chat", "b"))
    assert found
    assert found.kind == "settings changed"
    # nothing differs from one that read nothing either
    assert cold_start([*others, first("chat", "a")], first("chat", "b")) is None


@pytest.mark.parametrize("marker", [{}, {"ttl": "1h"}])
def test_at_anthropic(marker: Object) -> None:
    """The attribution is no cause there, and `cache_control` is the retention."""
    old, new = (first("messages", name, cch=name, cache_control=marker) for name in "ab")
    new = new._replace(time=200.0, upstream=Upstream(is_anthropic=True))
    assert cold_start([old], new) is None
    old = first("messages", "a", tool_choice="none", cache_control=marker)
    assert cold_start([old], new)
    assert (cold_start([old], new._replace(time=400.0)) is None) == (not marker)


def test_what_cannot_be_compared() -> None:
    large = first("chat", "a")._replace(body=LARGE)
    assert cold_start([large], large._replace(session="b")) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (NOTHING, True),
        (NOTHING._replace(cached=128), False),
        (NOTHING._replace(cached=None), False),
        (NOTHING._replace(is_certain=False), False),
        (NOTHING._replace(input=2048), False),
        (None, False),
    ],
)
def test_may_be_cold(usage: Usage | None, expected: bool) -> None:
    assert may_be_cold(first("chat", "a")._replace(usage=usage)) == expected
