"""Finished requests, made up."""

from typing import Any

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.usage.reader import Usage

TIME = 1_795_600_000.0
OPENAI = "https://api.openai.com/v1/responses"


def usage(
    input_: int, cached: int | None = 0, written: int | None = None, output: int | None = None
) -> Usage:
    return Usage(input_, cached, written, output)


def miss(missed: int, cause: str = "tools reordered", cached: int = 0, remedy: str = "") -> Miss:
    values: dict[str, Any] = {
        "expected": missed + cached,
        "cached": cached,
        "cause": cause,
        "kind": cause,
    }
    values |= {"path": "", "at": 0, "before": "", "after": "", "remedy": remedy}
    return Miss(**{name: values[name] for name in Miss._fields})


def finished(
    after: float = 0,
    of: Usage | None = None,
    missed: Miss | None = None,
    **more: Any,
) -> FinishedRequest:
    values = {"session": "s", "agent": "main", "model": "gpt-5.4", "endpoint": OPENAI, "key": "k"}
    return FinishedRequest(time=TIME + after, usage=of, miss=missed, **(values | more))
