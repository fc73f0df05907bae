"""Log lines: `[prompt-cache] …`, with fields written `name=value`, safe to read by machines."""

import json
import logging
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

LOGGER = "prompt_cache_key"

MAX_LENGTH = 256
"""Characters of a value."""

_logger = logging.getLogger(LOGGER)
_PLAIN = re.compile(r"[!#-~]+")  # printable ASCII but the space and the double quote


def text(value: str) -> str:
    """Return a value as it is where it is plain, else quoted and escaped as JSON; cut if long."""
    return _quoted(value if len(value) <= MAX_LENGTH else value[: MAX_LENGTH - 1] + "…")


def pairs(**values: object) -> str:
    """Return `name=value name=value …`."""
    return " ".join(f"{name}={text(_plain(value))}" for name, value in values.items())


def log(level: int, message: str, client: Any = None) -> None:
    """Write a line to mitmproxy's event log, with the client's address where one is given.

    Never raises: another script's log handler may, and that must not cost a request.
    """
    if not _logger.isEnabledFor(level):
        return
    with suppress(Exception):
        # As `_logger.log` does, but for the search of its caller, which takes half of its time.
        args = "[prompt-cache] %s", (message,), None
        extra = {"client": client}
        _logger.handle(_logger.makeRecord(LOGGER, level, __file__, 0, *args, extra=extra))


@lru_cache(maxsize=1024)
def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
