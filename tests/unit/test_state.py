import logging
from collections.abc import Callable

from prompt_cache_key.state import MAX_LOGGED_ONCE, MAX_REASONS
from unit.context import Context

Log = Callable[[], list[str]]


def test_once(context: Context, log: Log) -> None:
    flow = context.flow(url="https://h/", method="\x9b")
    flow.request.path = "/\x9b31m" + "x" * 30_000 + "?secret"
    for _ in range(2):
        context.state.skip(flow, "why", logging.WARNING)
    (line,) = log()
    assert line.startswith('WARNING [prompt-cache] no key for "\\u009b" "https://h/\\u009b31mxxx')
    assert len(line) < 400
    assert "secret" not in line
    context.state.skip(flow, "why")
    assert len(log()[0]) < 400
    assert context.state.skipped == {"why": 3}


def test_memory_is_bounded(context: Context, log: Log) -> None:
    flow = context.flow()
    for number in range(2 * MAX_LOGGED_ONCE):
        context.state.skip(flow, str(number), logging.WARNING)
    assert len(log()) == MAX_LOGGED_ONCE
    assert len(context.state.skipped) == MAX_REASONS + 1
    assert context.state.skipped.total() == 2 * MAX_LOGGED_ONCE
