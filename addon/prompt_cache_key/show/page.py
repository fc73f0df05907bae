"""The HTML page of a report; it loads nothing and runs nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prompt_cache_key.show.report import Report, Row, Session

MAX_SESSIONS = 100
DATE = "%Y-%m-%d %H:%M:%S"
FEW = 5  # lines that are shown without a click

STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #1b2330; --soft: #5a6675;
  --line: #dde1e7; --cached: #3b82c4; --rest: #ee9a3a; --broke: #c8283a; --key: #7a3fc0 }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --text: #e5e9ef;
  --soft: #9aa6b5; --line: #303947; --broke: #ff6d74; --key: #b990f5 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1120px; padding: 20px 16px; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { margin: 0; font-size: 22px } h2 { margin: 0; font-size: 16px } p { margin: 4px 0 }
.soft, small, th, summary { color: var(--soft) }
.warn { border-left: 4px solid var(--broke); margin: 10px 0; padding-left: 10px }
section, .tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 8px }
section { margin-top: 14px; padding: 14px 16px }
ul { list-style: none; margin: 6px 0 0; padding: 0 }
.tiles { display: flex; flex-wrap: wrap; gap: 10px }
.tiles li { flex: 1 1 140px; padding: 10px 12px }
.tiles b { display: block; font-size: 19px; white-space: nowrap }
small { display: block }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 14px; font-size: 13px }
.scroll { overflow-x: auto } .chart { display: block; margin-top: 8px }
.chart text { fill: var(--soft); font: 11px system-ui, sans-serif } .grid { stroke: var(--line) }
.pause { stroke: var(--text); stroke-dasharray: 3 2 }
.hit { fill: transparent } g:hover > .hit { fill: var(--line) }
.cached { fill: var(--cached) } .rest { fill: var(--rest) }
.broke { fill: var(--broke) } .key { fill: var(--key) }
details { margin-top: 10px } summary { cursor: pointer }
.marks li { padding: 6px 0; border-top: 1px solid var(--line) }
del, ins { display: block; font: 13px ui-monospace, monospace; text-decoration: none }
del, ins { white-space: pre-wrap; padding: 0 8px }
del { background: #c8283a22 } del::before { content: "- " }
ins { background: #2c9a4b22 } ins::before { content: "+ " }
table { border-collapse: collapse; margin-top: 6px; font-size: 14px }
th, td { padding: 3px 0 3px 18px; text-align: right; vertical-align: top; font-weight: normal }
td { white-space: nowrap } th { overflow-wrap: normal }
.name { text-align: left } .name:first-child { padding-left: 0; white-space: normal }
"""


# What comes from the flows passes `escape` on its way into the page.

CACHED = '<path class="cached" d="M0 0h12v12H0z"/>'
REST = '<path class="rest" d="M0 0h12v12H0z"/>'
BROKE = '<path class="broke" d="M1 1h10l-5 10z"/>'
KEY = '<path class="key" d="M6 0l6 6-6 6-6-6z"/>'
PAUSE = '<path class="pause" d="M6 0v12"/>'


def page(report: Report) -> Iterator[str]:
    """Yield the page in pieces."""
    times = [row.time for session in report.sessions for row in session.requests]
    file = escape(report.file)
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Prompt cache report: {file}</title><style>{STYLE}</style></head>\n"
        f'<body><h1>Prompt cache report</h1>\n<p class="soft">{file}: '
        f"{_local(min(times)):{DATE}} to {_local(max(times)):{DATE} %Z}</p>\n"
    )
    for warning in _warnings(report):
        yield f'<p class="warn">{escape(warning)}</p>\n'
    yield _tiles(report)
    causes = ([why, f"{of.requests:,}", f"{of.uncached_tokens:,}"] for why, of in report.causes)
    names = ["Why prompt tokens did not come from the cache"]
    yield f"<section>{_table(names, ['requests', 'tokens'], causes)}</section>\n"
    pause = f"a pause over {timedelta(seconds=report.keep)}"
    yield (
        f'<p class="legend"><span>{_icon(CACHED)} from the cache</span>'
        f"<span>{_icon(REST)} not from the cache</span><span>{_icon(BROKE)} the prefix broke</span>"
        f"<span>{_icon(KEY)} the key changed</span><span>{_icon(PAUSE)} {pause}</span></p>\n"
    )
    for session in report.sessions[:MAX_SESSIONS]:
        yield from _section(session)
    if (more := len(report.sessions) - MAX_SESSIONS) > 0:
        yield f"<p>Sessions that only --json has: {more:,}.</p>\n"
    yield "</body></html>\n"


