"""A request body's few fields of interest, and the same bytes with another `prompt_cache_key`.

A body is a JSON object in UTF-8 (RFC 8259), a byte-order mark allowed. It is never serialised
anew: a prompt cache works on the exact prompt, so each byte but the key's stays as it was sent.
"""

import json
import re
from codecs import utf_8_decode
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # public, unlisted by typeshed
from typing import Any, Final

try:
    import msgspec
except ImportError:  # mitmproxy's standalone binaries have no msgspec
    msgspec = None  # type: ignore[assignment]

NAME: Final = "prompt_cache_key"
ABSENT: Final = object()
TOO_DEEP: Final = "the body nests too deep"

_STEP = 16 << 10
_MAX_DIGITS = 4300

_SPACE = re.compile(r"[ \t\n\r]*")
_START = re.compile(r"\ufeff?[ \t\n\r]*\{")
_NAME = re.compile(r'[ \t\n\r]*"')
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_ATTRIBUTION = re.compile(rb'"x-anthropic-billing-header:[^"\\]*')
_EMPTY = re.compile(rb"\{[ \t\n\r]*\}")


@dataclass(slots=True)
class Fields:
    """The values of the top-level members of these names; of a repeated name the last one's."""

    model: Any = None
    metadata: Any = None
    user: Any = None
    prompt_cache_key: Any = ABSENT

    @property
    def has_key(self) -> bool:
        """Whether the client sent a key of its own; a blank one or null is none."""
        key = self.prompt_cache_key
        return bool(key.strip()) if isinstance(key, str) else key not in (ABSENT, None)


def _number(digits: str) -> int | float:
    # int() refuses over 4300 digits, which are valid JSON.
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_json = json.JSONDecoder(parse_int=_number)
_msgspec = msgspec and msgspec.json.Decoder(Fields)


def read(body: bytes) -> Fields:
    """Read the fields; ValueError if the body is not a JSON object or nests too deep."""
    try:
        if _msgspec:
            try:
                found = _msgspec.decode(body)
            except msgspec.DecodeError:
                pass  # a byte-order mark, a lone surrogate or NaN: refused there, read by json
            else:
                _check_utf8(body)
                return found
        value = _json.decode(body.decode().removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004
    get = value.get
    return Fields(get("model"), get("metadata"), get("user"), get(NAME, ABSENT))


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError if need be: msgspec skips what it does not keep without a look.

    Step by step, because memory for the text of a large body costs more than the look at it.
    """
    at = 0
    view = memoryview(body)
    while at < len(body):
        is_last = at + _STEP >= len(body)
        at += utf_8_decode(view[at : at + _STEP], "strict", is_last)[1]


def with_key(body: bytes, found: Fields, key: str) -> bytes:
    """Return the body with `key` in it: a first member, or the new value of those that are there.

    `found` is what `read` returned for this body. ValueError if it nests too deep, which is less
    deep where a key has to be replaced.
    """
    if found.prompt_cache_key is not ABSENT:
        try:
            return _replaced(body.decode(), json.dumps(key)).encode()
        except RecursionError:
            raise ValueError(TOO_DEEP) from None
    start = body.index(b"{")
    # One copy of the body, not three: slices of a memoryview are none.
    view = memoryview(body)
    empty = _EMPTY.match(body, start)
    return b"".join((view[: start + 1], member(key, "" if empty else ","), view[start + 1 :]))


def member(key: str, comma: str = ",") -> bytes:
    """Return what is put after an object's opening brace."""
    return f'"{NAME}":{json.dumps(key)}{comma}'.encode()


def attribution(body: bytes) -> bytes:
    """Return the first text that is an attribution block, from its quote on; b"" if none is."""
    match = _ATTRIBUTION.search(body)
    return match[0] if match else b""


def without_attribution(body: bytes) -> bytes:
    """Return the body without the attribution block that leads its `system`, if there is one.

    The body is one that `read` has read. ValueError if it nests too deep.
    """
    if not _ATTRIBUTION.search(body):
        return body
    text = body.decode()
    try:
        for name, start, _ in _members(text):
            first = _after(_SPACE, text, start + 1)
            if name == "system" and text[start] == "[" and text[first] != "]":
                block, end = _json.raw_decode(text, first)
                if _ATTRIBUTION.match(
                    json.dumps(block.get("text") if isinstance(block, dict) else None).encode()
                ):
                    comma = _COMMA.match(text, end)
                    return (text[:first] + text[comma.end() if comma else end :]).encode()
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return body


def model_in(head: bytes) -> str | None:
    """Return the model if it stands whole in the beginning of an object; None if it does not."""
    text = head.decode(errors="replace")
    if not _START.match(text):
        return None
    try:
        for name, start, end in _members(text):
            if name == "model":
                value = _json.decode(text[start:end])
                return value if isinstance(value, str) else None
    except (ValueError, IndexError, RecursionError):
        pass  # the beginning ends here
    return None


def _replaced(text: str, value: str) -> str:
    # Each of several: of a repeated name some parsers take the first and some the last.
    parts, at = [], 0
    for name, start, end in _members(text):
        if name == NAME:
            parts += [text[at:start], value]
            at = end
    return "".join([*parts, text[at:]])


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each of an object's own members, and where its value starts and ends.

    ValueError, IndexError or RecursionError where the text is no object, or not a whole one.
    """
    end = text.index("{")
    while text[end] != "}":
        name, at = scanstring(text, _after(_NAME, text, end + 1))
        start = _after(_COLON, text, at)
        _, end = _json.raw_decode(text, start)
        yield name, start, end
        end = _after(_SPACE, text, end)
        if text[end] not in ",}":
            raise ValueError(f"comma or brace expected at {end}")


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    if match := pattern.match(text, at):
        return match.end()
    raise ValueError(f"{pattern.pattern} expected at {at}")
