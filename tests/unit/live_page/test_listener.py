import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow, tutils
from prompt_cache_key.live_page import listener, live
from prompt_cache_key.live_page.listener import MAX_CACHED, PERIOD, LivePage
from prompt_cache_key.live_page.live import Recent
from unit.requests_made import finished


class Page(LivePage):
    """A page with requests to show, a clock to set and a switch."""

    def __init__(self) -> None:
        self.recent = Recent()
        self.recent.add(finished())
        self.now = 0.0
        self.is_on = True
        super().__init__(lambda: self.is_on, self.recent, lambda: self.now)

    def ask(self, flow: http.HTTPFlow) -> http.Response | None:
        response = flow.response
        is_page = asyncio.run(self.requestheaders(flow))
        assert is_page is self.is_page(flow) is (flow.response is not response)
        return flow.response

    def get(self, below: str = "", **more: Any) -> http.Response:
        response = self.ask(flow_of(self.path + below, **more))
        assert response
        return response


@pytest.fixture
def page() -> Page:
    return Page()


def flow_of(path: str, mode: str = "regular", method: str = "GET", **headers: str) -> http.HTTPFlow:
    fields = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
    request = tutils.treq(
        method=method.encode(), path=path.encode(), headers=http.Headers(fields), content=b""
    )
    flow = tflow.tflow(req=request, live=True)
    flow.client_conn.sockname = ("127.0.0.1", 8080)
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    return flow


@pytest.mark.parametrize(
    "mode", ["regular", "upstream:http://other.example", "reverse:http://up.example"]
)
def test_listeners_answer(page: Page, mode: str) -> None:
    response = page.get(mode=mode)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert "57f0d592" in (response.text or "")
    facts = page.get("facts.json?session=57f0d592-a068", mode=mode)
    assert json.loads(facts.text or "")["sums"]["requests"] == 1


@pytest.mark.parametrize("mode", ["socks5", "transparent", "local"])
def test_other_modes_do_not_answer(page: Page, mode: str) -> None:
    assert not page.ask(flow_of(page.path, mode))


def test_a_secret_is_new_each_time() -> None:
    first, second = Page(), Page()
    assert first.path != second.path
    assert first.get().status_code == 200
    response = second.ask(flow_of(first.path))
    assert response
    assert (response.status_code, response.content) == (404, b"")


@pytest.mark.parametrize("below", ["x", "/", "facts", "facts.json/", "%2e"])
def test_nothing_else_is_below(page: Page, below: str) -> None:
    assert page.get(below).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/", "/prompt-cache", "/prompt-cache/", "/v1/messages", "/prompt-cache/" + "0" * 31 + "/"],
)
def test_other_paths_go_on(page: Page, path: str) -> None:
    assert not page.ask(flow_of(path))


def test_what_is_not_the_page(page: Page) -> None:
    path = page.path
    assert not page.ask(flow_of(path[:-1].upper()))
    assert not page.ask(flow_of(path[:-2] + "g"))
    assert not page.ask(flow_of("/x" + path))
    for method in ("POST", "OPTIONS", "CONNECT"):
        assert not page.ask(flow_of(path, method=method))
    assert not page.ask(flow_of(path, content_length="3"))
    assert not page.ask(flow_of(path, transfer_encoding="chunked"))
    assert page.ask(flow_of(path, content_length="0"))
    page.is_on = False
    assert not page.ask(flow_of(path))


def test_flows_that_are_answered_or_loaded_are_left_alone(page: Page) -> None:
    answered, loaded = flow_of(page.path), flow_of(page.path)
    answered.response = theirs = tutils.tresp()
    loaded.live = False
    assert page.ask(answered) is theirs
    assert page.ask(loaded) is None


def test_head_and_what_has_not_changed_have_no_content(page: Page) -> None:
    whole = page.get()
    head = page.get(method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == whole.headers["etag"]
    same = page.get(if_none_match=whole.headers["etag"])
    assert (same.status_code, same.content) == (304, b"")
    assert page.get(if_none_match='"other"').content == whole.content


@pytest.mark.parametrize(
    ("mode", "command"),
    [
        ("reverse:http://up.example", "ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude"),
        ("regular", "listening at …"),
    ],
)
def test_the_empty_page_has_the_command_of_its_listener(
    page: Page, mode: str, command: str
) -> None:
    page.recent = page._requests = Recent()
    assert command in (page.get(mode=mode).text or "")


def test_a_page_is_made_once_until_a_request_ends(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count(monkeypatch, "html")

    async def many() -> None:
        await asyncio.gather(*(page.requestheaders(flow_of(page.path)) for _ in range(40)))

    asyncio.run(many())
    assert made == [1]
    page.recent.add(finished(1))
    page.get()
    assert made == [1, 2]
    page.now += PERIOD
    page.get()
    page.get()
    assert made == [1, 2, 2]


def test_only_so_many_answers_are_kept(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count(monkeypatch, "facts")
    for number in range(MAX_CACHED + 1):
        page.get(f"facts.json?session={number}")
    page.get(f"facts.json?session={MAX_CACHED}")
    assert len(made) == MAX_CACHED + 1
    assert len(page._made) == 1
    page.get("facts.json?session=0")
    assert len(made) == MAX_CACHED + 2


def count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Return a list that gets the number of requests of each answer that is made."""
    made: list[int] = []
    make = getattr(live, name)

    def counted(requests: list[object], *rest: object) -> object:
        made.append(len(requests))
        return make(requests, *rest)

    monkeypatch.setattr(live, name, counted)
    return made


def test_a_page_that_fails_does_not_go_to_the_upstream(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(live, "html", fail)
    flow = flow_of(page.path)
    with pytest.raises(RuntimeError):
        page.ask(flow)
    assert flow.response
    assert flow.response.status_code == 500
    assert page.is_page(flow)


# --- the file -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with taddons.context(Proxyserver()) as context:
        context.options.confdir = str(tmp_path)
        servers: Any = context.master.addons.get("proxyserver")
        servers.servers = [
            SimpleNamespace(listen_addrs=(("127.0.0.1", port),) if port else (), mode=mode)
            for mode, port in (
                (ProxyMode.parse("regular"), 8080),
                (ProxyMode.parse("socks5"), 8081),
                (ProxyMode.parse("reverse:http://up.example"), 8082),
                (ProxyMode.parse("regular"), 0),
            )
        ]
        yield tmp_path


def test_a_file_leads_to_the_page(page: Page, folder: Path) -> None:
    page.running()
    [path] = folder.iterdir()
    said = json.loads(path.read_text())
    assert (said["ports"], said["secret"]) == ([8080, 8082], page.secret)
    page.done()
    assert not list(folder.iterdir())


def test_no_page_no_file(page: Page, folder: Path) -> None:
    page.is_on = False
    page.running()
    assert not list(folder.iterdir())


def test_a_file_that_cannot_be_written_is_a_warning(page: Page, folder: Path, log: Any) -> None:
    folder.rmdir()
    folder.write_text("")
    page.running()
    [line] = log()
    assert line.startswith("WARNING [prompt-cache] the status line will not find the live page: ")


def test_without_jinja_there_is_one_warning_and_no_page(
    page: Page, folder: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "can_render", lambda: False)
    page.running()
    [line] = log()
    assert "Jinja2 can't be imported" in line
    assert not list(folder.iterdir())
    assert not page.ask(flow_of(page.path))
    assert not log()
