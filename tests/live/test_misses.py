"""Misses named while they happen: a real mitmdump before a server that caches by prefix."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from lib.client import Client
from lib.dialects import DIALECTS
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from live.proxied import EVENTS, SESSION_HEADER, proxied
from mitmproxy import flowfilter
from prompt_cache_key.report.command import build

Body = dict[str, Any]

MISS = re.compile(r'\[prompt-cache\] miss key=\S+ session=(\S+) .* lost=(\d+) cause="(.*)"')
TOKENS = 10  # characters
ORDER = ("tools", "tool_choice", "system", "instructions", "messages", "input")


class PrefixCache:
    """Reads as much of a prompt from its cache as any before began with; `cut` rounds that down."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.cut = 1

    def __call__(self, request: Request) -> Reply:
        body = request.json
        prompt = "".join(json.dumps(body.get(name)) for name in ORDER).rstrip("]}")
        shared = max((_shared(prompt, each) for each in self.prompts), default=0)
        self.prompts.append(prompt)
        total = len(prompt) // TOKENS
        return _reply(request.target, body, total, shared // TOKENS // self.cut * self.cut)


def _shared(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _reply(target: str, body: Body, total: int, cached: int) -> Reply:
    """Return the usage as the dialect has it, as one object or as the last event."""
    usage: Body = {"input_tokens": total, "input_tokens_details": {"cached_tokens": cached}}
    message: Body = {"type": "response.completed", "response": {"usage": usage}}
    if target == DIALECTS["messages"].path:
        usage = {"input_tokens": total - cached, "cache_read_input_tokens": cached}
        message = {"type": "message_start", "message": {"usage": usage}}
    elif target == DIALECTS["chat"].path:
        usage = {"prompt_tokens": total, "prompt_tokens_details": {"cached_tokens": cached}}
        message = {"choices": [], "usage": usage}
    if not body.get("stream"):
        return Reply(body=json.dumps({"usage": usage}).encode())
    data = f"data: {json.dumps(message)}\n\n".encode()
    return Reply(headers=EVENTS, body=[data, b"data: {}\n\n"])


def conversation(dialect: str, turns: int) -> Body:
    """Return a request of so many turns, of some 5,000 tokens and 500 more for each turn."""
    roles = ["user", "assistant"] * turns
    said = [{"role": role, "content": f"{role} {at // 2} " * 200} for at, role in enumerate(roles)]
    body = {
        "model": "m",
        "metadata": {"user_id": ""},
        "system": [{"type": "text", "text": "Be brief. " * 4000}],
        "messages": [*said, {"role": "user", "content": "go on"}],
        "tools": [{"name": n, "description": n * 2000, "input_schema": {}} for n in "abcd"],
    }
    return DIALECTS[dialect].translate(body)


CHANGES: dict[str, Callable[[Body], Body]] = {
    "tools reordered": lambda body: body | {"tools": body["tools"][::-1]},
    "tool removed: a": lambda body: body | {"tools": body["tools"][1:]},
    "settings changed: tool_choice": lambda body: body | {"tool_choice": "required"},
    "system prompt changed": lambda body: json.loads(
        json.dumps(body).replace("Be brief.", "Be quick.", 1)
    ),
}


class Setup(NamedTuple):
    """A mitmdump before a prefix cache; `ask` sends a request as a session."""

    proxy: Mitmdump
    cache: PrefixCache
    saved: Path

    def ask(self, session: str, dialect: str, body: Body) -> None:
        path, headers = DIALECTS[dialect].path, [(SESSION_HEADER, session)]
        with Client(self.proxy.port) as client:
            assert client.send("POST", path, headers, json.dumps(body).encode()).status == 200

    def misses(self) -> list[tuple[str, int, str]]:
        """End the proxy and return what it logged: session, tokens lost, cause."""
        self.proxy.stop()
        found = filter(None, map(MISS.search, self.proxy.lines))
        return [(match[1], int(match[2]), match[3]) for match in found]


@pytest.fixture(name="setup")
def _setup(tmp_path: Path) -> Iterator[Setup]:
    cache, saved = PrefixCache(), tmp_path / "saved.flows"
    with proxied(cache, args=["-w", str(saved)]) as (_, proxy):
        yield Setup(proxy, cache, saved)


def test_each_change_is_one_miss_with_its_cause(setup: Setup) -> None:
    expected = []
    for dialect, stream, (cause, change) in product(DIALECTS, (False, True), CHANGES.items()):
        session = str(uuid4())
        setup.cache.prompts.clear()
        for turns in (1, 2):  # what is new was never cached, so no miss
            setup.ask(session, dialect, conversation(dialect, turns) | {"stream": stream})
        body = conversation(dialect, 3) | {"stream": stream}
        setup.ask(session, dialect, change(body))
        expected.append((session, cause))
    misses = setup.misses()
    assert [(session, cause) for session, _, cause in misses] == expected
    assert all(lost > 3000 for _, lost, _ in misses)
    report = build(setup.saved, flowfilter.parse("~all"), None, None)
    assert report.sums.lost_tokens == sum(lost for _, lost, _ in misses)
    assert report.sums.misses == len(misses)


def test_no_miss(setup: Setup) -> None:
    session = str(uuid4())
    setup.cache.cut = 2048
    for turns in range(4):
        setup.ask(session, "chat", conversation("chat", turns))
    other = {"model": "m", "messages": [{"role": "user", "content": "A title? " * 4000}]}
    setup.ask(session, "chat", other)
    assert setup.misses() == []
