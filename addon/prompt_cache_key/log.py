"""Log lines: `[prompt-cache] …`, with fields written `name=value`, safe to read by machines."""

import asyncio
import json
import logging
import re
import time
from functools import lru_cache
from typing import Any, NamedTuple

LOGGER = "prompt_cache_key"
MAX_LENGTH = 256
DELAY = 0.02
"""Seconds for which a line about a client's request waits for others.

A line between two requests takes five times as long as one right after another, as little of what
it needs is in the processor's caches; and a slow terminal does not hold up the request.
"""

_logger = logging.getLogger(LOGGER)
_PLAIN = re.compile(r"[!#-~]+")  # printable ASCII but the space and the double quote


def text(value: str) -> str:
    """Return a value as it is where that is plain, else quoted and escaped as JSON; cut if long."""
    return _quoted(value if len(value) <= MAX_LENGTH else value[: MAX_LENGTH - 1] + "…")


def pairs(**values: object) -> str:
    """Return `name=value name=value …`."""
    return " ".join(f"{name}={text(_plain(value))}" for name, value in values.items())


def log(level: int, message: str, client: Any = None) -> None:
    """Write a line to mitmproxy's event log, with the client's address where one is given.

    One with a client is written within `DELAY` seconds, one without at once; all in this order.
    """
    line = _Line(time.time(), level, message, client)
    try:
        loop = asyncio.get_running_loop() if client else None
    except RuntimeError:
        loop = None
    if loop:
        _waiting.add(line, loop)
    else:
        flush()
        line.write()


def flush() -> None:
    """Write the lines that wait."""
    for line in _waiting.take():
        line.write()


class _Line(NamedTuple):
    time: float
    level: int
    message: str
    client: Any

    def write(self) -> None:
        args = "[prompt-cache] %s", (self.message,), None
        extra = {"client": self.client}
        record = _logger.makeRecord(LOGGER, self.level, __file__, 0, *args, extra=extra)
        record.created = self.time
        record.msecs = self.time % 1 * 1000
        if _logger.isEnabledFor(self.level):
            _logger.handle(record)


class _Waiting:
    """The lines that wait, and the event loop that will have them written."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._loop: object = None

    def add(self, line: _Line, loop: asyncio.AbstractEventLoop) -> None:
        if not self._lines or loop is not self._loop:  # one that has ended writes nothing
            self._loop = loop
            loop.call_later(DELAY, flush)
        self._lines.append(line)

    def take(self) -> list[_Line]:
        lines, self._lines = self._lines, []
        return lines


_waiting = _Waiting()


@lru_cache(maxsize=1024)
def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
