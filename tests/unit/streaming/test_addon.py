import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.test import taddons
from prompt_cache_key.body import MEMBER_SIZE
from prompt_cache_key.message_body import sent_content
from prompt_cache_key.streaming.addon import Streaming
from prompt_cache_key.streaming.held_request import MAX_HELD, HeldRequest
from unit.context import BODY, EVENTS, HEADER, SESSION, URL, Context, key, usage

Log = Callable[[], list[str]]

SHOWN = (
    b'{"model":"gpt-5.4","metadata":{"user_id":"{\\"session_id\\":\\"%s\\"}"}}' % SESSION.encode()
)
SPACE = b" " * MEMBER_SIZE
UNCHANGED = f"WARNING [prompt-cache] no key for POST {URL[:-10]}, it goes on unchanged: "


# Requests


@pytest.mark.parametrize(("body", "headers"), [(BODY, HEADER), (SHOWN, {})])
def test_streamed_request_gets_its_key(
    context: Context, body: bytes, headers: dict[str, str], log: Log
) -> None:
    flow, sent = context.stream(context.flow(body, headers))
    name = flow.metadata["prompt_cache_key"].encode()
    assert sent == b'{"prompt_cache_key":"%s",' % name + body[1:]
    assert flow.request.headers["content-length"] == str(len(sent)) == str(len(body) + MEMBER_SIZE)
    assert sent_content(flow) == body
    again, _ = context.stream(context.flow(body, headers))
    assert again.metadata["prompt_cache_state"] == "reused"
    assert len(log()) == 2
    context.answer(flow, usage(2048, 1920))
    assert "input=2048 cached=1920" in log()[0]
    assert sent_content(flow) == b""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[1]", "the body is not a JSON object"),
        (b'{"prompt_cache_key":' + b" " * 100 + b"0}", ""),  # the client's own
        (b'{"prompt_cache_key":null,"user":"' + b"x" * 50 + b'"}', ""),
        (b"{}", ""),
    ],
)
def test_streamed_request_has_the_length_that_was_promised(
    context: Context, body: bytes, why: str, log: Log
) -> None:
    flow, sent = context.stream(context.flow(body))
    assert len(sent) == len(body) + MEMBER_SIZE
    assert (UNCHANGED + why in log()) is bool(why)
    assert bool(flow.metadata) is not bool(why)


def test_streamed_request_that_would_grow_too_much(context: Context, log: Log) -> None:
    body = b'{"model":"gpt-5.4","prompt_cache_key":"","prompt_cache_key":""}'
    _, sent = context.stream(context.flow(body))
    assert sent == body + SPACE
    assert log()[-1] == UNCHANGED + "it is streamed, and would grow too much"


def test_streamed_request_without_a_length(context: Context) -> None:
    for body in (BODY, b'{"a":', b"{" + b" " * MAX_HELD + b"}"):
        flow = context.flow(body)
        del flow.request.headers["content-length"]
        flow, sent = context.stream(flow)
        assert "content-length" not in flow.request.headers
        assert len(sent) == len(body) + MEMBER_SIZE * (body == BODY)


@pytest.mark.parametrize(
    ("content", "headers", "url"),
    [
        (BODY, {"content-encoding": "br"}, URL),
        (BODY, {"content-length": str(MAX_HELD + 1)}, URL),
        (b"", {}, URL),
        (BODY, {}, "https://api.example.com/v1/files"),
    ],
)
def test_streamed_request_that_is_not_held(
    context: Context, content: bytes, headers: dict[str, str], url: str, log: Log
) -> None:
    flow, _ = context.stream(context.flow(content, HEADER | headers, url))
    assert flow.request.stream is True
    is_told = any("it is streamed (stream_large_bodies)" in line for line in log())
    assert is_told is (url == URL)


def test_streamed_request_never_waits(context: Context) -> None:
    async def wait(*_: object, **__: object) -> bytes:
        await asyncio.sleep(0)
        return b""

    flow = context.flow()
    flow.request.stream = True
    Streaming(context.state, lambda _: True, wait).requestheaders(flow)
    assert isinstance(flow.request.stream, HeldRequest)
    assert flow.request.stream(BODY) == [BODY + SPACE]
    assert flow.request.stream.problem == "it is streamed, and would have to wait"


