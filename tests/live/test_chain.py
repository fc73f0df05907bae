"""Translators before and behind a real mitmdump: who gets which key, and what of a body arrives."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from lib import LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client
from lib.messages import Answer, Reply, Request, header
from lib.mitmdump import Mitmdump
from lib.recordings import records
from lib.server import Server
from live.proxied import CHAT, KEY, SESSION_HEADER, assert_sound, proxied

SHOWN = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"

Json = dict[str, Any]

# --- a translator that strips everything, between two listeners ---------------------------------

REMINDER = "<system-reminder>\nToday is Sunday.\nAnswer in short.\n</system-reminder>"
TOOLS = ["Agent", "Bash", "Edit", "Read"]


def says(role: str, *texts: str) -> Json:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


def tool_turn(output: str) -> list[Json]:
    """Return a tool's call and its result, such as any session may have."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": output}
    return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


def claude_request(messages: list[Json], tools: list[str] = TOOLS) -> Json:
    return {
        "model": "claude-opus-5-5",
        "messages": messages,
        "system": [{"type": "text", "text": "You are Claude Code.\nBe careful."}],
        "tools": [{"name": name, "description": name, "input_schema": {}} for name in tools],
    }


def translated(body: Json) -> Json:
    """Translate to Chat Completions, with nothing left that shows the session."""
    messages: list[Json] = [{"role": "system", "content": body["system"][0]["text"]}]
    for message in body["messages"]:
        texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        for block in message["content"]:
            if block["type"] == "tool_use":
                call = {"id": "call_1", "type": "function", "function": {"name": block["name"]}}
                messages.append({"role": "assistant", "tool_calls": [call]})
            if block["type"] == "tool_result":
                content = block["content"]
                messages.append({"role": "tool", "tool_call_id": "call_1", "content": content})
        if texts:
            messages.append({"role": message["role"], "content": "\n".join(texts)})
    functions = [{"type": "function", "function": {"name": t["name"]}} for t in body["tools"]]
    return {"model": "gpt-5.4", "messages": messages, "tools": functions}


class Chain:
    """Client, mitmdump, translator, mitmdump again, upstream.

    `before_call` is run before each call of the translator, `before_answer` before each answer of
    the upstream, each with the translated body; `more` is put into each call.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.upstream = stack.enter_context(Server(self._answer))
        self.translator = stack.enter_context(Server(self._translate))
        self.proxy = stack.enter_context(
            Mitmdump(f"reverse:{self.translator.url}", f"reverse:{self.upstream.url}")
        )
        self.front, self.back = self.proxy.ports
        self.before_call: Callable[[Json], object] = id
        self.before_answer: Callable[[Json], object] = id
        self.more: Json = {}

    def _translate(self, request: Request) -> Reply:
        call = translated(request.json) | self.more
        self.before_call(call)
        answer = self.call(call)
        return Reply(answer.status, body=answer.body)

    def _answer(self, request: Request) -> Reply:
        self.before_answer(request.json)
        return Reply(body=json.dumps(request.json | {"usage": {"prompt_tokens": 10}}).encode())

    def call(self, body: Json) -> Answer:
        """Send a body as the translator does, to the second listener."""
        with Client(self.back) as client:
            return client.send("POST", CHAT, body=json.dumps(body).encode())

    def send(self, session: str, body: Json) -> Json:
        """Send a session's request; return the body that its upstream call arrived with."""
        headers = [(SESSION_HEADER, session)] if session else []
        with Client(self.front) as client:
            answer = client.send("POST", MESSAGES, headers, json.dumps(body).encode())
        assert answer.status == 200
        called: Json = json.loads(answer.body)
        called.pop("usage", None)
        return called


@pytest.fixture
def chain() -> Iterator[Chain]:
    with ExitStack() as stack:
        chain = Chain(stack)
        yield chain
        assert chain.upstream.broken == []
        assert_sound(chain.proxy)


def turns(number: int) -> Iterator[Json]:
    """Yield the requests of a session, which is like all others but for a number."""
    said = [says("user", REMINDER, "look around"), *tool_turn("a.py"), says("assistant", "Well.")]
    said.append(says("user", f"fix bug {number}"))
    yield claude_request(said)
    said = [*said, *tool_turn("1 passed")]
    yield claude_request(said)
    yield claude_request([*said, says("assistant", "Done."), says("user", f"go on {number}")])


def strangers(in_flight: Json) -> Iterator[Json]:
    """Yield requests that no session made, as like to one in flight as they can be."""
    alike = in_flight["messages"]
    yield claude_request([says("user", REMINDER, "look around")])
    yield claude_request([says("user", alike[-1]["content"][-1].get("text", "hi"))])
    yield claude_request([*alike, says("assistant", "Done."), says("user", "write a poem")])
    yield claude_request([*alike[:-1], says("user", "write a poem")])
    yield claude_request(alike, tools=["Search"])
    yield claude_request([], tools=[])


def send_all_at_once(chain: Chain, requests: dict[str, Json]) -> Iterator[tuple[str, Json]]:
    """Send a request for each session, all in flight when the first is called for, and strangers.

    Yield what of each session's arrived at the upstream.
    """
    all_called = threading.Barrier(len(requests))

    def send_strangers() -> None:
        chain.before_call = id
        for stranger in strangers(next(iter(requests.values()))):
            assert "prompt_cache_key" not in chain.send("", stranger)
            assert "prompt_cache_key" not in json.loads(chain.call(translated(stranger)).body)
        chain.before_answer = lambda _: all_called.wait(TIMEOUT)

    all_here = threading.Barrier(len(requests), send_strangers)
    chain.before_call, chain.before_answer = lambda _: all_here.wait(TIMEOUT), id
    with ThreadPoolExecutor(len(requests)) as pool:
        yield from zip(requests, pool.map(chain.send, requests, requests.values()), strict=True)


