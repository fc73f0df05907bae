"""Measure what the addon costs on this machine, or with --soak whether it stands load and time.

What is compared is measured in turn (A B C A B C …) within one run, and given as medians.
"""

import argparse
import importlib.util
import itertools
import json
import os
import platform
import pydoc_data.topics
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

from mitmproxy import version
from prompt_cache_key import body
from prompt_cache_key.bridge import Bridge
from prompt_cache_key.keys import Keys, Name
from prompt_cache_key.options import Options
from prompt_cache_key.totals import Totals

ROOT = Path(__file__).resolve().parent.parent
ADDON = ROOT / "addon" / "addon.py"
RECORDINGS = ROOT / "tests" / "data" / "claude_code.jsonl"
LOOPBACK = "127.0.0.1"
KEY = "00000000-0000-4000-8000-000000000000"
TIMEOUT = 30.0  # seconds until an answer is lost

NAIVE = f"""
import json
def request(flow):
    body = json.loads(flow.request.text)
    body.setdefault("prompt_cache_key", "{KEY}")
    flow.request.text = json.dumps(body)
"""


class Plan(NamedTuple):
    """How much is measured: seconds for each comparison, sizes in bytes, and numbers."""

    seconds: float
    edited: tuple[int, ...]
    proxied: tuple[int, ...]
    pauses: tuple[float, ...]
    connections: int
    sessions: tuple[int, ...]
    in_flight: int


FULL = Plan(
    seconds=6,
    edited=(10_000, 100_000, 1_000_000, 10_000_000),
    proxied=(130_000, 1_200_000),
    pauses=(0.3, 0.03),
    connections=32,
    sessions=(1, 10_000, 1_000_000),
    in_flight=100,
)
QUICK = Plan(0.1, (10_000,), (20_000,), (0.01,), 2, (1, 100), 3)

# --- requests as Claude Code sends them ---------------------------------------------------------


@cache
def prose() -> str:
    """Return English and code; one character in 500 is not ASCII."""
    plain = "\n".join(pydoc_data.topics.topics.values()) + Path(argparse.__file__).read_text()
    marks = itertools.cycle("—’✓")
    return "".join(plain[at : at + 499] + next(marks) for at in range(0, len(plain), 499))


def excerpt(seed: str, length: int) -> str:
    """Return so many characters of it, the same for the same seed."""
    start = random.Random(seed).randrange(len(prose()) - length)  # noqa: S311
    return prose()[start : start + length]


@cache
def recorded() -> dict[str, Any]:
    """Return a recorded request: the second of a session with a tool call."""
    records = map(json.loads, RECORDINGS.read_text("utf-8").splitlines())
    wanted = ("claude-code 2.1.330", "bash")
    *_, record = (r for r in records if (r["client"], r["scenario"]) == wanted)
    return dict(record)


