import json
from typing import Any

import pytest
from prompt_cache_key.live_page import live
from prompt_cache_key.live_page.live import HEADERS, NAME, Ask, Recent
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.stats.facts import RequestFacts
from prompt_cache_key.usage.reader import Usage

PATH = "/prompt-cache"
ASK = Ask("GET", "127.0.0.1:8080", PATH, {}, "127.0.0.1", "127.0.0.1", 8080)
REQUEST = RequestFacts(
    1.8e9, "main", "gpt-5", "http://host/v1/responses", "k", Usage(25_000, 24_000, None, 9)
)
VERDICT = Miss(24_000, 0, "tools reordered", "tools reordered", "tools[1]", 9, "<a>", "<b>")


def one_of(**values: list[Any]) -> list[dict[str, Any]]:
    return [{name: value} for name, each in values.items() for value in each]


@pytest.mark.parametrize(
    "changed",
    [
        *one_of(method=["GET", "HEAD"], path=[PATH + ".json", PATH + ".json?session=abc"]),
        *one_of(host=["localhost:8080", "LOCALHOST:8080", NAME]),
        {"host": NAME, "path": "/"},
        {"host": "localhost", "port": 80},
        {"host": "[::1]:8080", "client": "::1", "listener": "::1"},
        {"client": "::ffff:127.0.0.1", "listener": "::ffff:127.0.0.1"},
        {"client": "192.168.1.5", "listener": "192.168.1.5", "host": "192.168.1.5:8080"},
    ],
)
def test_what_is_answered(changed: dict[str, Any]) -> None:
    assert live.is_ours(ASK._replace(**changed), PATH)


@pytest.mark.parametrize(
    "changed",
    [
        *one_of(method=["POST", "OPTIONS"], path=["/", PATH + "/", PATH + ".html", "/v1" + PATH]),
        *one_of(host=["", "127.0.0.1", "127.0.0.1:8081", "evil.example:8080"]),
        *one_of(host=["localhost.evil.example:8080", f"{NAME}.evil.example"]),
        *one_of(client=["", "127.0.0.1.evil.example", "192.168.1.6"]),
        {"client": "192.168.1.6", "listener": "192.168.1.5", "host": NAME},
        *one_of(headers=[{"x-forwarded-for": "203.0.113.9"}, {"via": "1.1 proxy"}]),
    ],
)
def test_what_is_not_ours(changed: dict[str, Any]) -> None:
    assert not live.is_ours(ASK._replace(**changed), PATH)


def test_no_page_at_all() -> None:
    assert not live.is_ours(ASK._replace(path=""), "")
    assert not live.is_ours(ASK._replace(path=".json"), "")


@pytest.mark.parametrize(
    ("client", "near"),
    [("127.9.9.9", True), ("::1%lo", True), ("fe80::1%eth0", False), ("::ffff:10.0.0.1", False)],
)
def test_addresses(client: str, near: bool) -> None:
    assert live.is_near(client, "10.0.0.2") is near


@pytest.mark.parametrize(
    ("head", "host"),
    [
        (b"GET /x HTTP/1.1\r\nHost: localhost:80\r\nA: b\r\n\r\n", "localhost:80"),
        (b"HEAD / HTTP/1.0\r\nhOST:\ta \r\n\r\n", "a"),
        (b"GET /x HTTP/1.1\r\nA: b\r\n\r\n", ""),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ""),
        (b"GET /x HTTP/1.1\r\nHost: a\r\n", ""),
        (b"GET /x HTTP/1.1\r\nX: Y\r\n\r\nHost: a\r\n\r\n", ""),
        (b"POST /x HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        (b"\x16\x03\x01GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
    ],
)
def test_host_of(head: bytes, host: str) -> None:
    assert live.host_of(head) == host


def test_the_page() -> None:
    recent = Recent()
    recent.add("abc", REQUEST)
    recent.add("</script>\x1b", REQUEST._replace(model="\x1b" * 10**6, miss=VERDICT))
    headers, body = live.answer(ASK, recent.copy())
    assert headers == HEADERS | {"Content-Type": "text/html; charset=utf-8"}
    page = body.decode()
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "tools reordered" in page
    assert "&lt;a&gt;" in page
    assert "<script" not in page
    assert "</script" not in page
    assert "\x1b" not in page
    assert len(page) < 20_000
    assert live.answer(ASK._replace(method="HEAD"), recent.copy()) == (headers, b"")
    assert b"<h1>" in live.answer(ASK, []).body


@pytest.mark.parametrize(
    ("query", "sessions"),
    [
        ("", ["abc", '"d e"']),
        ("?session=abc", ["abc"]),
        ("?session=d+e", ['"d e"']),
        ("?session=x", []),
    ],
)
def test_the_json(query: str, sessions: list[str]) -> None:
    recent = Recent()
    recent.add("abc", REQUEST)
    recent.add("d e", REQUEST)
    headers, body = live.answer(ASK._replace(path=f"{PATH}.json{query}"), recent.copy())
    assert headers == HEADERS | {"Content-Type": "application/json"}
    facts = json.loads(body)
    assert (facts["title"], facts["sums"]["requests"]) == ("live", len(sessions))
    assert [session["id"] for session in facts["sessions"]] == sessions


def test_only_the_last_requests_are_kept() -> None:
    recent = Recent()
    for number in range(live.MAX_REQUESTS + 1):
        recent.add(str(number), REQUEST)
    sessions = [session for session, _ in recent.copy()]
    assert (sessions[0], sessions[-1], len(sessions)) == (
        "1",
        str(live.MAX_REQUESTS),
        live.MAX_REQUESTS,
    )
    assert b"live, the last 1,000 requests" in live.answer(ASK, recent.copy()).body
