"""Finished requests, made up."""

from typing import Any

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage

TIME = 1_795_600_000.0
OPENAI = "https://api.openai.com/v1/responses"
SESSION = "57f0d592-a068"
CHANGED: dict[str, Any] = {
    "path": "tools[0].name",
    "at": 7,
    "before": "old text",
    "after": "new text",
    "remedy": "keep the order",
}
"""What a miss says of a change."""


def usage(
    input_: int, cached: int | None = 0, written: int | None = None, output: int | None = None
) -> Usage:
    return Usage(input_, cached, written, output)


USAGE = usage(10_000, 2500, output=20)


def finished(
    after: float = 0, usage: Usage | None = USAGE, miss: Miss | None = None, **more: Any
) -> FinishedRequest:
    """Return a request that was sent some seconds after `TIME`."""
    names = {"session": SESSION, "agent": "main", "model": "gpt-5.4", "endpoint": OPENAI}
    return FinishedRequest(TIME + after, usage=usage, miss=miss, **names | {"key": "k"} | more)


def miss(
    missed: int = 6500,
    cause: str = "tools reordered",
    cached: int = 0,
    remedy: str = "",
    **more: Any,
) -> Miss:
    """Return a miss, of `USAGE` if nothing else is said."""
    kind = cause.partition(":")[0]
    return Miss(missed + cached, cached, cause, kind, remedy=remedy, **more)