def conversation(size: int, seed: object = "") -> bytes:
    """Return a body of about that size: the recorded one, with texts and more and more turns."""
    scale = min(1, size / 40_000)  # the recorded one has 31 kB
    texts = re.compile(r"(\d+) characters of text – ✓")  # noqa: RUF001
    written = texts.sub(
        lambda found: json.dumps(excerpt(f"{seed} {found[0]}", int(scale * int(found[1]))))[1:-1],
        recorded()["body"],
    )
    request = json.loads(written)
    rest = size - len(_encode(request))
    for turn in itertools.count():
        length = min(6000, rest - 400)
        if length <= 0:
            return _encode(request)
        name = f"{seed} {turn}"
        edit = {
            "file_path": "/src/x.py",
            "old_string": "",
            "new_string": excerpt(name, length // 6),
        }
        use = {"type": "tool_use", "id": f"toolu_{turn}", "name": "Edit", "input": edit}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{turn}"}
        result["content"] = excerpt(f"{name} result", length * 4 // 6)
        turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        request["messages"] += turns
        rest -= len(_encode(turns))
    raise AssertionError


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def http_request(content: bytes, session: str, query: str = "") -> bytes:
    """Return the recorded request with another body, from a session; the query is for `serve`."""
    head = f"POST /v1/messages?{query} HTTP/1.1\r\nHost: {LOOPBACK}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in recorded()["headers"])
    head += f"Content-Length: {len(content)}\r\n\r\n"
    was = dict(recorded()["headers"])["X-Claude-Code-Session-Id"].encode()
    return (head.encode() + content).replace(was, session.encode())


def session_id(number: int) -> str:
    """Return an id as long as Claude Code's."""
    return f"{number:08x}-0000-4000-8000-000000000000"


# --- the upstream and the client: as little work as can be --------------------------------------

_END = b"0\r\n\r\n"
_MEMBER = re.compile(rb'\{"prompt_cache_key":"([0-9a-f-]{36})",')


def serve(listener: socket.socket) -> None:
    """Be the upstream, in a process of its own."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Answer requests with events that tell which key came and the rest's checksum.

    The query says how: `wait` seconds before the first event, `pause` between events, and after
    how many of ten to `cut` the connection.
    """
    buffer = bytearray(1 << 20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError, ValueError), connection:
        while True:
            request = bytearray()
            size = 1
            while len(request) < size:
                count = connection.recv_into(buffer)
                if not count:
                    return
                request += memoryview(buffer)[:count]
                if size == 1 and (head := request.find(b"\r\n\r\n") + 4) > 3:  # noqa: PLR2004
                    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", request[:head])
                    size = head + int(length[1]) if length else head
            do = dict(re.findall(rb"(\w+)=([\d.]+)", request[: request.index(b"\r\n")]))
            seen: dict[str, Any] = {}
            if do:
                key = _MEMBER.match(request, head)
                rest = b"{" + request[key.end() :] if key else request[head:]
                seen = {"key": key[1].decode() if key else "", "crc": zlib.crc32(rest)}
            time.sleep(float(do.get(b"wait", 0)))
            _send_events(connection, seen, float(do.get(b"pause", 0)), int(do.get(b"cut", 10)))


def _send_events(connection: socket.socket, seen: dict[str, Any], pause: float, cut: int) -> None:
    usage = {"input_tokens": 9, "cache_read_input_tokens": 30_000, "output_tokens": 1}
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    events = [{"type": "message_start", "message": {"usage": usage}, "seen": seen}]
    events += [{"type": "content_block_delta", "delta": {"text": "✓"}}] * 8
    events += [{"type": "message_delta", "usage": usage}]
    data = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
    chunks = [f"{len(text):x}\r\n{text}\r\n".encode() for text in data]
    chunks[0] = head.encode() + chunks[0]
    chunks[-1] += _END
    for chunk in chunks[:cut] if pause else [b"".join(chunks[:cut])]:
        connection.sendall(chunk)
        time.sleep(pause)
    if cut < len(chunks):
        connection.close()


class Client:
    """A connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        """Send a request, or a part of it."""
        self._socket.sendall(request)

    def receive(self, until: bytes = _END) -> bytes:
        """Return the answer up to where it contains `until`; what there is if it breaks off."""
        answer = b""
        while until not in answer and (data := self._socket.recv(1 << 16)):
            answer += data
        return answer

    def ask(self, request: bytes) -> bytes:
        """Send a request; return the answer, None if it broke off."""
        self.send(request)
        return self.receive()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Proxy(NamedTuple):
    """A running mitmdump: its port and process, and the file that has its log."""

    port: int
    pid: int
    log: Path


@contextmanager
def mitmdump(upstream: int, *arguments: str) -> Iterator[Proxy]:
    """Run mitmdump before the upstream's port."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with (
            log.open("w") as output,
            subprocess.Popen(
                [
                    Path(sys.executable).with_name("mitmdump"),
                    *(
                        "--mode",
                        f"reverse:http://{LOOPBACK}:{upstream}",
                        "--set",
                        f"confdir={folder}",
                    ),
                    *("--listen-host", LOOPBACK, "--listen-port", "0", "--set", "flow_detail=0"),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            ) as process,
        ):
            try:
                while not (at := re.search(r"listening at 127\.0\.0\.1:(\d+)", log.read_text())):
                    if process.poll() is not None:
                        raise RuntimeError(f"mitmdump did not start: {log.read_text()}")
                    time.sleep(0.05)
                yield Proxy(int(at[1]), process.pid, log)
            finally:
                process.terminate()


@contextmanager
def upstream() -> Iterator[int]:
    """Run the upstream; give its port."""
    with socket.create_server((LOOPBACK, 0), backlog=512) as listener:
        process = get_context("spawn").Process(target=serve, args=(listener,), daemon=True)
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


# --- measuring ----------------------------------------------------------------------------------


def in_turn(seconds: float, *variants: Callable[[], object]) -> list[float]:
    """Call the variants in turn for so long; return each one's median time in seconds."""
    times: list[list[int]] = [[] for _ in variants]
    until = time.monotonic() + seconds
    while not times[0] or time.monotonic() < until:
        for variant, taken in zip(variants, times, strict=True):
            start = time.perf_counter_ns()
            variant()
            taken.append(time.perf_counter_ns() - start)
    return [median(taken) / 1e9 for taken in times]


def row(name: str, *cells: str) -> None:
    """Print a row of the table."""
    print(f"{name:28}", *(f"{cell:>19}" for cell in cells), flush=True)


def head(name: str, *cells: str) -> None:
    """Print the first row of a part of the table."""
    print()
    row(name, *cells)


def machine() -> str:
    """Return what the numbers depend on."""
    with suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.processor() or platform.machine()
    return (
        f"{model}, {os.cpu_count()} CPUs, {platform.system()}, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, mitmproxy {version.VERSION}"
    )


def bench_edit(plan: Plan) -> None:
    """Compare the edit alone with less and with more than what it does."""
    head("the edit alone", "one copy", "this addon", "this, json only", "json loads+dumps")
    spec = importlib.util.find_spec("prompt_cache_key.body")
    assert spec and spec.loader  # noqa: S101
    json_only = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"msgspec": None}):
        spec.loader.exec_module(json_only)

    for size in plan.edited:
        raw = conversation(size)
        times = in_turn(
            plan.seconds,
            lambda: bytes(memoryview(raw)),  # noqa: B023  # called before the next round
            lambda: body.with_key(raw, body.read(raw), KEY),  # noqa: B023
            lambda: json_only.with_key(raw, json_only.read(raw), KEY),  # noqa: B023
            lambda: json.dumps({"prompt_cache_key": KEY} | json.loads(raw)).encode(),  # noqa: B023
        )
        cells = [f"{time * 1e6:,.1f} µs {time * 1e9 / len(raw):5.2f}/kB" for time in times]
        row(f"  {size / 1000:,.0f} kB", *cells)


