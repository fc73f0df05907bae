"""Against a stand-in for the server, and, marked `client`, the same against a real redis-server."""

import asyncio
import functools
import logging
import re
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
import redis
from lib import LOOPBACK, TIMEOUT, free_port
from lib.tls import tls_context
from mitmproxy.utils.asyncio_utils import set_eager_task_factory
from prompt_cache_key.request import redis_store
from prompt_cache_key.request.keys import Keys
from prompt_cache_key.request.redis_store import PAUSE, RedisStore, client, shown, stored_name

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
NAME = ("gpt-5.4", SESSION)
OTHER = ("gpt-5.4", "another session")
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

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, version: tuple[int, int] = (7, 0)) -> None:
        super().__init__((LOOPBACK, 0), _StandInConnection)
        self.version = version
        self.lock = threading.Lock()
        self.values: dict[tuple[bytes, bytes], tuple[Any, float]] = {}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _StandInConnection(socketserver.StreamRequestHandler):
    server: StandIn
    disable_nagle_algorithm = True
    database = b"0"

    def handle(self) -> None:
        with suppress(ConnectionError):
            while head := self.rfile.readline():
                sizes = (int(self.rfile.readline()[1:]) for _ in range(int(head[1:])))
                command, *words = [self.rfile.read(size + 2)[:-2] for size in sizes]
                with self.server.lock:
                    reply = getattr(self, command.decode().lower() + "_")(*words)
                self.wfile.write(_resp(reply))

    def ping_(self) -> str:
        return "PONG"

    def set_(self, name: bytes, value: bytes, *options: bytes) -> bytes | str | Exception | None:
        first, get = b"NX" in options, b"GET" in options
        old, _ = self.entry(name)
        life = options[options.index(b"PX") + 1] if b"PX" in options else b"inf"
        if first and get and self.server.version < (7, 0):
            return ValueError("ERR syntax error")
        if float(life) <= 0:
            return ValueError("ERR invalid expire time in 'set' command")
        if get and isinstance(old, dict):
            return ValueError("WRONGTYPE Operation against a key holding the wrong kind of value")
        if old is None or not first:
            self.keep(name, value, life)
        return old if get else "OK"

    def get_(self, name: bytes) -> Any:
        return self.entry(name)[0]

    def hset_(self, name: bytes, *field: bytes) -> int:
        self.keep(name, {field[0]: field[1]}, b"inf")
        return 1

    def pexpire_(self, name: bytes, life: bytes) -> int:
        value, _ = self.entry(name)
        if value is None:
            return 0
        self.keep(name, value, life)
        return 1

    def pttl_(self, name: bytes) -> int:
        value, end = self.entry(name)
        return -2 if value is None else int((end - time.monotonic()) * 1000)

    def entry(self, name: bytes) -> tuple[Any, float]:
        return self.server.values.get((self.database, name), (None, 0.0))

    def keep(self, name: bytes, value: Any, life: bytes) -> None:
        self.server.values[self.database, name] = value, time.monotonic() + float(life) / 1000

    def keys_(self, _: bytes) -> list[bytes]:
        return [name for database, name in self.server.values if database == self.database]

    def flushall_(self) -> str:
        self.server.values.clear()
        return "OK"

    def select_(self, database: bytes) -> str:
        self.database = database
        return "OK"

    def client_(self, *_: bytes) -> str:
        return "OK"


def _resp(reply: bytes | str | float | list[bytes] | Exception | None) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case str():
            return b"+%s\r\n" % reply.encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(_resp, reply))
        case _:
            return b"-%s\r\n" % str(reply).encode()


def real_server(folder: Path) -> Iterator[int]:
    port = free_port()
    options = ["--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", str(folder)]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert any(b"Ready to accept connections" in line for line in process.stdout)
        yield port
        process.terminate()


@pytest.fixture(
    scope="module",
    params=["stand-in", pytest.param("redis-server", marks=pytest.mark.client)],
)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if request.param == "stand-in":
        with StandIn() as server:
            yield server.server_address[1]
    else:
        yield from real_server(tmp_path_factory.mktemp("redis"))


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

    def __init__(self, port: int, answer: bytes | None = None) -> None:
        self.answer = answer
        self.connections = 0
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, 0, ssl=tls)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        self.url = f"{'rediss' if tls else 'redis'}://{LOOPBACK}:{self.port}"

    async def start_unix(self, path: Path) -> None:
        self._listener = await asyncio.start_unix_server(self._serve, path)
        self.url = f"unix://{path}"

    async def __aenter__(self) -> Self:
        await self.start()
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
            self._carry(reader, asks, self.asked.put_nowait),
            self._carry(answers, writer, lambda _: None),
        )

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        note: Callable[[bytes], None],
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                note(data)
                await self.open.wait()
                writer.write(data)
        note(b"")
        writer.close()


