"""What a real mitmdump shows: its live page and to whom, the Prompt view, and the status line."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT
from lib.client import Client, request_body
from lib.messages import Answer
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import cached_reply, proxied

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"
PAGE = "/prompt-cache"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(cached_reply) as server:
        yield server


@pytest.fixture(scope="module")
def mitmdump(server: Server) -> Iterator[Mitmdump]:
    with Mitmdump(f"reverse:{server.url}", "regular", flow_detail="3") as mitmdump:
        with Client(mitmdump.port) as client:
            body = request_body(SESSION, tools=[{"name": "Bash"}, {"name": "\u202eRead"}])
            client.send("POST", "/v1/messages", [("content-type", "application/json")], body)
        server.take()
        yield mitmdump


def ask(port: int, target: str = PAGE, method: str = "GET", **headers: str) -> Answer:
    named = {"host": f"127.0.0.1:{port}"} | headers
    with Client(port) as client:
        return client.send(method, target, [*named.items()])


def test_prompt_and_answer_are_printed(mitmdump: Mitmdump) -> None:
    mitmdump.find(r"^ +Hello\\x1b\[31m$")
    mitmdump.find(r"^ +usage input=25000 cached=24000 hit=96%$")
    mitmdump.find(rf"^ +session  {SESSION}$")
    mitmdump.find(r"^ +[\d,]+ +34  tools: 2 +Bash, \\u202eRead$")
    mitmdump.find(r"^ +──── read from the cache up to here: 24,000 of 25,000 ────$")


@pytest.mark.parametrize("listener", [0, 1])
def test_a_listener_shows_the_page(mitmdump: Mitmdump, server: Server, listener: int) -> None:
    port = mitmdump.ports[listener]
    answer = ask(port)
    headers = dict(answer.headers)
    assert SESSION.encode() in answer.body
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(port, method="HEAD").status == 200
    assert ask(port, host=f"localhost:{port}").body.startswith(b"<!doctype html>")
    facts = json.loads(ask(port, f"{PAGE}.json?session={SESSION}").body)
    assert facts["sessions"][0]["sums"]["cached"] == 24_000
    own = ask(mitmdump.ports[1], "http://prompt-cache.internal/", host="prompt-cache.internal")
    assert SESSION.encode() in own.body
    assert server.take() == []


@pytest.mark.parametrize(
    ("target", "method", "headers"),
    [
        (PAGE, "POST", {}),
        (PAGE, "GET", {"host": "evil.example:8080"}),
        (PAGE, "GET", {"x-forwarded-for": "203.0.113.9"}),
        (f"{PAGE}/more", "GET", {}),
        ("/v1/models", "GET", {}),
    ],
)
def test_all_else_goes_on(
    mitmdump: Mitmdump, server: Server, target: str, method: str, headers: dict[str, str]
) -> None:
    answer = ask(mitmdump.port, target, method, **headers)
    assert SESSION.encode() not in answer.body
    assert [request.target for request in server.take()] == [target]


@pytest.fixture
def elsewhere() -> str:
    """Return an address of this machine that is not the listener's, as another machine's is not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no other address")
        address: str = probe.getsockname()[0]
        return address


@pytest.mark.parametrize("target", [PAGE, "http://127.1:{port}/prompt-cache"])
@pytest.mark.parametrize("listener", [0, 1])
def test_not_from_elsewhere(
    mitmdump: Mitmdump, server: Server, elsewhere: str, listener: int, target: str
) -> None:
    port = mitmdump.ports[listener]
    headers = {"host": f"127.0.0.1:{port}"}
    with closing(HTTPConnection(LOOPBACK, port, TIMEOUT, (elsewhere, 0))) as client:
        client.request("GET", target.format(port=port), headers=headers)
        assert SESSION.encode() not in client.getresponse().read()
    assert len(server.take()) == (listener == 0)


def test_a_connection_keeps_the_name_it_began_with(mitmdump: Mitmdump, server: Server) -> None:
    own = ("host", f"127.0.0.1:{mitmdump.port}")
    with Client(mitmdump.port) as client:
        client.send("GET", "/", [("host", "evil.example")])
        client.send("GET", PAGE, [own])
    assert [request.target for request in server.take()] == ["/", PAGE]


def test_no_page_where_it_is_switched_off() -> None:
    with proxied(prompt_cache_page="") as (upstream, proxy):
        ask(proxy.port)
        assert [request.target for request in upstream.take()] == [PAGE]


# --- the status line ----------------------------------------------------------------------------

CODE = "import sys; from prompt_cache_key.cli import main; sys.exit(main())"


def test_the_command_and_a_status_line_beside_it(tmp_path: Path) -> None:
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ADDON.parent)}
    env["PYTHONUNBUFFERED"] = "1"

    def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", CODE, *arguments]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **options)

    with (
        Server(cached_reply) as server,
        start("-p", "0", "--mode", f"reverse:{server.url}") as proxy,
    ):
        assert proxy.stdout
        urls = (re.search(r"ANTHROPIC_BASE_URL=(\S+)", line) for line in proxy.stdout)
        env["ANTHROPIC_BASE_URL"] = url = next(filter(None, urls))[1]
        with Client(int(url.rpartition(":")[2])) as client:
            client.send("POST", "/v1/messages", [], request_body(SESSION))
        for session, line in ((SESSION, "cache 96%\n"), ("another", "")):
            with start("status", stdin=subprocess.PIPE) as status:
                assert status.communicate(json.dumps({"session_id": session}))[0] == line
            assert status.returncode == 0
        proxy.terminate()