def bench_proxies(plan: Plan) -> None:
    """Compare mitmdumps without an addon, with a naive one, and with this one."""
    with ExitStack() as stack:
        direct = stack.enter_context(upstream())
        naive = Path(stack.enter_context(tempfile.TemporaryDirectory()), "naive.py")
        naive.write_text(NAIVE)
        scripts = [[], ["-s", str(naive)], ["-s", str(ADDON)]]
        ports = [stack.enter_context(mitmdump(direct, *script)).port for script in scripts]

        head("one proxied request", "no addon", "a naive addon", "this addon")
        for size in plan.proxied:
            request = http_request(conversation(size), session_id(0))
            asks = [partial(Client(port).ask, request) for port in ports]
            base, *_ = times = in_turn(2 * plan.seconds, *asks)
            cells = [f"{time * 1e3:.2f} ms {time / base:6.2f}x" for time in times]
            row(f"  {size / 1000:,.0f} kB", *cells)
        head("requests per second", "no addon", "a naive addon", "this addon")
        base, *_ = rates = throughput(plan, ports)
        cells = [f"{rate:.0f}/s {rate / base:6.2f}x" for rate in rates]
        row(f"  {plan.proxied[0] / 1000:,.0f} kB, {plan.connections} connections", *cells)
        head("first event of a stream", "direct", "no addon", "this addon")
        for pause in plan.pauses:
            cells = [f"{time * 1e3:,.1f} ms" for time in first_event(pause, direct, *ports[::2])]
            row(f"  of ten, {pause:g} s apart", *cells)


