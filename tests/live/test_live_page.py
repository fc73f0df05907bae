"""The live page of a real mitmdump: who gets it, in each mode, and that nothing goes upstream."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest
from lib import LOOPBACK, TIMEOUT
from lib.client import Client, request_body
from lib.messages import Answer, Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"
PAGE = "/prompt-cache"


def reply(_: Request) -> Reply:
    usage = {"input_tokens": 1000, "cache_read_input_tokens": 24_000}
    return Reply(body=json.dumps({"content": [], "usage": usage}).encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(reply) as server:
        yield server


@pytest.fixture(scope="module")
def mitmdump(server: Server) -> Iterator[Mitmdump]:
    with Mitmdump(f"reverse:{server.url}", "regular") as mitmdump:
        with Client(mitmdump.port) as client:
            client.send("POST", "/v1/messages", [], request_body(SESSION))
        server.take()
        yield mitmdump


def ask(port: int, target: str = PAGE, method: str = "GET", **headers: str) -> Answer:
    named = {"host": f"127.0.0.1:{port}"} | headers
    with Client(port) as client:
        return client.send(method, target, [(name, value) for name, value in named.items()])


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
    assert facts["sessions"][0]["sums"]["cached_tokens"] == 24_000
    assert server.take() == []


def test_a_proxy_shows_it_under_its_own_name(mitmdump: Mitmdump, server: Server) -> None:
    answer = ask(mitmdump.ports[1], "http://prompt-cache.internal/", host="prompt-cache.internal")
    assert SESSION.encode() in answer.body
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


def test_no_page_where_it_is_switched_off(server: Server) -> None:
    with Mitmdump(f"reverse:{server.url}", prompt_cache_page="") as mitmdump:
        ask(mitmdump.port)
    assert [request.target for request in server.take()] == [PAGE]
