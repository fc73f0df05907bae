"""Measure how long other requests wait, and how much memory a proxy takes, for hostile input."""

import itertools
import multiprocessing
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NamedTuple, Self

from prompt_cache_key.strip import STRIPPED

from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import MESSAGES, Client
from lib.hostile import Hostile, cases
from lib.load import Connection, upstream
from lib.messages import Answer, Headers, Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server

CHAT = "/v1/chat/completions"
_SMALL = b"GET /?events=1 HTTP/1.1\r\nHost: x\r\n\r\n"

# What mitmproxy leaves in cycles is no memory that it needs.
_COLLECTS = """
import gc
from mitmproxy import http

def request(flow):
    if flow.request.path == "/collect":
        gc.collect()
        flow.response = http.Response.make(204)
"""
_STRIPS_ALL = [f"prompt_cache_strip={name}" for name in STRIPPED]

MAX_WORK = 0.25
"""Seconds that another request may take longer than without the addon."""
MAX_MEMORY = 400
"""MB that the proxy may have; without the addon up to 240 were seen."""


class Cost(NamedTuple):
    """What one hostile input cost."""

    stall: float
    """Seconds that the slowest other request took."""
    work: float
    """Seconds of CPU that the proxy took at most while another request waited: what it would have
    taken on an idle machine."""
    memory: float
    """MB that the proxy had at most."""


class Rig:
    """A mitmdump with three listeners, with the addon and its settings or without.

    A context manager.

    Two are before one server, for a client and a translator; through the third another process
    sends small requests, as others do.
    """

    def __init__(self, *, has_addon: bool, settings: Iterable[str] = ()) -> None:
        self._has_addon = has_addon
        self._settings = settings
        self._stack = ExitStack()
        self.server = Server()

    def __enter__(self) -> Self:
        stack = self._stack
        script = Path(stack.enter_context(tempfile.TemporaryDirectory()), "collects.py")
        script.write_text(_COLLECTS)
        url = stack.enter_context(self.server).url
        other = stack.enter_context(upstream())
        modes = f"reverse:{url}", f"reverse:{url}", f"reverse:http://{LOOPBACK}:{other}"
        scripts = [script, ADDON] if self._has_addon else [script]
        args = [arg for setting in self._settings for arg in ("--set", setting)]
        options = {"scripts": scripts, "args": args}
        self.proxy = stack.enter_context(Mitmdump(*modes, **options, flow_detail="0"))  # type: ignore[arg-type]
        self._probe = Probe(self.proxy.ports[2], self.proxy.pid)
        stack.callback(self._probe.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cost(self, case: Hostile) -> Cost:
        """Send hostile input, and return what it cost."""
        self.collect()
        with self._probe.running() as slowest:
            self.send(case)
            time.sleep(0.2)  # for what comes after the answer
        return Cost(*slowest(), self.peak())

    def collect(self) -> float:
        """Free what the proxy does not use, forget its peak, and return how many MB are left."""
        with Client(self.proxy.port) as client:
            client.send("GET", "/collect")
        # https://docs.kernel.org/filesystems/proc.html
        Path(f"/proc/{self.proxy.pid}/clear_refs").write_text("5")
        return self.peak()

    def peak(self) -> float:
        """Return how many MB the proxy has had at most."""
        status = Path(f"/proc/{self.proxy.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1000

    def send(self, case: Hostile) -> tuple[list[Request], list[Answer | None]]:
        """Send hostile input; return what arrived, and the answers."""
        replies, may_answer = itertools.cycle(case.replies), threading.Event()
        waiting = threading.Barrier(len(case.bodies) + 1)

        def respond(request: Request) -> Reply:
            if case.calls and request.target == MESSAGES:
                waiting.wait(TIMEOUT)
                may_answer.wait(TIMEOUT)
            return next(replies)

        self.server.respond = respond
        with ThreadPoolExecutor(len(case.bodies) if case.calls else 1) as pool:
            found = pool.map(lambda body: self._ask(0, MESSAGES, case.headers, body), case.bodies)
            if case.calls:
                waiting.wait(TIMEOUT)
                for call in case.calls:
                    self._ask(1, CHAT, (), call)
                may_answer.set()
            answers = list(found)
        if case.views and self._has_addon:
            page = self.proxy.find(r"live page: http://[^/]+(/prompt-cache/[0-9a-f]{32}/)")[1]
            for _ in range(case.views):
                with Client(self.proxy.port) as client:
                    client.send("GET", page)
        return self.server.take(), answers

    def _ask(self, listener: int, target: str, headers: Headers, body: bytes) -> Answer | None:
        try:
            with Client(self.proxy.ports[listener]) as client:
                return client.send("POST", target, headers, body)
        except (OSError, HTTPException):  # mitmproxy itself does not take all of them
            return None


class Probe:
    """A process that sends one small request after another to a port of a proxy."""

    def __init__(self, port: int, pid: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_ask, args=(port, pid, end), daemon=True)
        self._process.start()

    @contextmanager
    def running(self) -> Iterator[Callable[[], tuple[float, float]]]:
        """Send requests meanwhile; what is given returns, afterwards, the most that one took.

        That is seconds, and seconds of the proxy's CPU.
        """
        self._pipe.send(True)
        self._pipe.recv()  # the first one has been answered
        most = [(0.0, 0.0)]
        try:
            yield lambda: most[0]
        finally:
            self._pipe.send(True)
            most[0] = self._pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _ask(port: int, pid: int, pipe: Pipe) -> None:
    connection = Connection(port)
    while pipe.recv():
        times: list[float] = []
        works: list[float] = []
        while not pipe.poll():
            start, before = time.perf_counter(), _work(pid)
            connection.ask(_SMALL)
            times.append(time.perf_counter() - start)
            works.append(_work(pid) - before)
            if len(times) == 1:
                pipe.send(True)
            time.sleep(0.002)
        pipe.recv()
        pipe.send((max(times), max(works)))


def _work(pid: int) -> float:
    """Return the seconds of CPU that a process has taken, exactly.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def stalls(size: int, rounds: int, every: int = 1) -> bool:
    """Print what hostile input costs without the addon and with it; return whether all is bounded.

    Of several rounds the least counts: what comes on top is the machine's. `every` leaves some out.
    """
    names = ("no addon", "this addon") * 2
    print(f"\n{'the slowest other request':36}" + "".join(f"{name:>16}" for name in names))
    is_bounded = True
    with (
        Rig(has_addon=False) as without,
        Rig(has_addon=True, settings=_STRIPS_ALL) as with_addon,
    ):
        for name, make in itertools.islice(cases(size), 0, None, every):
            case = make()
            costs = [
                Cost(*map(min, zip(*(rig.cost(case) for _ in range(rounds)), strict=True)))
                for rig in (without, with_addon)
            ]
            cells = [f"{1e3 * each.work:,.0f} of {1e3 * each.stall:,.0f} ms" for each in costs]
            cells += [f"{each.memory:,.0f} MB" for each in costs]
            before, after = costs
            is_well = after.work - before.work < MAX_WORK and after.memory < MAX_MEMORY
            is_bounded &= is_well
            row = f"  {name:34}" + "".join(f"{cell:>16}" for cell in cells)
            print(row + ("" if is_well else "  FAILED"), flush=True)
    return is_bounded
