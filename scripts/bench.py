"""Measure what the addon costs on this machine, or with --soak whether it stands load and time.

What is compared is measured in turn (A B C A B C …) within one run, and given as medians.
"""

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import pydoc_data.topics
import random
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, Popen
from typing import NamedTuple, TypeVar
from unittest import mock

from mitmproxy import version
from prompt_cache_key.judge.totals import Totals
from prompt_cache_key.request import body
from prompt_cache_key.request.bridge import Bridge
from prompt_cache_key.request.keys import Keys, Name

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
ADDON = str(ROOT / "addon" / "addon.py")
RECORDINGS = ROOT / "tests" / "data" / "claude_code.jsonl"
LOOPBACK = "127.0.0.1"
KEY = "00000000-0000-4000-8000-000000000000"
MODEL = "claude-opus-5-5"
BOTH = "claude-haiku-5", MODEL
TIMEOUT = 30.0  # seconds until an answer is lost
END = b"0\r\n\r\n"

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
    connections: int = 32
    pauses: Sequence[float] = (0.3, 0.03)
    sessions: Sequence[int] = (1, 10_000, 1_000_000)
    in_flight: int = 100


QUICK = Plan(0.1, (10_000,), (20_000,), 2, (0.01,), (1, 100), 3)


# --- requests as Claude Code sends them ---------------------------------------------------------


@cache
def prose() -> str:
    """Return English and code; one character in 500 is not ASCII."""
    plain = "\n".join(pydoc_data.topics.topics.values()) + Path(argparse.__file__).read_text()
    marks = itertools.cycle("\N{EM DASH}\N{RIGHT SINGLE QUOTATION MARK}\N{CHECK MARK}")
    return "".join(plain[at : at + 499] + next(marks) for at in range(0, len(plain), 499))


def excerpt(seed: str, length: int) -> str:
    """Return so many characters of it, the same for the same seed."""
    start = random.Random(seed).randrange(len(prose()) - length)  # noqa: S311
    return prose()[start : start + length]


@cache
def recorded() -> tuple[dict[str, str], str]:
    """Return headers and body of the second request of a session, with a tool call."""
    records = map(json.loads, RECORDINGS.read_text("utf-8").splitlines())
    wanted = ("claude-code 2.1.330", "bash")
    *_, record = (each for each in records if (each["client"], each["scenario"]) == wanted)
    return dict(record["headers"]), record["body"]


def conversation(size: int, seed: object = 0) -> bytes:
    """Return a body of about that many bytes: the recorded one with its texts, and more turns."""
    scale = min(1, size / 40_000)  # with its texts the recorded one has 31 kB
    request = json.loads(
        re.sub(
            r"(\d+) characters of text – ✓",  # noqa: RUF001
            lambda cut: json.dumps(excerpt(f"{seed} {cut[0]}", int(scale * int(cut[1]))))[1:-1],
            recorded()[1],
        )
    )
    room = size - len(encoded(request))
    for turn in itertools.count():
        if room < 1000:  # noqa: PLR2004
            break
        text = excerpt(f"{seed} {turn}", min(6000, room - 500))
        code, output = text[: len(text) // 5], text[len(text) // 5 :]
        edit = {"file_path": "/src/x.py", "old_string": "", "new_string": code}
        call = {"type": "tool_use", "id": f"toolu_{turn}", "name": "Edit", "input": edit}
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": output}
        turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        request["messages"] += turns
        room -= len(encoded(turns))
    return encoded(request)


def encoded(value: object) -> bytes:
    """Return JSON as Claude Code writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def session(number: int) -> str:
    """Return an id as long as Claude Code's."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def post(content: bytes, number: int = 0, query: str = "") -> bytes:
    """Return the recorded request with that body, from that session; `query` tells `answer` how."""
    headers, _ = recorded()
    lines = [f"POST /v1/messages?{query} HTTP/1.1", f"Host: {LOOPBACK}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}\r\n\r\n"]).encode()
    was = headers["X-Claude-Code-Session-Id"].encode()
    return (head + content).replace(was, session(number).encode())


# --- an upstream, a client and a proxy ----------------------------------------------------------


