"""The charts of the page: prompt tokens by what became of them, as paths of an SVG picture.

A chart has one path for each part (cached, missed, …), not one for each bar, so that a picture of
hundreds of bars stays small. Paths are made of numbers only; words go through the template.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from prompt_cache_key.stats.sums import percent, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prompt_cache_key.finished import FinishedRequest

PARTS = {
    "cached": "read from the cache",
    "missed": "missed: should have been read from the cache",
    "new": "new: no cache could have held it",
    "unknown": "the upstream reports no cached tokens",
}
"""What becomes of prompt tokens, from the bottom of a bar to its top."""

HEIGHT = 100
"""Of a chart, in the picture's own units; a bar is one unit wide."""

MAX_BARS = 200
"""Requests of a session that are drawn: the last ones."""

MAX_SPANS = 48
"""Bars of the trend."""

_LEAST = 24  # bars for which a chart has room: few are not drawn wide
_SPANS = (10, 30, 60, 300, 900, 3600, 4 * 3600, 86_400, 7 * 86_400)
_DAY = 86_400


class Bar(NamedTuple):
    """The tokens of a bar, by part, and what they stand for."""

    at: int
    """Its place, from the left."""
    time: float
    tokens: tuple[int, int, int, int]
    """In the order of `PARTS`."""
    request: FinishedRequest | None = None

    @property
    def total(self) -> int:
        """All tokens of the bar."""
        return sum(self.tokens)

    @property
    def hit_rate(self) -> str:
        """Return the hit rate of the bar, in words."""
        cached, missed, new, _ = self.tokens
        return percent(share(cached, cached + missed + new))


class Chart(NamedTuple):
    """A picture: for each part that occurs its name and path, and what stands around it."""

    bars: list[Bar]
    width: int
    paths: list[tuple[str, str]]
    dots: str
    """A path with a dot above each bar that has missed tokens."""
    scale: tuple[str, str, str]
    times: list[str]


def local(time: float) -> datetime:
    """Return a Unix time as this machine shows it."""
    return datetime.fromtimestamp(time, UTC).astimezone()


def requests_chart(requests: Sequence[FinishedRequest]) -> Chart:
    """Return the chart of a session: a bar for each of its last requests, as high as its prompt."""
    drawn = requests[-MAX_BARS:]
    bars = [Bar(at, each.time, _tokens(each), each) for at, each in enumerate(drawn)]
    most = max((bar.total for bar in bars), default=0)
    return _chart(bars, [most] * len(bars), (_short(most), _short(most / 2), "0"))


def trend(requests: Sequence[FinishedRequest]) -> Chart:
    """Return the hit rate over time: a bar for each span, all of one height.

    Only requests that report cached tokens count. The requests come in order of time.
    """
    known = [each for each in requests if each.usage and each.usage.cached is not None]
    if not known:
        return _chart([], [], ("100%", "50%", "0%"))
    first = known[0].time
    length = known[-1].time - first
    span = next((each for each in _SPANS if length < each * MAX_SPANS), length / (MAX_SPANS - 1))
    spans: dict[int, list[tuple[int, int, int, int]]] = {}
    for each in known:
        spans.setdefault(int((each.time - first) // span), []).append(_tokens(each))
    bars = [
        Bar(at, first + at * span, tuple(map(sum, zip(*tokens, strict=True))))  # type: ignore[arg-type]
        for at, tokens in spans.items()
    ]
    return _chart(bars, [bar.total for bar in bars], ("100%", "50%", "0%"))._replace(dots="")


def split(tokens: Sequence[int]) -> list[tuple[str, str, int]]:
    """Return, for one bar that lies on its side, each part that occurs: name, path, tokens."""
    return [
        (name, f"M{start:.2f} 0h{size:.2f}v1h-{size:.2f}z", count)
        for name, start, size, count in _stack(tokens, sum(tokens))
    ]


def _tokens(request: FinishedRequest) -> tuple[int, int, int, int]:
    usage = request.usage
    if not usage:
        return 0, 0, 0, 0
    if usage.cached is None:
        return 0, 0, 0, usage.input
    return usage.cached, request.missed, request.new, 0


def _chart(bars: list[Bar], full: Sequence[int], scale: tuple[str, str, str]) -> Chart:
    paths: dict[str, list[str]] = {name: [] for name in PARTS}
    for bar, most in zip(bars, full, strict=True):
        for name, start, size, _ in _stack(bar.tokens, most):
            paths[name].append(f"M{bar.at + 0.1:g} {HEIGHT - start:.1f}h.8v-{size:.1f}h-.8z")
    dots = "".join(f"M{bar.at + 0.5:g} -7h0" for bar in bars if bar.tokens[1])
    width = max(_LEAST, bars[-1].at + 1) if bars else _LEAST
    drawn = [(name, "".join(path)) for name, path in paths.items() if path]
    return Chart(bars, width, drawn, dots, scale, _times(bars))


def _stack(tokens: Sequence[int], most: int) -> list[tuple[str, float, float, int]]:
    """Return name, start, size and tokens of each part that has tokens."""
    stack, start = [], 0.0
    for name, count in zip(PARTS, tokens, strict=True):
        size = HEIGHT * count / (most or 1)
        if count > 0:
            stack.append((name, start, size, count))
            start += size
    return stack


def _times(bars: Sequence[Bar]) -> list[str]:
    """Return when a chart begins and, if it is filled, when it ends."""
    if not bars:
        return []
    first, last = bars[0], bars[-1]
    form = "%m-%d %H:%M" if last.time - first.time >= _DAY else "%H:%M:%S"
    ends = [first] if last.at < _LEAST - 1 else [first, last]
    return [f"{local(bar.time):{form}}" for bar in ends]


def _short(number: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:,.1f}{name}"
    return f"{number:g}"