def test_parallel_sessions(chain: Chain) -> None:
    sessions = [str(uuid4()) for _ in range(8)]
    keys: dict[str, str] = {}
    for turn in zip(*map(turns, range(8)), strict=True):
        requests = dict(zip(sessions, turn, strict=True))
        for session, call in send_all_at_once(chain, requests):
            key = keys.setdefault(session, call["prompt_cache_key"])
            assert call == translated(requests[session]) | {"prompt_cache_key": key}
    assert len(set(keys.values())) == 8
    bridged = chain.proxy.find_all(
        rf"INFO \[prompt-cache\] key=({KEY}) session=(\S+) agent=main model=gpt-5\.4 "
        r"state=(?:new|reused) source=bridge scope=session$",
        24,
    )
    assert len(bridged) == 24
    assert {(match[2], match[1]) for match in bridged} == set(keys.items())
    chain.proxy.stop()
    chain.proxy.find(r"total sessions=8 requests=24 input=240 ")


def test_call_of_a_client_that_hung_up(chain: Chain) -> None:
    called, hung_up, answered = threading.Event(), threading.Event(), threading.Event()
    calls: list[Json] = []

    def before_call(call: Json) -> None:
        if "first" in json.dumps(call):
            called.set()
            assert hung_up.wait(TIMEOUT)

    def before_answer(call: Json) -> None:
        calls.append(call)
        if "first" in json.dumps(call):
            answered.set()

    chain.before_call, chain.before_answer = before_call, before_answer
    body = json.dumps(claude_request([says("user", REMINDER, "the first")])).encode()
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: x\r\n{SESSION_HEADER}: one\r\nContent-Length: "
    with socket.create_connection((LOOPBACK, chain.front), TIMEOUT) as client:
        port = client.getsockname()[1]
        client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        assert called.wait(TIMEOUT)
    chain.proxy.find(rf"\[127\.0\.0\.1:{port}\] client disconnect")
    hung_up.set()
    assert answered.wait(TIMEOUT)
    chain.send("two", claude_request([says("user", REMINDER, "the second")]))
    assert ["prompt_cache_key" in call for call in calls] == [False, True]


def test_retries_and_second_calls(chain: Chain) -> None:
    answers = iter([Reply(503), Reply(429), Reply()])
    chain.upstream.respond = lambda _: next(answers)
    chain.before_call = lambda call: [chain.call(call) for _ in range(2)]
    body = claude_request([says("user", "fix bug 1")])
    chain.send("one", body)
    requests = chain.upstream.take()
    assert len(requests) == 3
    assert len({request.key for request in requests} - {None}) == 1
    # All is answered: the same call again is a stranger's.
    chain.upstream.respond = lambda _: Reply()
    chain.call(translated(body))
    assert chain.upstream.take()[0].key is None


def test_raw_user_id_of_a_call_is_replaced(chain: Chain) -> None:
    chain.more = {"prompt_cache_key": f"user_{'a' * 59}"}  # LiteLLM 1.99 to 1.101
    body = claude_request([says("user", REMINDER, "fix bug 1")])
    key = chain.send("the-session", body)["prompt_cache_key"]
    assert re.fullmatch(KEY, key)
    chain.proxy.find(rf"key={key} session=the-session .* state=replaced source=bridge ")


# --- recorded requests of translators -----------------------------------------------------------

RECORDED = records("translators")
OTHER_PATHS = ("/api/chat", "/v1/models/gemini-2.5-pro:generateContent")


def shown_session(record: Json) -> str | None:
    """Return the session that a recorded request shows, but in a key that is none."""
    body = json.loads(record["body"])
    shown = f"{body.get('metadata')} {body.get('user')}"
    return header(record["headers"], SESSION_HEADER) or (SHOWN if SHOWN in shown else None)


def test_recorded_requests_of_translators() -> None:
    states: list[str | None] = []
    keys: dict[str, str] = {}
    with (
        proxied(prompt_cache_headers="session-id") as (upstream, proxy),
        Client(proxy.port) as client,
    ):
        for record in RECORDED:
            client.send("POST", record["path"], record["headers"], record["body"].encode())
        proxy.stop()
        requests = upstream.take()
    for record, request in zip(RECORDED, requests, strict=True):
        sent = json.loads(record["body"])
        own, model = sent.get("prompt_cache_key", ""), sent.get("model", "")
        if not shown_session(record) or record["path"] in OTHER_PATHS:
            assert request.body == record["body"].encode()
            assert request.header("session-id") is None
            continue
        if own and not own.startswith(("user_", "{")):
            states.append("kept")
            assert request.body == record["body"].encode()
            assert request.key == own
        else:
            states.append("replaced" if own else "reused" if model in keys else "new")
            assert re.fullmatch(KEY, request.key)
            assert keys.setdefault(model, request.key) == request.key
            assert request.json == sent | {"prompt_cache_key": request.key}
        assert request.header("session-id") == request.key
    assert len(set(keys.values())) == len(keys)
    assert len(RECORDED) - len(states) == 26
    assert {"kept", "replaced", "new", "reused"} == {*states}
    logged = [re.search(r" state=(\w+) ", line) for line in proxy.lines]
    assert [match[1] for match in logged if match] == states
    (warning,) = (line for line in proxy.lines if "WARN" in line)
    assert "user id" in warning
