"""A request body: what is asked of it, read at a glance where that answers, and a key put in.

A body is a JSON object in UTF-8 (RFC 8259), a byte-order mark allowed. It is never serialised
anew: a prompt cache works on the exact prompt, so each byte but the key's stays as it was sent.

For every valid JSON object whose member names are written without escapes and only once, a glance
either does not answer, and the body is read whole, or answers what the whole reading would. What
is not valid between its braces is the upstream's to judge.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from json.decoder import scanstring  # type: ignore[attr-defined]  # public, unlisted by typeshed
from typing import Any, Final

NAME: Final = "prompt_cache_key"
ABSENT: Final = object()

MEMBER_SIZE: Final = len(f'"{NAME}":"{"-" * 36}",')
"""Bytes that a new key of 36 characters adds to a body that is not empty."""

_MAX_DIGITS = 4300

_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*\{")
_EMPTY = re.compile(rb"[ \t\n\r]*\}")
# Every Claude Code so far has sent the model first, see tests/data/claude_code.jsonl.
_MODEL = re.compile(rb'[ \t\n\r]*"model"[ \t\n\r]*:[ \t\n\r]*"([^"\\\x00-\x1f]*)"')
_USER = re.compile(rb'"user"[ \t\n\r]*:')

_SPACE = re.compile(r"[ \t\n\r]*")
_NO_NAME = re.compile(r"[ \t\n\r]*\}")
_NAME = re.compile(r'[ \t\n\r]*"')
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")


class Body:
    """The body's members that matter here, each looked for when it is asked for.

    `raw` are the decoded bytes; ValueError if they do not begin and end as a JSON object. Where
    a member can't be told at a glance and the body can't be read whole, asking raises ValueError.
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
            try:
                return first[1].decode()
            except UnicodeDecodeError:
                pass  # the whole reading says what is wrong
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
            try:
                return _load(b"{" + self.raw[at + 1 :])["metadata"]
            except ValueError:
                pass
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

    @cached_property
    def whole(self) -> dict[str, Any]:
        """All members; of a repeated name the last one's. ValueError if it is no JSON."""
        return _load(self.raw)

    def has(self, name: str) -> bool:
        """Whether a member of that name may stand in the body, at any depth."""
        return f'"{name}"'.encode() in self.raw

    def with_key(self, key: str, **more: Any) -> bytes:
        """Return the body with the key in it: a first member, or the new value of the client's own.

        `more` are further members to come first, of names that the body does not have.
        """
        raw = self.raw
        if self.own_key is ABSENT:
            more = {NAME: key, **more}
        else:
            with reading():
                raw = _replaced(raw.decode(), json.dumps(key)).encode()
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
    """Raise ValueError for a body that can't be read, in words that are the same for each."""
    try:
        yield
    except RecursionError:
        raise ValueError("the body nests too deep") from None
    except ValueError:
        raise ValueError("the body is not JSON in UTF-8") from None


def _load(raw: bytes) -> dict[str, Any]:
    with reading():
        value: dict[str, Any] = _json.decode(raw.decode().removeprefix("\ufeff"))
    return value


def _replaced(text: str, value: str) -> str:
    # Each of several: of a repeated name some parsers take the first and some the last.
    parts, at = [], 0
    for name, start, end in members(text):
        if name == NAME:
            parts += [text[at:start], value]
            at = end
    return "".join([*parts, text[at:]])


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
