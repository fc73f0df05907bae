"""The HTML page of a report; it loads nothing and runs nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from report import Report, Row, Session

MAX_SESSIONS = 100
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
.tiles { display: grid; grid: auto / repeat(auto-fit, minmax(140px, 1fr)); gap: 10px }
.tiles li { padding: 10px 12px } .tiles b { display: block; font-size: 21px }
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
td { white-space: nowrap } td:first-child { white-space: normal }
th:first-child, td:first-child { padding-left: 0; text-align: left }
"""


# The page. What comes from the file passes `escape` on its way into it.

CACHED = '<path class="cached" d="M0 0h12v12H0z"/>'
REST = '<path class="rest" d="M0 0h12v12H0z"/>'
BROKE = '<path class="broke" d="M1 1h10l-5 10z"/>'
KEY = '<path class="key" d="M6 0l6 6-6 6-6-6z"/>'
PAUSE = '<path class="pause" d="M6 0v12"/>'


def page(report: Report) -> Iterator[str]:
    """Yield the HTML page in pieces; it loads nothing and runs nothing."""
    rows = [row for session in report.sessions for row in session.requests]
    first, last = min(row.time for row in rows), max(row.time for row in rows)
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Prompt cache: {escape(report.file)}</title><style>{STYLE}</style></head>\n"
        f'<body><h1>Prompt cache report</h1>\n<p class="soft">{escape(report.file)}, '
        f"{_local(first):%Y-%m-%d %H:%M:%S} to {_local(last):%Y-%m-%d %H:%M:%S %Z}</p>\n"
    )
    total = report.sums
    if report.problem:
        yield f'<p class="warn">{escape(report.problem)}</p>\n'
    if count := total["without_usage"]:
        yield f'<p class="warn">{count:,} requests count no tokens: no usage was reported.</p>\n'
    if len({row.endpoint for row in rows}) > 1:
        yield (
            '<p class="warn">Requests went to several places. What was saved on both sides of a '
            "translator counts twice: choose one with --filter.</p>\n"
        )
    tiles = [
        (f"{total['requests']:,}", "requests", f"{len(report.sessions):,} sessions"),
        (f"{total['prompt_tokens']:,}", "prompt tokens", f"{total['output_tokens']:,} output"),
        (f"{total['cached_tokens']:,}", "from the cache", f"{total['uncached_tokens']:,} not"),
        (f"{total['hit_percent']:.1f} %", "hit rate", "of the prompt tokens"),
        (f"{total['breaks']:,}", "prefix breaks", f"{total['pauses']:,} long pauses"),
        (f"{total['key_changes']:,}", "key changes", "of one agent and model"),
    ]
    if report.prices:
        per = ", ".join(f"{name} {price:g}" for name, price in report.prices._asdict().items())
        without = f"{total['cost_without_cache']:,.2f} without a cache; per million: {per}"
        tiles.append((f"{total['cost']:,.2f}", "cost", without))
    items = (f"<li><b>{number}</b>{name}<small>{more}</small></li>" for number, name, more in tiles)
    yield f'<ul class="tiles">{"".join(items)}</ul>\n<section>{_causes(rows)}</section>\n'
    legend = [(CACHED, "from the cache"), (REST, "not from the cache"), (BROKE, "the prefix broke")]
    legend += [(KEY, "the key changed"), (PAUSE, f"a pause over {timedelta(seconds=report.keep)}")]
    spans = (f"<span>{_icon(shape)} {words}</span>" for shape, words in legend)
    yield f'<p class="legend soft">{"".join(spans)}</p>\n'
    for session in report.sessions[:MAX_SESSIONS]:
        yield from _section(session)
    if (more := len(report.sessions) - MAX_SESSIONS) > 0:
        yield f"<p>… and {more:,} more sessions, which --json has.</p>\n"
    yield "</body></html>\n"


def _causes(rows: Iterable[Row]) -> str:
    requests: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for row in rows:
        # Each counts once: a new key or a pause loses the whole prefix, a break what follows it.
        if row.old_key is not None:
            why = "the key changed"
        elif row.pause:
            why = "a long pause"
        elif row.broke:
            why = f"the prefix broke: {row.broke.cause}"
        else:
            why = "an agent's first request to a model" if row.is_first else "none of these"
        requests[why] += 1
        tokens[why] += row.uncached
    lines = [[why, f"{requests[why]:,}", f"{count:,}"] for why, count in tokens.most_common()]
    return _table(["why prompt tokens did not come from the cache", "requests", "tokens"], lines)


