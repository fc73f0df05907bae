"""The table of `prompt_cache.sessions`."""

from datetime import timedelta

from prompt_cache_key.judge.totals import Totals
from prompt_cache_key.request.keys import Keys, name_of

COLUMNS = [
    "session",
    "agent",
    "model",
    "key",
    "state",
    "age",
    "expires in",
    "requests",
    "prompt tokens",
    "cached",
    "hit %",
]


def table(totals: Totals, keys: Keys, scope: str, now: float) -> list[list[str]]:
    """Return the header and a row for each session, agent and model, the last used one last.

    A key that has ended, or that was the client's own, has no age.
    """
    rows = [COLUMNS]
    for session, agent, model, row in totals.rows():
        mapping = keys.peek(name_of(scope, model, session, agent), now)
        times = (now - mapping.made, keys.remaining(mapping, now)) if mapping else ()
        spans = [str(timedelta(seconds=int(time))) for time in times] or ["-", "-"]
        numbers = [str(row.requests), str(row.input), str(row.cached), f"{row.hit:.0f}"]
        rows.append([session, agent, model, row.key, row.state, *spans, *numbers])
    return rows
