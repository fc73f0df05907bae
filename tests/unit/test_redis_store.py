"""Run against fakeredis, and, marked `client`, against a real redis-server."""

import asyncio
import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Thread
from typing import Any

import pytest
import redis
from fakeredis import TcpFakeServer
from lib import ADDON, LOOPBACK, TIMEOUT, free_port
from mitmproxy.utils.asyncio_utils import set_eager_task_factory
from prompt_cache_key.keys import Keys, Name
from prompt_cache_key.redis_store import PAUSE, RedisStore, client, stored_name, without_secrets

NAME, OTHER = ("gpt-5.4", "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"), ("gpt-5.4", "another session")
STORED = "prompt_cache_key:d3adae04ee0b910ebd21bdad056e946bfd0ff260433c9d74d73a3057bf547f80"
MANY = [("m", str(i)) for i in range(100)]
HOUR = 3600

Log = Callable[[], list[str]]


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in an event loop such as mitmproxy's, with the line; a test that hangs fails."""

    async def limited(line: "Line", **kwargs: Any) -> None:
        with set_eager_task_factory():
            async with asyncio.timeout(TIMEOUT), line:
                await test(line=line, **kwargs)

    return functools.wraps(test)(lambda **kwargs: asyncio.run(limited(**kwargs)))


@contextmanager
def fake_server() -> Iterator[int]:
    with TcpFakeServer((LOOPBACK, 0)) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def redis_server() -> Iterator[int]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", LOOPBACK, "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert any(b"Ready to accept connections" in line for line in process.stdout)
        yield port
        process.terminate()


SERVERS = [fake_server, pytest.param(redis_server, marks=pytest.mark.client)]


@pytest.fixture(scope="module", params=SERVERS, ids=["fake", "real"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with request.param() as found:
        yield found


class Line:
    """The way to a server, which is empty at first; `server` goes to it directly.

    `asked` counts the pieces that clients send. While `open` is not set nothing passes. If `answer`
    is set it replaces the server's answers that begin with `replaced`; the connection is closed
    then, unless it is an error.
    """

    def __init__(self, server: Any, port: int) -> None:
        self.server = server
        self.connections = self.closed = self.asked = 0
        self.answer: bytes | None = None
        self.replaced = b""
        self.open = asyncio.Event()
        self.open.set()
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> None:
        self._listener = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.url = f"redis://{LOOPBACK}:{self._listener.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, asks: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        self.connections += 1
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        self._writers += answers, writer
        await asyncio.gather(self._ask(asks, writer), self._answer(reader, answers))
        self.closed += 1

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                self.asked += 1
                await self.open.wait()
                writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.open.wait()
                if self.answer is None or not data.startswith(self.replaced):
                    writer.write(data)
                    continue
                writer.write(self.answer)
                if not self.answer.startswith(b"-"):
                    break
        writer.close()


@pytest.fixture
def line(port: int) -> Iterator[Line]:
    with redis.Redis(LOOPBACK, port, protocol=2, decode_responses=True) as server:
        server.flushall()
        yield Line(server, port)


@asynccontextmanager
async def using(url: str, keys: Keys | None = None) -> AsyncIterator[RedisStore]:
    """Open a store that waits for as long as a test may take."""
    store = RedisStore(url, Keys() if keys is None else keys)
    store.timeout = store.patience = TIMEOUT
    yield store
    others = asyncio.all_tasks()
    store.close()
    await asyncio.gather(*asyncio.all_tasks() - others)


async def until(is_so: Callable[[], Any]) -> None:
    while not is_so():  # noqa: ASYNC110  # only to be seen from outside
        await asyncio.sleep(0)


async def key(store: RedisStore, now: float = 0, name: Name = NAME) -> str:
    return (await store.get(name, now))[0]


async def next_line(log: Log, level: str, url: str) -> str:
    """Return the next line, the only one, from where the URL ends."""
    while not (lines := log()):  # noqa: ASYNC110  # only to be seen from outside
        await asyncio.sleep(0)
    (logged,) = lines
    start, _, rest = logged.partition(f" prompt_cache_store {url} ")
    assert start == f"{level} [prompt-cache]"
    return rest


# Names and URLs


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (NAME, STORED[-64:]),
        ((*NAME, "main"), "1129389f5f5fb9c903a259fd1b5a31b4f4234d40147d9112f4dcb57ece1f996b"),
        (("ü\ud83d", "s"), "bc0187cab62e1e5900fb2505635874077af1c4e1deeaac9e7c249e7f43f13e8e"),
    ],
)
def test_name_is_hashed(name: Name, digest: str) -> None:
    assert stored_name(name) == f"prompt_cache_key:{digest}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:secret@localhost:6379/2", "redis://localhost:6379/2"),
        ("rediss://:secret@[::1]:6379/?ssl_ca_certs=secret", "rediss://[::1]:6379/"),
        ("unix://user:secret@/run/redis.sock?password=secret&db=1", "unix:///run/redis.sock"),
    ],
)
def test_good_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert without_secrets(url) == expected
    assert client(url)


