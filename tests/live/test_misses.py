"""Misses named while they happen: a real mitmdump before a server that caches by prefix."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from lib.client import Client
from lib.dialects import DIALECTS
from lib.messages import EVENTS, Reply, Request
from lib.mitmdump import Mitmdump
from lib.recordings import conversations, encoded
from lib.rules import SINCE_GPT_5_6, PromptCache, pieces_of
from live.proxied import SESSION_HEADER, logged, proxied
from mitmproxy import flowfilter
from prompt_cache_key.report.command import build

Body = dict[str, Any]

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
    last = "[DONE]"
    if target == DIALECTS["messages"].path:
        usage = {"input_tokens": total - cached, "cache_read_input_tokens": cached}
        message = {"type": "message_start", "message": {"usage": usage}}
        last = '{"type":"message_stop"}'
    elif target == DIALECTS["chat"].path:
        usage = {"prompt_tokens": total, "prompt_tokens_details": {"cached_tokens": cached}}
        message = {"choices": [], "usage": usage}
    if not body.get("stream"):
        return Reply(body=json.dumps({"usage": usage}).encode())
    data = f"data: {json.dumps(message)}\n\n".encode()
    return Reply(headers=EVENTS, body=[data, f"data: {last}\n\n".encode()])


def conversation(dialect: str, turns: int, loaded: Sequence[str] = ()) -> Body:
    """Return a request of so many turns, of some 5,000 tokens and 3,000 more for each turn.

    The tools of the names `loaded` were loaded by Claude Code's tool search in the last turn.
    """
    roles = ["user", "assistant"] * turns
    said: list[Body] = [
        {"role": role, "content": f"{role} {at // 2} " * 2000} for at, role in enumerate(roles)
    ]
    if loaded:
        query = {"query": f"select:{','.join(loaded)}"}
        call = {"type": "tool_use", "id": "t1", "name": "ToolSearch", "input": query}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": "Tool loaded."}
        said[-1:] = [
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
            said[-1],
        ]
    names = sorted(["ToolSearch", *"abcd", *loaded], key=str.lower)
    body = {
        "model": "m",
        "metadata": {"user_id": ""},
        "system": [{"type": "text", "text": "Be brief. " * 4000}],
        "messages": [*said, {"role": "user", "content": "go on"}],
        "tools": [{"name": n, "description": n * 2000, "input_schema": {}} for n in names],
    }
    return DIALECTS[dialect].translate(body)


def edited(old: str, new: str) -> Callable[[Body], Body]:
    """Return a change of one text, wherever it stands first."""
    return lambda body: json.loads(json.dumps(body).replace(old, new, 1))


CHANGES: dict[str, Callable[[Body], Body]] = {
    "tools reordered": lambda body: body | {"tools": body["tools"][::-1]},
    "tool added: e": lambda body: body | {"tools": [body["tools"][0] | E, *body["tools"]]},
    "tool removed: a": lambda body: body | {"tools": body["tools"][1:]},
    "tool edited: a": edited("aaaa", "baaa"),
    "tool search loaded: a1, b1": lambda body: body,
    "settings changed: tool_choice": lambda body: body | {"tool_choice": "required"},
    "system prompt changed": edited("Be brief.", "Be quick."),
    "messages rewritten": edited("user 0 user 0", "user 0 USER 0"),
}
E: Body = {"name": "e", "function": {"name": "e", "parameters": {}}}


class Setup(NamedTuple):
    """A mitmdump before a prefix cache; `ask` sends a request as a session."""

    proxy: Mitmdump
    cache: PrefixCache
    saved: Path

    def ask(self, session: str, dialect: str, body: Body) -> None:
        path, headers = DIALECTS[dialect].path, [(SESSION_HEADER, session)]
        with Client(self.proxy.port) as client:
            assert client.send("POST", path, headers, json.dumps(body).encode()).status == 200

    def misses(self) -> list[dict[str, str]]:
        """End the proxy and return the fields of each miss that it logged."""
        self.proxy.stop()
        return logged(self.proxy, "miss ")


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
        loaded = ["a1", "b1"] if cause.startswith("tool search") else []
        body = conversation(dialect, 3, loaded) | {"stream": stream}
        setup.ask(session, dialect, change(body))
        expected.append((session, cause))
    misses = setup.misses()
    assert [(miss["session"], miss["cause"]) for miss in misses] == expected
    missed = [int(miss["missed"]) for miss in misses]
    assert min(missed) > 2048
    report = build(setup.saved, flowfilter.parse("~all"), None, None)
    assert report.sums.missed == sum(missed)
    assert report.sums.misses == len(misses)


def test_no_miss(setup: Setup) -> None:
    session = str(uuid4())
    setup.cache.cut = 2048
    for turns in range(4):
        setup.ask(session, "chat", conversation("chat", turns))
    other = {"model": "m", "messages": [{"role": "user", "content": "A title? " * 4000}]}
    setup.ask(session, "chat", other)
    assert setup.misses() == []


class KeyedCache(PromptCache):
    """Reads prompts by OpenAI's rules: each key separates a cache."""

    def __call__(self, request: Request) -> Reply:
        body, pieces = request.json, pieces_of(request.json)
        cached = self.read(pieces, request.key, 0)
        return _reply(request.target, body, len("".join(pieces)) // TOKENS, cached // TOKENS)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ((), "prompt_cache_key changed"),
        (("scope=user",), "attribution block changed"),
        (("scope=user", "strip=attribution"), ""),
    ],
)
def test_recorded_new_conversations_that_read_nothing_are_warned_of_once(
    dialect: str, options: Sequence[str], cause: str
) -> None:
    path, translate, _ = DIALECTS[dialect]
    args = [arg for each in options for arg in ("--set", f"prompt_cache_{each}")]
    with proxied(KeyedCache(SINCE_GPT_5_6), args=args) as (_, proxy), Client(proxy.port) as client:
        for record in conversations():
            names = ("x-claude-code-session-id", "x-claude-code-agent-id")
            shown = [(name, record["headers"][name]) for name in names if name in record["headers"]]
            body = encoded(translate(record["body"]))
            assert client.send("POST", path, shown, body).status == 200
    cold = [line for line in proxy.lines if "a new conversation read nothing" in line]
    assert len(cold) == bool(cause)
    assert all(f"main cause: {cause};" in line for line in cold)
