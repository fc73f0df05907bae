import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_lines import fields
from mitmproxy import http
from mitmproxy.test import taddons, tflow
from prompt_cache_key.body import MEMBER_SIZE
from prompt_cache_key.streaming.held_request import MAX_HELD, HeldRequest
from unit.context import BODY, EVENTS, HEADER, SESSION, URL, Context, key, usage

Log = Callable[[], list[str]]

SPACE = b" " * MEMBER_SIZE
ROUTED = "https://chatgpt.com/backend-api/codex/responses"


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("WARNING")]


# Requests


def test_streamed_request_gets_its_key(context: Context, log: Log) -> None:
    flow, sent = context.stream(context.flow())
    name = flow.metadata["prompt_cache_key"]
    assert sent == b'{"prompt_cache_key":"%s",' % name.encode() + BODY[1:]
    assert flow.request.headers["content-length"] == str(len(sent)) == str(len(BODY) + MEMBER_SIZE)
    (line,) = log()
    assert fields(line)["key"] == name
    again, _ = context.stream(context.flow())
    assert again.metadata["prompt_cache_key"] == name
    log()
    context.answer(flow, usage(2048, 1920))
    assert fields(log()[0])["cached"] == "1920"


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt_cache_key":' + b" " * 100 + b"0}",  # the client's own
        b'{"prompt_cache_key":null,"user":"' + b"x" * 50 + b'"}',
        b"{}",
    ],
)
def test_streamed_request_has_the_promised_length(context: Context, body: bytes) -> None:
    flow, sent = context.stream(context.flow(body))
    assert len(sent) == len(body) + MEMBER_SIZE
    assert flow.metadata["claude_session"] == SESSION


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"model":"m","prompt_cache_key":"","prompt_cache_key":""}', "leaves no room"),
    ],
)
def test_held_request_that_can_have_no_key_passes_with_spaces_and_a_warning(
    context: Context, body: bytes, why: str, log: Log
) -> None:
    flow, sent = context.stream(context.flow(body))
    assert sent == body + SPACE
    assert not flow.metadata
    (line,) = log()
    assert line.startswith("WARNING ")
    assert why in line


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({"X-Claude-Code-Session-Id": ""}, URL),
        ({}, "https://api.example.com/v1/files"),
        ({"X-Claude-Code-Session-Id": ""}, "https://api.groq.com/openai/v1/responses"),
    ],
)
def test_streamed_request_of_others_is_not_looked_at(
    context: Context, headers: dict[str, str], url: str
) -> None:
    flow = context.flow(headers=HEADER | headers, url=url)
    before = flow.request.headers.fields
    flow, sent = context.stream(flow)
    assert flow.request.stream is True
    assert sent == BODY
    assert flow.request.headers.fields == before
    assert not flow.metadata


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "br"},
        {"transfer-encoding": "chunked"},
        {"content-type": "multipart/form-data"},
        {"content-type": ""},
        {"content-length": str(MAX_HELD + 1)},
        {"content-length": "0"},
        {"content-length": "+33"},
        {"content-length": ""},
        {"content-md5": "x"},
    ],
)
def test_streamed_request_that_cannot_be_held_passes_and_is_observed(
    context: Context, headers: dict[str, str], log: Log
) -> None:
    flow = context.flow(headers=HEADER | headers)
    before = flow.request.headers.fields
    flow, sent = context.stream(flow)
    assert sent == BODY
    assert flow.request.headers.fields == before
    assert flow.metadata["prompt_cache_state"] == "observed"
    assert len(warnings(log())) == 1
    context.answer(flow, usage(2048, 1920))
    assert fields(log()[0])["cached"] == "1920"


def test_streamed_request_with_two_lengths_is_not_held(context: Context) -> None:
    flow = context.flow()
    flow.request.headers.add("content-length", flow.request.headers["content-length"])
    flow, sent = context.stream(flow)
    assert sent == BODY
    assert flow.metadata["prompt_cache_state"] == "observed"


def test_streamed_request_to_an_upstream_that_takes_no_key_is_observed_without_a_warning(
    context: Context, log: Log
) -> None:
    flow, sent = context.stream(context.flow(url="https://api.groq.com/openai/v1/responses"))
    assert sent == BODY
    (line,) = log()
    assert fields(line)["state"] == "observed"
    assert line.startswith("INFO ")
    assert flow.metadata["claude_session"] == SESSION