@pytest.mark.parametrize(
    "url",
    [
        *["", "memory", "localhost:6379", "http://:secret@localhost:6379", "redis://:secret@[::1"],
        *["redis://:secret@localhost:port", "redis://:secret@localhost:65536"],
        *[f"redis://:12{sign}secret@localhost" for sign in "/?#"],
        *[f"redis://localhost?{each}=secret@" for each in ("password", "unknown", "db", "retry")],
        "rediss://:secret@localhost?ssl_cert_reqs=secret",
    ],
)
def test_error_about_a_bad_url_does_not_repeat_it(url: str) -> None:
    with pytest.raises(ValueError, match="neither memory nor a good redis://") as e:
        client(url)
    assert "secret" not in str(e.value)
    assert e.value.__suppress_context__ or not e.value.__context__


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ValueError, match=r"^redis is missing: install .*\[redis\]$"):
        client("redis://localhost")
    code = "import sys; sys.modules['redis'] = None; import prompt_cache_key.redis_store"
    subprocess.run([sys.executable, "-c", code], cwd=ADDON.parent, check=True)


# Agreement


@in_loop
async def test_first_key_is_the_key_of_all_proxies(line: Line, log: Log) -> None:
    async with using(line.url) as one, using(line.url) as two:
        answers = await asyncio.gather(*(store.get(NAME, 0) for store in [one, two] * 50))
        known = line.server.get(STORED)
        assert {key for key, _ in answers} == {known}
        assert [is_new for _, is_new in answers].count(True) == 1
        asked = line.asked
        first = await asyncio.gather(*(key(one, 0, name) for name in MANY))
        second = await asyncio.gather(*(key(two, 0, name) for name in reversed(MANY)))
        assert first == second[::-1] == line.server.mget(map(stored_name, MANY))
        assert len(set(first)) == 100
        assert line.asked - asked < 20  # a hundred requests share a few round trips
        assert line.connections == 2
        # A server that was emptied gets the keys again.
        line.server.flushall()
        assert await one.get(NAME, 1) == (known, False)
        assert line.server.get(STORED) == known
        assert await two.get(NAME, 2) == (known, False)
    assert log() == []


@in_loop
async def test_request_that_cannot_wait_offers_its_key(line: Line) -> None:
    async with using(line.url) as one, using(line.url) as two:
        first, is_new = one.get_now(NAME, 0)
        assert is_new
        other = await key(one, 0, OTHER)
        assert await two.get(NAME, 1) == (line.server.get(STORED), False) == (first, False)
        # The key of another proxy is known from the next time on.
        two.get_now(OTHER, 2)
        await key(two, 2)
        assert two.get_now(OTHER, 2) == (other, False)


@in_loop
async def test_each_use_resets_the_ttl(line: Line) -> None:
    async with using(line.url) as store:
        for _ in range(2):
            await key(store)
            assert HOUR - TIMEOUT < line.server.pttl(STORED) / 1000 <= HOUR
            line.server.pexpire(STORED, 100_000)
        line.server.persist(STORED)
        await key(store)
        assert line.server.ttl(STORED) == -1


@in_loop
async def test_fixed_ttl_ends_for_all_proxies_at_once(line: Line) -> None:
    keys = Keys(sliding=False), Keys(sliding=False)
    async with using(line.url, keys[0]) as one, using(line.url, keys[1]) as two:
        first = await key(one)
        line.server.pexpire(STORED, 100_000)
        for store, known in zip((one, two), keys, strict=True):
            assert await key(store) == first
            assert known.peek(NAME, 100 - TIMEOUT)
            assert not known.peek(NAME, 100)
        # A server that was emptied gets what is left.
        line.server.flushall()
        assert await key(two, 50) == first
        assert 0 < line.server.pttl(STORED) / 1000 <= 50
        # A longer TTL, or none, counts as the proxy's.
        for now, options in ((200, {"ex": 2 * HOUR}), (300 + HOUR, {})):
            line.server.set(STORED, "0" * 36, **options)
            assert await key(one, now) == "0" * 36
            assert keys[0].peek(NAME, now + HOUR - 1)
            assert not keys[0].peek(NAME, now + HOUR)


