"""Load for a proxy, over HTTP with as little work as can be: the proxy's is what is measured.

Requests are those of Claude Code, made beforehand; the upstream is a process of its own.
"""

import itertools
import json
import multiprocessing
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from lib import LOOPBACK, TIMEOUT
from lib.recordings import encoded, excerpt, records, restored, tool_turn

ENVIRONMENT = "Primary working directory: /src\n"
"""What stands in one of the texts that are left out of the recording."""

CHAT = "/v1/chat/completions"
END = b"0\r\n\r\n"
"""What the upstream's answers end with."""

USAGE = {"input_tokens": 9, "cache_read_input_tokens": 30_000, "output_tokens": 1}


@cache
def _recorded() -> tuple[dict[str, str], str]:
    """Return headers and body of the second request of a session, with a tool call."""
    wanted = ("claude-code 2.1.330", "bash")
    *_, record = (r for r in records("claude_code") if (r["client"], r["scenario"]) == wanted)
    return dict(record["headers"]), record["body"]


def conversation(size: int, seed: object = 0) -> bytes:
    """Return a body of about that many bytes: the recorded one with its texts, and more turns."""
    scale = min(1, size / 40_000)  # with its texts the recorded one has 31 kB
    body: dict[str, Any] = restored(
        _recorded()[1],
        lambda cut, length: ENVIRONMENT + excerpt(f"{seed} {cut}", int(scale * length)),
    )
    room = size - len(encoded(body))
    for turn in itertools.count():
        if room < 1000:  # noqa: PLR2004
            break
        text = excerpt(f"{seed} {turn}", min(6000, room - 500))
        code, output = text[: len(text) // 5], text[len(text) // 5 :]
        edit = {"file_path": "/src/x.py", "old_string": "", "new_string": code}
        turns = tool_turn(turn, output, **edit)
        body["messages"] += turns
        room -= len(encoded(turns))
    return encoded(body)


def session(number: int) -> str:
    """Return an id as long as Claude Code's."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def post(content: bytes, number: int = 0, query: str = "") -> bytes:
    """Return the recorded request with that body, from that session.

    `query` tells `_answer` how to answer; without one no stream is asked for.
    """
    headers, _ = _recorded()
    if not query:
        content = content.replace(b'"stream":true', b'"stream":false')
    lines = [f"POST /v1/messages?{query} HTTP/1.1", f"Host: {LOOPBACK}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}\r\n\r\n"]).encode()
    was = headers["X-Claude-Code-Session-Id"].encode()
    return (head + content).replace(was, session(number).encode())


class Connection:
    """A connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes, until: bytes = END) -> bytes:
        """Send a request; return what comes until the answer contains `until`, or breaks off."""
        self.socket.sendall(request)
        return self.receive(until)

    def receive(self, until: bytes = END) -> bytes:
        """Return what comes until it contains `until`, or breaks off."""
        received = b""
        while until not in received and (data := self.socket.recv(1 << 16)):
            received += data
        return received


@contextmanager
def upstream() -> Iterator[int]:
    """Run the upstream; give its port."""
    with socket.create_server((LOOPBACK, 0), backlog=512) as listener:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_serve, args=(listener,), daemon=True)
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


def _serve(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=_answer, args=(listener.accept()[0],), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Answer the requests of a connection, until it ends, in one piece of JSON or as events.

    The query says how: `events=10`, with `pause` seconds between them, broken off after the first
    `cut`, the whole after `wait` seconds. The first event tells which key has come, and the
    checksum of the body without it.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError), connection, connection.makefile("rb", 1 << 20) as stream:
        while line := stream.readline():
            how = {name: float(value) for name, value in re.findall(rb"(\w+)=([\d.]+)", line)}
            head = b"".join(iter(stream.readline, b"\r\n"))
            size = re.search(rb"(?i)content-length: (\d+)", head)
            content = stream.read(int(size[1]) if size else 0)
            events = _chat() if CHAT.encode() in line else _messages(content) if how else []
            chunks = _chunks(events)
            sent = chunks[: int(how.get(b"cut", len(chunks)))]
            time.sleep(how.get(b"wait", 0))
            for part in sent if b"pause" in how else [b"".join(sent)]:
                connection.sendall(part)
                time.sleep(how.get(b"pause", 0) if part is not sent[-1] else 0)
            if b"cut" in how:
                return


def _chunks(events: list[Any]) -> list[bytes]:
    """Return the chunks of an answer, the head before the first; without events it is JSON."""
    kind, data = "application/json", [json.dumps({"usage": USAGE})]
    if events:
        kind, data = "text/event-stream", [f"data: {json.dumps(each)}\n\n" for each in events]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [f"{len(each):x}\r\n{each}\r\n".encode() for each in data]
    return [head.encode() + chunks[0], *chunks[1:], END]


def _messages(content: bytes) -> list[Any]:
    member = re.match(rb'\{"prompt_cache_key":"([0-9a-f-]{36})",', content)
    rest = b"{" + content[member.end() :] if member else content
    seen = {"key": member[1].decode() if member else "", "crc": zlib.crc32(rest)}
    return [
        {"type": "message_start", "message": {"usage": USAGE}, "seen": seen},
        *[{"type": "content_block_delta", "delta": {"text": "Yes."}}] * 8,
        {"type": "message_delta", "usage": USAGE},
    ]


def _chat() -> list[Any]:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
    delta = {"index": 0, "delta": {"role": "assistant", "content": "Yes."}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 30_009, "completion_tokens": 1}
    return [*[chunk | {"choices": [delta]}] * 9, chunk | {"choices": [last], "usage": usage}]
