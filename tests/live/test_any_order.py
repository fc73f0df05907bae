"""Requests of any kind in any order: upstream arrives what was sent, but for what is promised."""

import json
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import Client
from lib.messages import Headers, Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import assert_sound
from prompt_cache_key.body import MEMBER_SIZE
from prompt_cache_key.upstreams import DEFAULT_FILTER

if TYPE_CHECKING:
    from pathlib import Path

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
JSON = ("Content-Type", "application/json")
NOTHING, ALL = "~u nothing", "~m POST"
LIMIT = 2000  # bytes from which mitmproxy streams
MEMBER = rb'"prompt_cache_key":"[0-9a-f-]{36}",?'
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.332.9a2; cc_entrypoint=cli;"

# Options change while the proxy runs, by a request that this script answers.
_CONTROL = """
import json
from mitmproxy import ctx, http

def request(flow):
    if flow.request.path == "/set":
        ctx.options.update(**json.loads(flow.request.content))
        flow.response = http.Response.make(204)
    elif "answered-early" in flow.request.path:
        flow.response = http.Response.make(418)
"""

SIGNED = ("Content-MD5", "Authorization")
DEFAULTS: dict[str, Any] = {
    "prompt_cache_strip": ["auto"],
    "prompt_cache_overwrite": False,
    "prompt_cache_stream": True,
    "prompt_cache_keys": "random",
    "prompt_cache_scope": "auto",
    "prompt_cache_filter": DEFAULT_FILTER,
    "prompt_cache_annotate": True,
    "prompt_cache_bridge": True,
}
OPTIONS: list[dict[str, Any]] = [
    {"prompt_cache_strip": ["attribution"]},
    {"prompt_cache_strip": ["auto"]},
    {"prompt_cache_overwrite": True},
    {"prompt_cache_overwrite": False},
    {"prompt_cache_stream": False},
    {"prompt_cache_stream": True},
    {"prompt_cache_keys": "derived"},
    {"prompt_cache_keys": "random"},
    {"prompt_cache_scope": "user"},
    {"prompt_cache_scope": "auto"},
    {"prompt_cache_filter": NOTHING},
    {"prompt_cache_filter": ALL},
    {"prompt_cache_annotate": False},
    {"prompt_cache_bridge": False},
]


def json_body(size: int, members: dict[str, Any], *, has_attribution: bool) -> bytes:
    system = ATTRIBUTION if has_attribution else "You are an agent."
    blocks = [{"type": "text", "text": system}, {"type": "text", "text": "x" * size}]
    body = {"model": "m", "system": blocks, "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps(body | members).encode()


BODIES = st.one_of(
    st.binary(max_size=50).map(lambda data: data * 100),
    st.sampled_from([b"a=1&b=2", b'{"a":1}\n{"b":2}\n' * 200, b"[1]" * 900, b'{"a":', b"{}"]),
    st.builds(
        json_body,
        st.sampled_from([0, 100, LIMIT, 70_000]),
        st.fixed_dictionaries(
            {},
            optional={
                "metadata": st.just({"user_id": json.dumps({"session_id": SESSION})}),
                "prompt_cache_key": st.sampled_from(["mine", "", None, 7]),
                "stream": st.booleans(),
            },
        ),
        has_attribution=st.booleans(),
    ),
)
HEADERS = st.lists(
    st.sampled_from(
        [
            ("X-Claude-Code-Session-Id", SESSION),
            JSON,
            ("Content-Type", "application/octet-stream"),
            ("Content-MD5", "x"),
            ("Authorization", "AWS4-HMAC-SHA256 x"),
        ]
    ),
    max_size=3,
    unique_by=lambda header: header[0],
)
PATHS = st.sampled_from(["/v1/messages", "/v1/responses", "/upload", "/v1/chat/completions"])


def may_change(
    body: bytes, headers: Headers, path: str, options: dict[str, Any], *, is_chunked: bool
) -> bool:
    """Return whether a request is ours to touch."""
    if "messages" in path or "responses" in path or "completions" in path:
        is_selected = options["prompt_cache_filter"] != NOTHING
    else:
        is_selected = options["prompt_cache_filter"] == ALL
    names = [name for name, _ in headers]
    if not is_selected or any(name in names for name in SIGNED):
        return False
    if len(body) > LIMIT:  # it is streamed
        return "X-Claude-Code-Session-Id" in names and JSON in headers and not is_chunked
    has_session = "X-Claude-Code-Session-Id" in names or SESSION.encode() in body
    return has_session and body.lstrip().startswith(b"{")


def is_as_sent(arrived: bytes, sent: bytes) -> bool:
    """Return whether a body is the sent one, but for key, attribution block and white space."""
    if arrived in (sent, sent.ljust(len(sent) + MEMBER_SIZE) if len(sent) > LIMIT else sent):
        return True
    try:
        value = json.loads(sent)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False
    plain = re.sub(rb"^(\s*\{)" + MEMBER, rb"\1", arrived.rstrip(b" "), count=1)
    shorter = sent
    if value.get("prompt_cache_key", 0) is None or "prompt_cache_key" in value:
        own = rb'"prompt_cache_key": (?:"[^"]*"|null|7)'
        plain, shorter = (re.sub(own, b"", body, count=1) for body in (arrived.rstrip(b" "), sent))
    if plain == shorter:
        return True
    block = json.dumps({"type": "text", "text": ATTRIBUTION}).encode() + b", "
    return plain == shorter.replace(block, b"", 1)


class Proxied:
    """A server behind a real mitmdump, for all examples."""

    def __init__(self, upstream: Server, proxy: Mitmdump) -> None:
        self.upstream = upstream
        self.proxy = proxy


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    control = tmp_path_factory.mktemp("scripts") / "control.py"
    control.write_text(_CONTROL)
    scripts: list[Path] = [control, ADDON]
    limit: dict[str, Any] = {"stream_large_bodies": str(LIMIT), "flow_detail": "0"}
    with (
        Server(_respond) as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=scripts, **limit) as proxy,
    ):
        yield Proxied(upstream, proxy)
    assert_sound(proxy)


