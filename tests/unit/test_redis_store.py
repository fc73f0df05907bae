"""Against a stand-in for the server, and, marked `client`, the same against a real redis-server."""

import asyncio
import functools
import math
import re
import socketserver
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Lock, Thread
from typing import Any, Self

import pytest
import redis
from lib import ADDON, LOOPBACK, TIMEOUT, free_port
from lib.tls import tls_context
from mitmproxy.utils.asyncio_utils import set_eager_task_factory
from prompt_cache_key.keys import Keys, Name
from prompt_cache_key.redis_store import (
    PAUSE,
    RedisStore,
    client,
    stored_name,
    without_secrets,
)

NAME = ("gpt-5.4", "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a")
OTHER = ("gpt-5.4", "another session")
STORED = "prompt_cache_key:d3adae04ee0b910ebd21bdad056e946bfd0ff260433c9d74d73a3057bf547f80"
HOUR = 3600


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in an event loop such as mitmproxy's; one that hangs fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def run_test() -> None:
            with set_eager_task_factory():
                async with asyncio.timeout(TIMEOUT):
                    await test(*args, **kwargs)

        asyncio.run(run_test())

    return run


# --- the server, and the line to it -------------------------------------------------------------


class StandIn(socketserver.ThreadingTCPServer):
    """The commands that are needed here as Redis 7.0 answers them, or 6.2; nothing ever expires."""

    daemon_threads = True

    def __init__(self, *, is_old: bool) -> None:
        super().__init__((LOOPBACK, 0), _Connection)
        self.is_old = is_old
        self.lock = Lock()
        self.values: dict[bytes, tuple[bytes | None, float]] = {}  # None: no text

    def answer(self, command: bytes, name: bytes = b"", *words: bytes) -> bytes:  # noqa: PLR0911  # a table
        value, end = self.values.get(name, (b"", 0.0))
        now = time.monotonic()
        match command:
            case b"SET" if b"NX" in words and self.is_old:
                return b"-ERR syntax error\r\n"
            case b"SET" if b"NX" in words and value is None:
                return b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
            case b"SET" if b"NX" not in words or name not in self.values:
                life = words[words.index(b"PX") + 1] if b"PX" in words else b"inf"
                if life == b"0":
                    return b"-ERR invalid expire time in 'set' command\r\n"
                self.values[name] = words[0], now + float(life) / 1000
                return b"$-1\r\n" if b"NX" in words else b"+OK\r\n"
            case b"SET" | b"GET":
                return b"$%d\r\n%s\r\n" % (len(value or b""), value)
            case b"HSET":
                self.values[name] = None, now
                return b":1\r\n"
            case b"PEXPIRE":
                self.values[name] = value, now + float(words[0]) / 1000
                return b":1\r\n"
            case b"PTTL":
                return b":%d\r\n" % (-1 if math.isinf(end) else int((end - now) * 1000))
            case b"FLUSHALL":
                self.values.clear()
        return b"+OK\r\n"


class _Connection(socketserver.StreamRequestHandler):
    server: StandIn
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(ConnectionError):
            while head := self.rfile.readline():
                sizes = (int(self.rfile.readline()[1:]) for _ in range(int(head[1:])))
                words = [self.rfile.read(size + 2)[:-2] for size in sizes]
                with self.server.lock:
                    reply = self.server.answer(*words)
                self.wfile.write(reply)


@contextmanager
def stand_in(*, is_old: bool = False) -> Iterator[int]:
    with StandIn(is_old=is_old) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def redis_server(folder: str) -> Iterator[int]:
    port = free_port()
    options = ["--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", folder]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert any(b"Ready to accept connections" in line for line in process.stdout)
        yield port
        process.terminate()


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.client)])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    real = request.param == "real"
    with redis_server(str(tmp_path_factory.mktemp("redis"))) if real else stand_in() as found:
        yield found


@pytest.fixture
def server(port: int) -> Iterator[Any]:
    """What is in the server, empty at first."""
    with redis.Redis(LOOPBACK, port, protocol=2, decode_responses=True) as direct:
        direct.flushall()
        yield direct