def throughput(plan: Plan, ports: list[int]) -> list[float]:
    """Return how many requests a second each port answers."""
    content = conversation(plan.proxied[0])
    requests = [http_request(content, session_id(n)) for n in range(plan.connections)]
    clients = [[Client(port) for _ in requests] for port in ports]
    rates: list[list[float]] = [[] for _ in ports]

    def count(client: Client, request: bytes, until: float) -> int:
        for done in itertools.count(1):
            client.ask(request)
            if time.monotonic() >= until:
                return done
        raise AssertionError

    with ThreadPoolExecutor(plan.connections) as pool:
        for number in range(24):
            start = time.monotonic()
            until = itertools.repeat(start + plan.seconds / 8)
            done = sum(pool.map(count, clients[number % 3], requests, until))
            rates[number % 3].append(done / (time.monotonic() - start))
    return [median(each) for each in rates]


def first_event(pause: float, *ports: int) -> list[float]:
    """Return after how many seconds the first event of a stream comes from each port."""
    request = http_request(conversation(20_000), session_id(0), f"pause={pause}")

    def ask(client: Client) -> float:
        start = time.perf_counter()
        client.send(request)
        answer = client.receive(b"data:")
        first = time.perf_counter() - start
        if _END not in answer:
            client.receive()
        return first

    clients = [Client(port) for port in ports]
    with ThreadPoolExecutor(len(ports)) as pool:  # all at once: most of it is waiting
        rounds = [list(pool.map(ask, clients)) for _ in range(max(2, int(0.6 / pause)))]
    return list(map(median, zip(*rounds, strict=True)))


def _name(number: int) -> Name:
    return ("claude-opus-5-5", session_id(number))


def bench_keys(plan: Plan) -> None:
    """Measure how look-ups depend on how many sessions there are, and what a session takes."""
    head("one key look-up", *(f"{count:,} sessions" for count in plan.sessions))
    look_ups, batch = [], 1000
    for count in plan.sessions:
        keys = Keys(max_sessions=count)
        for number in range(count):
            keys.get(_name(number), 0)
        numbers = random.Random(count).choices(range(count), k=50 * batch)  # noqa: S311
        names = itertools.cycle(list(map(_name, numbers)))

        def look_up(keys: Keys = keys, names: Iterator[Name] = names) -> None:
            for name in itertools.islice(names, batch):
                keys.get(name, 0)

        look_ups.append(look_up)
    row("", *(f"{time * 1e9 / batch:.0f} ns" for time in in_turn(plan.seconds, *look_ups)))

    keys, totals, count = Keys(), Totals(), plan.sessions[1]
    tracemalloc.start()
    names_ = [_name(number) for number in range(count)]
    for name in names_:
        keys.get(name, 0)
    mapping = tracemalloc.get_traced_memory()[0]
    for model, session in names_:
        totals.request(session, "main", model, "", "new")
    both = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    head("memory for each session", "its key", "its totals")
    row("", f"{mapping / count:.0f} bytes", f"{(both - mapping) / count:.0f} bytes")


