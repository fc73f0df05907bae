"""The HTML page of a report; it loads nothing and runs nothing.

What comes from the requests passes `escape` on its way into the page.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.report.chart import chart, legend, local, mark, split, swatch
from prompt_cache_key.report.style import STYLE
from prompt_cache_key.stats.facts import Report, RequestFacts, SessionFacts, Sums

MAX_SESSIONS = 100
"""Sessions that one page shows; the JSON has all."""

MAX_MISSES = 100
"""Misses of a session that it shows: those that lost most."""

FEW = 5
"""How many of them without a click: the worst of each cause."""

_DATE = "%Y-%m-%d %H:%M:%S"
_NUMBERS = ("requests", "prompt tokens", "from the cache", "lost", "hit rate")


def page(report: Report, refresh: int = 0) -> str:
    """Return the page; `refresh` is after how many seconds a browser gets it anew, 0: never."""
    return "".join(_pieces(report, refresh))


def percent(share: float | None) -> str:
    """Return a share in percent, or words for one that is not known."""
    return "no cache data" if share is None else f"{share:.1f} %"


def _pieces(report: Report, refresh: int) -> Iterator[str]:
    title = escape(report.title)
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; style-src 'unsafe-inline'\">{again}"
        f"<title>Prompt cache: {title}</title><style>{STYLE}</style></head>\n"
        f'<body><h1>Prompt cache</h1>\n<p class="soft">{title}{_span(report)}</p>\n'
    )
    for warning in _warnings(report):
        yield f'<p class="warn">{escape(warning)}</p>\n'
    yield _tiles(report)
    yield _causes(report)
    yield legend()
    for session in report.sessions[:MAX_SESSIONS]:
        yield from _section(session)
    if (more := len(report.sessions) - MAX_SESSIONS) > 0:
        yield f"<p>Sessions that only the JSON has: {more:,}.</p>\n"
    yield "</body></html>\n"


def _span(report: Report) -> str:
    times = [request.time for session in report.sessions for request in session.requests]
    return f": {local(min(times)):{_DATE}} to {local(max(times)):{_DATE} %Z}" if times else ""


def _warnings(report: Report) -> Iterator[str]:
    total = report.sums
    yield from report.warnings
    if not total.requests:
        yield "No request of a Claude Code session has been answered yet."
    if total.without_usage:
        yield f"Responses without usage, whose tokens count nowhere: {total.without_usage:,}."
    if unknown := total.prompt_tokens - total.measured_tokens:
        yield f"Prompt tokens of upstreams that report no cached tokens: {unknown:,}."


def _tiles(report: Report) -> str:
    total = report.sums
    tiles = [
        (f"{total.requests:,}", "requests", f"sessions {len(report.sessions):,}"),
        (f"{total.prompt_tokens:,}", "prompt tokens", f"output tokens {total.output_tokens:,}"),
        (f"{total.cached_tokens:,}", "from the cache", f"hit rate {percent(total.hit_percent)}"),
        (f"{total.lost_tokens:,}", "lost", f"requests that should have hit {total.misses:,}"),
        (f"{total.new_tokens:,}", "new", "nobody could have read them"),
    ]
    if report.prices:
        prices = ", ".join(f"{name} {price:g}" for name, price in report.prices._asdict().items())
        without = f"without a cache {total.cost_without_cache:,.2f}; per million: {prices}"
        tiles.append((f"{total.cost:,.2f}", "cost", without))
    items = (f"<li><b>{number}</b>{name}<small>{more}</small></li>" for number, name, more in tiles)
    return f'<ul class="tiles">{"".join(items)}</ul>\n'


def _causes(report: Report) -> str:
    items = []
    for cause in report.causes:
        name = "lost" if cause.is_lost else "new"
        remedy = f"<small>{escape(cause.remedy)}</small>" if cause.remedy else ""
        items.append(
            f'<li>{swatch(name)}<span class="what">{escape(cause.words)}{remedy}</span>'
            f'<span class="count">{cause.tokens:,} tokens'
            f"<small>requests {cause.requests:,}</small></span></li>\n"
        )
    return (
        "<section><h2>Why prompt tokens did not come from the cache</h2>\n"
        f'{split(report.sums)}<ul class="causes">{"".join(items)}</ul></section>\n'
    )


def _section(session: SessionFacts) -> Iterator[str]:
    requests, total = session.requests, session.sums
    cost = "" if total.cost is None else f", cost {total.cost:,.2f}"
    titles = [_title(number, request) for number, request in enumerate(requests, 1)]
    yield (
        f'<section><h2>{escape(session.id)}</h2>\n<p class="soft">'
        f"{local(requests[0].time):{_DATE}}: requests {total.requests:,}, "
        f"prompt tokens {total.prompt_tokens:,}, hit rate {percent(total.hit_percent)}, "
        f"lost {total.lost_tokens:,}{cost}</p>\n{chart(requests, titles)}"
    )
    costly = sorted(
        (number for number, request in enumerate(requests) if request.miss),
        key=lambda number: -requests[number].lost,
    )[:MAX_MISSES]
    worst = {_kind(requests[number]): number for number in reversed(costly)}
    shown = sorted(worst.values(), key=costly.index)[:FEW]
    yield _misses(requests, titles, shown)
    if rest := [number for number in costly if number not in shown]:
        more = _misses(requests, titles, rest)
        yield f"<details><summary>more misses: {len(rest):,}</summary>{more}</details>\n"
    lines = ([*identity, *_numbers(of)] for identity, of in session.speakers)
    table = _table(["agent", "model", "to"], _NUMBERS, lines)
    yield f"<details><summary>agents and models</summary>{table}</details></section>\n"


def _numbers(of: Sums) -> list[str]:
    counts = (of.requests, of.prompt_tokens, of.cached_tokens, of.lost_tokens)
    return [*(f"{count:,}" for count in counts), percent(of.hit_percent)]


def _kind(request: RequestFacts) -> str:
    return request.miss.kind if request.miss else ""


def _misses(requests: Sequence[RequestFacts], titles: Sequence[str], numbers: Iterable[int]) -> str:
    """Return the misses among some requests, in order of time."""
    pairs = ((titles[number], requests[number].miss) for number in sorted(numbers))
    items = "".join(_miss(title, miss) for title, miss in pairs if miss)
    return f'<ul class="misses">{items}</ul>\n' if items else ""


def _miss(title: str, miss: Miss) -> str:
    """Return what a request lost, where its prompt broke, and what helps."""
    lines = [f"<p>{mark(miss)} {escape(title)}</p>"]
    if miss.path:
        where = f"{miss.path}, character {miss.at:,}:"
        lines.append(f'<p class="soft">{escape(where)}</p>')
        lines.append(f"<del>{escape(miss.before)}</del><ins>{escape(miss.after)}</ins>")
    if miss.remedy:
        lines.append(f"<p>What helps: {escape(miss.remedy)}</p>")
    return f"<li>{''.join(lines)}</li>\n"


def _title(number: int, request: RequestFacts) -> str:
    used, miss = request.usage, request.miss
    tokens = "no usage"
    if used:
        cached = "?" if used.cached is None else f"{used.cached:,}"
        tokens = f"{cached} of {used.input:,} prompt tokens cached"
    lost = f", lost {miss.missed:,}: {miss.cause}" if miss else ""
    return (
        f"#{number} {local(request.time):%H:%M:%S} {request.agent} {request.model}: {tokens}{lost}"
    )


def _table(names: Sequence[str], numbers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table; on a phone each line is a list of its cells, with their columns' names."""
    columns = [*names, *numbers]

    def row(tag: str, cells: Sequence[str]) -> str:
        classes = ['class="name"'] * len(names) + [""] * len(numbers)
        marked = zip(classes, columns, cells, strict=True)
        return "".join(
            f'<{tag} {class_} data-name="{column}">{escape(cell)}</{tag}>'
            for class_, column, cell in marked
        )

    rows = "</tr>\n<tr>".join([row("th", columns), *(row("td", line) for line in lines)])
    return f"<table><tr>{rows}</tr></table>"