def _section(session: Session) -> Iterator[str]:
    rows, total = session.requests, session.sums
    cost = f", cost {total['cost']:,.2f}" if "cost" in total else ""
    yield (
        f'<section><h2>{escape(session.id)}</h2>\n<p class="soft">'
        f"{_local(rows[0].time):%Y-%m-%d %H:%M:%S}: {total['requests']:,} requests, "
        f"{total['prompt_tokens']:,} prompt tokens, {total['uncached_tokens']:,} not from the "
        f"cache, hit rate {total['hit_percent']:.1f} %{cost}</p>\n{_chart(rows)}"
    )
    marks = []
    for number, row in enumerate(rows, 1):
        if reasons := list(_reasons(row)):
            words = "".join(f"<p>{_icon(shape)} {escape(why)}</p>" for shape, why in reasons)
            if row.broke:
                before, after = escape(row.broke.before), escape(row.broke.after)
                words += f"<del>{before}</del><ins>{after}</ins>"
            marks.append(f"<li>{escape(_heading(number, row))}{words}</li>\n")
    if marks:
        counts = f"{total['breaks']:,} prefix breaks, {total['key_changes']:,} key changes"
        yield (
            f"<details{' open' * (len(marks) <= 5)}><summary>{counts}, {total['pauses']:,} long "
            f'pauses</summary><ul class="marks">{"".join(marks)}</ul></details>\n'
        )
    speakers: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        speakers[row.speaker].append(row)
    head = ["agent", "model", "to", "requests", "prompt tokens", "cached", "hit rate"]
    lines = []
    for speaker, said in speakers.items():
        of = sums(said, None)
        numbers = (f"{of[name]:,}" for name in ("requests", "prompt_tokens", "cached_tokens"))
        lines.append([*speaker, *numbers, f"{of['hit_percent']:.1f} %"])
    yield f"<details><summary>agents and models</summary>{_table(head, lines)}</details></section>\n"


def _chart(rows: list[Row]) -> str:
    most = max((row.usage.input for row in rows if row.usage), default=0) or 1
    step = min(22.0, max(2.0, 1000 / len(rows)))
    bar = step - 1 if step >= 4 else step  # noqa: PLR2004  # else no room for a gap
    x, labelled, drawn = 44.0, 0.0, []
    for number, row in enumerate(rows, 1):
        reasons = list(_reasons(row))
        if row.pause:
            x += 14
            drawn.append(f'<path class="pause" d="M{x - 8:.1f} 34v140"/>')
        title = escape("\n".join([_heading(number, row), *(why for _, why in reasons)]))
        all_ = 140 * row.usage.input / most if row.usage else 0
        rest = 140 * row.uncached / most
        drawn.append(
            f'<g transform="translate({x:.1f} 34)"><title>{title}</title>'
            f'<rect class="hit" width="{step:.1f}" height="140"/>'
            f'<rect class="rest" y="{140 - all_:.1f}" width="{bar:.1f}" height="{rest:.1f}"/>'
            f'<rect class="cached" y="{140 - all_ + rest:.1f}" width="{bar:.1f}" '
            f'height="{all_ - rest:.1f}"/>'
        )
        for shape, y in ((BROKE, -14), (KEY, -30)):
            if shape in dict(reasons):
                drawn.append(f'<g transform="translate({bar / 2 - 6:.1f} {y})">{shape}</g>')
        drawn.append("</g>")
        if x > labelled:
            drawn.append(f'<text x="{x:.1f}" y="189">{_local(row.time):%H:%M:%S}</text>')
            labelled = x + 80
        x += step
    width = max(x, labelled)
    for y, tokens in ((34, most), (104, most // 2), (174, 0)):
        label = f'<text x="38" y="{y + 4}" text-anchor="end">{_short(tokens)}</text>'
        drawn.insert(0, f'<path class="grid" d="M44 {y}H{width:.0f}"/>{label}')
    size = f'width="{width:.0f}" height="194"'
    return f'<div class="scroll"><svg class="chart" {size}>{"".join(drawn)}</svg></div>\n'


def _reasons(row: Row) -> Iterator[tuple[str, str]]:
    if row.old_key is not None:
        yield KEY, f"the key changed from {row.old_key or 'none'} to {row.key or 'none'}"
    if row.pause:
        yield PAUSE, f"{timedelta(seconds=round(row.pause))} after the request before"
    if broke := row.broke:
        where = f"{broke.path}, character {broke.at:,}"
        estimate = f"an estimated {broke.tokens:,} tokens come before that"
        yield BROKE, f"the prefix broke at {where}: {broke.cause}; {estimate}"


def _heading(number: int, row: Row) -> str:
    used = row.usage
    tokens = f"{used.cached:,} of {used.input:,} prompt tokens cached" if used else "no usage"
    return f"#{number} {_local(row.time):%H:%M:%S} {row.agent} {row.model}: {tokens}"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines)
    titles = "".join(f"<th>{title}</th>" for title in head)
    rows = "".join(f"<tr>{line}</tr>\n" for line in cells)
    return f'<div class="scroll"><table><tr>{titles}</tr>\n{rows}</table></div>'


def _icon(shape: str) -> str:
    return f'<svg class="icon" width="12" height="12">{shape}</svg>'


def _short(number: int) -> str:
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def _local(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC).astimezone()


