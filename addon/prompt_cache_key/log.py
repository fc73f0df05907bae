"""Log lines: `[prompt-cache] …`, with fields written `name=value`, safe to read by machines."""

import asyncio
import json
import logging
import re
import time
from collections import deque
from contextlib import suppress
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

    Between `start_waiting` and `stop_waiting` one with a client is written within `DELAY` seconds,
    any other at once; all in this order.
    """
    _lines.add(_Line(time.time(), level, message, client))


def start_waiting() -> None:
    """Let lines wait from now on, if an event loop is running."""
    with suppress(RuntimeError):
        _lines.loop = asyncio.get_running_loop()


def stop_waiting() -> None:
    """Write the lines that wait: mitmproxy does not wait when it ends."""
    _lines.loop = None
    _lines.write()


class _Line(NamedTuple):
    time: float
    level: int
    message: str
    client: Any

    def write(self) -> None:
        if _logger.isEnabledFor(self.level):
            args = "[prompt-cache] %s", (self.message,), None
            extra = {"client": self.client}
            record = _logger.makeRecord(LOGGER, self.level, __file__, 0, *args, extra=extra)
            record.created = self.time
            record.msecs = self.time % 1 * 1000
            _logger.handle(record)


class _Lines:
    """The lines that wait, and the event loop that will have them written; None: they don't."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Line] = deque()

    def add(self, line: _Line) -> None:
        self._waiting.append(line)
        if not self.loop or not line.client:
            self.write()
        elif len(self._waiting) == 1:
            self.loop.call_later(DELAY, self.write)

    def write(self) -> None:
        try:
            while self._waiting:
                self._waiting.popleft().write()
        finally:
            if self._waiting and self.loop:  # someone's handler raised: the others go on
                self.loop.call_soon(self.write)


_lines = _Lines()


@lru_cache(maxsize=1024)
def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
