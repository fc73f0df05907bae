"""Requests that a real mitmdump streams, between HTTP/1.1 or HTTP/2 on each side.

A body whose headers show a session, say JSON and give a length is held back and sent on with its
key, or with as much white space behind it. Every other body goes on byte for byte.
"""

import gzip
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from lib import LOOPBACK
from lib.client import MESSAGES, Client, request_body, without_key
from lib.messages import Headers, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.http2 import Http2Client, send_frames
from live.proxied import SESSION_HEADER, assert_sound, is_keyed, proxied
from live.tls_server import TlsServer

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
SHOWN = (SESSION_HEADER, SESSION)
JSON = ("content-type", "application/json")
HELD = [SHOWN, JSON]
SIZES = [1_000, 65_536, 1_000_000]
LARGEST = 16 << 20
SPACES = b" " * 58  # as long as a key with its name

ALL = pytest.mark.parametrize("versions", ["1.1 to 1.1", "2 to 1.1", "2 to 2"])


Sides = dict[str, tuple[Server, Mitmdump]]
"""A server of each version of HTTP, and before it a proxy that streams every request."""


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    made: Sides = {}
    options: dict[str, Any] = {"stream_large_bodies": "1", "ssl_insecure": "true"}
    with ExitStack() as stack:
        for version, alpn in (("1.1", []), ("2", ["h2"])):
            server = stack.enter_context(TlsServer(alpn=alpn) if alpn else Server())
            proxy = stack.enter_context(Mitmdump(f"reverse:{server.url}", **options))
            made[version] = server, proxy
        yield made
        assert [server.broken for server, _ in made.values()] == [[], []]
        for _, proxy in made.values():
            assert_sound(proxy)


def send(sides: Sides, versions: str, headers: Headers, body: Any) -> Request:
    """Send a body, chunked if it has several pieces; return what arrived."""
    of_client, of_server = versions.split(" to ")
    upstream, proxy = sides[of_server]
    http2 = Http2Client(f"{LOOPBACK}:{proxy.port}") if of_client == "2" else None
    with http2 or Client(proxy.port) as client:
        assert client.send("POST", MESSAGES, headers, body).status == 200
    (request,) = upstream.take()
    assert request.version == of_server
    assert request.header("content-length") in (None, str(len(request.body)))
    return request


def large_body(size: int, session: str = SESSION, **members: object) -> bytes:
    """Return a body of just so many bytes."""
    short = request_body(session, system="", **members)
    body = short.replace(b'"system": ""', b'"system": "%b"' % (b"x" * (size - len(short))))
    assert len(body) == size
    return body


def pieces(body: bytes) -> Iterable[bytes]:
    size = len(body) // 7 + 1
    return (body[start : start + size] for start in range(0, len(body), size))


@ALL
@pytest.mark.parametrize("size", [*SIZES, LARGEST])
def test_a_body_whose_headers_show_a_session_gets_its_key(
    sides: Sides, versions: str, size: int
) -> None:
    body = large_body(size)
    first, second = (send(sides, versions, HELD, body) for _ in range(2))
    has_the_same_key = second.body == first.body
    assert has_the_same_key
    assert is_keyed(first.body, body)
    assert first.header("content-length") == str(size + len(SPACES))


OTHER_FORMS = {
    "empty": b"{}",
    "model is far": b'{"messages":"%b","model":"far"}' % (b"x" * 100_000),
    "latin-1": b'{"model":"m","messages":["\xff"]}',
    "byte-order mark": b'\xef\xbb\xbf{"model":"m"}',
    "NUL bytes": b'{"model":"m","x":"\x00"}',
    "lone surrogate": b'{"model":"m","messages":["\\ud83d"]}',
    "repeated names": b'{"model":"m","model":"n","model":"o"}',
}