def _respond(request: Request) -> Reply:
    if b"early" in request.body[:10]:
        return Reply(500, complete=False, body=[b"x"])
    return Reply(body=b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":0}}}')


def machine(proxied: Proxied) -> type[RuleBasedStateMachine]:
    """Return the rules, over this proxy."""
    port, upstream = proxied.proxy.port, proxied.upstream

    class AnyOrder(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.options: dict[str, Any] = {}
            self.change_options(DEFAULTS)
            upstream.take()

        @rule(body=BODIES, headers=HEADERS, path=PATHS, is_chunked=st.booleans())
        def send(self, body: bytes, headers: Headers, path: str, is_chunked: bool) -> None:
            pieces = iter([body[:7], body[7:]]) if is_chunked and len(body) > 7 else body
            with Client(port) as client:
                assert client.send("POST", path, headers, pieces).status == 200
            (request,) = upstream.take()
            if may_change(body, headers, path, self.options, is_chunked=is_chunked):
                assert is_as_sent(request.body, body), (request.body[:300], body[:300])
            else:
                is_unchanged = request.body == body
                assert is_unchanged, (request.body[:300], body[:300])

        @rule(options=st.sampled_from(OPTIONS))
        def change_options(self, options: dict[str, Any]) -> None:
            self.options |= options
            with Client(port) as client:
                client.send("POST", "/set", (), json.dumps(options).encode())

        @rule(body=BODIES, headers=HEADERS)
        def answer_early(self, body: bytes, headers: Headers) -> None:
            body = body[: LIMIT - 1]  # a script cannot answer a streamed request
            with Client(port) as client:
                assert client.send("POST", "/answered-early/messages", headers, body).status == 418
            assert upstream.take() == []

        @rule(body=BODIES, headers=HEADERS, share=st.integers(0, 99))
        def reset(self, body: bytes, headers: Headers, share: int) -> None:
            """Break off in the middle of a body."""
            lines = [f"{name}: {value}\r\n" for name, value in headers]
            head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 1}\r\n"
            with socket.create_connection((LOOPBACK, port), TIMEOUT) as client:
                client.sendall(f"{head}{''.join(lines)}\r\n".encode())
                client.sendall(body[: len(body) * share // 100])

    return AnyOrder


def test_any_order(proxied: Proxied) -> None:
    run_state_machine_as_test(
        machine(proxied),
        settings=settings(
            deadline=None,
            max_examples=20,
            stateful_step_count=15,
            suppress_health_check=list(HealthCheck),
        ),
    )
    proxied.upstream.broken.clear()  # of bodies that broke off
