"""What must never happen, through a real mitmdump: each was found in one, and is no more."""

import json
import re
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client, post, request_body
from lib.dialects import DIALECTS
from lib.messages import EVENTS, Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import (
    CHAT,
    SESSION_HEADER,
    assert_sound,
    flows,
    is_keyed,
    proxied,
    script,
)

WARNING = r"WARN \[prompt-cache\] .*"
BODY = request_body("s")
BEFORE_AND_AFTER = pytest.mark.parametrize("is_first", [True, False])


def in_order(other: Path, is_first: bool) -> list[Path]:
    return [other, ADDON] if is_first else [ADDON, other]


# --- rejections ---------------------------------------------------------------------------------

ECHOES = [
    {"error": {"message": "'what is a prompt_cache_key? secret' was flagged"}},
    {"detail": [{"type": "missing", "loc": ["body"], "input": {"prompt_cache_key": "secret"}}]},
]
REJECTION = {
    "detail": [{"type": "extra_forbidden", "loc": ["body", "prompt_cache_key"], "input": "secret"}]
}


def test_only_a_rejection_disarms_and_only_where_it_was() -> None:
    error: object = None

    def respond(request: Request) -> Reply:
        if error and request.key:
            return Reply(422, body=json.dumps(error).encode())
        return Reply()

    def key(target: str = MESSAGES, model: str = "m") -> Any:
        with Client(proxy.port) as client:
            client.send("POST", target, body=request_body("s", model=model))
        return upstream.take()[0].key

    with proxied(respond) as (upstream, proxy):
        for error in ECHOES:  # noqa: B007  # `respond` sends it
            assert key()
        error = REJECTION
        first = key()
        error = None
        assert first
        assert key() is None
        assert key("/v1/messages") is None
        assert key(model="other")
        assert key("/other/v1/messages") == key("/v1/responses") == first
        proxy.stop()
    assert "secret" not in "\n".join(proxy.lines)
    (rejected,) = (line for line in proxy.lines if re.search(WARNING, line))
    assert "/v1/messages rejects prompt_cache_key for model=m (422: extra inputs are" in rejected


# --- counting -----------------------------------------------------------------------------------


def usage(**counts: int) -> bytes:
    return f"data: {json.dumps({'usage': counts})}\n\n".encode()


class Route:
    """A translator between two listeners of one mitmdump, and an upstream that counts for itself.

    A request's text names what of it shows in the call (`nothing`, `user`, `key`), whether the
    translator ends its answer before the upstream does (`early`, `late`), and who counts tokens
    (`usage`: both, or `none`: the translator alone).
    """

    def __init__(self, stack: ExitStack) -> None:
        self.upstream = stack.enter_context(Server(self._answer))
        self.translator = stack.enter_context(Server(self._translate))
        self.proxy = stack.enter_context(
            Mitmdump(f"reverse:{self.translator.url}", f"reverse:{self.upstream.url}")
        )
        self.counted: Counter[str] = Counter()
        self.has_ended = threading.Event()

    def send(self, session: str, text: str) -> None:
        self.has_ended.clear()
        body = request_body(
            session,
            system=f"You are the agent of {session}.\nBe careful.",
            messages=[{"role": "user", "content": f"{text} please, for {session}"}],
            tools=[{"name": "Bash", "description": "", "input_schema": {}}],
        )
        with Client(self.proxy.ports[0]) as client:
            assert client.send("POST", MESSAGES, body=body).status == 200
        self.has_ended.set()
        self.response.read()

    def _translate(self, request: Request) -> Reply:
        body = request.json
        session = json.loads(body["metadata"]["user_id"])["session_id"]
        text = body["messages"][0]["content"]
        call = DIALECTS["chat"].translate(body) | {"model": "gpt"}
        if "user" not in text:
            del call["user"]
        if "key" in text:
            call["prompt_cache_key"] = f"session-{session}"
        client = Client(self.proxy.ports[1])
        self.response = client.open("POST", CHAT, body=json.dumps(call).encode())
        self.response.readline()
        if "late" in text:
            self.has_ended.set()
            self.response.read()
        if "none" in text:
            self.counted[session] += 77
        return Reply(headers=EVENTS, body=[usage(input_tokens=77, cache_read_input_tokens=0)])

    def _answer(self, request: Request) -> Reply:
        text = request.json["messages"][1]["content"]
        if "usage" in text:
            self.counted[text.rpartition(" ")[2]] += len(request.body)

        def events() -> Iterator[bytes]:
            yield b'data: {"choices":[]}\n\n'
            assert self.has_ended.wait(TIMEOUT)
            if "usage" in text:
                yield usage(prompt_tokens=len(request.body))

        return Reply(headers=EVENTS, body=events())