@ALL
@pytest.mark.parametrize("body", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_a_body_of_another_form_gets_one_too(sides: Sides, versions: str, body: bytes) -> None:
    request = send(sides, versions, HELD, body)
    assert len(request.body) == len(body) + len(SPACES)
    without = without_key(request.body)
    mark = b"\xef\xbb\xbf"
    if body.startswith(mark):
        without = mark + without_key(request.body.removeprefix(mark))
    assert without.rstrip() == body != request.body.rstrip()


LARGE = large_body(100_000)
PADDED = {
    "text": b"x" * 100_000,
    "binary": b"\x00\xff" * 100_000,
    "array": b"[" + LARGE + b"]",
    "lines of JSON": b'{"a":1}\n' * 10_000 + b"[]",
    "own key": LARGE.replace(b"{", b'{"prompt_cache_key":"mine",', 1),
    "own key, late": LARGE[:-1] + b',"prompt_cache_key":"mine"}',
    "own key, broken": b'{"x":"\xff","prompt_cache_key":"mine"}',
}


@ALL
@pytest.mark.parametrize("body", PADDED.values(), ids=PADDED)
def test_a_held_body_that_gets_no_key_has_white_space_behind_it(
    sides: Sides, versions: str, body: bytes
) -> None:
    is_unchanged = send(sides, versions, HELD, body).body == body + SPACES
    assert is_unchanged


FORM = b"a=1&prompt_cache_key=2&b=" + b"x" * 50_000
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n%b\r\n--x--\r\n' % LARGE
UPLOADS: dict[str, tuple[Headers, bytes]] = {
    "no session": ([JSON], large_body(100_000, "")),
    "session in the body alone": ([JSON], LARGE),
    "empty session": ([JSON, (SESSION_HEADER, " ")], LARGE),
    "no type": ([SHOWN], LARGE),
    "bytes": ([SHOWN, ("content-type", "application/octet-stream")], bytes(range(256)) * 400),
    "form": ([SHOWN, ("content-type", "application/x-www-form-urlencoded")], FORM),
    "multipart": ([SHOWN, ("content-type", "multipart/form-data; boundary=x")], MULTIPART),
    "lines of JSON": ([SHOWN, ("content-type", "application/x-ndjson")], LARGE + b"\n" + LARGE),
    "coded": ([*HELD, ("content-encoding", "gzip")], gzip.compress(LARGE)),
    "a coding that is none": ([*HELD, ("content-encoding", "gzip")], LARGE),
    "signed": ([*HELD, ("x-amz-content-sha256", "0" * 64)], LARGE),
    "too large to be held": (HELD, large_body(LARGEST + 1)),
}


@ALL
@pytest.mark.parametrize(("headers", "body"), UPLOADS.values(), ids=UPLOADS)
def test_every_other_body_is_what_was_sent(
    sides: Sides, versions: str, headers: Headers, body: bytes
) -> None:
    request = send(sides, versions, headers, body)
    is_unchanged = request.body == body
    assert is_unchanged
    assert request.header("content-length") == str(len(body))


def test_own_key_late_in_a_body_is_in_the_log(sides: Sides) -> None:
    session = str(uuid4())
    body = large_body(100_000, session, prompt_cache_key="mine")
    send(sides, "1.1 to 1.1", [JSON, (SESSION_HEADER, session)], body)
    sides["1.1"][1].find(rf"key=mine session={session} .* state=kept ")


# Not from 2 to 1.1: there mitmproxy itself sends neither length nor chunks, so no body.
@pytest.mark.parametrize("versions", ["1.1 to 1.1", "2 to 2"])
@pytest.mark.parametrize("size", [*SIZES, LARGEST])
@pytest.mark.parametrize("headers", [HELD, [JSON]], ids=["session", "no session"])
def test_a_body_without_a_length_goes_on_as_it_is(
    sides: Sides, versions: str, size: int, headers: Headers
) -> None:
    body = large_body(size)
    request = send(sides, versions, headers, pieces(body))
    is_unchanged = request.body == body
    assert is_unchanged
    assert request.header("content-length") is None


@pytest.mark.parametrize("versions", ["2 to 1.1", "2 to 2"])
@pytest.mark.parametrize("body", [large_body(50_000), b"x" * 50_000], ids=["key", "no key"])
def test_empty_frames_are_not_the_end(sides: Sides, versions: str, body: bytes) -> None:
    upstream, proxy = sides[versions.removeprefix("2 to ")]
    frames = [each for piece in pieces(body) for each in (b"", bytes(piece), b"")]
    send_frames(proxy.port, MESSAGES, [(SHOWN[0].lower(), SESSION), JSON], frames)
    (request,) = upstream.take()
    assert is_keyed(request.body, body) or request.body == body + SPACES
    assert request.body.startswith(b"{") is (b'"prompt_cache_key"' in request.body)


def test_one_warning_for_each_reason() -> None:
    body, large = large_body(1_000), large_body(LARGEST + 1)
    with proxied(stream_large_bodies="1") as (upstream, proxy), Client(proxy.port) as client:
        for _ in range(3):
            for each in (pieces(body), large, b"[]", body):
                client.send("POST", MESSAGES, HELD, each)
        *others, keyed = upstream.take()[-4:]
        are_unchanged = [each.body for each in others] == [body, large, b"[]" + SPACES]
        assert are_unchanged
        assert keyed.key
        proxy.stop()
    warnings = [line for line in proxy.lines if "WARN [prompt-cache] no key" in line]
    assert len(warnings) == 2
    assert "the request is streamed (stream_large_bodies) and cannot be held back" in warnings[0]
    assert "the body is not a JSON object" in warnings[1]