class Line:
    """The way to a server, which can be held up or cut; a context manager.

    `asked` gets each piece of what the clients send, b"" from one that hangs up. While not `open`
    it holds both directions up. While `answer` is not None that is what a client gets before it is
    hung up on.
    """

    def __init__(
        self, port: int, answer: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self.connections = 0
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self._to = port
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, 0, ssl=self._tls)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"{'rediss' if self._tls else 'redis'}://{LOOPBACK}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    def forget(self) -> None:
        """Empty `asked`."""
        while not self.asked.empty():
            self.asked.get_nowait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        if self.answer is not None:
            await reader.read(1 << 16)
            writer.write(self.answer)
            writer.close()
            return
        answers, asks = await asyncio.open_connection(LOOPBACK, self._to)
        self._writers.add(asks)
        await asyncio.gather(
            self._carry(reader, asks, self.asked), self._carry(answers, writer, asyncio.Queue())
        )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: asyncio.Queue[bytes]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                seen.put_nowait(data)
                await self.open.wait()
                writer.write(data)
        seen.put_nowait(b"")
        writer.close()


@asynccontextmanager
async def using(url: str, keys: Keys | None = None) -> AsyncIterator[RedisStore]:
    """Open a store that waits for as long as a test may take."""
    store = RedisStore(url, Keys() if keys is None else keys)
    store.timeout = store.patience = TIMEOUT
    yield store
    others = asyncio.all_tasks()
    store.close()
    await asyncio.gather(*asyncio.all_tasks() - others)


@asynccontextmanager
async def proxies(port: int) -> AsyncIterator[tuple[RedisStore, RedisStore, Line]]:
    """Open two proxies' stores on one line to the server."""
    async with Line(port) as line, using(line.url) as one, using(line.url) as two:
        yield one, two, line


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  # what is waited for is to be seen from outside alone
        await asyncio.sleep(0)


async def key(store: RedisStore, now: float = 0, name: Name = NAME) -> str:
    return (await store.get(name, now))[0]


Log = Callable[[], list[str]]


def check_lost(log: Log, url: str, why: str) -> None:
    """Check that nothing is logged but that the server is lost, and why, a pattern."""
    (line,) = log()
    start = f"WARNING [prompt-cache] prompt_cache_store {url} is lost"
    start += ", requests go on with the keys known here: "
    assert line.startswith(start)
    assert re.fullmatch(why, line.removeprefix(start))


async def check_back(log: Log, store: RedisStore, url: str) -> None:
    """Check that the server is back for a store before long, and nothing else is logged."""
    await until(lambda: not store.lost)
    assert log() == [f"INFO [prompt-cache] prompt_cache_store {url} is back"]


# --- names and URLs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (NAME, STORED[-64:]),
        ((*NAME, "main"), "1129389f5f5fb9c903a259fd1b5a31b4f4234d40147d9112f4dcb57ece1f996b"),
        (("ü\ud83d", "s"), "bc0187cab62e1e5900fb2505635874077af1c4e1deeaac9e7c249e7f43f13e8e"),
    ],
)
def test_a_name_is_hashed(name: Name, digest: str) -> None:
    assert stored_name(name) == f"prompt_cache_key:{digest}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:secret@localhost:6379/2", "redis://localhost:6379/2"),
        ("rediss://:secret@[::1]:6379/?ssl_ca_path=secret", "rediss://[::1]:6379/"),
        ("unix:///run/redis.sock?password=secret&db=1", "unix:///run/redis.sock"),
        ("unix://user:secret@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_good_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert without_secrets(url) == expected
    assert client(url)


@pytest.mark.parametrize(
    "url",
    [
        *["", "memory", "localhost:6379", "http://:secret@localhost:6379", "redis://:secret@[::1"],
        *["redis://:secret@localhost:port", "redis://:secret@localhost:65536"],
        *[f"redis://:12{sign}secret@localhost" for sign in "/?#"],
        "redis://localhost?password=secret@secret",
        *[f"redis://:secret@localhost?{name}=secret" for name in ("unknown", "db", "retry")],
        "rediss://:secret@localhost?ssl_cert_reqs=secret",
    ],
)
def test_a_bad_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="neither memory nor a good redis://") as e:
        RedisStore(url, Keys())
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)
    assert e.value.__suppress_context__ or not e.value.__context__


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ValueError, match=r"^redis is missing: install .*\[redis\]$"):
        client("redis://localhost")
    code = "import sys; sys.modules['redis'] = None; import prompt_cache_key.redis_store"
    subprocess.run([sys.executable, "-c", code], cwd=ADDON.parent, check=True)