def test_streamed_request_that_is_answered_before_it_is_whole(context: Context, log: Log) -> None:
    flow = context.flow()
    flow.request.stream = True
    context.addon.streaming.requestheaders(flow)
    assert isinstance(held := flow.request.stream, HeldRequest)
    context.answer(flow, status=413)
    assert held(BODY) == [BODY + SPACE]
    asyncio.run(context.addon.request(flow))
    assert not flow.metadata
    assert not log()


def test_headers_of_a_streamed_request_have_gone_without_the_key(
    context: Context, log: Log
) -> None:
    url = "https://chatgpt.com/backend-api/codex/responses"
    flow, sent = context.stream(context.flow(BODY, url=url))
    assert b"prompt_cache_key" in sent
    assert "session-id" not in flow.request.headers
    assert log()[0] == (
        f"WARNING [prompt-cache] {url}, no session-id: it is streamed, and its headers went on "
        "before its key was known"
    )


# Responses


@pytest.mark.parametrize("kind", ["text/event-stream", EVENTS])
def test_events_pass_and_are_kept(context: Context, kind: str) -> None:
    events = b"data: {}\n\ndata: " + usage(2048, 1920) + b"\n\n"
    flow = context.answer(context.send(), events, content_type=kind)
    assert flow.response
    assert flow.response.raw_content == events
    assert flow.comment == f"94% 1920/2048 3f6c1c1e main gpt-5.4 key={key(flow)[:8]}"


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


def test_what_someone_else_streams_is_looked_at_and_not_kept(context: Context, log: Log) -> None:
    flow = context.send()
    flow.response = http.Response.make(200, b"", {"content-type": "application/json"})
    flow.response.raw_content = None
    flow.response.stream = True
    context.addon.responseheaders(flow)
    context.addon.streaming.responseheaders(flow)
    assert callable(tap := flow.response.stream)
    assert tap(usage(2048, 1024)) == usage(2048, 1024)
    context.end(flow)
    assert flow.response.raw_content is None
    assert "cached=1024" in log()[-1]


def test_stream_that_another_addon_takes_over_keeps_nothing(context: Context) -> None:
    flow = context.send()
    response = context.begin(flow, content_type=EVENTS)
    response.stream = bytes.upper
    context.end(flow)
    assert response.raw_content is None


def test_edit_of_what_has_been_streamed_is_undone(context: Context, log: Log) -> None:
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
    (warning,) = (line for line in log() if line.startswith("WARNING"))
    assert warning.endswith("to have it edited: --set prompt_cache_stream=false")


# Its place among the addons


def test_place_is_before_save_and_given_up_at_the_end(context: Context, tmp_path: Path) -> None:
    context.options.confdir = str(tmp_path)
    context.addon.running()
    chain = [type(addon).__name__ for addon in context.master.addons.chain]
    assert chain[chain.index("Save") - 1] == "Streaming"
    context.addon.streaming.remove()
    context.addon.streaming.remove()
    assert "Streaming" not in [type(addon).__name__ for addon in context.master.addons.chain]


def test_place_without_save(context: Context) -> None:
    with taddons.context() as bare:
        context.addon.streaming.install()
        assert bare.master.addons.chain[-1] is context.addon.streaming


def test_held_request_shows_nothing_until_it_is_whole(context: Context) -> None:
    flow = context.flow()
    flow.request.stream = True
    context.addon.streaming.requestheaders(flow)
    assert isinstance(flow.request.stream, HeldRequest)
    assert sent_content(flow) == b""


def test_what_broke_off_is_kept(context: Context) -> None:
    flow = context.send()
    response = context.begin(flow, content_type=EVENTS)
    assert callable(response.stream)
    response.stream(b"data: 1\n\ndata: ")
    asyncio.run(context.addon.error(flow))
    assert response.raw_content == b"data: 1\n\ndata: "
