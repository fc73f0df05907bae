"""Measure what the addon costs on this machine.

With --peers: what a hop costs, beside another way to a stable key. With --soak: whether a proxy
with the addon stands load and time.

What is compared is measured in turn (A B C A B C …) within one run, and given as medians.
"""

import argparse
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

from lib import ADDON, LOOPBACK, free_port
from lib.claude_code_router import MODEL as CHAT_MODEL
from lib.claude_code_router import NoRouterError, claude_code_router, install
from lib.hostile import SIZE
from lib.load import CHAT, END, Connection, conversation, post, upstream
from lib.mitmdump import Mitmdump
from lib.stalls import stalls
from mitmproxy import version
from prompt_cache_key.body import Body
from soak import soak

T = TypeVar("T")

KEY = "00000000-0000-4000-8000-000000000000"
MODEL = "claude-opus-5-5"

ANSWERS = {"whole": ("events=10", END), "pauses": ("events=10&pause=0.003", b"data:")}
"""How the upstream answers through each hop, and up to where the time is taken."""

EMPTY = "requestheaders = request = responseheaders = response = lambda flow: None"
NAIVE = f"""
import json
def request(flow):
    body = json.loads(flow.request.text)
    body.setdefault("prompt_cache_key", "{KEY}")
    flow.request.text = json.dumps(body)
"""


class Plan(NamedTuple):
    """How much is measured: seconds for each comparison, sizes in bytes, and numbers."""

    seconds: float = 5
    edited: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000)
    proxied: Sequence[int] = (130_000, 1_200_000)
    connections: int = 16
    pauses: Sequence[float] = (0.3, 0.03)
    asked: int = 80


QUICK = Plan(0.1, (10_000,), (20_000,), 2, (0.01,), 3)