@asynccontextmanager
async def using(url: str, keys: Keys | None = None) -> AsyncIterator[RedisStore]:
    """Open a store that waits for as long as a test may take."""
    store = RedisStore(url, Keys() if keys is None else keys, TIMEOUT)
    yield store
    await store.close()


@asynccontextmanager
async def proxies(port: int) -> AsyncIterator[tuple[RedisStore, RedisStore, Line]]:
    """Open two proxies' stores on one line to the server."""
    async with Line(port) as line, using(line.url) as one, using(line.url) as two:
        yield one, two, line


async def settle(store: RedisStore) -> None:
    """Wait until nothing is on its way."""
    await asyncio.wait([task for task in (store._exchange, store._trial) if task])


async def key(store: RedisStore, now: float = 0, name: tuple[str, ...] = NAME) -> str:
    return (await store.get(name, now))[0]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns what was logged since it was last called."""
    caplog.set_level(logging.INFO, "prompt_cache_key")

    def take() -> list[str]:
        lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return lines

    return take


Log = Callable[[], list[str]]


def lost(url: str, why: str) -> str:
    """Return a pattern of the line that is logged when the server is lost."""
    store = re.escape(f"[prompt-cache] prompt_cache_store {url} is lost")
    return f"WARNING {store}, requests go on with the keys known here: {why}"


def back(url: str) -> str:
    return f"INFO [prompt-cache] prompt_cache_store {url} is back"


# --- names and URLs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (NAME, "d3adae04ee0b910ebd21bdad056e946bfd0ff260433c9d74d73a3057bf547f80"),
        ((*NAME, "main"), "1129389f5f5fb9c903a259fd1b5a31b4f4234d40147d9112f4dcb57ece1f996b"),
        (
            ("modèle\ud83d", SESSION),
            "ff142b3802e31ddb3c15582ce0fa4ca73c021691cff5ec5204ce9a0cbde0f8e0",
        ),
    ],
)
def test_a_name_is_hashed(name: tuple[str, ...], digest: str) -> None:
    assert stored_name(name) == f"prompt_cache_key:{digest}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory", "memory"),
        ("redis://localhost", "redis://localhost"),
        ("redis://user:secret@localhost:6379/2", "redis://localhost:6379/2"),
        ("rediss://:secret@[::1]:6379/?ssl_password=secret", "rediss://[::1]:6379/"),
        ("redis://user:secr@et@localhost", "redis://localhost"),
        ("unix:///run/redis.sock?password=secret&db=1", "unix:///run/redis.sock"),
        ("unix://user:secret@/run/redis.sock#secret", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert shown(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "Memory",
        "redis",
        "localhost:6379",
        "http://:secret@localhost:6379",
        "redis://:secret@localhost:port",
        "redis://:secret@localhost:65536",
        "redis://:secret@[::1",
        "redis://:sec/secret@localhost",
        "redis://:12/secret@localhost",
        "redis://:12?secret@localhost",
        "redis://:12#secret@localhost",
        "redis://localhost?password=secret@secret",
        "redis://:secret@localhost?no_such_option=secret",
        "redis://:secret@localhost?socket_timeout=secret",
        "redis://:secret@localhost?retry=secret",
        "rediss://:secret@localhost?ssl_cert_reqs=secret",
    ],
)
def test_a_bad_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="neither memory nor a good redis://") as e:
        RedisStore(url, Keys())
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)
    assert e.value.__suppress_context__ or not e.value.__context__


@pytest.mark.parametrize("missing", ["redis", "redis.asyncio"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"^the package redis is missing: install .*\[redis\]$"):
        client("redis://localhost")


def test_the_module_does_not_need_the_package() -> None:
    code = "import sys; sys.modules['redis'] = None; import prompt_cache_key.request.redis_store"
    folder = Path(redis_store.__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


# --- agreement ----------------------------------------------------------------------------------


@in_loop
async def test_the_first_key_is_everyones(port: int, server: Any, log: Log) -> None:
    async with proxies(port) as (one, two, _):
        first, new = await one.get(NAME, 0)
        assert new
        assert await one.get(NAME, 1) == (first, False)
        assert await two.get(NAME, 2) == (first, False)
        assert await two.get(OTHER, 3) != (first, True)
        assert two._keys.get(NAME, 4) == (first, False)
    assert sorted(server.keys()) == sorted([stored_name(NAME), stored_name(OTHER)])
    assert server.get(stored_name(NAME)) == first
    assert log() == []


@in_loop
async def test_of_a_hundred_at_once_one_is_the_first(port: int, server: Any) -> None:
    async with proxies(port) as (one, two, _):
        answers = await asyncio.gather(*(store.get(NAME, 0) for store in [one, two] * 50))
        assert {key for key, _ in answers} == {server.get(stored_name(NAME))}
        assert sum(new for _, new in answers) == 1


@in_loop
async def test_a_request_is_one_round_trip_and_a_hundred_share_a_few(
    port: int, server: Any
) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store)
        line.forget()
        await key(store)
        assert line.asked.qsize() == 1
        await asyncio.gather(*(key(store, 0, ("m", str(i))) for i in range(100)))
        assert line.asked.qsize() < 10
        assert line.connections == 1
    assert len(server.keys()) == 101


@in_loop
async def test_each_request_of_a_hundred_gets_its_own_sessions_key(port: int, server: Any) -> None:
    names = [("m", str(i)) for i in range(100)]
    async with proxies(port) as (one, two, _):
        first = await asyncio.gather(*(key(one, 0, name) for name in names))
        second = await asyncio.gather(*(key(two, 0, name) for name in reversed(names)))
    assert first == second[::-1] == [server.get(stored_name(name)) for name in names]


@in_loop
async def test_a_use_renews_the_life(port: int, server: Any) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store)
        assert HOUR - TIMEOUT < server.pttl(stored_name(NAME)) / 1000 <= HOUR
        server.pexpire(stored_name(NAME), 100_000)
        await key(store)
        assert HOUR - TIMEOUT < server.pttl(stored_name(NAME)) / 1000 <= HOUR


@in_loop
async def test_a_fixed_life_ends_for_all_proxies_at_once(port: int, server: Any) -> None:
    keys = Keys(sliding=False), Keys(sliding=False)
    async with Line(port) as line, using(line.url, keys[0]) as one, using(line.url, keys[1]) as two:
        first = await key(one)
        server.pexpire(stored_name(NAME), 100_000)
        for store, known in zip((one, two), keys, strict=True):
            assert await key(store) == first
            mapping = known.peek(NAME, 0)
            assert mapping
            assert 100 - TIMEOUT < known.remaining(mapping, 0) <= 100
        # A server that lost its memory is told what is left.
        server.flushall()
        assert await key(two, 50) == first
        assert 0 < server.pttl(stored_name(NAME)) / 1000 <= 50
        server.flushall()
        assert await key(two, 100) != first


@in_loop
async def test_a_fixed_life_is_not_lengthened_by_a_server_that_keeps_keys_longer(
    port: int, server: Any
) -> None:
    keys = Keys(sliding=False)
    server.set(stored_name(NAME), "0" * 36, px=2 * HOUR * 1000)
    async with Line(port) as line, using(line.url, keys) as store:
        assert await key(store, 10) == "0" * 36
    mapping = keys.peek(NAME, 10)
    assert mapping
    assert mapping.made == 10


@pytest.mark.usefixtures("server")
@in_loop
async def test_a_life_is_never_none(port: int, log: Log) -> None:
    async with Line(port) as line, using(line.url, Keys(ttl=0.0001)) as store:
        assert (await store.get(NAME, 0))[1]
    assert log() == []


@in_loop
async def test_a_server_that_lost_its_memory_learns_the_keys_again(
    port: int, server: Any, log: Log
) -> None:
    async with proxies(port) as (one, two, _):
        first = await key(one)
        server.flushall()
        assert await one.get(NAME, 1) == (first, False)
        assert server.get(stored_name(NAME)) == first
        assert await two.get(NAME, 2) == (first, False)
    assert log() == []


@in_loop
async def test_a_replaced_key_is_everyones(port: int, server: Any) -> None:
    async with proxies(port) as (one, two, _):
        first = await key(one)
        assert await key(two) == first
        one._keys.forget(SESSION)
        one.offer(NAME, 1, replace=True)
        second, new = await one.get(NAME, 1)
        assert second != first
        assert not new
        assert await two.get(NAME, 2) == (second, False)
        assert server.pttl(stored_name(NAME)) > 0


# --- garbage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        "0" * 35,
        "0" * 37,
        "\n" * 36,
        "é" * 36,
        b"\xff" * 36,
        "x" * 2_000_000,
        {"a": "b"},
    ],
    ids=lambda value: str(value)[:8],
)
@in_loop
async def test_what_is_no_key_is_not_taken(port: int, server: Any, log: Log, value: Any) -> None:
    if isinstance(value, dict):
        server.hset(stored_name(NAME), mapping=value)
    else:
        server.set(stored_name(NAME), value)
    async with proxies(port) as (one, two, line):
        (mine, new), (other, _) = await asyncio.gather(one.get(NAME, 0), one.get(OTHER, 0))
        assert new
        assert await one.get(NAME, 1) == (mine, False)
        assert await two.get(OTHER, 1) == (other, False)
        assert log() == [
            f"WARNING [prompt-cache] prompt_cache_store {line.url} has something else than a key "
            f"in {stored_name(NAME)}"
        ]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n",
        b"-ERR\r\n-ERR\r\n-ERR\r\n",
        b":x\r\n",
        b"$-2\r\n",
        b"$99999999999\r\nx",
        b"*1\r\n" * 5000,
        b"\0\xff\r\n",
        b"x" * 100_000,
    ],
    ids=lambda answer: str(answer[:12]),
)
@in_loop
async def test_a_server_that_speaks_something_else_is_lost(
    port: int, server: Any, log: Log, answer: bytes
) -> None:
    assert server.keys() == []
    async with Line(port, answer) as line, using(line.url) as store:
        first, new = await store.get(NAME, 0)
        assert new
        assert await store.get(NAME, 0) == (first, False)
        (warning,) = log()
        assert re.fullmatch(lost(line.url, r'".{1,300}"'), warning)
        line.answer = None
        assert await key(store, PAUSE) == first
        await settle(store)
        assert log() == [back(line.url)]
        assert server.get(stored_name(NAME)) == first


@in_loop
async def test_a_server_that_is_too_old_is_told_to_be(log: Log) -> None:
    with StandIn((6, 2)) as server:
        async with Line(server.server_address[1]) as line, using(line.url) as store:
            await key(store)
        (warning,) = log()
        assert re.fullmatch(lost(line.url, '"it is older than Redis 7.0"'), warning)


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR unknown command `AUTH`, with args beginning with: `us3r`, `s3cret`, \r\n",
        b"-ERR invalid password\r\n",
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"*3\r\n$4\r\nAUTH\r\n$4\r\nus3r\r\n$6\r\ns3cret\r\n",
    ],
)
@in_loop
async def test_credentials_are_not_logged(log: Log, refusal: bytes) -> None:
    async with Line(0, refusal) as line:
        async with using(line.url.replace("//", "//us3r:s3cret@")) as store:
            await key(store)
        (warning,) = log()
        assert re.fullmatch(lost(line.url, '".+"'), warning)
        assert "us3r" not in warning
        assert "s3cret" not in warning


# --- outages ------------------------------------------------------------------------------------


@in_loop
async def test_a_server_that_refuses_connections_is_lost(log: Log) -> None:
    url = f"redis://{LOOPBACK}:{free_port()}"
    async with using(url) as store:
        first, new = await store.get(NAME, 0)
        assert new
        assert await store.get(NAME, HOUR - 1) == (first, False)
        await settle(store)
        assert await store.get(NAME, 2 * HOUR - 2) == (first, False)
    (warning,) = log()
    assert re.fullmatch(lost(url, '"ConnectionError: Error .+"'), warning)


@in_loop
async def test_while_it_is_away_one_a_second_tries_again(port: int, server: Any, log: Log) -> None:
    assert server.keys() == []
    async with Line(port, b"") as line, using(line.url) as store:
        first = await key(store, 10)
        tries = line.connections
        assert [await key(store, 10 + i * PAUSE / 10) for i in range(10)] == [first] * 10
        assert line.connections == tries
        answers = await asyncio.gather(*(key(store, 10 + PAUSE) for _ in range(10)))
        assert answers == [first] * 10
        await settle(store)
        assert line.connections == 2 * tries
        await key(store, 10 + 1.9 * PAUSE)
        await settle(store)
        assert line.connections == 2 * tries
        assert len(log()) == 1


@in_loop
async def test_a_closed_connection_is_made_again_without_a_word(
    port: int, server: Any, log: Log
) -> None:
    async with Line(port) as line, using(line.url) as store:
        first = await key(store)
        line.cut()
        assert await key(store) == first
        assert line.connections == 2
    assert server.get(stored_name(NAME)) == first
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
        assert await key(one, PAUSE) == mine
        await settle(one)
        assert await key(two, PAUSE) == yours
        await settle(two)
        assert log() == [back(line.url)] * 2
        assert await two.get(NAME, 2) == (mine, False)
        assert await two.get(OTHER, 2) == (shared, False)
        assert server.get(stored_name(OTHER)) == shared


@pytest.mark.usefixtures("server")
@in_loop
async def test_nobody_waits_for_a_server_that_stalls_but_those_it_stalled_on(
    port: int, log: Log
) -> None:
    async with proxies(port) as (one, two, line):
        first = await key(two)
        await key(one, name=OTHER)
        line.open.clear()
        one.timeout = 0
        mine, new = await one.get(NAME, 0)
        assert new
        assert mine != first
        (warning,) = log()
        assert re.fullmatch(lost(line.url, "no answer within 0 ms"), warning)
        await one.get(NAME, PAUSE)
        assert one._trial
        await one._trial
        line.open.set()
        await settle(one)
        assert one._keys.get(NAME, PAUSE) == (first, False)
        assert log() == []  # too slow to be back
        line.open.clear()
        one.timeout = TIMEOUT
        for now in range(2, 10):  # not even those that try again
            assert await one.get(NAME, now) == (first, False)
        line.open.set()
        await settle(one)
        assert log() == [back(line.url)]
        assert line.connections == 2


@in_loop
async def test_an_exchange_that_never_ends_is_given_up(
    port: int, server: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Line(port) as line, using(line.url) as store:
        await key(store, name=OTHER)
        line.open.clear()
        monkeypatch.setattr(redis_store, "PATIENCE", 0)
        first = await key(store)
        (warning,) = log()
        assert re.fullmatch(lost(line.url, '"TimeoutError: "'), warning)
        monkeypatch.undo()
        line.open.set()
        await key(store, PAUSE)
        await settle(store)
        assert log() == [back(line.url)]
        assert server.get(stored_name(NAME)) == first


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
        assert await key(store) == server.get(stored_name(NAME))
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
        assert await task == server.get(stored_name(NAME))
    assert log() == []


@pytest.mark.usefixtures("server")
@in_loop
async def test_connecting_ahead(port: int, log: Log) -> None:
    async with Line(port, b"") as line, using(line.url) as store:
        store.connect()
        await settle(store)
        (warning,) = log()
        assert re.fullmatch(lost(line.url, '"ConnectionError: .+"'), warning)
        line.answer = None
        await key(store)
        await settle(store)
        assert log() == [back(line.url)]
    async with Line(port) as line, using(line.url) as store:
        store.connect()
        await settle(store)
        await key(store)
        assert line.connections == 1
    assert log() == []


# --- the rest -----------------------------------------------------------------------------------


@in_loop
async def test_unix_sockets(port: int, server: Any) -> None:
    line = Line(port)
    with TemporaryDirectory() as folder:  # short, as the path of a socket has to be
        await line.start_unix(Path(folder, "s"))
        async with using(line.url) as store:
            assert await key(store) == server.get(stored_name(NAME))
        await line.__aexit__()


@in_loop
async def test_tls(port: int, server: Any, log: Log) -> None:
    line = Line(port)
    await line.start(tls_context("http/1.1"))
    async with using(f"{line.url}?ssl_cert_reqs=none") as store:
        assert await key(store) == server.get(stored_name(NAME))
    async with using(line.url) as store:
        await key(store)
    (warning,) = log()
    assert re.fullmatch(lost(line.url, '".*certificate.*"'), warning)
    await line.__aexit__()


@in_loop
async def test_a_database_of_its_own(port: int, server: Any) -> None:
    async with Line(port) as line, using(f"{line.url}/3") as store:
        await key(store)
        assert server.keys() == []
        with redis.Redis(LOOPBACK, port, protocol=2, db=3) as other:
            assert len(other.keys()) == 1


@in_loop
async def test_a_store_that_was_not_used_can_be_closed() -> None:
    store = RedisStore("redis://localhost:1", Keys())
    assert store.timeout == 0.25
    await store.close()


@in_loop
async def test_closing_ends_the_connection_after_what_is_on_its_way(port: int, server: Any) -> None:
    async with Line(port) as line:
        store = RedisStore(line.url, Keys(), TIMEOUT)
        line.open.clear()
        task = asyncio.create_task(store.get(NAME, 0))
        await line.asked.get()
        closing = store.close()
        line.open.set()
        await closing
        assert (await task)[0] == server.get(stored_name(NAME))
        while await line.asked.get():
            pass
        assert line.connections == 1
