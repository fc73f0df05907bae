"""Put a mitmdump with the addon under load, and see whether it stands it."""

import importlib.util
import itertools
import random
import re
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, Popen

from lib import LOOPBACK
from lib.load import END, Connection, conversation, post, upstream
from lib.mitmdump import Mitmdump

MODELS = b"claude-opus-5-5", b"claude-haiku-5"
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
    keys: dict[bytes, str] = {}
    outcomes = []
    client = Connection(port)
    while time.monotonic() < until:
        (kind,) = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])
        model = rng.choice(MODELS)
        content = rng.choices(contents, (6, 3, 1))[0].replace(MODELS[0], model, 1)
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
            outcome, key = _outcome(request, received, is_whole=is_whole)
            if outcome == "well" and key != keys.setdefault(model, key):
                outcome = "wrong"
            outcomes.append(outcome)
            is_whole = is_whole and not outcome.startswith("lost")
        if not is_whole:
            client.socket.close()
            client = Connection(port)
        time.sleep(rng.uniform(0, 2))
    return outcomes, set(keys.values())


def _outcome(request: bytes, received: bytes, *, is_whole: bool) -> tuple[str, str]:
    """Return what became of a request, and the key that the upstream saw."""
    seen = re.search(rb'"key": "(.*?)", "crc": (\d+)', received)
    if not seen or (is_whole and END not in received):
        return f"lost: {received[-200:]!r}", ""
    if int(seen[2]) != zlib.crc32(request.partition(b"\r\n\r\n")[2]):
        return "changed", ""
    key = seen[1].decode()
    return "well" if key else "wrong", key


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
    """Put a mitmdump with the addon under load and print what was seen; return whether all held.

    Where there is a Redis, it is the store, and is down for a fifth of the time.
    """
    contents = [conversation(size) for size in (10_000, 100_000, 1_000_000)]
    memory = []
    with ExitStack() as stack:
        store, args = None, ["--set", "flow_detail=0"]
        if has_store():
            store = Store(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            stack.callback(store.set, up=False)
            store.set(up=True)
            args += ["--set", f"prompt_cache_store={store.url}"]
        mode = f"reverse:http://{LOOPBACK}:{stack.enter_context(upstream())}"
        proxy = stack.enter_context(Mitmdump(mode, args=args))
        pool = stack.enter_context(ThreadPoolExecutor(sessions))
        start = time.monotonic()
        lives = pool.map(partial(live, proxy.port, start + seconds, contents), range(sessions))
        while (part := (time.monotonic() - start) / seconds) < 1:
            if store:
                store.set(up=not 0.4 < part < 0.6)  # noqa: PLR2004
            if part > 0.25:  # noqa: PLR2004  # warm
                status = Path(f"/proc/{proxy.pid}/status").read_text()
                memory.append(int(re.findall(r"VmRSS:\s*(\d+)", status)[0]) / 1000)
            time.sleep(min(0.1, seconds / 100))
        outcomes, keys = zip(*lives, strict=True)
    log = "\n".join(proxy.lines)
    turn = r"prompt_cache_store \S+ (does not answer|answers again)"
    turns = re.findall(turn, log) if store else None
    return held([*itertools.chain(*outcomes)], keys, memory, log, turns)


def held(
    outcomes: list[str],
    keys: Sequence[set[str]],
    memory: list[float],
    log: str,
    turns: list[str] | None,
) -> bool:
    """Print what a soak has shown; return whether all was as it should be.

    `keys` are those of each session, `memory` is in MB, `turns` what the log tells of the store
    where there was one.
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
        outage = "does not answer"
        is_back = turns[:1] + turns[-1:] == [outage, "answers again"]
        checks.append(("the store", f"{turns.count(outage)}x away", is_back))
    for what, seen, is_well in checks:
        print(f"{what:28}{seen:>22}{'' if is_well else 'FAILED':>22}".rstrip())
    print(*(outcome for outcome in outcomes if outcome.startswith("lost")), sep="\n", end="")
    return all(is_well for _, _, is_well in checks)
