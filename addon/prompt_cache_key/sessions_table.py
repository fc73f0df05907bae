"""The table of `promptcache.sessions`: a line for each session, agent and model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from prompt_cache_key.screen_text import COLUMNS, cut, fit, thousands, width
from prompt_cache_key.stats.money import price
from prompt_cache_key.stats.sums import dollars, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prompt_cache_key.stats.money import Prices
    from prompt_cache_key.stats.sessions import Row

_ID = 8  # characters
_MODEL = 16
_DATE = re.compile(r"-20\d\d-?[01]\d-?[0-3]\d$")


class _Column(NamedTuple):
    """A column; where there is no room for all, that of the highest `rank` is left out first."""

    name: str
    rank: int
    cell: Callable[[Row], str]
    is_number: bool = False
    is_optional: bool = False
    """Whether it is left out where all its cells are empty."""


def table(rows: Iterable[Row], columns: int = COLUMNS, prices: Prices | None = None) -> list[str]:
    """Return a heading and a line for each row, in their order, of at most so many columns.

    The column of keys names the scope of each key but those of scope `session`. Cache writes and
    dollars have a column where a row has some.
    """
    rows = [*rows]
    for row in rows:
        price(row.sums, prices)
    shown = [(each, [each.name, *map(each.cell, rows)]) for each in _COLUMNS]
    shown = [(each, cells) for each, cells in shown if not each.is_optional or any(cells[1:])]
    while len(shown) > 1 and _width(shown) + len(_LAST) > columns:
        shown.remove(max(shown, key=lambda column: column[0].rank))
    room = max(1, columns - _width(shown))
    made = [_aligned(each, cells) for each, cells in shown]
    made.append([cut(cause, room) for cause in (_LAST, *(row.sums.main_cause for row in rows))])
    return [" ".join(line).rstrip()[:columns] for line in zip(*made, strict=True)]


def _aligned(column: _Column, cells: list[str]) -> list[str]:
    columns = max(map(width, cells))
    return [f"{cell:>{columns}}" if column.is_number else fit(cell, columns) for cell in cells]


def _width(shown: list[tuple[_Column, list[str]]]) -> int:
    """Return what columns take, each with the space behind it."""
    return sum(max(map(width, cells)) + 1 for _, cells in shown)


def _model(row: Row) -> str:
    return cut(_DATE.sub("", row.model.rpartition("/")[2].removeprefix("claude-")), _MODEL)


def _key(row: Row) -> str:
    key = cut(row.key[:_ID], _ID)
    return key if row.scope in ("session", "") else f"{key} {row.scope}"


def _writes(row: Row) -> str:
    return thousands(row.sums.written) if row.sums.written else ""


def _dollars(amount: float | None) -> str:
    return "" if amount is None else dollars(amount)


_LAST = "main cause"
_COLUMNS = (
    _Column("session", 0, lambda row: cut(row.session[:_ID], _ID)),
    _Column("agent", 5, lambda row: cut(row.agent[:_ID], _ID)),
    _Column("model", 4, _model),
    _Column("key", 6, _key),
    _Column("reqs", 3, lambda row: f"{row.sums.requests:,}", is_number=True),
    _Column("prompt", 2, lambda row: thousands(row.sums.input), is_number=True),
    _Column("hit", 1, lambda row: percent(row.sums.hit_rate), is_number=True),
    _Column("missed", 1, lambda row: thousands(row.sums.missed), is_number=True),
    _Column("writes", 8, _writes, is_number=True, is_optional=True),
    _Column("saved", 7, lambda row: _dollars(row.sums.saved), is_number=True, is_optional=True),
    _Column(
        "miss cost",
        7,
        lambda row: _dollars(row.sums.missed_cost),
        is_number=True,
        is_optional=True,
    ),
)