@pytest.mark.parametrize("stream", [True, bytes.upper])
def test_request_that_others_stream_is_observed_by_its_headers(
    context: Context, log: Log, stream: Any
) -> None:
    flow = context.flow()
    flow.request.stream = stream  # mitmproxy may decide so when half of a body has come
    asyncio.run(context.addon.request(flow))
    assert flow.metadata["prompt_cache_state"] == "observed"
    assert len(warnings(log())) == 1
    context.answer(flow, usage(2048, 1920))
    assert fields(log()[0])["cached"] == "1920"


@pytest.mark.parametrize("body", [b"[1]", b'{"model":"m"} nope'])
def test_streamed_body_that_is_no_json_is_observed_by_its_headers(
    context: Context, body: bytes
) -> None:
    flow, sent = context.stream(context.flow(body, HEADER | {"content-encoding": "br"}))
    assert sent == body
    assert flow.metadata["claude_session"] == SESSION


def test_streamed_body_that_is_too_large_to_read_is_observed_by_its_headers(
    context: Context,
) -> None:
    body = b'{"model":"m","messages":["' + b"x" * (MAX_HELD + 1) + b'"]}'
    for _ in range(2):
        flow, sent = context.stream(context.flow(body))
        assert sent == body
        context.answer(flow, usage(8000, 0))
    assert context.state.sessions.total.requests == 2
    assert context.state.sessions.total.missed == 0


def test_held_request_never_waits_for_a_store(context: Context) -> None:
    async def send() -> HeldRequest:
        context.set(store="redis://127.0.0.1:1")
        flow = context.flow()
        flow.request.stream = True
        context.addon.streaming.requestheaders(flow)
        held = flow.request.stream
        assert isinstance(held, HeldRequest)
        (sent,) = held(BODY)
        assert key_in(sent) == flow.metadata["prompt_cache_key"]
        context.set(store="memory")
        return held

    assert not asyncio.run(send()).problem


def test_held_request_that_is_answered_early_passes_without_a_key(
    context: Context, log: Log
) -> None:
    flow = context.flow()
    flow.request.stream = True
    context.addon.streaming.requestheaders(flow)
    held = flow.request.stream
    assert isinstance(held, HeldRequest)
    context.answer(flow, status=413)
    assert held(BODY) == [BODY + SPACE]
    asyncio.run(context.addon.request(flow))
    assert not flow.metadata
    (line,) = log()
    assert line.startswith("DEBUG ")
    assert "answered before" in line


def test_held_request_whose_session_header_another_addon_removes_has_no_key(
    context: Context,
) -> None:
    flow = context.flow()
    flow.request.stream = True
    context.addon.streaming.requestheaders(flow)
    held = flow.request.stream
    assert isinstance(held, HeldRequest)
    del flow.request.headers["X-Claude-Code-Session-Id"]
    assert held(BODY) == [BODY + SPACE]
    assert not flow.metadata


@pytest.mark.parametrize("change", [{"response": True}, {"error": tflow.terr()}, {"live": False}])
def test_streamed_request_that_is_no_longer_open_is_left_alone(
    context: Context, change: dict[str, Any]
) -> None:
    flow = context.flow()
    flow.request.stream = True
    for name, value in change.items():
        setattr(flow, name, http.Response.make(403) if value is True else value)
    context.addon.streaming.requestheaders(flow)
    assert flow.request.stream is True


def test_held_request_gets_no_header_and_warns_once(context: Context, log: Log) -> None:
    for _ in range(2):
        flow, sent = context.stream(context.flow(url=ROUTED))
        assert key_in(sent)
        assert "session-id" not in flow.request.headers
    (warning,) = warnings(log())
    assert "session-id" in warning


# Responses


@pytest.mark.parametrize("kind", ["text/event-stream", EVENTS])
def test_events_pass_as_they_arrive_and_are_kept(context: Context, kind: str) -> None:
    events = b"data: {}\n\ndata: " + usage(2048, 1920) + b"\n\n"
    flow = context.answer(context.send(), events, content_type=kind)
    assert flow.response
    assert callable(flow.response.stream)
    assert flow.response.raw_content == events
    assert flow.comment == f"93% 1920/2048 3f6c1c1e main gpt-5.4 key={key(flow)[:8]}"


