"""Say what Claude Code's prompts got from the cache, and why not more, from flows that were saved.

The proxy that saved them need not have had the addon. Memory does not grow with the file, but for
a few numbers of each request: of the bodies only the last are kept, to judge the next.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mitmproxy import flow, flowfilter
from mitmproxy.io import FlowReader

from prompt_cache_key.log import text
from prompt_cache_key.options import seconds
from prompt_cache_key.report.page import page
from prompt_cache_key.report.saved_flows import finished, sessions_in
from prompt_cache_key.stats import report as stats_report
from prompt_cache_key.stats.facts import Prices, Report, as_json, report_of
from prompt_cache_key.stats.totals import percent
from prompt_cache_key.upstreams import GENERATIONS

SEVERAL_PLACES = (
    "Requests went to several places. What was saved before a translator and behind it counts "
    "twice: choose a side with --filter."
)
LARGE_FILE = 64 << 20  # bytes from which a progress bar is shown


def build(
    path: Path, matches: flowfilter.TFilter, keep: int | None, prices: Prices | None
) -> Report:
    """Read a file of flows; OSError if that cannot be done."""
    problems: list[str] = []
    with path.open("rb") as file:
        size = path.stat().st_size
        is_bar_shown = size > LARGE_FILE and sys.stderr.isatty()
        flows = _with_bar(file, size, problems) if is_bar_shown else _flows(file, problems)
        sessions = sessions_in(filter(matches, flows), keep)
    endpoints = {request.endpoint for requests in sessions.values() for request in requests}
    return report_of(
        text(path.name),
        sessions,
        warnings=[*problems, *([SEVERAL_PLACES] if len(endpoints) > 1 else [])],
        prices=prices,
    )


def _flows(file: BinaryIO, problems: list[str]) -> Iterator[flow.Flow]:
    """Yield a file's flows up to where it breaks off or is corrupt, which is a problem to tell."""
    count = 0
    try:
        for each in FlowReader(file).stream():
            yield each
            count += 1
    except Exception as e:  # noqa: BLE001  # a corrupt flow raises more than FlowReadException
        why = text(f"{type(e).__name__}: {e}")
        problems.append(f"the file is broken after {count:,} flows: {why}")


def _with_bar(file: BinaryIO, size: int, problems: list[str]) -> Iterator[flow.Flow]:
    for each in _flows(file, problems):
        done = file.tell() / size
        sys.stderr.write(f"\r[{'#' * int(40 * done):40}] {done:4.0%}")
        sys.stderr.flush()
        yield each
    sys.stderr.write(f"\r{'':47}\r")


def price(number: str) -> float:
    """Read a price; ValueError if it is none."""
    if not 0 <= float(number) < math.inf:
        raise ValueError
    return float(number)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="report",
        description="Show what Claude Code's prompts got from the prompt cache, and why not more.",
        epilog="Costs are shown if there is a price. Cached and written tokens cost as much as "
        "input tokens unless they have one of their own.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="flows that mitmdump -w saved")
    add("-o", type=Path, metavar="PAGE", help="where the page goes (default: FILE.html)")
    add("--json", action="store_true", help="write JSON instead; to standard output without -o")
    keep_help = "how long upstreams keep a prefix without use (default: what is known of each)"
    add("--keep", type=seconds, metavar="TIME", help=keep_help)
    filter_help = "mitmproxy filter of the flows that count (default: %(default)s)"
    add("--filter", type=flowfilter.parse, default=GENERATIONS, metavar="F", help=filter_help)
    for name in Prices._fields:
        add(f"--price-{name}", type=price, metavar="N", help=f"price of a million {name} tokens")
    return parser.parse_args(arguments)


def _prices(options: argparse.Namespace) -> Prices | None:
    given = [getattr(options, f"price_{name}") for name in Prices._fields]
    if given == [None] * 4:
        return None
    usual = (given[0] or 0.0,) * 3 + (0.0,)
    return Prices(*(u if g is None else g for u, g in zip(usual, given, strict=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report; end with a message and status 1 if there is nothing to report."""
    options = _arguments(arguments)
    try:
        report = build(options.file, options.filter, options.keep, _prices(options))
    except OSError as e:
        sys.exit(f"report: {e}")
    total = report.sums
    if not total.requests:
        why = "".join(report.warnings) or "no request of a Claude Code session in it"
        sys.exit(f"report: {options.file}: {why}")
    for warning in report.warnings:
        sys.stderr.write(f"report: {options.file}: {warning}\n")
    made = f"{json.dumps(as_json(report))}\n" if options.json else page(_new(report))
    if options.json and not options.o:
        _print(made)
        return
    target = options.o or Path(f"{options.file}.html")
    try:
        target.write_text(made, encoding="utf-8")
    except OSError as e:
        sys.exit(f"report: {e}")
    sys.stdout.write(
        f"{target}: sessions {len(report.sessions):,}, requests {total.requests:,}, "
        f"prompt tokens {total.prompt_tokens:,}, hit rate {percent(total.hit_percent)}, "
        f"lost tokens {total.lost_tokens:,} in {total.misses:,} requests\n"
    )


def _new(report: Report) -> stats_report.Report:
    sessions = {session.id: session.requests for session in report.sessions}
    return stats_report.report_of(report.title, finished(sessions), warnings=report.warnings)


def _print(made: str) -> None:
    try:
        sys.stdout.write(made)
        sys.stdout.flush()
    except BrokenPipeError:  # as in: report FILE --json | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