# --- agreement ----------------------------------------------------------------------------------


@in_loop
async def test_the_first_key_is_everyones(port: int, server: Any, log: Log) -> None:
    async with proxies(port) as (one, two, _):
        answers = await asyncio.gather(*(store.get(NAME, 0) for store in [one, two] * 50))
        known = server.get(STORED)
        assert {key for key, _ in answers} == {known}
        assert sum(new for _, new in answers) == 1
        assert one.get_now(NAME, 0) == two.get_now(NAME, 0) == (known, False)
        names = [("m", str(i)) for i in range(100)]
        first = await asyncio.gather(*(key(one, 0, name) for name in names))
        second = await asyncio.gather(*(key(two, 0, name) for name in reversed(names)))
        assert first == second[::-1] == [server.get(stored_name(name)) for name in names]
        assert len(set(first)) == 100
        # A server that lost its memory learns them again.
        server.flushall()
        assert await one.get(NAME, 1) == (known, False)
        assert server.get(STORED) == known
        assert await two.get(NAME, 2) == (known, False)
    assert log() == []


@in_loop
async def test_a_request_is_one_round_trip_and_a_hundred_share_a_few(port: int) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store)
        line.forget()
        await key(store)
        assert line.asked.qsize() == 1
        await asyncio.gather(*(key(store, 0, ("m", str(i))) for i in range(100)))
        assert line.asked.qsize() < 10
        assert line.connections == 1


@in_loop
async def test_who_does_not_wait_offers_its_key_all_the_same(port: int, server: Any) -> None:
    async with proxies(port) as (one, two, _):
        first, new = one.get_now(NAME, 0)
        assert new
        await until(lambda: bool(server.get(STORED)))
        assert await two.get(NAME, 1) == (first, False)
        # Where another was first, that is known from the next time on.
        other = await key(one, 1, OTHER)
        two.get_now(OTHER, 2)
        await until(lambda: two.get_now(OTHER, 2) == (other, False))


@in_loop
async def test_a_use_renews_the_life(port: int, server: Any) -> None:
    async with Line(port) as line, using(line.url) as store:
        for _ in range(2):
            await key(store)
            assert HOUR - TIMEOUT < server.pttl(STORED) / 1000 <= HOUR
            server.pexpire(STORED, 100_000)


@in_loop
async def test_a_fixed_life_ends_for_all_proxies_at_once(port: int, server: Any) -> None:
    keys = Keys(sliding=False), Keys(sliding=False)
    async with Line(port) as line, using(line.url, keys[0]) as one, using(line.url, keys[1]) as two:
        first = await key(one)
        server.pexpire(STORED, 100_000)
        for store, known in zip((one, two), keys, strict=True):
            assert await key(store) == first
            assert known.peek(NAME, 100 - TIMEOUT)
            assert not known.peek(NAME, 100)
        # A server that lost its memory is told what is left.
        server.flushall()
        assert await key(two, 50) == first
        assert 0 < server.pttl(STORED) / 1000 <= 50
        server.flushall()
        assert await key(two, 100) != first
        # One that keeps keys longer makes no life longer.
        server.set(STORED, "0" * 36, px=2 * HOUR * 1000)
        assert await key(one, 200) == "0" * 36
        assert keys[0].peek(NAME, 199 + HOUR)
        assert not keys[0].peek(NAME, 200 + HOUR)
        # One that keeps them for ever makes none shorter.
        server.set(STORED, "1" * 36)
        assert await key(two, 300 + HOUR) == "1" * 36
        assert keys[1].peek(NAME, 299 + 2 * HOUR)
        assert not keys[1].peek(NAME, 300 + 2 * HOUR)


@in_loop
async def test_what_one_forgets_gets_a_new_key_for_all(port: int, server: Any) -> None:
    async with proxies(port) as (one, two, _):
        first, other = await key(one), await key(one, name=OTHER)
        assert await key(two) == first
        one.forget([NAME, ("never", "known")], 1)
        second, new = await one.get(NAME, 1)
        assert second != first
        assert not new
        assert await two.get(NAME, 2) == (second, False)
        assert await two.get(OTHER, 2) == (other, False)
        assert server.pttl(STORED) > 0