def _warnings(report: Report) -> Iterator[str]:
    if report.problem:
        yield report.problem
    if count := report.sums.without_usage:
        yield f"Requests whose responses reported no usage, so that no tokens count: {count:,}."
    if len({row.endpoint for session in report.sessions for row in session.requests}) > 1:
        yield (
            "Requests went to several places. What was saved before a translator and behind it "
            "counts twice: choose a side with --filter."
        )


def _tiles(report: Report) -> str:
    total = report.sums
    tiles = [
        (f"{total.requests:,}", "requests", f"sessions {len(report.sessions):,}"),
        (f"{total.prompt_tokens:,}", "prompt tokens", f"output tokens {total.output_tokens:,}"),
        (f"{total.cached_tokens:,}", "from the cache", f"not from it {total.uncached_tokens:,}"),
        (f"{total.hit_percent:.1f} %", "hit rate", "of the prompt tokens"),
        (f"{total.breaks:,}", "prefix breaks", f"long pauses {total.pauses:,}"),
        (f"{total.key_changes:,}", "key changes", "of one agent and model"),
    ]
    if report.prices:
        prices = ", ".join(f"{name} {price:g}" for name, price in report.prices._asdict().items())
        without = f"without a cache {total.cost_without_cache:,.2f}; per million: {prices}"
        tiles.append((f"{total.cost:,.2f}", "cost", without))
    items = (f"<li><b>{number}</b>{name}<small>{more}</small></li>" for number, name, more in tiles)
    return f'<ul class="tiles">{"".join(items)}</ul>\n'


def _section(session: Session) -> Iterator[str]:
    rows, total = session.requests, session.sums
    cost = "" if total.cost is None else f", cost {total.cost:,.2f}"
    yield (
        f'<section><h2>{escape(session.id)}</h2>\n<p class="soft">'
        f"{_local(rows[0].time):{DATE}}: requests {total.requests:,}, "
        f"prompt tokens {total.prompt_tokens:,}, not from the cache {total.uncached_tokens:,}, "
        f"hit rate {total.hit_percent:.1f} %{cost}</p>\n{_chart(rows)}"
    )
    marks = "".join(_mark(number, row) for number, row in enumerate(rows, 1))
    if marks:
        count = total.breaks + total.key_changes + total.pauses
        yield (
            f"<details{' open' if count <= FEW else ''}><summary>prefix breaks {total.breaks:,}, "
            f"key changes {total.key_changes:,}, long pauses {total.pauses:,}</summary>"
            f'<ul class="marks">{marks}</ul></details>\n'
        )
    numbers = ["requests", "prompt tokens", "from the cache", "hit rate"]
    lines = (
        [
            *speaker,
            f"{of.requests:,}",
            f"{of.prompt_tokens:,}",
            f"{of.cached_tokens:,}",
            f"{of.hit_percent:.1f} %",
        ]
        for speaker, of in session.speakers
    )
    table = _table(["agent", "model", "to"], numbers, lines)
    yield f"<details><summary>agents and models</summary>{table}</details></section>\n"


def _mark(number: int, row: Row) -> str:
    lines = [f"<p>{_icon(shape)} {escape(words)}</p>" for shape, words in _reasons(row)]
    if row.broke:
        lines.append(f"<del>{escape(row.broke.before)}</del><ins>{escape(row.broke.after)}</ins>")
    return f"<li>{escape(_heading(number, row))}{''.join(lines)}</li>\n" if lines else ""