@in_loop
async def test_forgotten_name_gets_a_new_key_on_all_proxies(line: Line) -> None:
    async with using(line.url) as one, using(line.url) as two:
        first, other = await key(one), await key(one, name=OTHER)
        assert await key(two) == first
        one.forget([NAME, ("never", "known")], 1)
        second, is_new = await one.get(NAME, 1)
        assert second != first
        assert not is_new
        assert await two.get(NAME, 2) == (second, False)
        assert await two.get(OTHER, 2) == (other, False)
        assert line.server.pttl(STORED) > 0


# Garbage


@pytest.mark.parametrize(
    "value",
    ["", "0" * 35, "0" * 37, "\n" * 36, "é" * 36, b"\xff" * 36, "x" * 2_000_000, None],
    ids=lambda value: str(value)[:8],
)
@in_loop
async def test_value_that_is_no_key_is_left_alone(line: Line, log: Log, value: Any) -> None:
    _ = line.server.hset(STORED, "a", "b") if value is None else line.server.set(STORED, value)
    async with using(line.url) as one, using(line.url) as two:
        (mine, is_new), (other, _) = await asyncio.gather(one.get(NAME, 0), one.get(OTHER, 0))
        assert is_new
        assert await key(one) == mine
        assert await two.get(OTHER, 1) == (other, False)
        warning = await next_line(log, "WARNING", line.url)
        assert warning == f"has something else than a key in {STORED}"
        assert line.server.ttl(STORED) == -1