def serve(listener: socket.socket) -> None:
    """Be the upstream, in a process of its own, with as little work as can be."""
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Answer the requests of a connection, until it ends, in one piece of JSON or as events.

    The query says how: `events=10`, with `pause` seconds between them, broken off after the first
    `cut`, the whole after `wait` seconds. The first event tells which key has come, and the
    checksum of the body without it.
    """
    usage = {"input_tokens": 9, "cache_read_input_tokens": 30_000, "output_tokens": 1}
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError), connection, connection.makefile("rb", 1 << 20) as stream:
        while line := stream.readline():
            how = {name: float(value) for name, value in re.findall(rb"(\w+)=([\d.]+)", line)}
            head = b"".join(iter(stream.readline, b"\r\n"))
            size = re.search(rb"(?i)content-length: (\d+)", head)
            content = stream.read(int(size[1]) if size else 0)
            kind, data = "application/json", [json.dumps({"usage": usage})]
            if how:
                member = re.match(rb'\{"prompt_cache_key":"([0-9a-f-]{36})",', content)
                rest = b"{" + content[member.end() :] if member else content
                seen = {"key": member[1].decode() if member else "", "crc": zlib.crc32(rest)}
                events = [{"type": "message_start", "message": {"usage": usage}, "seen": seen}]
                events += [{"type": "content_block_delta", "delta": {"text": "Yes."}}] * 8
                events += [{"type": "message_delta", "usage": usage}]
                kind, data = "text/event-stream", [f"data: {json.dumps(e)}\n\n" for e in events]
            head_ = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunks = [f"{len(each):x}\r\n{each}\r\n" for each in data]
            sent = [head_ + chunks[0], *chunks[1:], END.decode()][: int(how.get(b"cut", 99))]
            time.sleep(how.get(b"wait", 0))
            for part in sent if b"pause" in how else ["".join(sent)]:
                connection.sendall(part.encode())
                time.sleep(how.get(b"pause", 0) if part is not sent[-1] else 0)
            if b"cut" in how:
                return


class Client:
    """A connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes, until: bytes = END) -> bytes:
        """Send a request; return what comes until the answer contains `until`, or breaks off."""
        self.socket.sendall(request)
        return self.receive(until)

    def receive(self, until: bytes = END) -> bytes:
        """Return what comes until it contains `until`, or breaks off."""
        received = b""
        while until not in received and (data := self.socket.recv(1 << 16)):
            received += data
        return received


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def mitmdump(upstream: int, *arguments: str) -> Iterator[tuple[int, Popen[bytes], Path]]:
    """Run a mitmdump before the upstream's port; give its port, its process and its log."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log, port = folder / "log", free_port()
        command = [str(Path(sys.executable).with_name("mitmdump")), "--set", f"confdir={folder}"]
        command += ["--mode", f"reverse:http://{LOOPBACK}:{upstream}", "--set", "flow_detail=0"]
        command += ["--listen-host", LOOPBACK, "--listen-port", str(port), *arguments]
        output = stack.enter_context(log.open("w"))
        process = stack.enter_context(Popen(command, stdout=output, stderr=output))
        stack.callback(process.terminate)
        try:
            while process.poll() is None:
                with suppress(ConnectionRefusedError):
                    socket.create_connection((LOOPBACK, port)).close()
                    break
                time.sleep(0.05)
            yield port, process, log
        except OSError as e:
            process.terminate()
            process.wait()
            e.add_note(log.read_text())
            raise


@contextmanager
def running_upstream() -> Iterator[int]:
    """Run the upstream; give its port."""
    with socket.create_server((LOOPBACK, 0), backlog=512) as listener:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=serve, args=(listener,), daemon=True)
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


# --- the table ----------------------------------------------------------------------------------


def row(name: str, *cells: str) -> None:
    """Print a row."""
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


def bench_edit(plan: Plan) -> None:
    """Compare the edit alone with what it does at least, and with what is simple."""
    spec = importlib.util.find_spec("prompt_cache_key.request.body")
    assert spec  # noqa: S101
    assert spec.loader  # noqa: S101
    json_only = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"msgspec": None}):
        spec.loader.exec_module(json_only)
    head(
        "the edit alone",
        "one copy",
        "this addon",
        "this, json only",
        "json loads, one copy",
        "json loads, dumps",
    )
    for size in plan.edited:
        contents = [conversation(size, seed) for seed in range(4)]
        times = in_turn(
            plan.seconds,
            contents,
            lambda raw: bytes(memoryview(raw)),
            lambda raw: body.with_key(raw, body.read(raw), KEY),
            lambda raw: json_only.with_key(raw, json_only.read(raw), KEY),
            lambda raw: (json.loads(raw), bytes(memoryview(raw))),
            lambda raw: json.dumps({"prompt_cache_key": KEY} | json.loads(raw)).encode(),
        )
        kilobytes = median(map(len, contents)) / 1000
        cells = [f"{each * 1e6:,.1f} µs {each * 1e6 / kilobytes:5.2f}/kB" for each in times]
        row(f"  {size / 1000:,.0f} kB", *cells)


def bench_proxies(plan: Plan) -> None:
    """Compare mitmdumps without an addon, with an empty and a naive one, and with this one."""
    with ExitStack() as stack:
        upstream = stack.enter_context(running_upstream())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "empty.py").write_text(EMPTY)
        (folder / "naive.py").write_text(NAIVE)
        addons = f"{folder}/empty.py", f"{folder}/naive.py", ADDON
        ports = [stack.enter_context(mitmdump(upstream))[0]]
        ports += [stack.enter_context(mitmdump(upstream, "-s", addon))[0] for addon in addons]

        names = "no addon", "an empty addon", "a naive addon", "this addon"
        head("one proxied request", *names)
        for size, query in [*((size, "") for size in plan.proxied), (plan.proxied[0], "events=10")]:
            requests = [post(conversation(size, n), n, query) for n in range(4)]
            asks = [Client(port).ask for port in ports]
            times = [each * 1e3 for each in in_turn(2 * plan.seconds, requests, *asks)]
            answered = f", {query.replace('=', ': ')}" if query else ""
            row(f"  {size / 1000:,.0f} kB{answered}", *against_first(times, "{:.2f} ms"))
        head("requests per second", *names)
        rates = against_first(throughput(plan, ports), "{:.0f}/s")
        row(f"  {plan.proxied[0] / 1000:,.0f} kB, {plan.connections} connections", *rates)
        head("first event of a stream", "direct", "no addon", "this addon")
        for pause in plan.pauses:
            times = first_event(plan, pause, upstream, ports[0], ports[-1])
            row(f"  of ten, {pause:g} s apart", *(f"{each * 1e3:,.1f} ms" for each in times))


def throughput(plan: Plan, ports: list[int]) -> list[float]:
    """Return how many requests a second each port answers."""
    content = conversation(plan.proxied[0])
    requests = [post(content, number) for number in range(plan.connections)]
    clients = [[Client(port) for _ in requests] for port in ports]
    rates: list[list[float]] = [[] for _ in ports]

    def count(client: Client, request: bytes, until: float) -> int:
        asks = itertools.takewhile(lambda _: time.monotonic() < until, itertools.count())
        return sum(bool(client.ask(request)) for _ in asks)

    with ThreadPoolExecutor(plan.connections) as pool:
        for number in range(8 * len(ports)):
            start = time.monotonic()
            until = itertools.repeat(start + plan.seconds / 8)
            done = sum(pool.map(count, clients[number % len(ports)], requests, until))
            rates[number % len(ports)].append(done / (time.monotonic() - start))
    return list(map(median, rates))


def first_event(plan: Plan, pause: float, *ports: int) -> list[float]:
    """Return after how many seconds the first event of a stream comes from each port."""
    request = post(conversation(20_000), 0, f"pause={pause}")

    def ask(client: Client) -> float:
        start = time.perf_counter()
        received = client.ask(request, b"data:")
        taken = time.perf_counter() - start
        if END not in received:
            client.receive()
        return taken

    clients = [Client(port) for port in ports]
    with ThreadPoolExecutor(len(ports)) as pool:  # all at once: they wait most of the time
        rounds = [
            list(pool.map(ask, clients)) for _ in range(max(3, int(plan.seconds / 10 / pause)))
        ]
    return list(map(median, zip(*rounds, strict=True)))


def bench_keys(plan: Plan) -> None:
    """Measure how a look-up depends on the number of sessions, and what a session takes."""

    def name(number: int) -> Name:
        return MODEL, session(number)

    head("one key look-up", *(f"of {count:,}" for count in plan.sessions))
    stores = [Keys(max_sessions=count) for count in plan.sessions]
    for count, keys in zip(plan.sessions, stores, strict=True):
        for number in range(count):
            keys.get(name(number), time.monotonic())
    rng = random.Random(0)  # noqa: S311
    for what, limit in (("  100 in use", 100), ("  all in use", max(plan.sessions))):
        times: list[list[float]] = [[] for _ in stores]
        for _ in range(max(1, int(plan.seconds * 40))):
            for count, keys, taken in zip(plan.sessions, stores, times, strict=True):
                numbers = rng.choices(range(min(count, limit)), k=1000)
                names, now = [name(number) for number in numbers], time.monotonic()
                start = time.perf_counter_ns()
                for each in names:
                    keys.get(each, now)
                taken.append((time.perf_counter_ns() - start) / len(names))
        row(what, *(f"{median(taken):,.0f} ns" for taken in times))

    keys, totals, count = Keys(), Totals(), plan.sessions[1]
    tracemalloc.start()
    known = [name(number) for number in range(count)]
    for each in known:
        keys.get(each, time.monotonic())
    of_keys, _ = tracemalloc.get_traced_memory()
    for model, id_ in known:
        totals.request(id_, "main", model, KEY, "new")
    of_both, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    head("memory for a session", "its key", "its totals")
    row("", f"{of_keys / count:.0f} bytes", f"{(of_both - of_keys) / count:.0f} bytes")


def bench_bridge(plan: Plan) -> None:
    """Measure what it takes to find the cause of a call among the requests in flight."""
    count = plan.in_flight
    contents = [conversation(100_000, number) for number in range(count)]
    calls = [encoded({**json.loads(contents[n]), "metadata": None}) for n in (0, -1, 1)]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(max(1, int(plan.seconds))):
        bridge = Bridge()
        for number, raw in enumerate(contents):
            bridge.add(number, session(number), "main", partial(bytes, raw))
        for call, number, taken in zip(calls, (0, count - 1, 1), times, strict=True):
            start = time.perf_counter()
            found = bridge.find(call)
            taken.append(time.perf_counter() - start)
            assert found == (number, session(number), "main")  # noqa: S101

    def pass_by(_: None) -> None:
        bridge.add(count, session(count), "main", bytes)
        bridge.remove(count)

    (front,) = in_turn(plan.seconds / 10, [None] * 1000, pass_by)
    head(
        f"the bridge, {count} in flight",
        "oldest's call",
        "newest's call",
        "a later call",
        "no call",
    )
    row("", *(f"{median(taken) * 1e3:.1f} ms" for taken in times), f"{front * 1e6:.2f} µs")


# --- the soak -----------------------------------------------------------------------------------

KINDS = {
    "whole": (60, "events=10"),
    "cut off by the upstream": (10, "cut=3"),
    "stalled by the upstream": (5, "wait=1.5"),
    "hung up in the request": (10, "events=10"),
    "hung up in the answer": (15, "pause=0.05"),
}
"""What becomes of requests: how many of a hundred, and the query."""


def live(port: int, until: float, contents: list[bytes], number: int) -> tuple[list[str], set[str]]:
    """Be one session until then, with two models; the odd ones have no session header.

    Return what became of each request whose answer was awaited, and the keys that the upstream saw.
    """
    rng = random.Random(number)  # noqa: S311
    keys: dict[str, str] = {}
    outcomes = []
    client = Client(port)
    while time.monotonic() < until:
        (kind,) = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])
        model = rng.choice(BOTH)
        content = rng.choices(contents, (6, 3, 1))[0].replace(MODEL.encode(), model.encode(), 1)
        request = post(content, number, KINDS[kind][1])
        if number % 2:
            request = re.sub(rb"X-Claude-Code-Session-Id: .*\r\n", b"", request, count=1)
        is_whole = kind in ("whole", "stalled by the upstream")
        if kind == "hung up in the request":
            client.socket.sendall(request[: len(request) // 2])
        else:
            try:
                received = client.ask(request, b"\n\n" if kind == "hung up in the answer" else END)
            except OSError as e:
                received = repr(e).encode()
            seen = re.search(rb'"key": "(.*?)", "crc": (\d+)', received)
            if not seen or (is_whole and END not in received):
                outcomes.append(f"lost: {received[-200:]!r}")
                is_whole = False
            elif int(seen[2]) != zlib.crc32(request.partition(b"\r\n\r\n")[2]):
                outcomes.append("changed")
            else:
                key = seen[1].decode()
                outcomes.append("well" if key and key == keys.setdefault(model, key) else "wrong")
        if not is_whole:
            client.socket.close()
            client = Client(port)
        time.sleep(rng.uniform(0, 2))
    return outcomes, set(keys.values())


class Store:
    """A Redis server that can be stopped, and started again with nothing in it.

    It has no port, which a connection could have taken when it starts again.
    """

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 'redis.sock'}"
        self._process: Popen[bytes] | None = None

    def set(self, *, up: bool) -> None:
        """Start or stop it if need be."""
        if up and not self._process:
            path = self.url.removeprefix("unix://")
            command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""]
            self._process = Popen(command, stdout=DEVNULL)
        elif self._process and not up:
            self._process.terminate()
            self._process.wait()
            self._process = None


def has_store() -> bool:
    """Whether a Redis server and its client are there."""
    return bool(shutil.which("redis-server") and importlib.util.find_spec("redis"))


def soak(seconds: float, sessions: int) -> bool:
    """Put a mitmdump with the addon under load and print what was seen; return whether all held."""
    contents = [conversation(size) for size in (10_000, 100_000, 1_000_000)]
    memory = []
    with ExitStack() as stack:
        arguments = ["-s", ADDON]
        store = None
        if has_store():
            store = Store(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            stack.callback(store.set, up=False)
            store.set(up=True)
            arguments += ["--set", f"prompt_cache_store={store.url}"]
        upstream = stack.enter_context(running_upstream())
        port, process, log = stack.enter_context(mitmdump(upstream, *arguments))
        pool = stack.enter_context(ThreadPoolExecutor(sessions))
        start = time.monotonic()
        lives = pool.map(partial(live, port, start + seconds, contents), range(sessions))
        while (part := (time.monotonic() - start) / seconds) < 1:
            if store:
                store.set(up=not 0.4 < part < 0.6)  # noqa: PLR2004
            if part > 0.25:  # noqa: PLR2004  # warm
                status = Path(f"/proc/{process.pid}/status").read_text()
                memory.append(int(re.findall(r"VmRSS:\s*(\d+)", status)[0]) / 1000)
            time.sleep(min(0.1, seconds / 100))
        outcomes, keys = zip(*lives, strict=True)
        process.terminate()
        process.wait()
        text = log.read_text()
    turns = re.findall(r"prompt_cache_store \S+ is (lost|back)", text) if store else None
    return held([*itertools.chain(*outcomes)], keys, memory, text, turns)


def held(
    outcomes: list[str],
    keys: Sequence[set[str]],
    memory: list[float],
    log: str,
    turns: list[str] | None,
) -> bool:
    """Print what a soak has shown; return whether all was as it should be.

    `keys` are those of each session, `turns` what the log tells of the store where there was one.
    """
    counts = Counter(outcome.partition(":")[0] for outcome in outcomes)
    shared = sum(map(len, keys)) - len(set().union(*keys))
    errors = len(re.findall("Addon error|Traceback", log))
    # Without an addon too it grows by a third, with the most requests there ever were at once.
    third = len(memory) // 3
    before, after = median(memory[:third]), median(memory[-third:])
    checks: list[tuple[str, object, bool]] = [
        ("answers", len(outcomes), counts["well"] > 0),
        ("lost answers", counts["lost"], not counts["lost"]),
        ("changed bodies", counts["changed"], not counts["changed"]),
        ("wrong keys", counts["wrong"] + shared, not counts["wrong"] + shared),
        ("errors in the log", errors, not errors),
        ("memory, first third", f"{before:.0f} MB", True),
        ("memory, last third", f"{after:.0f} MB", after < 1.5 * before),
    ]
    if turns is not None:
        is_back = turns[:1] + turns[-1:] == ["lost", "back"]
        checks.append(("the store", f"{turns.count('lost')}x lost", is_back))
    for what, seen, is_well in checks:
        row(what, str(seen), "" if is_well else "FAILED")
    print(*(outcome for outcome in outcomes if outcome.startswith("lost")), sep="\n", end="")
    return all(is_well for _, _, is_well in checks)


def main() -> None:
    """Print the table, or run the soak and end with status 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--soak", nargs="?", type=float, const=60, metavar="SECONDS")
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it works")
    arguments = parser.parse_args()
    print(machine())
    if arguments.soak:
        sys.exit(not soak(arguments.soak, 10 if arguments.quick else 100))
    for bench in (bench_edit, bench_proxies, bench_keys, bench_bridge):
        bench(QUICK if arguments.quick else Plan())


if __name__ == "__main__":
    main()
