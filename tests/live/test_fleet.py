"""Several proxies that agree on every key, behind a real HAProxy, with and without a real Redis.

`haproxy` and `redis-server` have to be on PATH.
"""

import json
import re
import signal
import socket
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
import redis
from lib import LOOPBACK, free_port
from lib.client import MESSAGES, Client, request_body
from lib.messages import Reply, header
from lib.mitmdump import Mitmdump
from lib.server import Server
from prompt_cache_key.keys import derived_key
from prompt_cache_key.redis_store import stored_name

pytestmark = pytest.mark.client

# No client connects from this address, so no connection takes the port of what is restarted.
HOST = "127.0.0.2"
NAMES = ("one", "two")
MODEL = json.loads(request_body(""))["model"]
KEYED = r"INFO \[prompt-cache\] key="
AWAY = r"WARN \[prompt-cache\] prompt_cache_store redis://\S+ does not answer, "
BACK = r"INFO \[prompt-cache\] prompt_cache_store redis://\S+ answers again$"


@contextmanager
def haproxy(folder: Path, *proxies: str, retries: int = 0) -> Iterator[int]:
    """Take turns with two proxies, given as host:port; yield the port.

    What one has not answered is sent to the other, if there are `retries`. The header `x-proxy` of
    an answer names the proxy that gave it.
    """
    config = folder / "haproxy.cfg"
    # A socket that listens already: there is no port to guess and no start to wait for.
    with socket.create_server((LOOPBACK, 0), backlog=512) as listener:
        config.write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  retries {retries}
  retry-on all-retryable-errors
  option redispatch 1
  option http-buffer-request
listen fleet
  bind fd@{listener.fileno()}
  balance roundrobin
  http-response set-header x-proxy %s
  server {NAMES[0]} {proxies[0]}
  server {NAMES[1]} {proxies[1]}
""")
        command = ["haproxy", "-db", "-f", str(config)]
        port: int = listener.getsockname()[1]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
    with process:
        try:
            yield port
        finally:
            process.kill()


def echo() -> Server:
    """Return an upstream that answers with the key that it got."""
    return Server(lambda request: Reply(body=json.dumps({"key": request.key}).encode()))


def ask(port: int, session: str) -> tuple[str | None, str]:
    """Send a session's request; return which proxy it went through, and which key it got."""
    with Client(port) as client:
        answer = client.send("POST", MESSAGES, (), request_body(session))
    assert answer.status == 200, answer
    return header(answer.headers, "x-proxy"), str(UUID(json.loads(answer.body)["key"]))


@contextmanager
def load(threads: int, send: Callable[[int], object]) -> Iterator[None]:
    """Let threads, numbered from 0, send all the time; raise what one of them has raised."""
    ended = threading.Event()

    def keep_sending(number: int) -> None:
        while not ended.is_set():
            send(number)

    with ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(keep_sending, number) for number in range(threads)]
        try:
            yield
        finally:
            ended.set()
        for each in runs:
            each.result()


def run(stack: ExitStack, *proxies: Mitmdump) -> None:
    """Wait until all of them listen; the stack ends all, even if one does not come up."""
    for proxy in proxies:
        stack.push(proxy)
    for proxy in proxies:
        proxy.__enter__()


def new_sessions() -> list[str]:
    return [str(uuid4()) for _ in range(8)]


def test_derived_keys_are_the_same_on_each_proxy_and_after_a_restart(tmp_path: Path) -> None:
    sessions = new_sessions()
    seen: dict[str, set[tuple[str | None, str]]] = defaultdict(set)

    def send(number: int) -> None:
        for session in sessions[number::2]:
            seen[session].add(ask(port, session))

    with echo() as upstream, ExitStack() as stack:

        def start(address: str) -> Mitmdump:
            mode = f"reverse:{upstream.url}@{address}"
            return Mitmdump(args=["--mode", mode], prompt_cache_keys="derived")

        addresses = [f"{HOST}:{free_port(HOST)}" for _ in NAMES]
        proxies = [start(address) for address in addresses]
        run(stack, *proxies)
        port = stack.enter_context(haproxy(tmp_path, *addresses, retries=3))
        with load(2, send):
            for address, proxy in zip(addresses, proxies, strict=True):
                proxy.find_all(KEYED, 20)
                proxy.stop()
                stack.enter_context(start(address)).find_all(KEYED, 20)
    keys = {session: derived_key((MODEL, session)) for session in sessions}
    assert seen == {session: {(name, keys[session]) for name in NAMES} for session in sessions}