def bench_bridge(plan: Plan) -> None:
    """Measure what it takes to find the cause of a call among the requests in flight."""
    count = plan.in_flight
    bodies = [conversation(100_000, number) for number in range(count)]
    calls = [json.dumps({**json.loads(raw), "metadata": None}).encode() for raw in bodies[:3]]
    first, later = [], []
    for _ in range(max(1, int(plan.seconds))):
        bridge = Bridge()
        for number, raw in enumerate(bodies):
            bridge.add(number, session_id(number), "main", partial(bytes, raw))
        for number, call in enumerate(calls):
            start = time.perf_counter()
            found = bridge.find(call)
            (later if number else first).append(time.perf_counter() - start)
            if found != (session_id(number), "main"):
                raise RuntimeError("the bridge found another request")

    def pass_by() -> None:
        bridge.add(count, session_id(count), "main", partial(bytes, b""))
        bridge.remove(count)

    (front,) = in_turn(plan.seconds / 10, pass_by)
    head(f"the bridge, {count} in flight", "first call", "a later call", "no call")
    times = (
        f"{median(first) * 1e3:.1f} ms",
        f"{median(later) * 1e3:.1f} ms",
        f"{front * 1e6:.2f} µs",
    )
    row("", *times)


# --- the soak -----------------------------------------------------------------------------------

KINDS = {"whole": 70, "cut off": 10, "hung up": 10, "broken off": 5, "stalled": 5}
"""What becomes of requests, and how many of a hundred: answered whole; the upstream cuts the answer
off; the client hangs up in the answer, or in its request; the upstream waits before it answers."""

QUERIES = {"whole": "cut=10", "cut off": "cut=3", "hung up": "pause=0.02", "stalled": "wait=1.5"}


class Outcome(NamedTuple):
    """What became of a request: who asked which model, its kind, the key, and what was wrong."""

    who: str
    kind: str
    key: str
    problem: str


def live(number: int, port: int, until: float, bodies: list[bytes]) -> list[Outcome]:
    """Be one session, of two models, until then; the odd ones have no session header."""
    rng = random.Random(number)  # noqa: S311
    outcomes, client = [], Client(port)
    while time.monotonic() < until:
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        model = rng.choice([b"claude-opus-5-5", b"claude-haiku-5"])
        content = rng.choices(bodies, (6, 3, 1))[0].replace(b"claude-opus-5-5", model, 1)
        request = http_request(content, session_id(number), QUERIES.get(kind, ""))
        if number % 2:
            request = re.sub(rb"(?i)x-claude-code-session-id: .*\r\n", b"", request, count=1)
        try:
            key, problem = ask(client, kind, request)
        except OSError as e:
            key, problem = "", f"lost: {e!r}"
        outcomes.append(Outcome(f"{number} {model.decode()}", kind, key, problem))
        if kind in ("cut off", "hung up", "broken off") or problem:
            client.close()
            client = Client(port)
        time.sleep(rng.random())
    client.close()
    return outcomes