@pytest.mark.parametrize("wants_stream", [True, False])
@pytest.mark.parametrize(
    ("kind", "may_be_events"),
    [("text/plain", True), ("application/json", True), ("", True), ("text/html", False)],
)
def test_response_to_a_request_for_a_stream_passes_as_it_arrives(
    context: Context, wants_stream: bool, kind: str, may_be_events: bool
) -> None:
    flow = context.send(BODY[:-1] + b',"stream": true}' if wants_stream else BODY)
    response = context.begin(flow, content_type=kind)
    assert callable(response.stream) is (wants_stream and may_be_events)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"body_size_limit": "1k"}, None),
        ({"body_size_limit": "1m", "stream_large_bodies": "10"}, None),
        ({"body_size_limit": "1m"}, b"data: 1\n\n" * 200),
    ],
)
def test_events_are_kept_as_far_as_mitmproxy_would(
    context: Context, options: dict[str, str], kept: bytes | None
) -> None:
    context.options.update(**options)
    flow = context.answer(context.send(), b"data: 1\n\n" * 200, content_type=EVENTS)
    assert flow.response
    assert flow.response.raw_content == kept


def test_streaming_can_be_off(context: Context) -> None:
    context.set(stream=False)
    flow = context.answer(context.send(), b"data: 1\n\n", content_type=EVENTS)
    assert flow.response
    assert not flow.response.stream
    assert flow.response.raw_content == b"data: 1\n\n"


def test_response_that_another_addon_streams_is_read_and_not_kept(
    context: Context, log: Log
) -> None:
    flow = context.send()
    flow.response = http.Response.make(200, b"", {"content-type": "application/json"})
    flow.response.raw_content = None
    flow.response.stream = True
    context.addon.responseheaders(flow)
    context.addon.streaming.responseheaders(flow)
    assert callable(tap := flow.response.stream)
    assert tap(usage(2048, 1024)) == [usage(2048, 1024)]
    context.end(flow)
    assert flow.response.raw_content is None
    assert fields(log()[-1])["cached"] == "1024"


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_response_that_another_addon_has_made_stays_as_it_is(context: Context, kind: str) -> None:
    flow = context.send(BODY[:-1] + b',"stream":true}')
    flow.response = http.Response.make(418, b"made", {"content-type": kind})
    context.addon.responseheaders(flow)
    context.addon.streaming.responseheaders(flow)
    context.end(flow)
    assert flow.response.content == b"made"
    assert not flow.response.stream


def test_response_that_another_addon_changes_on_its_way_is_the_other_addons(
    context: Context,
) -> None:
    flow = context.send()
    response = context.begin(flow, content_type=EVENTS)
    response.stream = bytes.upper
    context.end(flow)
    assert response.raw_content is None


def test_edit_of_a_streamed_response_is_undone_with_one_warning(context: Context, log: Log) -> None:
    for _ in range(2):
        flow = context.send()
        response = context.begin(flow, content_type=EVENTS)
        assert callable(response.stream)
        response.stream(b"data: 1\n\n")
        response.stream(b"")
        asyncio.run(context.addon.response(flow))
        response.text = "edited"
        context.addon.streaming.response(flow)
        assert response.raw_content == b"data: 1\n\n"
        assert response.headers["content-length"] == "0"
    (warning,) = warnings(log())
    assert "prompt_cache_stream=false" in warning


def test_streamed_response_that_broke_off_keeps_what_has_passed(context: Context) -> None:
    flow = context.send()
    response = context.begin(flow, content_type=EVENTS)
    assert callable(response.stream)
    response.stream(b"data: 1\n\ndata: ")
    asyncio.run(context.addon.error(flow))
    assert response.raw_content == b"data: 1\n\ndata: "


# The place among the addons


def test_place_is_before_save_and_is_given_up_at_the_end(context: Context, tmp_path: Path) -> None:
    context.options.confdir = str(tmp_path)
    context.addon.running()
    chain = [type(addon).__name__ for addon in context.master.addons.chain]
    assert chain[chain.index("Save") - 1] == "Streaming"
    context.addon.streaming.remove()
    context.addon.streaming.remove()
    assert "Streaming" not in [type(addon).__name__ for addon in context.master.addons.chain]


def test_place_without_save_is_the_last(context: Context) -> None:
    with taddons.context() as bare:
        context.addon.streaming.install()
        assert bare.master.addons.chain[-1] is context.addon.streaming


def key_in(sent: bytes) -> str:
    """Return the key with which a body begins."""
    name, _, value = sent.partition(b":")
    assert name == b'{"prompt_cache_key"'
    return value.split(b'"')[1].decode()
