"""Finished requests, made up."""

from typing import Any

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage

TIME = 1_795_600_000.0
USAGE = Usage(10_000, 2500, None, 20)


def finished(
    after: float = 0, usage: Usage | None = USAGE, miss: Miss | None = None, **more: Any
) -> FinishedRequest:
    """Return a request that was sent some seconds after `TIME`."""
    fields: dict[str, Any] = {
        "session": "57f0d592-a068",
        "agent": "main",
        "model": "gpt-5",
        "endpoint": "http://gateway.test/v1/messages",
    }
    return FinishedRequest(TIME + after, usage=usage, miss=miss, **fields | more)


def missed(cause: str = "tools reordered", expected: int = 9000, **more: Any) -> Miss:
    """Return a miss of `USAGE`."""
    fields: dict[str, Any] = {
        "path": "tools[0].name",
        "at": 7,
        "before": "old text",
        "after": "new text",
        "remedy": "keep the order",
    }
    if "kind" in Miss._fields:
        fields["kind"] = cause.partition(":")[0]
    return Miss(expected=expected, cached=2500, cause=cause, **fields | more)
