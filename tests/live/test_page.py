"""The live page of a real mitmdump: who gets it, and that it leaves no trace."""

import contextlib
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lib import LOOPBACK
from lib.client import Client, request_body
from lib.messages import Answer
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import cached_reply, flows, proxied

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"
OTHER = f"/prompt-cache/{'0' * 32}/"


def page_of(mitmdump: Mitmdump) -> str:
    """Return the path of the page, as the log has it."""
    return mitmdump.find(r"live page: http://[^/]+(/prompt-cache/[0-9a-f]{32}/)")[1]


def ask(port: int, target: str, method: str = "GET", **headers: str) -> Answer:
    named = {"host": f"127.0.0.1:{port}"} | headers
    with Client(port) as client:
        return client.send(method, target, [*named.items()])


def use(port: int) -> None:
    with Client(port) as client:
        client.send("POST", "/v1/messages", [], request_body(SESSION))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(cached_reply) as server:
        yield server


@pytest.fixture(scope="module")
def mitmdump(server: Server) -> Iterator[Mitmdump]:
    modes = f"reverse:{server.url}", "regular", f"upstream:{server.url}"
    with Mitmdump(*modes, flow_detail="1") as mitmdump:
        use(mitmdump.port)
        server.take()
        yield mitmdump


@pytest.mark.parametrize("listener", [0, 1, 2])
def test_each_listener_serves_the_page(mitmdump: Mitmdump, server: Server, listener: int) -> None:
    port, path = mitmdump.ports[listener], page_of(mitmdump)
    answer = ask(port, path)
    headers = {name.lower(): value for name, value in answer.headers}
    assert answer.status == 200
    assert SESSION.encode() in answer.body
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert ask(port, path, host="any.example").body == answer.body
    assert ask(port, path, x_forwarded_for="203.0.113.9").body == answer.body
    assert ask(port, path, "HEAD").body == b""
    unchanged = ask(port, path, **{"if-none-match": headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    facts = json.loads(ask(port, f"{path}facts.json?session={SESSION}").body)
    assert facts["sums"]["cached"] == 24_000
    assert server.take() == []


def test_a_proxied_browser_gets_the_page_under_any_name(mitmdump: Mitmdump, server: Server) -> None:
    target = f"http://any.example{page_of(mitmdump)}"
    assert SESSION.encode() in ask(mitmdump.ports[1], target).body
    assert server.take() == []


@pytest.mark.parametrize("target", [OTHER, OTHER[:-1], f"{OTHER}facts.json", "{page}other"])
def test_an_old_address_is_not_found(mitmdump: Mitmdump, server: Server, target: str) -> None:
    answer = ask(mitmdump.port, target.format(page=page_of(mitmdump)))
    assert (answer.status, answer.body) == (404, b"")
    assert server.take() == []


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("/", "GET"),
        ("/prompt-cache", "GET"),
        ("/prompt-cache/", "GET"),
        (f"/v1{OTHER}", "GET"),
        (f"/prompt-cache/{'0' * 31}g/", "GET"),
        (f"/prompt-cache/{'0' * 33}/", "GET"),
        ("{page}", "POST"),
    ],
)
def test_all_else_goes_to_the_upstream(
    mitmdump: Mitmdump, server: Server, target: str, method: str
) -> None:
    target = target.format(page=page_of(mitmdump))
    assert SESSION.encode() not in ask(mitmdump.port, target, method).body
    assert [request.target for request in server.take()] == [target]


def test_a_page_leaves_no_flow_and_no_line(tmp_path: Path) -> None:
    saved = tmp_path / "flows"
    with proxied(cached_reply, args=["-w", str(saved)], flow_detail="1") as (_, proxy):
        path = page_of(proxy)
        ask(proxy.port, path)
        ask(proxy.port, f"{path}facts.json")
        ask(proxy.port, OTHER)
        use(proxy.port)
        proxy.find(r"POST .*/v1/messages")
        proxy.find(r"<< 200")
    lines = [line for line in proxy.lines if "live page:" not in line]
    assert not [line for line in lines if "prompt-cache/" in line or "facts.json" in line]
    assert sum("<<" in line for line in lines) == 1
    assert [flow.request.path for flow in flows(saved)] == ["/v1/messages"]


def test_a_page_request_with_a_body_goes_to_the_upstream() -> None:
    with proxied(stream_large_bodies="1k") as (upstream, proxy):
        for body in (b"x", b"x" * 10_000):
            with Client(proxy.port) as client:
                headers = [("content-length", str(len(body)))]
                assert client.send("GET", page_of(proxy), headers, body).status == 200
            assert [request.body for request in upstream.take()] == [body]


def test_the_page_needs_no_upstream() -> None:
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))
        url = f"http://{LOOPBACK}:{nobody.getsockname()[1]}"
        with Mitmdump(f"reverse:{url}", connection_strategy="lazy") as proxy:
            answer = ask(proxy.port, page_of(proxy))
            assert f"ANTHROPIC_BASE_URL=http://127.0.0.1:{proxy.port} claude" in str(answer.body)
        assert not [line for line in proxy.lines if "server connect" in line]


def test_no_page_where_it_is_switched_off() -> None:
    with proxied(prompt_cache_page="false") as (upstream, proxy):
        ask(proxy.port, OTHER)
        assert [request.target for request in upstream.take()] == [OTHER]
    assert not [line for line in proxy.lines if "live page" in line]


@pytest.mark.client
def test_nginx_and_an_open_proxy_show_nothing_to_who_does_not_know_the_secret(
    mitmdump: Mitmdump, server: Server
) -> None:
    page = page_of(mitmdump)
    others = ["/prompt-cache", "/prompt-cache/", "/facts.json", OTHER, f"{page[:-2]}g/", f"/{page}"]
    with nginx(mitmdump.port) as port, Mitmdump(scripts=()) as open_proxy:
        behind = f"http://{LOOPBACK}:{port}"
        assert SESSION.encode() in ask(port, page).body
        for target in others:
            assert SESSION.encode() not in ask(port, target).body
            assert SESSION.encode() not in ask(open_proxy.port, behind + target).body
    forwarded = [request.target for request in server.take()]
    assert forwarded == [each for each in others if each != OTHER for _ in range(2)]


@contextlib.contextmanager
def nginx(upstream: int) -> Iterator[int]:
    """Run nginx as a plain reverse proxy, as people put it before a listener."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        paths = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        Path(folder, "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {paths} server {{ listen {LOOPBACK}:{port};\n"
            f"location / {{ proxy_pass http://{LOOPBACK}:{upstream}; }} }} }}\n"
        )
        command = ["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-e", "stderr"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            try:
                for _ in range(1000):
                    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port)):
                        break
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.01)
                yield port
            finally:
                process.terminate()
