import json
from typing import Any

import pytest
from prompt_cache_key.status_line import listener_of, session_of, status

LOST = [{"words": "tools reordered", "is_lost": True, "tokens": 24_064}]


GATEWAY = {"ANTHROPIC_BASE_URL": "http://gateway.test:9000"}
NO_JSON = [b"", b"<html>", b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("given", [b'{"session_id": 5}', b"{}", b"[]", *NO_JSON])
def test_session_of(given: bytes) -> None:
    assert session_of(given) == ""
    assert session_of(b'{"session_id": "abc", "model": {}}') == "abc"


@pytest.mark.parametrize(
    ("environment", "listener"),
    [
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:9000/v1"}, ("127.0.0.1", 9000)),
        ({"ANTHROPIC_BASE_URL": "http://localhost"}, ("localhost", 80)),
        ({"ANTHROPIC_BASE_URL": "http://[::1]:9000"}, ("::1", 9000)),
        (GATEWAY | {"HTTPS_PROXY": "http://127.0.0.1:9000"}, ("127.0.0.1", 9000)),
        (GATEWAY, ("127.0.0.1", 8080)),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:many"}, ("127.0.0.1", 8080)),
        ({}, ("127.0.0.1", 8080)),
    ],
)
def test_listener_of(environment: dict[str, str], listener: tuple[str, int]) -> None:
    assert listener_of(environment) == listener


def sums(hit: object, lost: object = 0, requests: object = 3) -> dict[str, object]:
    return {"requests": requests, "hit_percent": hit, "lost_tokens": lost}


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"sums": sums(96.2), "causes": []}, "cache 96%"),
        ({"sums": sums(None), "causes": []}, "cache ?"),
        ({"sums": sums(4, 24_064), "causes": LOST}, "cache 4%, lost 24.1k: tools reordered"),
        ({"sums": sums(None, requests=0)}, ""),
        # Another program at that port.
        ({}, ""),
        ([1], ""),
        ({"sums": 1}, ""),
        ({"sums": sums("many", "none", 1)}, "cache ?"),
        ({"sums": sums(10**400, -1, 1)}, "cache ?"),
        ({"sums": sums(4, 9), "causes": [5]}, "cache 4%, lost 9: None"),
        (
            {"sums": sums(4, 9), "causes": [{"words": "\x1b[31m\u202e" * 99}]},
            "cache 4%, lost 9: \\x1b[31m\\u202e\\x1b[31m\\u202e\\x1b[31m\\u202…",
        ),
    ],
)
def test_status(facts: Any, line: str) -> None:
    assert status(json.dumps(facts).encode()) == line


@pytest.mark.parametrize("answer", NO_JSON)
def test_what_is_no_json(answer: bytes) -> None:
    assert status(answer) == ""
