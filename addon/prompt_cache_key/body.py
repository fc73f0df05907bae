"""A request body: what is asked of it, read at a glance where that answers, and a key put in.

A body is a JSON object in UTF-8 (RFC 8259), a byte-order mark allowed. It is never serialised
anew: a prompt cache works on the exact prompt, so each byte but the key's stays as it was sent.

For every valid JSON object whose member names are written without escapes and only once, a glance
either gives no answer, and the whole body is parsed, or gives the parser's answer. What is not
valid between the braces is for the upstream to reject.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from itertools import islice
from json.decoder import scanstring  # type: ignore[attr-defined]  # public, unlisted by typeshed
from typing import Any, Final

NAME: Final = "prompt_cache_key"
DIAGNOSIS: Final = "prompt_cache_options"
"""The member that asks an upstream to explain a miss."""
ABSENT: Final = object()

MEMBER_SIZE: Final = len(f'"{NAME}":"{"-" * 36}",')
"""Bytes that a new key of 36 characters adds to a body that is not empty."""

MAX_PARSED: Final = 4 << 20
MAX_MARKS: Final = 400_000
"""Bytes, and commas and opening brackets, of a body that is parsed. The parser holds the event loop
for 60 ms at the most within them. Claude Code's bodies have a mark every 55 bytes; code in texts
has one every 12."""

MAX_MEMBERS: Final = 10_000
"""Members of a body in which a key is replaced: each takes 2 µs."""

_MAX_DIGITS = 4300
_MAX_REST = 4096
"""Bytes of an object's rest whose metadata is remembered."""
_MAX_PROBES = 100
"""Members of one name that are looked at; tools of Claude Code have none of the name `stream`."""