def _chart(rows: list[Row]) -> str:
    most = max((row.usage.input for row in rows if row.usage), default=0) or 1
    step = min(22.0, max(2.0, 1000 / len(rows)))
    bar = step - 1 if step >= 4 else step  # noqa: PLR2004  # else no room for a gap
    # The bars stand right of 44 pixels for numbers, below 34 for marks, and are up to 140 high.
    width = max(100.0, 44 + step * len(rows) + 14 * sum(row.pause > 0 for row in rows))
    x, labelled, drawn = 44.0, 0.0, []
    for number, row in enumerate(rows, 1):
        reasons = dict(_reasons(row))
        if row.pause:
            x += 14
            drawn.append(f'<path class="pause" d="M{x - 8:.1f} 34v140"/>')
        title = escape("\n".join([_heading(number, row), *reasons.values()]))
        height = 140 * row.usage.input / most if row.usage else 0
        rest = 140 * row.uncached / most
        drawn.append(
            f'<g transform="translate({x:.1f} 34)"><title>{title}</title>'
            f'<path class="hit" d="M0 0h{step:.1f}v140H0z"/>'
            f'<path class="rest" d="M0 {140 - height:.1f}h{bar:.1f}v{rest:.1f}H0z"/>'
            f'<path class="cached" d="M0 {140 - height + rest:.1f}h{bar:.1f}V140H0z"/>'
        )
        for shape, y in ((BROKE, -14), (KEY, -30)):
            if shape in reasons:
                drawn.append(f'<g transform="translate({bar / 2 - 6:.1f} {y})">{shape}</g>')
        drawn.append("</g>\n")
        if labelled <= x <= width - 50:
            drawn.append(f'<text x="{x:.1f}" y="189">{_local(row.time):%H:%M:%S}</text>\n')
            labelled = x + 80
        x += step
    grid = (
        f'<path class="grid" d="M44 {y}H{width:.0f}"/>'
        f'<text x="38" y="{y + 4}" text-anchor="end">{_short(tokens)}</text>\n'
        for y, tokens in ((34, most), (104, most / 2), (174, 0))
    )
    drawing = "".join([*grid, *drawn])
    return (
        f'<div class="scroll"><svg class="chart" width="{width:.0f}" height="194" role="img" '
        f'aria-label="prompt tokens of each request">\n{drawing}</svg></div>\n'
    )


def _reasons(row: Row) -> Iterator[tuple[str, str]]:
    if row.old_key is not None:
        yield KEY, f"the key changed from {row.old_key or 'none'} to {row.key or 'none'}"
    if row.pause:
        yield PAUSE, f"{timedelta(seconds=round(row.pause))} after the request before"
    if broke := row.broke:
        where = f"{broke.path}, character {broke.at:,}"
        estimate = f"estimated tokens before that: {broke.tokens:,}"
        yield BROKE, f"the prefix broke at {where}: {broke.cause}; {estimate}"


def _heading(number: int, row: Row) -> str:
    used = row.usage
    tokens = f"{used.cached:,} of {used.input:,} prompt tokens cached" if used else "no usage"
    return f"#{number} {_local(row.time):%H:%M:%S} {row.agent} {row.model}: {tokens}"


def _table(names: list[str], numbers: list[str], lines: Iterable[Sequence[str]]) -> str:
    columns = ['class="name"'] * len(names) + [""] * len(numbers)

    def row(tag: str, cells: Sequence[str]) -> str:
        marked = zip(columns, cells, strict=True)
        return "".join(f"<{tag} {column}>{escape(cell)}</{tag}>" for column, cell in marked)

    rows = "</tr>\n<tr>".join([row("th", names + numbers), *(row("td", line) for line in lines)])
    return f'<div class="scroll"><table><tr>{rows}</tr></table></div>'


def _icon(shape: str) -> str:
    return f'<svg class="icon" width="12" height="12">{shape}</svg>'


def _short(number: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:,.1f}{name}"
    return f"{number:g}"


def _local(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC).astimezone()
