import asyncio
import gc
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import connection
from mitmproxy.proxy.context import Context as Layers
from mitmproxy.proxy.events import DataReceived
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import tflow, tutils
from prompt_cache_key.message_body import sent_content
from unit.context import BODY, HEADER, SESSION, URL, Context, usage

Log = Callable[[], list[str]]

RAW = f"user_{'a' * 64}_account__session_{SESSION}"
QUESTION = (
    b'{"model":"gpt","system":"You are an agent.\\nBe brief.",'
    b'"messages":[{"role":"user","content":"why is the sky blue?"}]}'
)
PROBLEM = f"WARNING [prompt-cache] no key for POST {URL[:-10]}, it goes on unchanged: "


@pytest.mark.parametrize(
    "change",
    [
        {"live": False},
        {"is_replay": "request"},
        {"response": tutils.tresp()},
        {"error": tflow.terr()},
    ],
)
def test_flows_that_are_not_touched(context: Context, change: dict[str, Any], log: Log) -> None:
    flow = context.flow()
    for name, value in change.items():
        setattr(flow, name, value)
    asyncio.run(context.addon.request(flow))
    assert flow.request.content == BODY
    assert not log()


@pytest.mark.parametrize(
    ("content", "headers", "why"),
    [
        (b"[]", HEADER, "the body is not a JSON object"),
        (
            b"plain",
            HEADER | {"content-encoding": "gzip"},
            "its content-encoding is unknown, or the body is corrupt",
        ),
        (b'{"a":' * 100_000 + b"}", HEADER, "the body nests too deep"),
        (
            json.dumps({"prompt_cache_key": RAW[:64]}).encode(),
            {},
            "it shows no session, and its own key is a user id, a bad key",
        ),
    ],
)
def test_warned_of_once(
    context: Context, log: Log, content: bytes, headers: dict[str, str], why: str
) -> None:
    for _ in range(2):
        flow = context.flow(b"", headers)
        flow.request.raw_content = content
        asyncio.run(context.addon.request(flow))
        assert flow.request.raw_content == content
    assert log() == [PROBLEM + why]


@pytest.mark.parametrize(
    ("url", "headers", "why"),
    [
        (URL, {}, "without a session"),
        ("https://api.example.com/v1/embeddings", HEADER, "left out by prompt_cache_filter"),
        (
            "https://api.groq.com/v1/responses",
            HEADER,
            "to a host that rejects the field (host=api.groq.com)",
        ),
    ],
)
def test_without_a_key_as_it_should_be(
    context: Context, log: Log, url: str, headers: dict[str, str], why: str
) -> None:
    assert context.send(headers=headers, url=url).request.content == BODY
    assert log() == [f"DEBUG [prompt-cache] no key for POST {url.partition('?')[0]}: {why}"]


def test_coded_body_stays_coded(context: Context) -> None:
    flow = context.send(gzip.compress(BODY), HEADER | {"content-encoding": "gzip"})
    assert json.loads(gzip.decompress(flow.request.raw_content or b""))["prompt_cache_key"]


def test_what_broke_off_is_reported(context: Context, log: Log) -> None:
    flow = context.send()
    response = context.begin(flow, content_type="text/event-stream")
    assert callable(response.stream)
    response.stream(b"data: " + usage(2048, 1024) + b"\n\ndata: {")
    flow.error = tflow.terr()
    log()
    asyncio.run(context.addon.error(flow))
    assert "input=2048 cached=1024 hit=50%" in log()[0]
    assert (response.raw_content or b"").endswith(b"data: {")
    asyncio.run(context.addon.response(flow))
    assert not log()


def test_error_without_a_response(context: Context, log: Log) -> None:
    flow = context.send()
    log()
    asyncio.run(context.addon.error(flow))
    assert not log()


def test_responses_of_other_flows_are_left_alone(context: Context, log: Log) -> None:
    flow = context.send(headers={})
    log()
    response = context.answer(flow, usage(2048, 0), content_type="text/event-stream").response
    assert response
    assert not response.stream
    assert not log()


def test_the_live_page_answers_who_does_not_come_through_the_proxy(context: Context) -> None:
    addon, client, server = context.addon, tflow.tclient_conn(), connection.Server(address=None)
    client.peername, client.sockname = ("127.0.0.1", 50_000), ("127.0.0.1", 8080)
    client.proxy_mode = ProxyMode.parse("reverse:http://upstream.example")
    data = NextLayer(Layers(client, context.options))
    data.events.append(DataReceived(client, b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"))
    addon.next_layer(data)

    def is_answered() -> bool:
        flow = context.flow(b"", {}, "http://upstream.example/prompt-cache", "GET")
        del flow.request.headers["content-length"]
        flow.client_conn = client
        asyncio.run(addon.requestheaders(flow))
        return flow.response is not None

    assert is_answered()
    server.sockname = client.peername
    addon.server_connected(ServerConnectionHookData(server, client))
    assert not is_answered()
    addon.server_disconnected(ServerConnectionHookData(server, client))
    assert is_answered()


def test_it_tells_how_it_is_set_and_takes_its_place(context: Context, log: Log) -> None:
    context.set(ttl="2h")
    context.addon.running()
    assert " ttl=2h " in log()[0]
    assert context.addon.wire in context.master.addons.chain
    for name in ("explain", "forget", "report", "sessions"):
        assert f"promptcache.{name}" in context.master.commands.commands


def test_what_is_there_at_the_start_is_no_garbage(context: Context) -> None:
    gc.unfreeze()
    context.addon.running()
    frozen = gc.get_freeze_count()
    context.master.addons.remove(context.addon)
    context.master.addons.add(context.addon)
    context.addon.running()  # as when the script is touched
    assert 0 < gc.get_freeze_count() <= frozen
    gc.unfreeze()


def test_streamed_request_without_a_key(context: Context, log: Log) -> None:
    context.stream(context.flow(b"[]"))
    assert log() == [PROBLEM + "the body is not a JSON object"]


def test_streamed_body_is_not_kept(context: Context) -> None:
    flow, _ = context.stream(context.flow())
    assert sent_content(flow)
    context.answer(flow)
    assert not sent_content(flow)