def test_each_prompt_counts_once() -> None:
    combinations = list(product(("nothing", "user", "key"), ("early", "late"), ("usage", "none")))
    with ExitStack() as stack:
        route = Route(stack)
        sessions = {str(uuid4()): " ".join(words) for words in combinations}
        for turn in range(3):
            for session, words in sessions.items():
                route.send(session, f"{words} {turn}")
        keys = [request.key for request in route.upstream.take()]
        route.proxy.stop()
        pattern = r"INFO \[prompt-cache\] session=(\S+) requests=(\d+) input=(\d+) "
        found = route.proxy.find_all(pattern, len(sessions))
    counted = {sessions[match[1]]: (int(match[2]), int(match[3])) for match in found}
    assert counted == {words: (3, route.counted[session]) for session, words in sessions.items()}
    assert keys == keys[:12] * 3
    assert len(set(keys)) == 12
    assert_sound(route.proxy)


# --- companion headers ---------------------------------------------------------------------------


def test_own_key_that_no_header_can_carry() -> None:
    smuggled = "x\r\nContent-Length: 0\r\n\r\nPOST /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    keys: list[object] = [smuggled, "x\ry", "k" * 200_000, "ü", 7, ["a"], {"a": 1}]
    with proxied(prompt_cache_headers="session-id") as (upstream, proxy):
        for key in keys:
            request = post(proxy.port, upstream, request_body("s", prompt_cache_key=key))
            assert request.header("session-id") is None
            assert request.key == key
        assert post(proxy.port, upstream, BODY).header("session-id")
    assert max(len(line) for line in proxy.lines if "[prompt-cache]" in line) < 1000


# --- streams and other addons -------------------------------------------------------------------


@BEFORE_AND_AFTER
def test_script_that_streams_requests(tmp_path: Path, is_first: bool) -> None:
    streams = "def requestheaders(flow):\n    flow.request.stream = True\n"
    scripts = in_order(script(tmp_path, "streams", streams), is_first)
    with proxied(scripts=scripts) as (upstream, proxy), Client(proxy.port) as client:
        headers = [(SESSION_HEADER, "s"), ("Content-Type", "application/json")]
        for body in (BODY, iter([BODY[:50], BODY[50:]])):
            client.send("POST", MESSAGES, headers, body)
        with_length, chunked = upstream.take()
    assert is_keyed(with_length.body, BODY)
    assert chunked.body == BODY


_EDITS = """
def response(flow):
    flow.response.text = flow.response.text.replace("hello", "goodbye")
    flow.response.headers["x-edited"] = "yes"
"""


@pytest.mark.parametrize("by", ["modify_body", "script before", "script after"])
def test_saved_flow_is_what_the_client_got(tmp_path: Path, by: str) -> None:
    saved, scripts = tmp_path / "flows", [ADDON]
    args = ["-w", str(saved)]
    if by == "modify_body":
        args += ["--modify-body", "/~s/hello/goodbye"]
    else:
        scripts = in_order(script(tmp_path, "edits", _EDITS), by == "script before")
    events = b'data: {"text":"hello"}\n\n'
    reply = Reply(headers=EVENTS, body=[events])
    with proxied(lambda _: reply, scripts=scripts, args=args) as (_, proxy):
        with Client(proxy.port) as client:
            for _ in range(2):
                assert client.send("POST", MESSAGES, body=BODY).body == events
        proxy.stop()
    responses = [flow.response for flow in flows(saved) if flow.response]
    assert [response.content for response in responses] == [events] * 2
    assert not any("x-edited" in response.headers for response in responses)
    (warning,) = (line for line in proxy.lines if re.search(WARNING, line))
    assert "--set prompt_cache_stream=false" in warning


_MARKS = """
import json

def request(flow):
    body = json.loads(flow.request.content)
    flow.request.text = json.dumps(body | {"seen_by_%s": body.get("prompt_cache_key")})
"""


def test_scripts_before_and_after(tmp_path: Path) -> None:
    before, after = (script(tmp_path, name, _MARKS % name) for name in ("before", "after"))
    with proxied(scripts=[before, ADDON, after]) as (upstream, proxy):
        request = post(proxy.port, upstream, BODY)
    assert request.json["seen_by_before"] is None
    assert request.json["seen_by_after"] == request.key is not None


_RAISES = """
import logging

class Raises(logging.Handler):
    def emit(self, record):
        if record.name == "prompt_cache_key":
            raise RuntimeError("a handler of another addon")

def load(loader):
    logging.getLogger().addHandler(Raises())
"""