def ask(client: Client, kind: str, request: bytes) -> tuple[str, str]:
    """Send a request of that kind; return the key that the upstream saw, and what was wrong."""
    if kind == "broken off":
        client.send(request[: len(request) // 2])
        return "", ""
    client.send(request)
    answer = client.receive(b"\n\n" if kind == "hung up" else _END)
    seen = re.search(rb'"key": "(.*?)", "crc": (\d+)', answer)
    if not seen or (kind in ("whole", "stalled") and _END not in answer):
        return "", f"lost: {answer[-200:]!r}"
    content = request[request.index(b"\r\n\r\n") + 4 :]
    return seen[1].decode(), "" if int(seen[2]) == zlib.crc32(content) else "changed"


def wrong_keys(outcomes: list[Outcome]) -> int:
    """Count the requests without the key that their session and model had at first, alone."""
    first: dict[str, str] = {}
    for each in outcomes:
        if each.kind != "broken off" and not each.problem:
            first.setdefault(each.who, each.key)
    owners = Counter(first.values())
    return sum(
        not each.key or each.key != first[each.who] or owners[each.key] > 1
        for each in outcomes
        if each.who in first and each.kind != "broken off" and not each.problem
    )


class RedisServer:
    """A redis-server that can be stopped and started again; its memory is lost then."""

    def __init__(self) -> None:
        with socket.create_server((LOOPBACK, 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *, up: bool) -> None:
        """Start it if it is to be up and is not, or stop it."""
        if up and not self._process:
            command = ["redis-server", "--bind", LOOPBACK, "--port", str(self.port), "--save", ""]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        elif self._process and not up:
            self._process.terminate()
            self._process.wait()
            self._process = None


def has_store() -> bool:
    """Whether the soak can stop and start a store."""
    is_option = "store" in (option.name for option in fields(Options))
    return is_option and bool(importlib.util.find_spec("redis") and shutil.which("redis-server"))


def soak(seconds: float, sessions: int) -> bool:
    """Put a mitmdump with the addon under load; return whether all was as it should be."""
    bodies = [conversation(size) for size in (10_000, 100_000, 1_000_000)]
    store = RedisServer() if has_store() else None
    memory: list[float] = []
    with ExitStack() as stack:
        arguments = ["-s", str(ADDON)]
        if store:
            stack.callback(store.run, up=False)
            store.run(up=True)
            arguments += ["--set", f"prompt_cache_store=redis://{LOOPBACK}:{store.port}"]
        proxy = stack.enter_context(mitmdump(stack.enter_context(upstream()), *arguments))
        pool = stack.enter_context(ThreadPoolExecutor(sessions))
        start = time.monotonic()
        until = start + seconds
        lives = [pool.submit(live, n, proxy.port, until, bodies) for n in range(sessions)]
        while (elapsed := (time.monotonic() - start) / seconds) < 1:
            if store:
                store.run(up=not 0.4 < elapsed < 0.6)  # noqa: PLR2004
            if elapsed > 0.25:  # noqa: PLR2004  # warmed up
                status = Path(f"/proc/{proxy.pid}/status").read_text()
                memory.append(int(re.findall(r"VmRSS:\s*(\d+)", status)[0]) / 1000)
            time.sleep(0.1)
        outcomes = [outcome for each in lives for outcome in each.result()]
        log = proxy.log.read_text()
    return report(outcomes, memory, log, store=bool(store))


def report(outcomes: list[Outcome], memory: list[float], log: str, *, store: bool) -> bool:
    """Print what the soak has shown; return whether all was as it should be."""
    kinds = Counter(each.kind for each in outcomes)
    row("requests", str(len(outcomes)), ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    third = len(memory) // 3
    before, after = median(memory[:third]), median(memory[-third:])
    problems = Counter(each.problem.partition(":")[0] for each in outcomes)
    checks = [
        ("wrong keys", wrong_keys(outcomes), ""),
        ("changed bodies", problems["changed"], ""),
        ("lost answers", problems["lost"], ""),
        ("errors in the log", len(re.findall("Addon error|Traceback", log)), ""),
        ("memory", int(after > 1.1 * before), f"{before:.0f} MB, at last {after:.0f} MB"),
    ]
    if store:
        turns = [
            len(re.findall(rf"prompt_cache_store .* {word}", log)) for word in ("lost", "back")
        ]
        checks.append(("store", int(turns != [1, 1]), "lost {} times, back {}".format(*turns)))
    for name, failures, shown in checks:
        row(name, shown or str(failures), "FAILED" if failures else "ok")
    print(*(each for each in outcomes if each.problem), sep="\n")
    return not any(failures for _, failures, _ in checks)


def main() -> None:
    """Print the table, or run the soak and end with status 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--soak", nargs="?", type=float, const=60, metavar="SECONDS", help="(default: 60)"
    )
    parser.add_argument("--quick", action="store_true", help="do little, only to see that it works")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print(machine())
    if arguments.soak:
        sys.exit(not soak(arguments.soak, 10 if arguments.quick else 100))
    for bench in (bench_edit, bench_proxies, bench_keys, bench_bridge):
        bench(plan)


if __name__ == "__main__":
    main()
