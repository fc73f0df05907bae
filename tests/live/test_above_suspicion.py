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
from lib.client import MESSAGES, Client, post, request_body, without_key
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from mitmproxy import http
from mitmproxy.io import FlowReader
from mitmproxy.net.encoding import encode

CHAT = "/v1/chat/completions"
EVENTS = (("content-type", "text/event-stream"),)
WARNING = r"WARN \[prompt-cache\] .*"


def ours(proxy: Mitmdump) -> list[str]:
    return [line for line in proxy.lines if "[prompt-cache]" in line]


def flows(path: Path) -> list[http.HTTPFlow]:
    with path.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]


def assert_sound(proxy: Mitmdump) -> None:
    # Python 3.11 has a traceback of its own when mitmproxy ends with a connection open.
    bad = [each for each in proxy.lines if "Addon error" in each or "prompt_cache_key/" in each]
    assert not bad, "\n".join(proxy.lines)


# --- rejections ---------------------------------------------------------------------------------

ECHOES = [
    {
        "detail": [
            {"type": "missing", "loc": ["body", "x"], "input": {"prompt_cache_key": "secret"}}
        ]
    },
    {
        "error": {
            "message": "'what is a prompt_cache_key? secret' was flagged",
            "code": "moderation",
        }
    },
    {"error": {"message": "Invalid schema for function 'set_prompt_cache_key': secret"}},
    {"error": {"message": "secret: too long. Hint: a prompt_cache_key makes long prompts cheaper"}},
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

    session = str(uuid4())

    def key(target: str = MESSAGES, model: str = "m") -> Any:
        with Client(proxy.port) as client:
            client.send("POST", target, body=request_body(session, model=model))
        return upstream.take()[0].key

    with Server(respond) as upstream, Mitmdump(f"reverse:{upstream.url}") as proxy:
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
    rejected, refused = (line for line in proxy.lines if re.search(WARNING, line))
    assert "/v1/messages rejects prompt_cache_key for model=m (422: extra inputs are" in rejected
    assert "it goes on unchanged: the upstream rejects the field" in refused


# --- counting -----------------------------------------------------------------------------------


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
        self._rest: list[threading.Thread] = []

    def send(self, session: str, text: str) -> None:
        self.has_ended.clear()
        body = request_body(
            session,
            system=f"You are the agent of {session}.\nBe careful.",
            messages=[{"role": "user", "content": f"{text} please, for {session}"}],
            tools=[{"name": "Bash"}],
        )
        with Client(self.proxy.ports[0]) as client:
            assert client.send("POST", MESSAGES, body=body).status == 200
        self.has_ended.set()
        for thread in self._rest:
            thread.join(TIMEOUT)

    def _translate(self, request: Request) -> Reply:
        body = json.loads(request.body)
        session = json.loads(body["metadata"]["user_id"])["session_id"]
        text = body["messages"][0]["content"]
        messages = [{"role": "system", "content": body["system"]}, *body["messages"]]
        functions = [{"type": "function", "function": tool} for tool in body["tools"]]
        call: dict[str, Any] = {"model": "gpt", "messages": messages, "tools": functions}
        if "user" in text:
            call["user"] = body["metadata"]["user_id"]
        if "key" in text:
            call["prompt_cache_key"] = f"session-{session}"
        client = Client(self.proxy.ports[1])
        response = client.open("POST", CHAT, body=json.dumps(call).encode())
        response.readline()
        if "early" in text:
            self._rest.append(threading.Thread(target=response.read))
            self._rest[-1].start()
        else:
            self.has_ended.set()
            response.read()
        usage = {"input_tokens": 77, "cache_read_input_tokens": 0}
        if "none" in text:
            self.counted[session] += 77
        return Reply(headers=EVENTS, body=[b"data: %b\n\n" % json.dumps({"usage": usage}).encode()])

    def _answer(self, request: Request) -> Reply:
        text = json.loads(request.body)["messages"][1]["content"]
        usage = {"prompt_tokens": len(request.body)}
        if "usage" in text:
            self.counted[text.rpartition(" ")[2]] += len(request.body)

        def events() -> Iterator[bytes]:
            yield b'data: {"choices":[]}\n\n'
            assert self.has_ended.wait(TIMEOUT)
            if "usage" in text:
                yield b"data: %b\n\n" % json.dumps({"usage": usage}).encode()

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


# --- streamed requests --------------------------------------------------------------------------


def test_own_key_late_in_a_streamed_body() -> None:
    session = str(uuid4())
    body = request_body(session, system="x" * 100_000, prompt_cache_key="mine")
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", stream_large_bodies="1") as proxy,
    ):
        request = post(proxy.port, upstream, body, ("X-Claude-Code-Session-Id", session))
        assert request.body.rstrip() == body
        proxy.find(rf"key=mine session={session} .* state=kept ")