# --- garbage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["", "0" * 35, "0" * 37, "\n" * 36, "é" * 36, b"\xff" * 36, "x" * 2_000_000, None],
    ids=lambda value: str(value)[:8],
)
@in_loop
async def test_what_is_no_key_is_not_taken(port: int, server: Any, log: Log, value: Any) -> None:
    if value is None:
        server.hset(STORED, "a", "b")
    else:
        server.set(STORED, value)
    async with proxies(port) as (one, two, line):
        (mine, new), (other, _) = await asyncio.gather(one.get(NAME, 0), one.get(OTHER, 0))
        assert new
        assert await key(one) == mine
        assert await two.get(OTHER, 1) == (other, False)
        store = f"[prompt-cache] prompt_cache_store {line.url}"
        assert log() == [f"WARNING {store} has something else than a key in {STORED}"]


@pytest.mark.parametrize(
    "answer",
    [
        *[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b"-ERR\r\n-ERR\r\n-ERR\r\n"],
        *[b"$-2\r\n", b"$99999999999\r\nx", b"*1\r\n" * 5000, b"\0\xff\r\n"],
    ],
    ids=lambda answer: str(answer[:12]),
)
@in_loop
async def test_a_server_that_speaks_something_else_is_lost(
    port: int, server: Any, log: Log, answer: bytes
) -> None:
    async with Line(port, answer) as line, using(line.url) as store:
        first, new = await store.get(NAME, 0)
        assert new
        assert await store.get(NAME, 0) == (first, False)
        check_lost(log, line.url, r'".{1,300}"')
        with pytest.raises(ValueError, match=r"^the store is lost, and would bring the key back$"):
            store.forget([NAME], 0)
        line.answer = None
        assert await key(store, PAUSE) == first
        await check_back(log, store, line.url)
        assert server.get(STORED) == first


@in_loop
async def test_a_server_that_is_too_old_is_told_to_be(log: Log) -> None:
    with stand_in(is_old=True) as port:
        async with Line(port) as line, using(line.url) as store:
            await key(store)
        check_lost(log, line.url, '"it is older than Redis 7.0"')


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR unknown command `AUTH`, with args beginning with: `us3r`, `s3cret`, \r\n",
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"*3\r\n$4\r\nAUTH\r\n$4\r\nus3r\r\n$6\r\ns3cret\r\n",
    ],
)
@in_loop
async def test_credentials_are_not_logged(log: Log, refusal: bytes) -> None:
    async with Line(0, refusal) as line:
        async with using(line.url.replace("//", "//us3r:s3cret@")) as store:
            await key(store)
        check_lost(log, line.url, '"(?!.*(us3r|s3cret)).+"')


# --- outages ------------------------------------------------------------------------------------


@in_loop
async def test_while_it_is_away_one_a_second_tries_again(log: Log) -> None:
    async with Line(0, b"") as line:
        async with using(line.url) as store:
            first, new = await store.get(NAME, 10)
            assert new
            tries = line.connections
            for i in range(10):
                assert await key(store, 10 + i * PAUSE / 10) == first
                await asyncio.sleep(0.001)  # enough for another try
            assert line.connections == tries
            answers = await asyncio.gather(*(key(store, 10 + PAUSE) for _ in range(10)))
            assert answers == [first] * 10
            await key(store, 10 + 1.9 * PAUSE)
        assert line.connections == 2 * tries
    check_lost(log, line.url, '"ConnectionError: .+"')


@in_loop
async def test_a_closed_connection_is_made_again_without_a_word(
    port: int, server: Any, log: Log
) -> None:
    async with Line(port) as line, using(line.url) as store:
        first = await key(store)
        line.cut()
        assert await key(store) == first
        assert line.connections == 2
    assert server.get(STORED) == first
    assert log() == []


@in_loop
async def test_of_two_keys_made_in_an_outage_the_first_to_come_back_wins(
    port: int, server: Any, log: Log
) -> None:
    async with proxies(port) as (one, two, line):
        shared = await key(one, name=OTHER)
        assert await key(two, name=OTHER) == shared
        line.cut()
        line.answer = b""
        mine, yours = await key(one), await key(two)
        assert mine != yours
        assert await key(one, name=OTHER) == await key(two, name=OTHER) == shared
        assert len(log()) == 2
        server.flushall()
        line.answer = None
        for store, known in ((one, mine), (two, yours)):
            assert await key(store, PAUSE) == known
            await check_back(log, store, line.url)
        assert await two.get(NAME, 2) == (mine, False)
        assert await two.get(OTHER, 2) == (shared, False)
        assert server.get(stored_name(OTHER)) == shared


