import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from log_lines import fields
from mitmproxy.exceptions import AddonHalt
from mitmproxy.test import tflow, tutils
from unit.context import BODY, HEADER, SESSION, URL, Context, usage

Log = Callable[[], list[str]]

RAW = f"user_{'a' * 64}_account__session_{SESSION}"
PLAIN_URL = URL.partition("?")[0]


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
            "corrupt content-encoding gzip",
        ),
        (b'{"a":' * 100_000 + b"}", HEADER, "the body nests too deep"),
        (
            json.dumps({"prompt_cache_key": RAW[:64]}).encode(),
            {},
            "the request shows no session, and its own key is a user id",
        ),
    ],
)
def test_a_body_that_cannot_have_a_key_passes_with_one_warning(
    context: Context, log: Log, content: bytes, headers: dict[str, str], why: str
) -> None:
    for _ in range(2):
        flow = context.flow(b"", headers)
        flow.request.raw_content = content
        asyncio.run(context.addon.request(flow))
        assert flow.request.raw_content == content
    (line,) = log()
    assert line.startswith(f"WARNING [prompt-cache] no key for POST {PLAIN_URL}: ")
    assert line.endswith(why)


def test_few_decoded_bodies_are_kept(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [context.send() for _ in range(3)]
    limit = 2 * len(plain[0].request.content or b"")
    monkeypatch.setattr("prompt_cache_key.hooks.MAX_DECODED", limit)
    coded = HEADER | {"content-encoding": "gzip"}
    flows = [*plain, *(context.send(gzip.compress(BODY), coded) for _ in range(3))]
    kept = [bool(context.state.in_flight[flow].body) for flow in flows]
    assert kept == [True, True, True, True, True, False]
    assert all(b"prompt_cache_key" in (flow.request.content or b"") for flow in flows)


@pytest.mark.parametrize(
    ("url", "headers", "method", "why"),
    [
        (URL, {}, "POST", "no session"),
        ("https://api.example.com/v1/embeddings", HEADER, "POST", "prompt_cache_filter"),
        (URL, HEADER, "PUT", "prompt_cache_filter"),
        ("https://api.groq.com/v1beta/other", HEADER, "POST", "rejects the field"),
        ("https://api.openai.com/v1/responses", {"upgrade": "h2c"}, "GET", "prompt_cache_filter"),
    ],
)
def test_a_request_without_a_key_is_a_debug_line(
    context: Context, log: Log, url: str, headers: dict[str, str], method: str, why: str
) -> None:
    assert context.send(headers=headers, url=url, method=method).request.content == BODY
    (line,) = log()
    assert line.startswith(f"DEBUG [prompt-cache] no key for {method} {url.partition('?')[0]}: ")
    assert why in line


@pytest.mark.parametrize(
    ("headers", "url", "why"),
    [
        ({"host": "a" * 60_000}, URL, "Host"),
        ({"upgrade": "WebSocket"}, "https://api.openai.com/v1/responses?x=1", "WebSocket"),
    ],
)
def test_requests_that_can_have_no_key_are_warned_of_once(
    context: Context, log: Log, headers: dict[str, str], url: str, why: str
) -> None:
    for _ in range(2):
        context.send(b"", HEADER | headers, url, "GET")
    (line,) = log()
    assert line.startswith("WARNING ")
    assert why in line


def test_an_upstream_that_takes_no_key_is_observed(context: Context, log: Log) -> None:
    flow = context.send(url="https://api.groq.com/openai/v1/chat/completions")
    assert flow.request.content == BODY
    mapping = fields(log()[-1])
    assert mapping["state"] == "observed"
    assert mapping["session"] == SESSION
    assert "key" not in mapping


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
    assert fields(log()[0])["hit"] == "50%"
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


def test_a_request_for_the_live_page_is_seen_by_no_other_addon(context: Context) -> None:
    addon = context.addon
    flow = context.flow(b"", {}, f"http://upstream.example{addon.page.path}", "GET")
    other = context.flow(b"", {}, "http://upstream.example/", "GET")
    with pytest.raises(AddonHalt):
        asyncio.run(addon.requestheaders(flow))
    assert flow.response
    assert flow.response.status_code == 200
    for hook in (addon.request, addon.response, addon.error):
        with pytest.raises(AddonHalt):
            asyncio.run(hook(flow))
        asyncio.run(hook(other))
    with pytest.raises(AddonHalt):
        addon.responseheaders(flow)
    asyncio.run(addon.requestheaders(other))
    assert not other.response