def test_a_log_handler_that_raises_loses_no_request_and_no_summary(tmp_path: Path) -> None:
    scripts = [script(tmp_path, "raises", _RAISES), ADDON]
    usage = {"input_tokens": 10, "cache_read_input_tokens": 0}
    reply = Reply(body=json.dumps({"usage": usage}).encode())
    with (
        Server(lambda _: reply) as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=scripts) as proxy,
    ):
        for _ in range(2):
            with Client(proxy.port) as client:
                assert client.send("POST", MESSAGES, (), BODY).status == 200
        assert all(request.key for request in upstream.take())
        proxy.stop()
        proxy.find(r"total sessions=1 requests=2 input=20")


# --- words of others ----------------------------------------------------------------------------


def test_lone_surrogate_in_the_clients_own_key(tmp_path: Path) -> None:
    saved = tmp_path / "flows"
    with proxied(args=["-w", str(saved)]) as (upstream, proxy):
        body = BODY[:-1] + rb',"prompt_cache_key":"\ud800"}'
        assert post(proxy.port, upstream, body).body == body
        proxy.stop()
    (flow,) = flows(saved)
    assert flow.request.content == body
    assert flow.metadata["claude_session"] == "s"


def test_path_with_control_characters_or_without_end() -> None:
    def send(path: bytes, body: bytes) -> None:
        with socket.create_connection((LOOPBACK, proxy.port), TIMEOUT) as client:
            head = b"Host: x\r\nX-Claude-Code-Session-Id: s\r\nContent-Length: %d" % len(body)
            client.sendall(b"POST %b/messages HTTP/1.1\r\n%b\r\n\r\n%b" % (path, head, body))
            assert client.recv(1 << 16)

    rejection = Reply(400, body=json.dumps(REJECTION).encode())
    with (
        Server(lambda _: rejection) as upstream,  # which takes no path with control characters
        Mitmdump(f"reverse:{upstream.url}", flow_detail="0") as proxy,
    ):
        send(b"/\xc2\x9b31m", b"[]")
        send(b"/\x9b31m", b'{"a":' * 100_000 + b"}")
        for _ in range(2):
            send(b"/" + b"x" * 30_000, b"{}")
        proxy.stop()
    ours = [line for line in proxy.lines if "[prompt-cache]" in line]
    assert sum("WARN" in line for line in ours) == 3
    assert all(line.isascii() and len(line) < 1000 for line in ours)
    assert_sound(proxy)


# --- options and reload -------------------------------------------------------------------------


@BEFORE_AND_AFTER
def test_script_with_an_option_of_the_same_name(tmp_path: Path, is_first: bool) -> None:
    same = 'def load(loader):\n    loader.add_option("prompt_cache_ttl", int, 5, "mine")\n'
    with proxied(scripts=in_order(script(tmp_path, "same", same), is_first)) as (upstream, proxy):
        assert post(proxy.port, upstream, BODY).key
        proxy.find("Over-riding existing option prompt_cache_ttl")
        proxy.find("active: all options have their defaults")


def test_reload_keeps_options_keys_and_running_streams(tmp_path: Path) -> None:
    shutil.copytree(ADDON.parent, tmp_path / "addon")
    addon, saved = tmp_path / "addon" / "addon.py", tmp_path / "flows"
    is_reloaded = threading.Event()

    def events() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        assert is_reloaded.wait(TIMEOUT)
        yield usage(input_tokens=9, cache_read_input_tokens=0)

    options: dict[str, Any] = {"scripts": [addon], "args": ["-w", str(saved)]}
    with (
        proxied(
            lambda _: Reply(headers=EVENTS, body=events()), prompt_cache_ttl="2h", **options
        ) as (upstream, proxy),
        Client(proxy.port) as client,
    ):
        response = client.open("POST", MESSAGES, body=BODY)
        assert response.readline() == b"data: 1\n"
        since = len(proxy.lines)
        addon.touch()
        proxy.find(r"INFO \[prompt-cache\] active: .*ttl=2h", since)
        is_reloaded.set()
        assert response.read().endswith(b" 0}}\n\n")
        proxy.find("usage .* input=9 cached=0", since)
        since = len(proxy.lines)
        client.send("POST", MESSAGES, body=BODY)
        first, second = upstream.take()
        assert first.key == second.key is not None
        proxy.stop()
    assert len(proxy.find_all(r"INFO \[prompt-cache\] key=.* session=s ", 1, since)) == 1
    for flow in flows(saved):
        assert flow.response
        assert (flow.response.content or b"").startswith(b"data: 1\n\ndata: {")
