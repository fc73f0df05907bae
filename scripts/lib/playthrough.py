"""One way of recorded sessions through mitmdump and HAProxy to the engines, and what it came to."""

import http.client
import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from lib import ADDON, LOOPBACK
from lib.dialects import Dialect, Usage, usage
from lib.engine import Counts, Replica
from lib.mitmdump import Mitmdump
from lib.router import Routed, Router

SLOTS = 2
"""Conversations that a replica holds in its slots; others wait in its RAM cache."""

PATIENCE = 300.0
"""Seconds after which a client gives a request up."""


class Request(NamedTuple):
    """What an identity sends, an agent in one of its sessions."""

    identity: Hashable
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What came back: the status, 0 for none, and what the engine says of the prompt.

    `is_whole` says that the stream has come to its end.
    """

    identity: Hashable
    status: int
    usage: Usage | None
    is_whole: bool


@dataclass(frozen=True)
class Way:
    """How requests go: HAProxy's kind of configuration and the header that it looks at, if it does.

    `options` are mitmdump's with the addon; None is a mitmdump without it. With `restart` the first
    replica is killed when half of the requests have begun, and started again an eighth later.
    """

    dialect: Dialect
    kind: str
    header: str
    options: tuple[str, ...] | None = None
    replicas: int = 4
    clients: int = 1
    restart: bool = False


class Outcome(NamedTuple):
    """What came of a way.

    What the engines counted, by their names, what HAProxy answered, what the clients got, each
    identity's answers in order, and mitmdump's log.
    """

    counts: dict[str, Counts]
    routed: list[Routed]
    answers: list[Answer]
    log: list[str]

    @property
    def counted(self) -> Counts:
        """What all engines counted."""
        return Counts(*(sum(column) for column in zip(*self.counts.values(), strict=True)))

    @property
    def told(self) -> Usage:
        """What the engines' answers told the clients."""
        usages = [answer.usage for answer in self.answers if answer.usage]
        return Usage(sum(each.prompt for each in usages), sum(each.cached for each in usages))

    @property
    def misses(self) -> list[int]:
        """The tokens, prompt by prompt, that engines had computed before and computed again.

        A conversation only grows, so all of its last prompt could come from the cache. A miss is
        what it is for the addon: over 2,048 tokens and a tenth.
        """
        found, last = [], dict[Hashable, int]()
        for answer in self.answers:
            if answer.usage:
                expected = min(answer.usage.prompt, last.get(answer.identity, 0))
                missed = expected - answer.usage.cached
                if missed > max(2048, expected / 10):
                    found.append(missed)
                last[answer.identity] = answer.usage.prompt
        return found


def play(way: Way, requests: list[Request], model: Path) -> Outcome:
    """Send the requests that way, each identity's one after the other, through fresh engines.

    Logs, and whatever else the programs need, lie beside the model.
    """
    with engines(way, model) as (replicas, router):
        with Mitmdump(
            f"reverse:http://{LOOPBACK}:{router.port}",
            scripts=[] if way.options is None else [ADDON],
            args=["--set", "flow_detail=0", *(way.options or ())],
        ) as mitmdump:
            answers = _send(way, requests, mitmdump.port, replicas[0])
        counts = {replica.name: replica.counts() for replica in replicas}
        return Outcome(counts, router.routed(), answers, mitmdump.lines)


@contextmanager
def engines(way: Way, model: Path) -> Iterator[tuple[list[Replica], Router]]:
    """Run the replicas of a way, fresh ones, and HAProxy before them."""
    with ExitStack() as stack:
        replicas = [Replica(model, f"replica{n + 1}", SLOTS) for n in range(way.replicas)]
        for replica in replicas:
            stack.push(replica)
        for replica in replicas:
            replica.__enter__()
        servers = [f"{replica.name} {LOOPBACK}:{replica.port}" for replica in replicas]
        yield replicas, stack.enter_context(Router(model.parent, way.kind, way.header, servers))


class _Queue:
    """The requests in order, but an identity's next one waits until its last one is answered.

    A context manager: when the first of those who use it has ended, for whatever reason, the
    others get no more requests.
    """

    def __init__(self, requests: list[Request]) -> None:
        self.answers: list[Answer] = []
        self._waiting = list(requests)
        self._busy: set[Hashable] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def take(self) -> tuple[int, Request] | None:
        """Return the next request and how many were taken before; None if there are no more."""
        with self._changed:
            while self._waiting:
                for place, request in enumerate(self._waiting):
                    if request.identity not in self._busy:
                        self._busy.add(request.identity)
                        del self._waiting[place]
                        return len(self.answers) + len(self._busy) - 1, request
                self._changed.wait()
        return None

    def put(self, answer: Answer) -> None:
        """Keep the answer to a request that was taken."""
        with self._changed:
            self.answers.append(answer)
            self._busy.remove(answer.identity)
            self._changed.notify_all()


def _send(way: Way, requests: list[Request], port: int, victim: Replica) -> list[Answer]:
    """Send all; the first replica is killed and restarted in between if the way says so."""
    half = len(requests) // 2
    incidents = {half: victim.kill, half + len(requests) // 8: victim.restart}
    queue = _Queue(requests)

    def speak(_: int) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE)
        with closing(connection), queue:
            while taken := queue.take():
                number, request = taken
                if way.restart and number in incidents:
                    incidents[number]()
                queue.put(_ask(connection, way.dialect, request))

    with ThreadPoolExecutor(way.clients) as pool, queue:
        list(pool.map(speak, range(way.clients)))
    return queue.answers


def _ask(connection: http.client.HTTPConnection, dialect: Dialect, request: Request) -> Answer:
    """Send a request; where the answer breaks off, the next one has a new connection."""
    status, text = 0, b""
    try:
        connection.request("POST", dialect.path, request.body, request.headers)
        response = connection.getresponse()
        status = response.status
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        text = getattr(error, "partial", b"")
    events = text.decode(errors="replace")
    return Answer(request.identity, status, usage(events), dialect.end in events)
