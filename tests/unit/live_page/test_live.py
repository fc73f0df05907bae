import json

import pytest
from prompt_cache_key.live_page import live
from prompt_cache_key.live_page.live import HEADERS, MAX_REQUESTS, MAX_TEXT, Recent
from unit.requests_made import TIME, finished, miss


def recent_of(*sessions: str) -> Recent:
    recent = Recent()
    for session in sessions:
        recent.add(finished(session=session))
    return recent


def test_requests_are_kept_without_bodies_and_long_texts() -> None:
    recent = Recent()
    recent.add(
        finished(
            body=b"prompt",
            model="\x1b" * 10**6,
            project="\u202ex",
            miss=miss(cause="c" * 10**6, before="b" * 10**6),
        )
    )
    [kept] = recent()
    assert kept.body == b""
    assert kept.model.startswith("\\x1b")
    assert kept.project == "\\u202ex"
    assert kept.miss
    assert kept.miss.missed == 6500
    assert max(map(len, (kept.model, kept.miss.cause, kept.miss.before))) == MAX_TEXT
    assert kept._replace(model="", project="", miss=None) == finished(model="")


def test_only_the_last_requests_are_kept() -> None:
    requests = recent_of(*map(str, range(MAX_REQUESTS + 1)))()
    assert [requests[0].session, requests[-1].session] == ["1", str(MAX_REQUESTS)]
    assert len(requests) == MAX_REQUESTS
    assert b"live, the last 1,000 requests" in live.html(requests, "", TIME).body


def test_the_page() -> None:
    headers, body = live.html(recent_of("abc")(), "", TIME)
    policy = headers.pop("Content-Security-Policy")
    assert policy.endswith("; frame-ancestors 'none'")
    assert policy.partition("; frame-ancestors")[0].encode() in body
    assert headers.pop("ETag")
    assert headers == HEADERS | {"Content-Type": "text/html; charset=utf-8"}
    assert body.startswith(b"<!doctype html>")
    assert b"<code>abc</code>" in body
    assert b"claude --resume" in live.html([], "claude --resume", TIME).body


def test_the_tag_is_that_of_the_content() -> None:
    tags = [
        live.html(recent_of(*names)(), "", TIME).headers["ETag"]
        for names in (["a"], ["a"], ["a", "b"])
    ]
    assert tags[0] == tags[1] != tags[2]


@pytest.mark.parametrize(
    ("query", "sessions"),
    [
        ("", ["abc", "d e"]),
        ("session=abc", ["abc"]),
        ("session=d+e", ["d e"]),
        ("session=x", []),
        ("session=abc&session=x", ["abc"]),
        ("other=1", ["abc", "d e"]),
    ],
)
def test_the_facts(query: str, sessions: list[str]) -> None:
    headers, body = live.facts(recent_of("abc", "d e")(), query, TIME)
    assert headers["Content-Type"] == "application/json"
    facts = json.loads(body)
    assert (facts["title"], facts["sums"]["requests"]) == ("live", len(sessions))
    assert sorted(session["id"] for session in facts["sessions"]) == sessions


def test_a_query_of_many_fields_is_no_query() -> None:
    body = live.facts(recent_of("abc")(), "&".join(["session=x"] * 1000), TIME).body
    assert json.loads(body)["sums"]["requests"] == 1
