"""Requests byte for byte: upstream arrives what arrives without the addon, but for the key.

Each case goes through two mitmdumps, one of them without the addon, to a server that records bytes.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.mitmdump import Mitmdump
from live.proxied import SESSION_HEADER

LIMIT = 1000
END = b"\r\n\r\n{}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2" + END
MEMBER = re.compile(rb'"prompt_cache_key":"[0-9a-f-]{36}",?')


class Recorder:
    """A server that records the bytes of its connections, and answers each whole request."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._received: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def take(self) -> list[bytes]:
        """Return what each connection since the last call has brought."""
        taken, self._received = self._received, []
        return [bytes(each) for each in taken]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received, start = bytearray(), 0
        self._received.append(received)
        with suppress(OSError), connection:
            while data := connection.recv(1 << 16):
                received += data
                while size := _request_size(received[start:]):
                    start += size
                    connection.sendall(ANSWER)


def _request_size(data: bytearray) -> int:
    """Return the size of the request that stands at the beginning; 0 if it is not whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return 0
    size = len(head) + len(end)
    if b"transfer-encoding:" in head.lower():
        last = re.search(rb"(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n", rest)
        return size + last.end() if last else 0
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    size += int(length[1]) if length else 0
    return size if len(data) >= size else 0


def post(body: bytes, *headers: str, length: str | None = "", version: str = "1.1") -> bytes:
    """Return a request of a session; `length` stands for the right one, None leaves it out."""
    lines = [f"POST /v1/messages HTTP/{version}", "Host: x", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes, *headers: str) -> bytes:
    pieces = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    head = post(b"", *headers, "Transfer-Encoding: chunked", length=None)
    return head + pieces + b"0\r\n\r\n"


class Case(NamedTuple):
    """Bytes that are sent, how many answers come, and whether a key is inserted."""

    sent: bytes
    answers: int = 1
    is_keyed: bool = True


SHOWN = [
    f"{SESSION_HEADER}: 3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a",
    "Content-Type: application/json",
]
SMALL = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
LARGE = b'{"model":"m","x":"%b"}' % (b"y" * 5000)
GET = b"GET /prompt-cache HTTP/1.1\r\nHost: x\r\n\r\n"


def both(name: str, *headers: str, is_keyed: bool = True, **more: Any) -> dict[str, Case]:
    """Return a request that mitmproxy streams, and one that it does not."""
    bodies = {"small": SMALL, "large": LARGE}
    return {
        f"{name}, {size}": Case(post(body, *SHOWN, *headers, **more), is_keyed=is_keyed)
        for size, body in bodies.items()
    }


def of(body: bytes, *, is_keyed: bool = True) -> Case:
    return Case(post(body, *SHOWN), is_keyed=is_keyed)


CASES = {
    **both("expects 100", "Expect: 100-continue"),
    **both("HTTP/1.0", version="1.0"),
    **both("many headers", *(f"X-{number}: {number}" for number in range(1000))),
    **both("many sessions", *(f"{SESSION_HEADER}: {number}" for number in range(500))),
    "coding identity": Case(post(SMALL, *SHOWN, "Content-Encoding: identity")),
    "coding without a name": Case(post(SMALL, *SHOWN, "Content-Encoding: ")),
    **both("a digest", "Digest: x", is_keyed=False),
    **both("leading zeros", length="0", is_keyed=False),
    "pipelined": Case(post(SMALL, *SHOWN) + GET + post(LARGE, *SHOWN) + post(b"abc", *SHOWN), 4),
    "pipelined, chunked": Case(chunked(SMALL, *SHOWN) * 2 + post(SMALL, *SHOWN), 3),
    "chunked, no session": Case(chunked(SMALL), is_keyed=False),
    "chunked, large": Case(chunked(LARGE, *SHOWN) + post(SMALL, *SHOWN), 2),
    "bytes behind": Case(post(SMALL, *SHOWN) + b"}}}\r\n\r\n", is_keyed=True),
    "bytes behind, large": Case(post(LARGE, *SHOWN) + b"}}}\r\n\r\n"),
    "no length": Case(post(b"", *SHOWN, length=None), is_keyed=False),
    "folded header": Case(post(SMALL, f"{SESSION_HEADER}: a\r\n b"), is_keyed=False),
    "bytes in the header": Case(post(SMALL, f"{SESSION_HEADER}: \xe9\xff"), is_keyed=False),
    "deep": of(b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "NUL in a text": of(b'{"model":"m","x":"\x00"}'),
    "NUL in the model": of(b'{"model":"m\x00"}', is_keyed=False),
    "lone surrogates": of(b'{"model":"\\ud800","x":"\\udfff"}'),
    "invalid UTF-8": of(b'{"model":"m","x":"\xc0\x80\xed\xa0\x80"}'),
    "UTF-16": of('{"model":"m"}'.encode("utf-16"), is_keyed=False),
    "byte-order mark": of(b"\xef\xbb\xbf" + SMALL),
    "numbers that are none": of(b'{"model":"m","x":NaN,"y":1e999}'),
    "repeated names": of(b'{"model":"a","model":"b","metadata":1,"metadata":{}}'),
    "white space": of(b" \r\n{ \t}\n\n"),
    "form feeds": of(b"\x0c{}\x0c", is_keyed=False),
    "two objects": of(SMALL + SMALL),
    "array": of(b"[%b]" % SMALL, is_keyed=False),
}


class Side(NamedTuple):
    """A recorder, and the proxies before it: one that streams large requests, and one that not."""

    recorder: Recorder
    proxies: list[Mitmdump]


@pytest.fixture(scope="module")
def sides() -> Iterator[list[Side]]:
    """Start proxies without the addon and with it."""
    with ExitStack() as stack:
        found = []
        for scripts in ([], [ADDON]):
            recorder = Recorder()
            stack.callback(recorder.close)
            args: list[list[str]] = [[], ["--set", f"stream_large_bodies={LIMIT}"]]
            proxies = [
                Mitmdump(f"reverse:{recorder.url}", scripts=scripts, flow_detail="0", args=more)
                for more in args
            ]
            found.append(Side(recorder, [stack.enter_context(each) for each in proxies]))
        yield found


def exchange(port: int, case: Case) -> bytes:
    """Send the bytes of a case; return its answers, or what comes until the proxy hangs up."""
    received = b""
    with (
        suppress(ConnectionError),
        socket.create_connection((LOOPBACK, port), TIMEOUT) as client,
    ):
        client.sendall(case.sent)
        while received.count(END) < case.answers and (data := client.recv(1 << 16)):
            received += data
    parts = received.split(END)
    return received if len(parts) <= case.answers else END.join([*parts[: case.answers], b""])


def without_key(received: bytes) -> bytes:
    """Return a connection's bytes without the key, the lengths, the chunk sizes and the padding."""
    plain = MEMBER.sub(b"", received)
    plain = re.sub(rb"([}\]c]) {58}", rb"\1", plain)
    plain = re.sub(rb"\r\n[0-9a-f]+\r\n(?=[{\"])", b"\r\nSIZE\r\n", plain)
    return re.sub(rb"(?i)(content-length: |127\.0\.0\.1:)\d+", rb"\1N", plain)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["kept", "streamed"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_arrives_is_what_arrives_without_the_addon(
    sides: list[Side], case: Case, is_streamed: bool
) -> None:
    got_alone, got_ours = (exchange(side.proxies[is_streamed].port, case) for side in sides)
    alone, ours = (side.recorder.take() for side in sides)
    assert got_ours == got_alone
    assert list(map(without_key, ours)) == list(map(without_key, alone))
    assert bool(MEMBER.search(b"".join(ours))) == case.is_keyed


@pytest.mark.parametrize("share", [0, 1, 99])
def test_a_request_that_breaks_off_never_arrives_whole(sides: list[Side], share: int) -> None:
    recorder, proxies = sides[1]
    request = post(LARGE, *SHOWN)
    head = len(request) - len(LARGE)
    for proxy in proxies:
        with socket.create_connection((LOOPBACK, proxy.port), TIMEOUT) as client:
            client.sendall(request[: head + len(LARGE) * share // 100])
            # A reset: nothing is left for the proxy to read.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert exchange(proxy.port, Case(post(SMALL, *SHOWN))) == ANSWER
    requests = [json.loads(each.partition(b"\r\n\r\n")[2] or b"{}") for each in recorder.take()]
    assert [each.get("messages") for each in requests if each] == [
        json.loads(SMALL)["messages"]
    ] * 2