@pytest.mark.parametrize("is_first", [True, False])
def test_script_that_streams_requests(tmp_path: Path, is_first: bool) -> None:
    script = tmp_path / "streams.py"
    script.write_text("def requestheaders(flow):\n    flow.request.stream = True\n")
    body = request_body(str(uuid4()))
    scripts = [script, ADDON] if is_first else [ADDON, script]
    with Server() as upstream, Mitmdump(f"reverse:{upstream.url}", scripts=scripts) as proxy:
        request = post(proxy.port, upstream, body)
        assert without_key(request.body) == body != request.body
        with Client(proxy.port) as client:
            client.send("POST", MESSAGES, body=iter([body[:50], body[50:]]))
        (request,) = upstream.take()
        assert without_key(request.body) == body != request.body
        assert_sound(proxy)


# --- companion headers --------------------------------------------------------------------------


def test_own_key_that_no_header_can_carry() -> None:
    smuggled = "x\r\nContent-Length: 0\r\n\r\nPOST /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    keys: list[object] = [smuggled, "x\ry", "k" * 200_000, "ü", 7, ["a"], {"a": 1}]
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", prompt_cache_headers="session-id") as proxy,
    ):
        for key in keys:
            request = post(proxy.port, upstream, request_body("s", prompt_cache_key=key))
            assert request.header("session-id") is None
            assert request.key == key
        assert post(proxy.port, upstream, request_body("s")).header("session-id")
        assert upstream.broken == []
    assert max(map(len, ours(proxy))) < 1000


# --- what is stripped ---------------------------------------------------------------------------


def test_attribution_that_a_gateway_has_merged_with_the_system_prompt() -> None:
    attribution = "x-anthropic-billing-header: cc_version=2.1.330.abc; cc_entrypoint=cli;\n"
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", prompt_cache_strip="attribution") as proxy,
    ):
        for system in (f"{attribution}Be good.", [{"type": "text", "text": f"{attribution}Be."}]):
            sent = request_body("s", system=system)
            request = post(proxy.port, upstream, sent)
            mark = json.dumps(attribution)[1:-1].encode()
            assert mark in sent
            assert without_key(request.body) == sent.replace(mark, b"")


# --- streams and other addons -------------------------------------------------------------------

_EDITS = """
def response(flow):
    flow.response.text = flow.response.text.replace("hello", "goodbye")
    flow.response.headers["x-edited"] = "yes"
"""


@pytest.mark.parametrize("by", ["modify_body", "script before", "script after"])
def test_saved_flow_is_what_the_client_got(tmp_path: Path, by: str) -> None:
    saved, script = tmp_path / "flows", tmp_path / "edits.py"
    script.write_text(_EDITS)
    scripts = {"script before": [script, ADDON], "script after": [ADDON, script]}.get(by, [ADDON])
    args = ["-w", str(saved)]
    if by == "modify_body":
        args += ["--modify-body", "/~s/hello/goodbye"]
    events = b'data: {"text":"hello"}\n\n'
    with (
        Server(lambda _: Reply(headers=EVENTS, body=[events])) as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=scripts, args=args) as proxy,
        Client(proxy.port) as client,
    ):
        for _ in range(2):
            assert client.send("POST", MESSAGES, body=request_body("s")).body == events
        proxy.stop()
    assert [flow.response and flow.response.content for flow in flows(saved)] == [events] * 2
    assert not [
        flow for flow in flows(saved) if flow.response and "x-edited" in flow.response.headers
    ]
    (warning,) = (line for line in proxy.lines if re.search(WARNING, line))
    assert "--set prompt_cache_stream=false" in warning
    assert_sound(proxy)


def test_edited_response_that_is_not_streamed(tmp_path: Path) -> None:
    script = tmp_path / "edits.py"
    script.write_text(_EDITS)
    with (
        Server(lambda _: Reply(headers=EVENTS, body=[b"data: hello\n\n"])) as upstream,
        Mitmdump(
            f"reverse:{upstream.url}", scripts=[ADDON, script], prompt_cache_stream="false"
        ) as proxy,
        Client(proxy.port) as client,
    ):
        assert client.send("POST", MESSAGES, body=request_body("s")).body == b"data: goodbye\n\n"


_MARKS = """
import json

def request(flow):
    body = json.loads(flow.request.content)
    flow.request.text = json.dumps(body | {"seen_by_%s": body.get("prompt_cache_key")})
"""


def test_scripts_before_and_after(tmp_path: Path) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(_MARKS % "one")
    after.write_text(_MARKS % "two")
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=[before, ADDON, after]) as proxy,
    ):
        request = post(proxy.port, upstream, request_body("s"))
    body = json.loads(request.body)
    assert body["seen_by_one"] is None
    assert body["seen_by_two"] == request.key is not None
    assert_sound(proxy)