_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*\{")
_EMPTY = re.compile(rb"[ \t\n\r]*\}")
# Every Claude Code so far has sent the model first, see tests/data/claude_code.jsonl.
_MODEL = re.compile(rb'[ \t\n\r]{0,99}"model"[ \t\n\r]*:[ \t\n\r]*"([^"\\\x00-\x1f]*)"')
_USER = re.compile(rb'"user"[ \t\n\r]*:')
_STREAM = re.compile(rb'"stream"[ \t\n\r]*:[ \t\n\r]*(true|false)')

_SPACE = re.compile(r"[ \t\n\r]*")
_NO_NAME = re.compile(r"[ \t\n\r]*\}")
_NAME = re.compile(r'[ \t\n\r]*"')
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")


class Body:
    """The members of a request body that matter here, each looked for when it is asked for.

    `raw` are the decoded bytes; ValueError if they do not begin and end as a JSON object. Where
    a glance gives no answer and the body cannot be parsed, asking for a member raises ValueError.
    """

    def __init__(self, raw: bytes) -> None:
        opening = _OPENING.match(raw)
        if not opening or not raw.rstrip(b" \t\n\r").endswith(b"}"):
            raise ValueError("the body is not a JSON object")
        self.raw = raw
        self._inside = opening.end()

    @cached_property
    def model(self) -> str:
        """The model; "" if it is missing or no text."""
        if first := _MODEL.match(self.raw, self._inside):
            with suppress(UnicodeDecodeError):  # the parser says what is wrong
                return first[1].decode()
        model = self.whole.get("model")
        return model if isinstance(model, str) else ""

    @cached_property
    def metadata(self) -> Any:
        """The value of `metadata`; None if it is missing.

        Claude Code sends it behind the messages. What follows a comma is an object's rest exactly
        if the comma stands at the top level: anywhere deeper a bracket closes too many.
        """
        at = self.raw.rfind(b',"metadata":')
        if at >= 0:
            rest = self.raw[at + 1 :]
            with suppress(ValueError):
                return (_remembered if len(rest) <= _MAX_REST else _metadata)(rest)
        return self.whole.get("metadata") if self.has("metadata") else None

    @cached_property
    def user(self) -> Any:
        """The value of `user`; None if it is missing."""
        return self.whole.get("user") if _USER.search(self.raw) else None

    @cached_property
    def own_key(self) -> Any:
        """The value of `prompt_cache_key`, of whatever type; ABSENT if it is missing."""
        return self.whole.get(NAME, ABSENT) if self.has(NAME) else ABSENT

    @property
    def has_key(self) -> bool:
        """Whether the client sent a key of its own; a blank one or null is none."""
        key = self.own_key
        return bool(key.strip()) if isinstance(key, str) else key not in (ABSENT, None)

    @property
    def wants_stream(self) -> bool:
        """Whether the body seems to ask for a stream; a member deeper inside is not told apart."""
        at = len(self.raw)
        for _ in range(_MAX_PROBES):  # from the end, where Claude Code sends it
            at = self.raw.rfind(b'"stream"', 0, at)
            if at < 0:
                break
            if found := _STREAM.match(self.raw, at):
                return found[1] == b"true"
        return False

    @cached_property
    def whole(self) -> dict[str, Any]:
        """All members, of a repeated name the last; ValueError as `load` raises it."""
        return load(self.raw)

    def has(self, name: str) -> bool:
        """Return whether a member of that name may stand in the body, at any depth."""
        return f'"{name}"'.encode() in self.raw

    def with_key(self, key: str, **more: Any) -> bytes:
        """Return the body with the key as its first member, or in place of the client's own.

        `more` are further first members, of names that the body does not have.
        """
        raw = self.raw
        if self.own_key is ABSENT:
            more = {NAME: key, **more}
        else:
            raw = _replaced(raw, json.dumps(key))
        if not more:
            return raw
        first = _encode(more)[1:-1].encode()
        comma = b"" if _EMPTY.match(raw, self._inside) else b","
        # One copy of the body, not three: slices of a memoryview are none.
        view = memoryview(raw)
        return b"".join((view[: self._inside], first, comma, view[self._inside :]))


def _number(digits: str) -> int | float:
    # int() refuses over 4300 digits, which are valid JSON.
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_json = json.JSONDecoder(parse_int=_number)
_encode = json.JSONEncoder(separators=(",", ":")).encode


@contextmanager
def reading() -> Iterator[None]:
    """Raise ValueError for a body that cannot be parsed, in the same words for each body."""
    try:
        yield
    except RecursionError:
        raise ValueError("the body nests too deep") from None
    except ValueError:
        raise ValueError("the body is not JSON in UTF-8") from None


def _metadata(rest: bytes) -> Any:
    """Return the value of `metadata`, which the rest of an object begins with."""
    return load(b"{" + rest)["metadata"]


_remembered = lru_cache(maxsize=256)(_metadata)  # a session sends the same with each request


def load(raw: bytes) -> dict[str, Any]:
    """Return the parsed object; ValueError if it is too large, holds too much, or cannot be parsed.

    A number of over 4300 digits becomes a float, as Python refuses to make an int of it.
    """
    if len(raw) > MAX_PARSED:
        raise ValueError(f"the body has over {MAX_PARSED >> 20} MB to parse")
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_MARKS:
        raise ValueError("the body has too many values to parse")
    with reading():
        value: dict[str, Any] = _json.decode(raw.decode().removeprefix("\ufeff"))
    return value


def _replaced(raw: bytes, value: str) -> bytes:
    with reading():
        text = raw.decode()
        found = list(islice(members(text), MAX_MEMBERS + 1))
    if len(found) > MAX_MEMBERS:
        raise ValueError("the body has too many members to replace its key")
    # Each of several: of a repeated name some parsers take the first and some the last.
    parts, at = [], 0
    for name, start, end in found:
        if name == NAME:
            parts += [text[at:start], value]
            at = end
    return "".join([*parts, text[at:]]).encode()


def members(text: str, at: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each of an object's own members, and where its value starts and ends.

    The object begins at the first brace from `at` on. To be called within `reading`.
    """
    end = text.index("{", at)
    if _NO_NAME.match(text, end + 1):
        return
    while text[end] != "}":
        name, at = scanstring(text, _after(_NAME, text, end + 1))
        start = _after(_COLON, text, at)
        _, end = _json.raw_decode(text, start)
        yield name, start, end
        end = _after(_SPACE, text, end)
        if text[end : end + 1] not in (",", "}"):
            raise ValueError(f"comma or brace expected at {end}")


def elements(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Yield where each element of the array that begins at `at` starts and ends, as above."""
    end = at
    while (start := _after(_SPACE, text, end + 1)) < len(text) and text[start] != "]":
        _, end = _json.raw_decode(text, start)
        yield start, end
        end = _after(_SPACE, text, end)
        if text[end : end + 1] != ",":
            return


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    if match := pattern.match(text, at):
        return match.end()
    raise ValueError(f"{pattern.pattern} expected at {at}")