@pytest.mark.parametrize("replaced", [b"", b"*"], ids=["login", "keys"])
@pytest.mark.parametrize(
    "answer",
    [
        *[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\xff\r\n", b"*1\r\n" * 5000, b"-ERR\r\n"],
        *[b"$-2\r\n", b"$99999999999\r\nx", b"+OK\r\n", b"*0\r\n", b"*2\r\n:1\r\n:9\r\n"],
        *[b"*2\r\n$1\r\nk\r\n:9\r\n", b"*2\r\n$36\r\n" + b"0" * 36 + b"\r\n$-1\r\n"],
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"-ERR unknown command `AUTH`, with args beginning with: `us3r`, `s3cret`, \r\n",
        b"*3\r\n$4\r\nAUTH\r\n$4\r\nus3r\r\n$6\r\ns3cret\r\n",
    ],
    ids=lambda answer: str(answer[:12]),
)
@in_loop
async def test_requests_go_on_if_the_server_answers_with_garbage(
    line: Line, log: Log, answer: bytes, replaced: bytes
) -> None:
    user = "" if replaced else "us3r:s3cret@"
    async with using(line.url.replace("//", f"//{user}")) as store:
        line.answer, line.replaced = answer, replaced
        first, is_new = await store.get(NAME, 0)
        assert is_new
        assert await store.get(NAME, 0) == (first, False)
        why = await next_line(log, "WARNING", line.url)
        assert why.startswith("does not answer, requests go on with the keys known here: ")
        assert "us3r" not in why
        assert "s3cret" not in why
        assert len(why) < 400
        with pytest.raises(ValueError, match="return the forgotten key"):
            store.forget([NAME], 0)


@in_loop
async def test_reason_is_the_error_of_the_server(line: Line, log: Log) -> None:
    async with using(line.url) as store:
        line.answer, line.replaced = b"-READONLY You can't write against a replica.\r\n", b"*"
        await key(store)
        why = await next_line(log, "WARNING", line.url)
        assert why.endswith(""": "ReadOnlyError: You can't write against a replica.\"""")
        line.answer = None
        await key(store, PAUSE)
        await next_line(log, "INFO", line.url)
        assert line.connections == 2  # the host may be another one by now


# Outages


@in_loop
async def test_one_request_a_second_tries_again_while_the_server_is_away(
    line: Line, log: Log
) -> None:
    line.answer = b""
    async with using(line.url) as store:
        first, is_new = await store.get(NAME, 10)
        assert is_new
        tries = line.connections
        for now in (10 + PAUSE / 2, 10 + PAUSE, 10 + PAUSE, 10 + 1.9 * PAUSE):
            assert await store.get(NAME, now) == (first, False)
    assert line.connections == 2 * tries
    await next_line(log, "WARNING", line.url)


@in_loop
async def test_closed_connection_is_made_again_without_a_word(line: Line, log: Log) -> None:
    async with using(line.url) as store:
        first = await key(store)
        line.cut()
        assert await key(store) == first == line.server.get(STORED)
        assert line.connections == 2
    assert log() == []


@in_loop
async def test_of_two_keys_made_in_an_outage_the_first_offered_remains(
    line: Line, log: Log
) -> None:
    async with using(line.url) as one, using(line.url) as two:
        shared = await key(one, name=OTHER)
        assert await key(two, name=OTHER) == shared
        line.cut()
        line.answer = b""
        mine, yours = await key(one), await key(two)
        assert mine != yours
        assert await key(one, name=OTHER) == await key(two, name=OTHER) == shared
        assert len(log()) == 2
        line.server.flushall()
        line.answer = None
        for store, known in ((one, mine), (two, yours)):
            assert await key(store, PAUSE) == known
            assert await next_line(log, "INFO", line.url) == "answers again"
        assert await two.get(NAME, 2) == (mine, False)
        assert await two.get(OTHER, 2) == (shared, False)
        assert line.server.get(stored_name(OTHER)) == shared


@in_loop
async def test_only_the_first_request_waits_for_a_server_that_stalls(line: Line, log: Log) -> None:
    async with using(line.url) as store:
        await key(store, name=OTHER)
        line.server.set(STORED, first := "0" * 36)
        line.open.clear()
        store.timeout = 0
        mine, is_new = await store.get(NAME, 0)
        assert is_new
        assert (await next_line(log, "WARNING", line.url)).endswith(": no answer within 0 ms")
        assert await store.get(NAME, 1) == (mine, False)  # nor does a request that tries again
        for _ in range(100):  # until that try has ended
            await asyncio.sleep(0)
        # A late answer is taken, but the server is not back.
        line.open.set()
        await until(lambda: store.get_now(NAME, 1) == (first, False))
        line.open.clear()
        store.timeout = TIMEOUT
        await store.get(NAME, 2)
        assert log() == []
        line.open.set()
        assert await next_line(log, "INFO", line.url) == "answers again"
        assert line.connections == 1


@in_loop
async def test_exchange_that_does_not_end_is_given_up(line: Line, log: Log) -> None:
    async with using(line.url) as store:
        await key(store, name=OTHER)
        line.open.clear()
        store.patience = 0
        first = await key(store)
        assert (await next_line(log, "WARNING", line.url)).endswith(": TimeoutError")
        store.patience = TIMEOUT
        line.open.set()
        await key(store, PAUSE)
        assert await next_line(log, "INFO", line.url) == "answers again"
        assert line.server.get(STORED) == first


@in_loop
async def test_cancelled_request_does_no_harm_to_the_others(line: Line) -> None:
    async with using(line.url) as store:
        await key(store, name=OTHER)
        line.open.clear()
        waiting = [asyncio.create_task(store.get(name, 0)) for name in MANY]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        line.open.set()
        keys = [key for key, _ in await asyncio.gather(*waiting[1::2])]
        assert keys == line.server.mget(map(stored_name, MANY[1::2]))
        assert all(task.cancelled() for task in waiting[::2])
        assert line.connections == 1


@in_loop
async def test_event_loop_that_is_behind_is_no_fault_of_the_server(
    line: Line, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with using(line.url) as store:
        await key(store, name=OTHER)
        line.open.clear()
        store.timeout = 1
        asked = line.asked
        task = asyncio.create_task(key(store))
        await until(lambda: line.asked > asked)
        loop = asyncio.get_running_loop()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + 2)
        line.open.set()
        assert await task == line.server.get(STORED)
    assert log() == []


# Connections


@in_loop
async def test_connecting_ahead(line: Line, log: Log) -> None:
    async with using(line.url) as store:
        store.connect()
        await until(lambda: line.connections)
        await key(store)
        assert line.connections == 1
        assert log() == []
    async with using(line.url) as store:
        line.answer = b""
        store.connect()
        await next_line(log, "WARNING", line.url)


@in_loop
async def test_closing_waits_for_the_exchange_that_is_on_its_way(line: Line, log: Log) -> None:
    RedisStore(line.url, Keys()).close()  # it was not used
    store = RedisStore(line.url, Keys(ttl=0.0001))  # however short, a TTL is never 0 ms
    store.timeout = TIMEOUT
    line.open.clear()
    task = asyncio.create_task(store.get(NAME, 0))
    await until(lambda: line.asked)
    store.close()
    line.open.set()
    assert (await task)[1]
    await until(lambda: line.closed)
    assert line.connections == 1
    assert log() == []