# --- usage --------------------------------------------------------------------------------------


def test_usage_in_coded_responses() -> None:
    usage = b'{"usage":{"prompt_tokens":2048,"prompt_tokens_details":{"cached_tokens":1920}}}'
    replies = []
    for coding, is_stream in product(("gzip", "deflate", "br", "zstd"), (True, False)):
        kind = "text/event-stream" if is_stream else "application/json"
        headers = [("content-type", kind), ("content-encoding", coding)]
        coded = encode(b"data: %b\n\n" % usage if is_stream else usage, coding)
        replies.append(Reply(headers=headers, body=[coded[:20], coded[20:]]))
    left = iter(replies)
    with (
        Server(lambda _: next(left)) as upstream,
        Mitmdump(f"reverse:{upstream.url}") as proxy,
        Client(proxy.port) as client,
    ):
        for reply in replies:
            answer = client.send("POST", MESSAGES, body=request_body("s"))
            assert answer.body == b"".join(reply.pieces("POST"))
        proxy.find_all(r"usage .* input=2048 cached=1920 hit=94%$", len(replies))


# --- words of others ----------------------------------------------------------------------------


def test_lone_surrogate_in_the_clients_own_key(tmp_path: Path) -> None:
    saved = tmp_path / "flows"
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", args=["-w", str(saved)]) as proxy,
    ):
        body = request_body("s")[:-1] + rb',"prompt_cache_key":"\ud800"}'
        assert post(proxy.port, upstream, body).body == body
        proxy.stop()
    (flow,) = flows(saved)
    assert flow.request.content == body
    assert flow.metadata["claude_session"] == "s"
    assert_sound(proxy)


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
    assert len([line for line in ours(proxy) if "WARN" in line]) == 4
    for line in ours(proxy):
        assert line.isascii()
        assert len(line) < 1000
    assert_sound(proxy)


# --- options ------------------------------------------------------------------------------------


_SAME_OPTION = """
def load(loader):
    loader.add_option("prompt_cache_ttl", int, 5, "mine")
"""


@pytest.mark.parametrize("is_first", [True, False])
def test_script_with_an_option_of_the_same_name(tmp_path: Path, is_first: bool) -> None:
    script = tmp_path / "same.py"
    script.write_text(_SAME_OPTION)
    scripts = [script, ADDON] if is_first else [ADDON, script]
    with Server() as upstream, Mitmdump(f"reverse:{upstream.url}", scripts=scripts) as proxy:
        assert post(proxy.port, upstream, request_body("s")).key
        proxy.find("Over-riding existing option prompt_cache_ttl")
        proxy.find("active: ttl=1h ")
    assert_sound(proxy)


def test_first_lines() -> None:
    with Mitmdump(prompt_cache_tll="2h") as proxy:
        proxy.find(
            WARNING + "prompt_cache_tll is ignored; the nearest known one is prompt_cache_ttl"
        )
        at = f"http://{LOOPBACK}:{proxy.port}"
        proxy.find(
            rf"INFO \[prompt-cache\] active: .*; point Claude Code here: "
            rf"ANTHROPIC_BASE_URL=http://YOUR-GATEWAY HTTPS_PROXY={at} HTTP_PROXY={at} NODE_"
        )


# --- reload -------------------------------------------------------------------------------------


def test_reload_keeps_keys_and_running_streams(tmp_path: Path) -> None:
    shutil.copytree(ADDON.parent, tmp_path / "addon")
    script, saved = tmp_path / "addon" / "addon.py", tmp_path / "flows"
    is_reloaded = threading.Event()

    def events() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        assert is_reloaded.wait(TIMEOUT)
        yield b'data: {"usage":{"input_tokens":9,"cache_read_input_tokens":0}}\n\n'

    with (
        Server(lambda _: Reply(headers=EVENTS, body=events())) as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=[script], args=["-w", str(saved)]) as proxy,
        Client(proxy.port) as client,
    ):
        response = client.open("POST", MESSAGES, body=request_body("s"))
        assert response.readline() == b"data: 1\n"
        since = len(proxy.lines)
        script.touch()
        proxy.find(r"\[prompt-cache\] active: ", since)
        is_reloaded.set()
        assert response.read().endswith(b"0}}\n\n")
        proxy.find("usage .* input=9 cached=0", since)
        client.send("POST", MESSAGES, body=request_body("s"))
        first, second = upstream.take()
        assert first.key == second.key is not None
        proxy.stop()
    for flow in flows(saved):
        assert flow.response
        assert (flow.response.content or b"").startswith(b"data: 1\n\ndata: {")
    assert_sound(proxy)