@pytest.mark.usefixtures("server")
@in_loop
async def test_nobody_waits_for_a_server_that_stalls_but_those_it_stalled_on(
    port: int, log: Log
) -> None:
    keys = Keys()
    async with Line(port) as line, using(line.url, keys) as one, using(line.url) as two:
        first = await key(two)
        await key(one, name=OTHER)
        line.open.clear()
        one.timeout = 0
        mine, new = await one.get(NAME, 0)
        assert new
        assert mine != first
        check_lost(log, line.url, "no answer within 0 ms")
        await one.get(NAME, PAUSE)
        for _ in range(100):  # until that try has given up
            await asyncio.sleep(0)
        line.open.set()
        await until(lambda: keys.get_now(NAME, PAUSE) == (first, False))
        assert one.lost  # too slow to be back
        line.open.clear()
        one.timeout = TIMEOUT
        for now in range(2, 10):  # not even those that try again
            assert await one.get(NAME, now) == (first, False)
        assert log() == []
        line.open.set()
        await check_back(log, one, line.url)
        assert line.connections == 2


@in_loop
async def test_an_exchange_that_never_ends_is_given_up(port: int, server: Any, log: Log) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store, name=OTHER)
        line.open.clear()
        store.patience = 0
        first = await key(store)
        check_lost(log, line.url, '"TimeoutError: "')
        store.patience = TIMEOUT
        line.open.set()
        await key(store, PAUSE)
        await check_back(log, store, line.url)
        assert server.get(STORED) == first


@in_loop
async def test_a_cancelled_request_does_no_harm_to_the_others(port: int, server: Any) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store, name=OTHER)
        line.forget()
        line.open.clear()
        cancelled = asyncio.create_task(store.get(NAME, 0))
        await line.asked.get()
        waiting = [asyncio.create_task(store.get(("m", str(i)), 0)) for i in range(20)]
        await asyncio.sleep(0)
        for task in (cancelled, *waiting[::2]):
            task.cancel()
        line.open.set()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        for i, task in enumerate(waiting):
            if i % 2:
                assert (await task)[0] == server.get(stored_name(("m", str(i))))
        assert await key(store) == server.get(STORED)
        assert line.connections == 1


@in_loop
async def test_a_loop_that_is_behind_is_no_fault_of_the_server(
    port: int, server: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store, name=OTHER)
        line.forget()
        line.open.clear()
        store.timeout = 1
        task = asyncio.create_task(key(store))
        await line.asked.get()
        loop = asyncio.get_running_loop()
        time_ = loop.time
        monkeypatch.setattr(loop, "time", lambda: time_() + 2)
        line.open.set()
        assert await task == server.get(STORED)
    assert log() == []


# --- connections --------------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
@in_loop
async def test_connecting_ahead(port: int, log: Log) -> None:
    async with Line(port, b"") as line, using(line.url) as store:
        store.connect()
        await until(lambda: store.lost)
        check_lost(log, line.url, '"ConnectionError: .+"')
    async with Line(port) as line, using(line.url) as store:
        store.connect()
        await line.asked.get()
        await key(store)
        assert line.connections == 1
    assert log() == []


@in_loop
async def test_tls(port: int, server: Any, log: Log) -> None:
    async with Line(port, tls=tls_context("http/1.1")) as line:
        async with using(f"{line.url}?ssl_cert_reqs=none") as store:
            assert await key(store) == server.get(STORED)
        async with using(line.url) as store:
            await key(store)
        check_lost(log, line.url, '".*certificate.*"')


@pytest.mark.usefixtures("server")
@in_loop
async def test_closing_ends_the_connection_after_what_is_on_its_way(port: int, log: Log) -> None:
    async with Line(port) as line:
        RedisStore(line.url, Keys()).close()  # it was not used
        store = RedisStore(line.url, Keys(ttl=0.0001))  # however short, a life is never none
        assert (store.timeout, store.patience) == (0.25, 5)
        store.timeout = TIMEOUT
        line.open.clear()
        task = asyncio.create_task(store.get(NAME, 0))
        await line.asked.get()
        store.close()
        line.open.set()
        assert (await task)[1]
        while await line.asked.get():
            pass
        assert line.connections == 1
    assert log() == []
