"""Requests and responses that are made to cost a proxy as much time and memory as they can.

Each shows a session, so that the addon looks at it.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Final, NamedTuple

import brotli  # type: ignore[import-untyped, unused-ignore]

from lib.messages import Headers, Reply

SIZE: Final = 32 << 20
MB: Final = 1 << 20
SHOWN: Final = ("x-claude-code-session-id", "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a")
TYPE: Final = ("content-type", "application/json")
_BLOCK = bytes(16 << 20)

Make = Callable[[int], bytes]
"""Makes a body of so many bytes at most."""


class Hostile(NamedTuple):
    """Requests that are sent one after another, and what they are answered with, in turn.

    With `calls` all requests wait, and these are sent to the other listener meanwhile. The page is
    asked for `views` times at the end.
    """

    bodies: Sequence[bytes] = (b'{"model":"m"}',)
    headers: Headers = (SHOWN, TYPE)
    replies: Sequence[Reply] = (Reply(),)
    calls: Sequence[bytes] = ()
    views: int = 0


def cases(size: int = SIZE) -> Iterator[tuple[str, Callable[[], Hostile]]]:
    """Yield the name of each hostile input, and what makes it, of so many bytes at most."""
    spaces, labels = "x" + " " * 60_000 + "x", ".".join(["bedrock"] * 8000)
    for name, host in (("Host of spaces", spaces), ("Host of labels", labels)):
        yield name, partial(Hostile, headers=[("Host", host), SHOWN])
    for name, make in REQUESTS.items():
        yield f"request of {name}", partial(_request, make, size)
    for name, (coding, make) in CODED.items():
        yield f"request of {name}", partial(_request, make, size, ("content-encoding", coding))
        yield f"response of {name}", partial(_response, make, size, coding)
        yield f"stream of {name}", partial(_response, make, size, coding, "text/event-stream")
    for name, make in EVENTS.items():
        yield f"events of {name}", partial(_response, make, size)
        yield f"stream of {name}", partial(_response, make, size, "", "text/event-stream")
    for name, make in ANSWERS.items():
        yield f"response of {name}", partial(_response, make, size)
    for name, make in ERRORS.items():
        yield f"error of {name}", partial(_response, make, size, status=400)
    yield "misses of nested values", _nested
    yield "calls among labelled lines", _labelled
    yield "page of long names", _long_names


def _request(make: Make, size: int, *headers: tuple[str, str]) -> Hostile:
    return Hostile((make(size),), [SHOWN, TYPE, *headers])


def _response(
    make: Make, size: int, coding: str = "", type_: str = TYPE[1], status: int = 200
) -> Hostile:
    headers = [("content-type", type_)]
    headers += [("content-encoding", coding)] if coding else []
    return Hostile(replies=[Reply(status, headers, make(size))])


def _filled(piece: bytes, begin: bytes = b"", end: bytes = b"", limit: int = SIZE) -> Make:
    """Return what fills a body with as many pieces as fit between its beginning and end."""

    def make(size: int) -> bytes:
        room = min(size, limit) - len(begin) - len(end)
        return begin + piece * (room // len(piece)) + end

    return make


# --- bodies ---------------------------------------------------------------------------------------

_MODEL = b'{"model":"m",'
_KEY = b'"prompt_cache_key":" ",'
_COUNTDOWN = b'{"role":"system","content":"<total_tokens>9 tokens left</total_tokens>"},'
REQUESTS: Final[dict[str, Make]] = {
    "an own blank key": _filled(b"x", b'{"prompt_cache_key":"","x":"', b'"}'),
    "blank keys": _filled(_KEY, b"{", b'"model":"m"}'),
    "blank keys, 4 MB": _filled(_KEY, b"{", b'"model":1}', 4 * MB),
    "brackets": _filled(b"[", _MODEL + b'"x":', b"}"),
    "brackets, 4 MB": _filled(b"[", b'{"x":', b"}", 4 * MB),
    "braces": _filled(b'{"a":', _MODEL + b'"x":', b"}"),
    "values": _filled(b"1,", _MODEL + b'"x":[', b"1]}"),
    "values, 4 MB": _filled(b"1234567890,", b'{"x":[', b'1],"model":"m"}', 4 * MB),
    "escapes": _filled(b"\\\\", _MODEL + b'"x":"', b'"}'),
    "quotes": _filled(b'\\"', _MODEL + b'"x":"', b'"}'),
    "surrogates": _filled(b"\\ud800", _MODEL + b'"x":"', b'"}'),
    "digits": _filled(b"9", _MODEL + b'"x":', b"}"),
    "digits, 4 MB": _filled(b"9", b'{"x":', b"}", 4 * MB),
    "white space": _filled(b" ", b"{", b'"model":"m"}'),
    "NUL bytes": _filled(b"\x00", _MODEL + b'"x":"', b'"}'),
    "names": _filled(b'"metadata":"user":"stream" ', _MODEL, b"}"),
    "metadata": _filled(b',"metadata":{"user_id":1}', _MODEL + b'"x":1', b"}"),
    "system prompts": _filled(b'"system":"', _MODEL, b"}"),
    "attributions": _filled(b'"x-anthropic-billing-header:a=b;",', b"{", b'"model":1}'),
    "countdowns": _filled(_COUNTDOWN, _MODEL + b'"messages":[', b"1]}"),
    "countdowns, 4 MB": _filled(_COUNTDOWN, _MODEL + b'"messages":[', b"1]}", 4 * MB),
    "directories": _filled(b"Working directory: /", _MODEL + b'"system":"', b'"}'),
    "bytes": _filled(b"\xff"),
}


@cache
def _brotli(_: int) -> bytes:
    coder = brotli.Compressor(quality=5)
    first, second = (coder.process(_BLOCK) + coder.flush() for _ in range(2))
    return bytes(first + second * 199 + coder.finish())  # 2.8 kB are 3.3 GB


def _gzip(size: int) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, second = (coder.compress(_BLOCK) + coder.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + second * ((size - len(first)) // len(second))


_FRAME = b"\x28\xb5\x2f\xfd\x00\x58"
CODED: Final[dict[str, tuple[str, Make]]] = {
    "brotli, 3.3 GB": ("br", _brotli),
    "brotli, no end": ("br", _filled(b"\x06", b"\x0b")),
    "gzip, 1:1000": ("gzip", _gzip),
    "gzip, empty members": ("gzip", _filled(zlib.compress(b"", wbits=31))),
    "deflate, empty blocks": ("deflate", _filled(b"\x00\x00\x00\xff\xff", b"\x78\x9c")),
    "zstd, empty frames": ("zstd", _filled(b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00")),
    "zstd, skippable frames": ("zstd", _filled(b"\x50\x2a\x4d\x18\x00\x00\x00\x00")),
    "zstd, blocks of 128 kB": ("zstd", _filled(b"\x02\x00\x10\x00", _FRAME)),
    "zstd, empty blocks": ("zstd", _filled(b"\0\0\0", _FRAME)),
    "codings of codings": ("gzip, gzip, br", _gzip),
}

_USAGE = b'{"type":"message_delta","usage":{"input_tokens":9,"output_tokens":1}}'
_NESTED = b'data: {"type":"message_delta","usage":%b}\n\n' % (b"[" * 60_000)
EVENTS: Final[dict[str, Make]] = {
    "one line": _filled(b"x", b"data: "),
    "empty lines": _filled(b"\n", b"data: 1\n"),
    "carriage returns": _filled(b"\r", b"data: 1\n"),
    "lines": _filled(b"data: x\n"),
    "few bytes": _filled(b"data: {}\n\n"),
    "usage": _filled(b"event: message_delta\ndata: " + _USAGE + b"\n\n"),
    "brackets": _filled(b"[", b'event: message_delta\ndata: {"usage":'),
    "many brackets": _filled(_NESTED),
    "comments": _filled(b":\n"),
}
ANSWERS: Final[dict[str, Make]] = {
    "values": _filled(b"1,", b'{"usage":[', b"1]}"),
    "values, 4 MB": _filled(b"1,", b'{"usage":[', b"1]}", 4 * MB),
    "brackets": _filled(b"[", b'{"usage":'),
    "usage": _filled(b'"usage":{"input_tokens":9},', b"{", b'"x":1}'),
    "usage, 4 MB": _filled(b'"usage":{"input_tokens":9},', b"{", b'"x":1}', 4 * MB),
    "text": _filled(b"x", b'{"x":"', b'"}'),
}


def _errors(size: int) -> bytes:
    message = "prompt_cache_key: Extra inputs are not permitted"
    while len(message) < min(size, 100_000):
        message = json.dumps({"error": {"message": message}})
    return message.encode()


ERRORS: Final[dict[str, Make]] = {
    "errors": _errors,
    "lists": _filled(b"[", b'{"detail":', b"}", 254_000),
    "wrappers": _filled(b"Error from provider: ", b'{"error":{"message":"', b'"}}', 64_000),
    "wrapped text": _filled(b"litellm.BadRequestError: ", limit=64_000),
    "braces": _filled(b"x - {", limit=64_000),
    "names": _filled(b"a, ", b'{"message":"Unsupported parameters: ', b'"}', 64_000),
    "members": _filled(b'{"message":"x"},', b'{"detail":[', b"1]}", 64_000),
    "32 MB": _filled(b'{"error":'),
}

# --- several requests -----------------------------------------------------------------------------


def _answer(cached: int) -> Reply:
    usage = {"input_tokens": 100_000, "cache_read_input_tokens": cached}
    return Reply(body=json.dumps({"usage": usage}).encode())


def _nested() -> Hostile:
    """Return requests with missed tokens whose bodies differ in each of many nested values."""
    bodies = []
    for turn in range(4):
        nested = (b'{"a%d":[' % turn) * 450 + b"1" + b"]}" * 450
        messages = b",".join([b'{"role":"user","content":%b}' % nested] * 400)
        bodies.append(b'{"model":"m","messages":[%b]}' % messages)
    return Hostile(bodies, replies=[_answer(each) for each in (0, 90_000, 0, 0)])


def _labelled() -> Hostile:
    """Return requests that wait, and calls that may be for each of them, with many lines."""
    lines = [f"label {number}: {number}" for number in range(40_000)]
    bodies = []
    for number in range(20):
        text = "\n".join([*lines, f"number: {number}"])
        messages = [{"role": "user", "content": "go on"}]
        bodies.append(json.dumps({"model": "m", "system": text, "messages": messages}).encode())
    system = {"role": "system", "content": "\n".join(lines)}
    call = {"model": "m", "messages": [system, {"role": "user", "content": "go on"}]}
    return Hostile(bodies, calls=[json.dumps(call).encode()] * 4)


def _long_names() -> Hostile:
    """Return requests that fill the live page with long names."""
    model = "<" * 10_000
    bodies = [json.dumps({"model": f"{number}{model}"}).encode() for number in range(1000)]
    return Hostile(bodies, replies=[_answer(0)], views=40)
