import asyncio
from collections.abc import Iterator

import pytest
from mitmproxy import connection, http
from mitmproxy.addons import view
from mitmproxy.proxy import context, events, layer, server_hooks
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow, tutils
from prompt_cache_key.live_page.listener import LivePage
from prompt_cache_key.live_page.live import Recent

HOST = "127.0.0.1:8080"


@pytest.fixture
def page() -> Iterator[LivePage]:
    with taddons.context(page := LivePage(lambda: "/prompt-cache", Recent())):
        yield page


def flow_of(host: str = HOST, mode: str = "regular", **headers: str) -> http.HTTPFlow:
    fields = {"host": host} | headers
    named = http.Headers([(name.encode(), value.encode()) for name, value in fields.items()])
    request = tutils.treq(method=b"GET", path=b"/prompt-cache", headers=named)
    flow = tflow.tflow(req=request, live=True)
    flow.client_conn.peername = ("127.0.0.1", 50_000)
    flow.client_conn.sockname = ("127.0.0.1", 8080)
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    return flow


def ask(page: LivePage, flow: http.HTTPFlow) -> http.Response | None:
    asyncio.run(page.requestheaders(flow))
    return flow.response


def begin(page: LivePage, flow: http.HTTPFlow, host: str) -> None:
    with taddons.context() as mitmproxy:
        data = layer.NextLayer(context.Context(flow.client_conn, mitmproxy.options))
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"
    data.events.append(events.DataReceived(flow.client_conn, head.encode()))
    page.next_layer(data)


def test_it_answers(page: LivePage) -> None:
    response = ask(page, flow_of())
    assert response
    assert response.headers["cache-control"] == "no-store"
    assert response.text
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/prompt-cache", {"content-length": "3"}),
        ("/prompt-cache", {"transfer-encoding": "chunked"}),
        ("/v1/messages", {}),
        ("/prompt-caches", {}),
        ("http://a.test/prompt-cache", {}),
    ],
)
def test_a_body_or_another_path(page: LivePage, path: str, headers: dict[str, str]) -> None:
    flow = flow_of(**headers)
    flow.request.path = path
    assert not ask(page, flow)


def test_other_flows(page: LivePage) -> None:
    over, replayed, from_nowhere = (flow_of() for _ in range(3))
    over.response = theirs = tutils.tresp()
    replayed.live = False
    from_nowhere.client_conn.peername = None  # type: ignore[assignment]
    from_nowhere.client_conn.sockname = None  # type: ignore[assignment]
    assert [ask(page, each) for each in (over, replayed, from_nowhere)] == [theirs, None, None]


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_it_is_not_for_those_who_ask_through_the_proxy(page: LivePage, address: str) -> None:
    server = connection.Server(address=None)
    server.sockname = (address, 50_000)
    own = server_hooks.ServerConnectionHookData(server, tflow.tclient_conn())
    page.server_connected(own)
    assert not ask(page, flow_of())
    page.server_disconnected(own)
    assert ask(page, flow_of())


@pytest.mark.parametrize(
    ("began_with", "is_answered"), [(HOST, True), ("evil.example:8080", False), ("", False)]
)
def test_in_reverse_mode_the_first_host_counts(
    page: LivePage, began_with: str, is_answered: bool
) -> None:
    flow = flow_of("upstream.example", "reverse:http://upstream.example")
    begin(page, flow, began_with)
    begin(page, flow, HOST)
    assert bool(ask(page, flow)) is is_answered


def test_other_modes_show_the_host_that_was_sent(page: LivePage) -> None:
    flow = flow_of()
    begin(page, flow, "evil.example")
    assert ask(page, flow)


def test_the_list_of_flows_is_not_filled(page: LivePage) -> None:
    shown = view.View()
    with taddons.context(shown):
        flows = [flow_of() for _ in range(3)]
        for flow in flows:
            shown.add([flow])
            ask(page, flow)
        assert shown.store_count() == 3
        flows[0].live = flows[1].live = False
        ask(page, flow_of())
        assert list(shown) == flows[2:]