def row(name: str, *cells: str) -> None:
    """Print a row of the table."""
    print(f"{name:28}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def head(name: str, *cells: str) -> None:
    """Print the first row of a part."""
    print()
    row(name, *cells)


def in_turn(seconds: float, inputs: Sequence[T], *variants: Callable[[T], object]) -> list[float]:
    """Call the variants in turn for so long, each with all inputs in a row.

    Return the median of each one's times for one input, in seconds.
    """
    times: list[list[float]] = [[] for _ in variants]
    until = time.monotonic() + seconds
    while not times[0] or time.monotonic() < until:
        for variant, taken in zip(variants, times, strict=True):
            start = time.perf_counter()
            for given in inputs:
                variant(given)
            taken.append((time.perf_counter() - start) / len(inputs))
    return list(map(median, times))


def against_first(values: Sequence[float], form: str) -> list[str]:
    """Return the values with their ratio to the first one."""
    return [f"{form.format(value)} {value / values[0]:6.2f}x" for value in values]


def machine() -> str:
    """Return what the numbers depend on."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    return (
        f"{model}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {platform.system()}, "
        f"Python {platform.python_version()}, mitmproxy {version.VERSION}"
    )


def edited(raw: bytes) -> bytes:
    """Put a key in, after a look at all that decides which."""
    body = Body(raw)
    return raw if body.has_key or not body.model else body.with_key(KEY)


def bench_edit(plan: Plan) -> None:
    """Compare the edit alone with what it does at least, and with what is simple."""
    names = "one copy", "this addon", "json loads, one copy", "json loads, dumps"
    head("the edit alone", *names)
    for size in plan.edited:
        contents = [conversation(size, seed) for seed in range(4)]
        times = in_turn(
            plan.seconds,
            contents,
            lambda raw: bytes(memoryview(raw)),
            edited,
            lambda raw: (json.loads(raw), bytes(memoryview(raw))),
            lambda raw: json.dumps({"prompt_cache_key": KEY} | json.loads(raw)).encode(),
        )
        kilobytes = median(map(len, contents)) / 1000
        cells = [f"{each * 1e6:,.1f} µs {each * 1e6 / kilobytes:5.2f}/kB" for each in times]
        row(f"  {size / 1000:,.0f} kB", *cells)


def quiet(mode: str, scripts: Sequence[Path], folder: Path) -> Mitmdump:
    """Return a mitmdump that logs to a file, so that its lines do not keep the client busy."""
    return Mitmdump(mode, scripts=scripts, log=folder / "log", flow_detail="0")


def bench_proxies(plan: Plan) -> None:
    """Compare mitmdumps without an addon, with an empty and a naive one, and with this one."""
    with ExitStack() as stack:
        server = stack.enter_context(upstream())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "empty.py").write_text(EMPTY)
        (folder / "naive.py").write_text(NAIVE)
        mode = f"reverse:http://{LOOPBACK}:{server}"
        ports = [
            stack.enter_context(quiet(mode, scripts, folder)).port
            for scripts in ([], [folder / "empty.py"], [folder / "naive.py"], [ADDON])
        ]

        names = "no addon", "an empty addon", "a naive addon", "this addon"
        head("one proxied request", *names)
        for size, query in [*((size, "") for size in plan.proxied), (plan.proxied[0], "events=10")]:
            requests = [post(conversation(size, n), n, query) for n in range(4)]
            asks = [Connection(port).ask for port in ports]
            times = [each * 1e3 for each in in_turn(2 * plan.seconds, requests, *asks)]
            answered = f", {query.replace('=', ': ')}" if query else ""
            row(f"  {size / 1000:,.0f} kB{answered}", *against_first(times, "{:.2f} ms"))
        head("requests per second", *names)
        rates = against_first(
            throughput(plan, ports, [conversation(plan.proxied[0])] * 4), "{:.0f}/s"
        )
        row(f"  {plan.proxied[0] / 1000:,.0f} kB, {plan.connections} connections", *rates)
        head("first event of a stream", "direct", "no addon", "this addon")
        for pause in plan.pauses:
            times = first_event(plan, pause, server, ports[0], ports[-1])
            row(f"  of ten, {pause:g} s apart", *(f"{each * 1e3:,.1f} ms" for each in times))


def throughput(
    plan: Plan, ports: list[int], contents: Sequence[bytes], query: str = ""
) -> list[float]:
    """Return how many requests a second each port answers, each with a content of its own."""
    requests = [
        [post(content, number, query) for number in range(plan.connections)] for content in contents
    ]
    connections = [[Connection(port) for _ in range(plan.connections)] for port in ports]
    rates: list[list[float]] = [[] for _ in ports]

    def count(connection: Connection, request: bytes, until: float) -> int:
        asks = itertools.takewhile(lambda _: time.monotonic() < until, itertools.count())
        return sum(bool(connection.ask(request)) for _ in asks)

    with ThreadPoolExecutor(plan.connections) as pool:
        for number in range(8 * len(ports)):
            at, start = number % len(ports), time.monotonic()
            until = itertools.repeat(start + plan.seconds / 8)
            done = sum(pool.map(count, connections[at], requests[at], until))
            rates[at].append(done / (time.monotonic() - start))
    return list(map(median, rates))


def ask(connection: Connection, request: bytes, until: bytes) -> float:
    """Return after how many seconds a part of an answer has come, once all has come."""
    start = time.perf_counter()
    received = connection.ask(request, until)
    taken = time.perf_counter() - start
    if END not in received:
        connection.receive()
    return taken


def first_event(plan: Plan, pause: float, *ports: int) -> list[float]:
    """Return after how many seconds the first event of a stream comes from each port."""
    request = post(conversation(20_000), 0, f"pause={pause}")
    connections = [Connection(port) for port in ports]
    with ThreadPoolExecutor(len(ports)) as pool:  # all at once: they wait most of the time
        rounds = [
            list(pool.map(lambda connection: ask(connection, request, b"data:"), connections))
            for _ in range(max(3, int(plan.seconds / 10 / pause)))
        ]
    return list(map(median, zip(*rounds, strict=True)))


def bench_peers(plan: Plan) -> None:
    """Compare a hop through mitmdump, without and with this addon, with claude-code-router."""
    path = install()
    with ExitStack() as stack:
        server = stack.enter_context(upstream())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mode = f"reverse:http://{LOOPBACK}:{server}"
        ports = [server] + [
            stack.enter_context(quiet(mode, scripts, folder)).port for scripts in ([], [ADDON])
        ]
        ports.append(free_port())
        url = f"http://{LOOPBACK}:{server}{CHAT}"
        providers = {name: f"{url}?{query}" for name, (query, _) in ANSWERS.items()}
        stack.enter_context(claude_code_router(path, ports[-1], providers, folder / "home"))

        content, cells = conversation(plan.proxied[0]), []
        for name, (query, until) in ANSWERS.items():
            model = f"{name},{CHAT_MODEL}".encode()
            contents = [content] * 3 + [content.replace(MODEL.encode(), model, 1)]
            requests = [post(each, 0, query) for each in contents]
            connections = [Connection(port) for port in ports]
            rounds = [
                list(map(ask, connections, requests, itertools.repeat(until)))
                for _ in range(plan.asked)
            ]
            times = list(map(median, zip(*rounds, strict=True)))
            cells.append([f"{(each - times[0]) * 1e3:,.1f} ms more" for each in times])
            cells[-1][0] = f"{times[0] * 1e3:,.1f} ms"
            if name == "whole":
                few = plan._replace(connections=min(plan.connections, 8))
                rates = throughput(few, ports, contents, query)
    head("one hop, 130 kB", "a request", "the first event", f"{few.connections} connections")
    hops = "no hop", "mitmdump without the addon", "mitmdump with the addon", "claude-code-router 2"
    for hop, *columns, rate in zip(hops, *cells, rates, strict=True):
        row(f"  {hop}", *columns, f"{rate:,.0f}/s")


def main() -> None:
    """Print the table, or run the soak and end with status 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--soak", nargs="?", type=float, const=60, metavar="SECONDS")
    parser.add_argument("--peers", action="store_true", help="compare with claude-code-router")
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it works")
    parser.add_argument("--stalls", action="store_true", help="what hostile input costs others")
    arguments = parser.parse_args()
    print(machine())
    if arguments.stalls:
        size, rounds, every = (100_000, 1, 20) if arguments.quick else (SIZE, 3, 1)
        sys.exit(not stalls(size, rounds, every))
    if arguments.soak:
        sys.exit(not soak(arguments.soak, 10 if arguments.quick else 100))
    try:
        for bench in [bench_peers] if arguments.peers else [bench_edit, bench_proxies]:
            bench(QUICK if arguments.quick else Plan())
    except NoRouterError as e:
        sys.exit(f"bench: {e}")


if __name__ == "__main__":
    main()
