"""Misses named while they happen: a real mitmdump before a server that caches by prefix."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib.client import Client
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from mitmproxy import flowfilter
from prompt_cache_key.show.report import build

Body = dict[str, Any]

MISS = re.compile(r'\[prompt-cache\] miss key=\S+ session=(\S+) .* lost=(\d+) cause="(.*)"')
TOKENS = 10  # characters
MESSAGES, CHAT, RESPONSES = "/v1/messages", "/v1/chat/completions", "/v1/responses"
ORDER = ("tools", "tool_choice", "system", "instructions", "messages", "input")


class PrefixCache:
    """Reads as much of a prompt from its cache as any before began with; `cut` rounds that down."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.cut = 1

    def __call__(self, request: Request) -> Reply:
        body = request.json
        prompt = "".join(json.dumps(body.get(name)) for name in ORDER).rstrip("]}")
        shared = max((len(_common(prompt, each)) for each in self.prompts), default=0)
        self.prompts.append(prompt)
        total = len(prompt) // TOKENS
        return _reply(request.target, body, total, shared // TOKENS // self.cut * self.cut)


def _common(one: str, other: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[:at]


def _reply(target: str, body: Body, total: int, cached: int) -> Reply:
    """Return the usage as the dialect has it, as one object or as the last event."""
    usage: Body
    message: Body
    if target == MESSAGES:
        usage = {"input_tokens": total - cached, "cache_read_input_tokens": cached}
        message = {"type": "message_start", "message": {"usage": usage}}
    elif target == CHAT:
        details = {"cached_tokens": cached}
        usage = {"prompt_tokens": total, "prompt_tokens_details": details}
        message = {"choices": [], "usage": usage}
    else:
        details = {"cached_tokens": cached}
        usage = {"input_tokens": total, "input_tokens_details": details}
        message = {"type": "response.completed", "response": {"usage": usage}}
    if not body.get("stream"):
        return Reply(body=json.dumps({"usage": usage}).encode())
    data = f"data: {json.dumps(message)}\n\n".encode()
    return Reply(headers=[("content-type", "text/event-stream")], body=[data, b"data: {}\n\n"])


def conversation(path: str, turns: int) -> Body:
    """Return a request of so many turns, of some 5,000 tokens and 500 more for each turn."""
    tools: list[Body] = [{"name": name, "description": name * 2000} for name in "abcd"]
    said = [
        {"role": role, "content": f"{role} {turn} " * 200}
        for turn in range(turns)
        for role in ("user", "assistant")
    ]
    said.append({"role": "user", "content": "go on"})
    system, rules = {"role": "system", "content": "Be brief. " * 4000}, "Be brief. " * 4000
    if path == MESSAGES:
        return {"model": "m", "system": rules, "messages": said, "tools": tools}
    if path == CHAT:
        functions = [{"type": "function", "function": tool} for tool in tools]
        return {"model": "m", "messages": [system, *said], "tools": functions}
    functions = [{"type": "function", **tool} for tool in tools]
    return {"model": "m", "instructions": rules, "input": said, "tools": functions}


def reordered(body: Body) -> None:
    body["tools"].reverse()


def removed(body: Body) -> None:
    del body["tools"][0]


def forced(body: Body) -> None:
    body["tool_choice"] = "required"


def renewed(body: Body) -> None:
    if "system" in body:
        body["system"] = f"Today. {body['system']}"
    elif "instructions" in body:
        body["instructions"] = f"Today. {body['instructions']}"
    else:
        body["messages"][0]["content"] = f"Today. {body['messages'][0]['content']}"


CHANGES: list[tuple[Callable[[Body], None], str]] = [
    (reordered, "tools reordered"),
    (removed, "tool removed: a"),
    (forced, "settings changed: tool_choice"),
    (renewed, "system prompt changed"),
]


class Setup:
    """A mitmdump before a prefix cache; `ask` sends a request as a session."""

    def __init__(self, proxy: Mitmdump, cache: PrefixCache) -> None:
        self.proxy = proxy
        self.cache = cache

    def ask(self, session: str, path: str, body: Body) -> None:
        headers = [("X-Claude-Code-Session-Id", session)]
        with Client(self.proxy.port) as client:
            assert client.send("POST", path, headers, json.dumps(body).encode()).status == 200

    def misses(self) -> list[tuple[str, int, str]]:
        """End the proxy and return what it logged: session, tokens lost, cause."""
        self.proxy.stop()
        found = filter(None, map(MISS.search, self.proxy.lines))
        return [(match[1], int(match[2]), match[3]) for match in found]


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> Path:
    return tmp_path / "saved.flows"


@pytest.fixture(name="setup")
def _setup(saved: Path) -> Iterator[Setup]:
    cache = PrefixCache()
    with (
        Server(cache) as upstream,
        Mitmdump(f"reverse:{upstream.url}", args=["-w", str(saved)]) as proxy,
    ):
        yield Setup(proxy, cache)


def test_each_change_is_one_miss_with_its_cause(setup: Setup, saved: Path) -> None:
    expected = []
    for path in (MESSAGES, CHAT, RESPONSES):
        for stream in (False, True):
            for change, cause in CHANGES:
                session = str(uuid4())
                for turns in (1, 2):  # what is new was never cached, so no miss
                    setup.cache.prompts = [] if turns == 1 else setup.cache.prompts
                    body = conversation(path, turns) | {"stream": stream}
                    setup.ask(session, path, body)
                body = conversation(path, 3) | {"stream": stream}
                change(body)
                setup.ask(session, path, body)
                expected.append((session, cause))
    misses = setup.misses()
    assert [(session, cause) for session, _, cause in misses] == expected
    assert all(lost > 3000 for _, lost, _ in misses)
    report = build(saved, flowfilter.parse("~all"), None, None)
    assert report.sums.lost_tokens == sum(lost for _, lost, _ in misses)
    assert report.sums.misses == len(misses)


def test_no_miss(setup: Setup) -> None:
    session = str(uuid4())
    setup.cache.cut = 2048
    for turns in range(4):
        setup.ask(session, CHAT, conversation(CHAT, turns))
    other = {"model": "m", "messages": [{"role": "user", "content": "A title? " * 4000}]}
    setup.ask(session, CHAT, other)
    assert setup.misses() == []
