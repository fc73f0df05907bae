"""The command that reports what Claude Code's prompts read from the cache, from saved flows.

The proxy that saved them need not have had the addon. Memory does not grow with the file, but for
a few numbers of each request: of the bodies only the last are kept, to judge the next. mitmproxy is
imported when flows are read: `--help` is there at once.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from prompt_cache_key.screen_text import cut
from prompt_cache_key.stats.money import GivenPrices, Prices, load
from prompt_cache_key.stats.report import Report, as_json, report_of
from prompt_cache_key.stats.sums import dollars, percent
from prompt_cache_key.upstreams import GENERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mitmproxy import flow, flowfilter

SEVERAL_PLACES = (
    "Requests went to several endpoints. What was saved before a translator and behind it counts "
    "twice: choose a side with --filter."
)
NO_FLOWS = "not a file of mitmproxy flows"
LARGE_FILE = 64 << 20  # bytes from which a progress bar is shown
_LINE = 200  # columns of what others' words may take in a line of ours

# A flow is a netstring: its length and a colon. mitmproxy reads HAR files too, which have none.
_FLOW = re.compile(rb"[0-9]{1,12}:")


class _File(NamedTuple):
    """A file of flows that is being read, and what is wrong with it."""

    file: BinaryIO
    size: int
    problems: list[str]

    def flows(self) -> Iterator[flow.Flow]:
        """Yield the flows up to where the file breaks off or is corrupt, which is a problem."""
        from mitmproxy.io import FlowReader

        count, start = 0, self.file.peek(16)[:16] if self.size else b""  # type: ignore[attr-defined]
        try:
            for each in FlowReader(self.file).stream():
                yield each
                count += 1
        except Exception as e:  # noqa: BLE001  # a corrupt flow raises more than FlowReadException
            why = cut(f"{type(e).__name__}: {e}", _LINE)
            is_flow = count or _FLOW.match(start)
            broken = f"the file is broken after {count:,} flows: {why}"
            self.problems.append(broken if is_flow else NO_FLOWS)

    def flows_with_bar(self) -> Iterator[flow.Flow]:
        """Yield the flows, with a progress bar."""
        for each in self.flows():
            done = self.file.tell() / self.size
            sys.stderr.write(f"\r[{'#' * int(40 * done):40}] {done:4.0%}")
            sys.stderr.flush()
            yield each
        sys.stderr.write(f"\r{'':47}\r")


def build(
    path: Path, matches: flowfilter.TFilter, retention: int | None, prices: Prices | None
) -> Report:
    """Read a file of flows; OSError if that cannot be done."""
    from mitmproxy import http

    from prompt_cache_key.endpoint import has_plain_host
    from prompt_cache_key.report.saved_flows import finished_in

    def is_chosen(each: flow.Flow) -> bool:
        is_plain = not isinstance(each, http.HTTPFlow) or has_plain_host(each.request)
        return is_plain and bool(matches(each))

    problems: list[str] = []
    with path.open("rb") as file:
        reader = _File(file, path.stat().st_size, problems)
        is_bar_shown = reader.size > LARGE_FILE and sys.stderr.isatty()
        flows = reader.flows_with_bar() if is_bar_shown else reader.flows()
        requests = [*finished_in(filter(is_chosen, flows), retention)]
    endpoints = {request.endpoint for request in requests}
    warnings = [*problems, *([SEVERAL_PLACES] if len(endpoints) > 1 else [])]
    return report_of(path.name, requests, warnings=warnings, prices=prices)


def price(number: str) -> float:
    """Read a price; ValueError if it is none."""
    if not 0 <= float(number) < math.inf:
        raise ValueError
    return float(number)


def expression(text: str) -> flowfilter.TFilter:
    """Read a filter expression; ValueError if it is none."""
    from mitmproxy import flowfilter

    return flowfilter.parse(text)


def seconds(text: str) -> int:
    """Read a time span such as 30m; ValueError if it is none."""
    from prompt_cache_key import options

    return options.seconds(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="report",
        description="Report what Claude Code's prompts read from the prompt cache, and why no "
        "more.",
        epilog="Costs are shown if there is a price, or if the price list of the package "
        "genai-prices is installed. Cached and written tokens cost as much as input tokens unless "
        "they have a price of their own.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="flows that mitmdump -w saved")
    add("-o", type=Path, metavar="PAGE", help="where the page goes (default: FILE.html)")
    add("--json", action="store_true", help="write JSON instead; to standard output without -o")
    help_ = "how long upstreams keep a prompt without use (default: what is known of each)"
    add("--retention", type=seconds, metavar="TIME", help=help_)
    help_ = "mitmproxy filter of the flows that count (default: %(default)s)"
    add("--filter", type=expression, default=GENERATIONS, metavar="F", help=help_)
    for name in GivenPrices._fields:
        add(f"--price-{name}", type=price, metavar="N", help=f"price of a million {name} tokens")
    return parser.parse_args(arguments)


def _prices(options: argparse.Namespace) -> Prices | None:
    """Return the given prices, else the price list, if there is one."""
    given = [getattr(options, f"price_{name}") for name in GivenPrices._fields]
    if given == [None] * 4:
        return load()
    usual = (given[0] or 0.0,) * 3 + (0.0,)
    return GivenPrices(*(u if g is None else g for u, g in zip(usual, given, strict=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report; end with a message and status 1 if there is nothing to report."""
    options = _arguments(arguments)
    try:
        report = build(options.file, options.filter, options.retention, _prices(options))
    except OSError as e:
        sys.exit(f"report: {options.file}: {e.strerror}")
    if not report.sums.requests:
        why = "; ".join(report.warnings) or "no request of a Claude Code session in it"
        sys.exit(f"report: {options.file}: {why}")
    for warning in report.warnings:
        sys.stderr.write(f"report: {options.file}: {warning}\n")
    made = f"{json.dumps(as_json(report))}\n" if options.json else _page(report)
    if options.json and not options.o:
        _print(made)
        return
    target = options.o or Path(f"{options.file}.html")
    try:
        target.write_text(made, encoding="utf-8", errors="replace")
    except OSError as e:
        sys.exit(f"report: {target}: {e.strerror}")
    sys.stdout.write(f"{target}: {_summary(report)}\n")


def _summary(report: Report) -> str:
    sums = report.sums
    parts = [
        f"sessions {len(report.sessions):,}",
        f"requests {sums.requests:,}",
        f"prompt tokens {sums.input:,}",
        f"hit rate {percent(sums.hit_rate)}",
        f"missed tokens {sums.missed:,} in {sums.misses:,} request{'s'[: sums.misses != 1]}",
    ]
    if sums.saved is not None and sums.missed_cost is not None:
        parts += [f"saved {dollars(sums.saved)}", f"misses cost {dollars(sums.missed_cost)}"]
    return ", ".join(parts)


def _page(report: Report) -> str:
    from prompt_cache_key.report.page import page

    return page(report)


def _print(made: str) -> None:
    try:
        sys.stdout.write(made)
        sys.stdout.flush()
    except BrokenPipeError:  # as in: report FILE --json | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