class Redis:
    """A redis-server that always has the same port, and no memory after a start."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port(HOST)
        options = ["--port", str(self.port), "--bind", HOST, "--save", "", "--dir", str(folder)]
        self._command = ["redis-server", *options]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout
        assert any(b"Ready to accept connections" in line for line in self._process.stdout)

    def kill(self) -> None:
        with self._process:
            self._process.kill()

    def suspend(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def content(self) -> dict[str, tuple[str, int]]:
        """Return the values by their names, and how many milliseconds those have to live."""
        with redis.Redis(HOST, self.port, protocol=2, decode_responses=True) as client:
            commands: Any = client
            return {each: (commands.get(each), commands.pttl(each)) for each in commands.keys("*")}


class Fleet(NamedTuple):
    """Two proxies that share a Redis, and the port of the HAProxy before them."""

    server: Redis
    proxies: list[Mitmdump]
    port: int

    def keys(self, session: str) -> set[str]:
        """Return the keys that the proxies give a session at the same moment."""
        with ThreadPoolExecutor(len(self.proxies)) as pool:
            return {key for _, key in pool.map(lambda each: ask(each.port, session), self.proxies)}

    def key(self, session: str) -> str:
        (key,) = self.keys(session)
        return key


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with echo() as upstream, ExitStack() as stack:
        server = Redis(tmp_path)
        stack.callback(server.kill)
        url = f"redis://{HOST}:{server.port}"
        proxies = [Mitmdump(f"reverse:{upstream.url}", prompt_cache_store=url) for _ in NAMES]
        run(stack, *proxies)
        addresses = [f"{LOOPBACK}:{proxy.port}" for proxy in proxies]
        yield Fleet(server, proxies, stack.enter_context(haproxy(tmp_path, *addresses)))
    for proxy in proxies:
        assert "Traceback" not in "\n".join(proxy.lines)


def test_redis_shares_random_keys_and_gets_no_session_id(fleet: Fleet) -> None:
    keys = {}
    for session in new_sessions():
        key = fleet.key(session)
        (one, same), (two, again) = ask(fleet.port, session), ask(fleet.port, session)
        assert {one, two} == {*NAMES}
        assert key == same == again
        assert UUID(key).version == 4
        keys[stored_name((MODEL, session))] = key
        assert session not in repr(fleet.server.content())
    content = fleet.server.content()
    assert {name: key for name, (key, _) in content.items()} == keys
    assert all(0 < life <= 3_600_000 for _, life in content.values())


@pytest.mark.parametrize(
    ("end", "begin"),
    [(Redis.kill, Redis.start), (Redis.suspend, Redis.resume)],
    ids=["killed", "suspended"],
)
def test_an_outage_of_redis_loses_no_request_and_no_key(
    fleet: Fleet, end: Callable[[Redis], None], begin: Callable[[Redis], None]
) -> None:
    known = {session: fleet.key(session) for session in new_sessions()}
    sessions = [*known]

    def send(number: int) -> None:
        assert ask(fleet.port, sessions[number])[1] == known[sessions[number]]
        ask(fleet.port, str(uuid4()))

    with load(len(sessions), send):
        for proxy in fleet.proxies:
            proxy.find_all(KEYED, 50)
        end(fleet.server)
        for proxy in fleet.proxies:
            proxy.find(AWAY)
        made = {session: fleet.keys(session) for session in new_sessions()}
        begin(fleet.server)
        for proxy in fleet.proxies:
            proxy.find(BACK)
    for session, keys in made.items():
        assert len(keys) == 2
        fleet.keys(session)
        known[session] = fleet.key(session)
        assert known[session] in keys
    assert {session: fleet.key(session) for session in known} == known
    content = fleet.server.content()
    assert {session: content[stored_name((MODEL, session))][0] for session in known} == known
    for proxy in fleet.proxies:
        logged = [line for line in proxy.lines if re.search(rf"WARN|{BACK}", line)]
        assert len(logged) == 2, logged
        assert re.search(AWAY, logged[0])
