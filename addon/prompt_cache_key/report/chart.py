"""The drawings of the page: what became of prompt tokens, and where some were lost.

What comes from the requests passes `escape` on its way into a drawing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from prompt_cache_key.body import NAME
from prompt_cache_key.misses.causes import COUNTDOWN, EXPIRED, MOVED, TOO_MANY
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.stats.facts import RequestFacts, Sums

MAX_BARS = 400
"""Requests of a session that are drawn: the last ones."""

_PARTS = {
    "cached": "read from the cache",
    "lost": "lost: it should have been read",
    "new": "new: nobody could have read it",
    "unknown": "the upstream reports no cached tokens",
}
_MARKS = {
    "broke": ("M1 1h10l-5 10z", "the prefix broke"),
    "key": ("M6 0l6 6-6 6-6-6z", "the key changed"),
    "pause": ("M2 1h3v10H2zM7 1h3v10H7z", "a pause longer than the upstream keeps a prefix"),
    "busy": ("M0 1l6 5-6 5zM6 1l6 5-6 5z", "more than 15 requests a minute"),
    "own": ("M6 1a5 5 0 1 0 .01 0z", "a miss of the upstream's own"),
}
_WIDTH = 24  # pixels of a bar, at most
_LABEL = 110  # pixels of a time, at least
_DAY = 86400


def legend() -> str:
    """Return what colours and shapes mean."""
    drawn = {swatch(name): words for name, words in _PARTS.items()}
    drawn |= {_icon(name): words for name, (_, words) in _MARKS.items()}
    items = (f"<span>{shape} {escape(words)}</span>" for shape, words in drawn.items())
    return f'<p class="legend">{"".join(items)}</p>\n'


def swatch(name: str) -> str:
    """Return the colour of `cached`, `lost`, `new` or `unknown` tokens."""
    return f'<svg viewBox="0 0 12 12"><path class="{name}" d="M0 0h12v12H0z"/></svg>'


def mark(miss: Miss) -> str:
    """Return the mark of a miss's cause."""
    if miss.path == NAME:
        return _icon("key")
    if miss.path or miss.kind in (COUNTDOWN, MOVED):
        return _icon("broke")
    return _icon({EXPIRED: "pause", TOO_MANY: "busy"}.get(miss.kind, "own"))


def split(of: Sums) -> str:
    """Return one bar of all prompt tokens, by what became of them."""
    unknown = of.prompt_tokens - of.measured_tokens
    parts = _stack((of.cached_tokens, of.lost_tokens, of.new_tokens, unknown), of.prompt_tokens)
    bars = (
        f'<path class="{name}" d="M{start:.2f} 0h{size:.2f}v1h-{size:.2f}z"/>'
        for name, start, size in parts
    )
    words = "what became of all prompt tokens"
    return (
        f'<svg class="split" viewBox="0 0 100 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{words}">{"".join(bars)}</svg>\n'
    )


def chart(requests: Sequence[RequestFacts], titles: Sequence[str]) -> str:
    """Return a bar for each request, with its title, in order of time."""
    requests, titles = requests[-MAX_BARS:], titles[-MAX_BARS:]
    most = max((request.usage.input for request in requests if request.usage), default=0) or 1
    width = _WIDTH * len(requests)
    bars, marks = [], []
    for number, (request, title) in enumerate(zip(requests, titles, strict=True)):
        bars.append(_bar(number, request, most, title))
        if request.miss:
            place = f' style="left:{100 * (number + 0.5) / len(requests):.2f}%"'
            marks.append(mark(request.miss).replace("<svg", f"<svg{place}", 1))
    scale = "".join(f"<span>{_short(tokens)}</span>" for tokens in (most, most / 2, 0))
    return (
        f'<div class="chart" style="max-width:{44 + max(_LABEL, width)}px">'
        f'<div class="marks">{"".join(marks)}</div>\n<div class="scale">{scale}</div>'
        f'<svg class="bars" viewBox="0 0 {len(requests)} 140" preserveAspectRatio="none" '
        f'role="img" aria-label="prompt tokens of each request">\n{"".join(bars)}</svg>'
        f'<div class="times">{_times(requests, width)}</div></div>\n'
    )


def local(time: float) -> datetime:
    """Return a Unix time as this machine shows it."""
    return datetime.fromtimestamp(time, UTC).astimezone()


def _bar(number: int, request: RequestFacts, most: int, title: str) -> str:
    parts = ""
    if usage := request.usage:
        known = usage.cached is not None
        tokens = (usage.cached or 0, request.lost, request.new, 0 if known else usage.input)
        parts = "".join(
            f'<path class="{name}" d="M{number + 0.08:g} {140 - start:.1f}h.84v-{size:.1f}h-.84z"/>'
            for name, start, size in _stack(tokens, most, 140)
        )
    return (
        f'<g><title>{escape(title)}</title><path class="hit" d="M{number} 0h1v140h-1z"/>'
        f"{parts}</g>\n"
    )


def _stack(tokens: Sequence[int], most: int, full: float = 100) -> list[tuple[str, float, float]]:
    """Return the name, start and size of each part that has tokens."""
    stack, start = [], 0.0
    for name, part in zip(_PARTS, tokens, strict=True):
        size = full * part / (most or 1)
        if part:
            stack.append((name, start, size))
        start += size
    return stack


def _times(requests: Sequence[RequestFacts], width: int) -> str:
    """Return the times of some requests as far apart as they fit; phones show three at most."""
    count = max(1, min(len(requests), 5, width // _LABEL))
    is_long = requests[-1].time - requests[0].time >= _DAY
    labels = []
    for number in range(count):
        request = requests[number * (len(requests) - 1) // max(1, count - 1)]
        more = ' class="more"' if number % 2 and count > 3 else ""  # noqa: PLR2004
        time = f"{local(request.time):{'%m-%d %H:%M' if is_long else '%H:%M:%S'}}"
        labels.append(f"<span{more}>{time}</span>")
    return "".join(labels)


def _icon(name: str) -> str:
    shape = _MARKS[name][0]
    return f'<svg viewBox="0 0 12 12"><path class="{name}" d="{shape}"/></svg>'


def _short(number: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:,.1f}{name}"
    return f"{number:g}"
