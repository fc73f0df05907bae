"""Parse the JSON values of a text, one after the other, and estimate how long that takes.

A text has several values where each line is one, or where an upstream has put the next event's
`data:` into the same line. `[DONE]` counts as a value. Bounded: the values of a text (`MAX_VALUES`)
and the digits of a number; `work` says what the rest takes.
"""

import json
import re
from typing import Any, Final

DONE: Final = "[DONE]"
"""What ends a stream of Chat Completions."""

MAX_VALUES: Final = 10_000
"""Values of one text; a line of an answer has 200 bytes or more."""

VALUE_WORK: Final = 2_000
"""Estimated nanoseconds that each value of a text takes, besides its bytes."""

TOO_MANY: Final = 1 << 53
"""What a number of more digits than `_MAX_DIGITS` is read as; JSON numbers are exact below."""

_MAX_DIGITS = 16
_BETWEEN = re.compile(r"[ \t\n\r\ufeff]*(?:data:[ \t\n\r]*)?")


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_DIGITS else TOO_MANY  # int() is quadratic


# Not strict: some do not escape line ends and tabs in a text.
_JSON = json.JSONDecoder(parse_int=_integer, strict=False)


def work(data: bytes) -> int:
    """Return about how many nanoseconds it takes to parse a JSON text, measured at its worst."""
    values = data.count(b",") + data.count(b"{") + data.count(b"[")
    return 8_000 + 6 * len(data) + 250 * values


def values_in(text: str) -> tuple[list[Any], bool]:
    """Return the JSON values that a text begins with, and whether the text has nothing else."""
    values: list[Any] = []
    at = _next(text, 0)
    while at < len(text) and len(values) < MAX_VALUES:
        if text.startswith(DONE, at):
            value, at = DONE, at + len(DONE)
        else:
            try:
                value, at = _JSON.raw_decode(text, at)
            except (ValueError, RecursionError):
                return values, False
        values.append(value)
        at = _next(text, at)
    return values, at == len(text)


def _next(text: str, at: int) -> int:
    """Return where the next value of a text begins."""
    between = _BETWEEN.match(text, at)
    return between.end() if between else at
