"""The table of `promptcache.sessions`: a line for each session, agent and model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from prompt_cache_key.screen_text import cut, fit, width
from prompt_cache_key.stats.totals import percent

if TYPE_CHECKING:
    from collections.abc import Iterable

# What mitmproxy's console has room for: four fifths of a screen of 100 columns, less its frame. A
# row of several cells gets as many columns for each of them, and so takes several lines.
COLUMNS = 78

_HEADING = ("session", "agent", "model", "key", "reqs", "prompt", "hit", "lost", "main cause")
_NUMBERS = ("reqs", "prompt", "hit", "lost")
_ID = 8  # characters
_MODEL = 16
_DATE = re.compile(r"-20\d\d-?[01]\d-?[0-3]\d$")


class Row(NamedTuple):
    """What an agent of a session had of a model.

    `scope` is who shares the key: session, agent, user, or "" if it is the client's own. `prompt`
    are all prompt tokens, `hit` percent of them or None without cache data, `lost` tokens too.
    """

    session: str
    agent: str
    model: str
    key: str
    scope: str
    requests: int
    prompt: int
    hit: float | None
    lost: int
    cause: str


def table(rows: Iterable[Row], columns: int = COLUMNS) -> list[str]:
    """Return a heading and a line for each row, in their order, of at most so many columns.

    A key that a session has to itself stands alone, all others with who shares them.
    """
    lines = [_HEADING, *map(_cells, rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)][:-1]
    room = max(columns - sum(widths) - len(widths), len(_HEADING[-1]))
    return [
        " ".join([*map(_aligned, _HEADING, cells, widths), cut(cells[-1], room)]).rstrip()
        for cells in lines
    ]


def _cells(row: Row) -> tuple[str, ...]:
    model = _DATE.sub("", row.model.rpartition("/")[2].removeprefix("claude-"))
    key = cut(row.key[:_ID], _ID)
    return (
        cut(row.session[:_ID], _ID),
        cut(row.agent[:_ID], _ID),
        cut(model, _MODEL),
        key if row.scope in ("session", "") else f"{key} {row.scope}",
        f"{row.requests:,}",
        f"{row.prompt:,}",
        percent(row.hit),
        f"{row.lost:,}",
        row.cause,
    )


def _aligned(name: str, cell: str, columns: int) -> str:
    return f"{cell:>{columns}}" if name in _NUMBERS else fit(cell, columns)
