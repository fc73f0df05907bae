"""The addon in mitmproxy's own test context: every hook and command on real flows."""

import asyncio
import gzip
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import command, exceptions, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.flow import Flow
from mitmproxy.log import LegacyLogEvents
from mitmproxy.test import taddons, tflow, tutils
from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.log import LOGGER
from prompt_cache_key.request.stream import MEMBER_SIZE, RequestKey
from prompt_cache_key.show.table import COLUMNS

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
HEADER = {"X-Claude-Code-Session-Id": SESSION}
BODY = b'{"model":"gpt-5.4","messages":[]}'
QUESTION = b'{"model":"gpt","messages":[{"role":"user","content":"why is the sky blue?"}]}'
RAW = f"user_{'a' * 64}_account__session_{SESSION}"


class Clock:
    """A clock that stands still until it is told otherwise."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Setup:
    """The addon in a test context, with a way to make and send flows."""

    def __init__(self, context: taddons.context, addon: PromptCacheKey, clock: Clock) -> None:
        self.context = context
        self.addon = addon
        self.clock = clock

    def flow(
        self,
        content: bytes = BODY,
        headers: dict[str, str] = HEADER,
        url: str = "https://api.openai.com/v1/messages?beta=true",
        method: str = "POST",
    ) -> http.HTTPFlow:
        request = http.Request.make(method, url, content)
        request.headers.update(headers)
        flow = tflow.tflow(req=request)
        flow.live = True
        return flow

    def send(self, *args: Any, **kwargs: Any) -> http.HTTPFlow:
        flow = self.flow(*args, **kwargs)
        self.addon.requestheaders(flow)
        self.addon.request(flow)
        return flow

    def answer(
        self, flow: http.HTTPFlow, content: bytes = b"{}", status: int = 200, **headers: str
    ) -> http.HTTPFlow:
        """Answer as mitmproxy does: headers, then the body through `stream` or at once."""
        flow.response = http.Response.make(
            status, b"", {name.replace("_", "-"): value for name, value in headers.items()}
        )
        flow.response.raw_content = None
        self.addon.responseheaders(flow)
        if callable(flow.response.stream):
            for byte in content:
                assert flow.response.stream(bytes([byte])) == bytes([byte])
            assert not flow.response.stream(b"")
        elif not flow.response.stream:
            flow.response.raw_content = content
        self.addon.response(flow)
        return flow


@pytest.fixture(name="setup")
def _setup(caplog: pytest.LogCaptureFixture) -> Iterator[Setup]:
    caplog.set_level(logging.DEBUG, "prompt_cache_key")
    clock = Clock()
    addon = PromptCacheKey(clock)
    with taddons.context(Proxyserver(), addon) as context:
        yield Setup(context, addon, clock)


@pytest.fixture(name="lines")
def _lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines logged since the last call, with their level."""

    def lines() -> list[str]:
        records = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return records

    return lines


Lines = Callable[[], list[str]]


def key(flow: http.HTTPFlow) -> Any:
    return json.loads(flow.request.content or b"{}").get("prompt_cache_key")


def usage(input_: int, cached: int) -> bytes:
    details = {"cached_tokens": cached}
    return json.dumps(
        {"usage": {"prompt_tokens": input_, "prompt_tokens_details": details}}
    ).encode()


# Options


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("ttl", "soon", "prompt_cache_ttl: 'soon' is not a time span such as 90s, 30m, 1h or 2d"),
        ("max_sessions", 0, "prompt_cache_max_sessions: 0 is less than 1"),
        ("scope", "x", "prompt_cache_scope: 'x' is not one of session, agent"),
        ("headers", ["a b"], "prompt_cache_headers: 'a b' is not a header name"),
        ("filter", "~~", "prompt_cache_filter: Invalid filter expression: '~~'"),
    ],
)
def test_bad_value_leaves_the_old_one(
    setup: Setup, option: str, value: object, message: str
) -> None:
    before = setup.addon.options
    with pytest.raises(exceptions.OptionsError) as error:
        setup.context.configure(setup.addon, **{f"prompt_cache_{option}": value})
    assert str(error.value) == message
    assert setup.addon.options == before


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("prompt_cache_max_sessions=abc", "prompt_cache_max_sessions: "),
        ("prompt_cache_sliding=maybe", "prompt_cache_sliding: "),
        ("prompt_cache_ttl=abc", "prompt_cache_ttl: 'abc' is not a time span"),
    ],
)
def test_bad_value_set_before_loading_is_one_error(setting: str, words: str, lines: Lines) -> None:
    with taddons.context() as context:
        context.options.set(setting, defer=True)
        with pytest.raises(exceptions.OptionsError):
            context.master.addons.add(PromptCacheKey())
    (line,) = lines()
    assert line.startswith("ERROR [prompt-cache] not loaded, an option has a bad value: ")
    assert line.count(words) == 1


def test_options_take_effect_while_running(setup: Setup) -> None:
    first = key(setup.send())
    setup.context.configure(setup.addon, prompt_cache_ttl="10s", prompt_cache_sliding=False)
    setup.clock.now = 9.9
    assert key(setup.send()) == first
    setup.clock.now = 10
    assert key(setup.send()) != first
    setup.context.configure(setup.addon, prompt_cache_keys="derived")
    derived = key(setup.send())
    setup.clock.now = 20
    assert key(setup.send()) == derived
    setup.context.configure(setup.addon, prompt_cache_keys="random")
    assert key(setup.send()) != derived


def test_stream_large_bodies_is_warned_of(setup: Setup, lines: Lines) -> None:
    setup.context.configure(setup.addon, stream_large_bodies="1m")
    (line,) = lines()
    assert line.startswith("WARNING [prompt-cache] stream_large_bodies=1m: ")


@pytest.mark.parametrize(
    ("address", "mode", "here"),
    [
        (("127.0.0.1", 8080), "reverse", "ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude"),
        (("::", 8080, 0, 0), "reverse", "ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude"),
        (("::1", 8080, 0, 0), "reverse", "ANTHROPIC_BASE_URL=http://[::1]:8080 claude"),
        (
            ("0.0.0.0", 1),
            "regular",
            "HTTPS_PROXY=http://127.0.0.1:1 NODE_EXTRA_CA_CERTS={ca} claude",
        ),
        (None, "local", "NODE_EXTRA_CA_CERTS={ca} claude"),
    ],
)
def test_active_line(
    setup: Setup, lines: Lines, address: tuple[Any, ...] | None, mode: str, here: str
) -> None:
    proxyserver: Any = setup.context.master.addons.get("proxyserver")
    proxyserver.servers = [
        SimpleNamespace(
            listen_addrs=[address] if address else [], mode=SimpleNamespace(type_name=mode)
        )
    ]
    setup.addon.running()
    ca = Path(setup.context.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
    assert lines() == [
        "INFO [prompt-cache] active: ttl=1h sliding=true max_sessions=10000 scope=session "
        'keys=random store=memory overwrite=false headers="" stream=true comment=true '
        "strip_attribution=false bridge=true; "
        f"point Claude Code here: {here.format(ca=ca)}"
    ]


def test_deprecated_event_of_a_line_only_for_who_listens(setup: Setup) -> None:
    setup.addon.running()
    handlers = logging.getLogger().handlers
    (handler,) = (each for each in handlers if isinstance(each, LegacyLogEvents))
    # mitmproxy adds a condition of its own to what they say, which differs in a test.
    (is_heard,) = handler.filters
    assert callable(is_heard)
    ours, other = (
        logging.LogRecord(name, logging.INFO, "", 0, "", (), None) for name in (LOGGER, "other")
    )
    assert (is_heard(ours), is_heard(other)) == (False, True)
    setup.context.master.addons.add(SimpleNamespace(name="listener", add_log=print))
    assert (is_heard(ours), is_heard(other)) == (True, True)


# Requests


def test_mapping(setup: Setup, lines: Lines) -> None:
    first, second = setup.send(), setup.send()
    assert first.request.content == b'{"prompt_cache_key":"%s",' % key(first).encode() + BODY[1:]
    assert key(second) == key(first)
    assert first.metadata == {
        "prompt_cache_key": key(first),
        "prompt_cache_state": "new",
        "claude_session": SESSION,
        "claude_agent": "main",
    }
    assert second.metadata["prompt_cache_state"] == "reused"
    line = f"INFO [prompt-cache] key={key(first)} session={SESSION} agent=main model=gpt-5.4"
    assert lines() == [f"{line} state=new source=header", f"{line} state=reused source=header"]
    assert key(setup.send(headers={"X-Claude-Code-Session-Id": "other"})) != key(first)
    assert key(setup.send(b'{"model":"gpt-5.4-mini"}')) != key(first)


@pytest.mark.parametrize(
    ("content", "overwrite", "state"),
    [
        (b'{"prompt_cache_key":"mine"}', False, "kept"),
        (b'{"prompt_cache_key":7}', False, "kept"),
        (b'{"prompt_cache_key":"mine"}', True, "replaced"),
        (b'{"prompt_cache_key":" "}', False, "new"),
        (b'{"prompt_cache_key":null}', False, "new"),
        (json.dumps({"prompt_cache_key": RAW}).encode(), False, "replaced"),
        (json.dumps({"prompt_cache_key": RAW[:64]}).encode(), False, "replaced"),
        (b"{}", False, "new"),
        (b'{"model":null}', False, "new"),
    ],
)
def test_states(setup: Setup, content: bytes, overwrite: bool, state: str) -> None:
    setup.context.configure(setup.addon, prompt_cache_overwrite=overwrite)
    flow = setup.send(content)
    assert flow.metadata["prompt_cache_state"] == state
    assert flow.metadata["prompt_cache_key"] == str(key(flow))
    if state == "kept":
        assert flow.request.content == content
    else:
        assert len(key(flow)) == 36


def test_headers_get_the_same_value(setup: Setup) -> None:
    setup.context.configure(setup.addon, prompt_cache_headers=["session-id", "x-grok-conv-id"])
    for content in (BODY, b'{"prompt_cache_key":"mine"}'):
        flow = setup.send(content)
        assert flow.request.headers["session-id"] == key(flow)
        assert flow.request.headers["x-grok-conv-id"] == key(flow)


def test_scope(setup: Setup, lines: Lines) -> None:
    agents = [HEADER, HEADER | {"x-claude-code-agent-id": "a1"}]
    assert len({key(setup.send(headers=headers)) for headers in agents}) == 1
    bad = HEADER | {"x-claude-code-agent-id": "ü"}
    assert setup.send(headers=bad).metadata["claude_agent"] == "unknown"
    setup.context.configure(setup.addon, prompt_cache_scope="agent")
    assert len({key(setup.send(headers=headers)) for headers in agents}) == 2
    lines()
    assert setup.send(headers=bad).request.content == BODY
    (line,) = lines()
    assert line.endswith("it goes on unchanged: its header x-claude-code-agent-id is malformed")


@pytest.mark.parametrize(
    "change",
    [
        {"live": False},
        {"is_replay": "request"},
        {"response": tutils.tresp()},
        {"error": tflow.terr()},
    ],
)
def test_flows_that_are_not_touched(setup: Setup, change: dict[str, Any], lines: Lines) -> None:
    flow = setup.flow()
    for name, value in change.items():
        setattr(flow, name, value)
    setup.addon.request(flow)
    assert flow.request.content == BODY
    assert not lines()


@pytest.mark.parametrize(
    ("content", "headers", "why"),
    [
        (b"[]", HEADER, "the body is not a JSON object"),
        (
            b"plain",
            HEADER | {"content-encoding": "gzip"},
            "its content-encoding is unknown, or the body is corrupt",
        ),
        (b'{"a":' * 100_000, HEADER, "the body nests too deep"),
        (
            json.dumps({"prompt_cache_key": RAW[:64]}).encode(),
            {},
            "it shows no session, and its own key is a user id, a bad key",
        ),
    ],
)
def test_warned_of_once(
    setup: Setup, lines: Lines, content: bytes, headers: dict[str, str], why: str
) -> None:
    for _ in range(2):
        flow = setup.flow(b"", headers)
        flow.request.raw_content = content
        setup.addon.request(flow)
        assert flow.request.raw_content == content
    assert lines() == [
        "WARNING [prompt-cache] no key for POST https://api.openai.com/v1/messages, "
        f"it goes on unchanged: {why}"
    ]


def test_no_session_is_a_debug_line(setup: Setup, lines: Lines) -> None:
    assert setup.send(headers={}).request.content == BODY
    assert lines() == ["DEBUG [prompt-cache] no key: the request shows no session"]


def test_coded_body_stays_coded(setup: Setup) -> None:
    flow = setup.flow(gzip.compress(BODY), HEADER | {"content-encoding": "gzip"})
    setup.addon.request(flow)
    assert json.loads(gzip.decompress(flow.request.raw_content or b""))["prompt_cache_key"]


# Streamed requests


def streamed(setup: Setup, content: bytes, **headers: str) -> tuple[http.HTTPFlow, bytes]:
    flow = setup.flow(content, HEADER | headers)
    flow.request.stream = True
    flow.request.raw_content = None
    setup.addon.requestheaders(flow)
    sent = b""
    if isinstance(flow.request.stream, RequestKey):
        chunks = [bytes([byte]) for byte in content] + [b""]
        sent = b"".join(part for chunk in chunks for part in flow.request.stream(chunk))
    setup.addon.request(flow)
    return flow, sent


def test_streamed_request_gets_its_key(setup: Setup) -> None:
    flow, sent = streamed(setup, BODY)
    assert (
        sent == b'{"prompt_cache_key":"%s",' % flow.metadata["prompt_cache_key"].encode() + BODY[1:]
    )
    assert flow.request.headers["content-length"] == str(len(BODY) + MEMBER_SIZE) == str(len(sent))
    assert [streamed(setup, BODY)[0].metadata["prompt_cache_state"]] == ["reused"]


def test_streamed_request_without_length(setup: Setup) -> None:
    flow = setup.flow()
    del flow.request.headers["content-length"]
    flow.request.stream = True
    setup.addon.requestheaders(flow)
    assert "content-length" not in flow.request.headers


def test_streamed_request_without_model_is_padded(setup: Setup, lines: Lines) -> None:
    flow, sent = streamed(setup, b"{}")
    assert sent == b"{}" + b" " * MEMBER_SIZE
    assert not flow.metadata
    (line,) = lines()
    assert line.endswith("unchanged: it is streamed, and its model is not at the beginning")


@pytest.mark.parametrize("headers", [{"X-Claude-Code-Session-Id": ""}, {"content-encoding": "br"}])
def test_streamed_request_that_is_left_alone(
    setup: Setup, lines: Lines, headers: dict[str, str]
) -> None:
    flow, _ = streamed(setup, BODY, **headers)
    assert flow.request.stream is True
    (line,) = lines()
    assert "stream_large_bodies" in line


# The bridge


def test_bridge(setup: Setup, lines: Lines) -> None:
    setup.context.configure(setup.addon, prompt_cache_scope="agent")
    front = setup.send(QUESTION, HEADER | {"x-claude-code-agent-id": "a1"})
    lines()
    call = setup.send(QUESTION, {})
    assert key(call) == key(front)
    assert lines()[0].endswith("state=reused source=bridge")
    assert key(setup.send(QUESTION.replace(b"sky", b"sea"), {})) is None
    setup.context.configure(setup.addon, prompt_cache_bridge=False)
    assert key(setup.send(QUESTION, {})) is None
    setup.context.configure(setup.addon, prompt_cache_bridge=True)
    setup.answer(front)
    assert key(setup.send(QUESTION, {})) is None


def test_calls_count_in_place_of_the_request_that_caused_them(setup: Setup, lines: Lines) -> None:
    front = setup.send(QUESTION)
    overloaded, *calls = (setup.send(QUESTION, {}) for _ in range(3))
    setup.answer(overloaded, status=503)
    for flow in (*calls, front):
        setup.answer(flow, usage(2048, 1920))
    lines()
    setup.addon.done()
    assert lines()[-1].endswith("total sessions=1 requests=3 input=4096 cached=3840 hit=94%")


def test_the_attribution_block_is_seen_in_what_the_translator_got(
    setup: Setup, lines: Lines
) -> None:
    for number in range(5):
        block = b',"system":[{"type":"text","text":"x-anthropic-billing-header: cch=%d;"}]' % number
        front = setup.send(QUESTION[:-1] + block + b"}")
        for flow in (setup.send(QUESTION, {}), front):
            setup.answer(flow, usage(2048, 0))
    (warning,) = (line for line in lines() if line.startswith("WARNING"))
    assert "5 large prompts" in warning
    assert "likely causes: Claude Code's attribution block" in warning


def test_a_call_without_usage_leaves_it_to_the_request(setup: Setup, lines: Lines) -> None:
    front = setup.send(QUESTION)
    setup.answer(setup.send(QUESTION, {}))
    setup.answer(front, usage(2048, 1920))
    lines()
    setup.addon.done()
    assert lines()[-1].endswith("total sessions=1 requests=2 input=2048 cached=1920 hit=94%")


# Responses


@pytest.mark.parametrize("kind", ["text/event-stream", "text/event-stream; charset=utf-8"])
def test_events_pass_and_are_kept(setup: Setup, lines: Lines, kind: str) -> None:
    events = b"data: {}\n\ndata: " + usage(2048, 1920) + b"\n\n"
    flow = setup.send()
    lines()
    setup.answer(flow, events, content_type=kind)
    assert flow.response
    assert flow.response.raw_content == events
    assert lines() == [
        f"INFO [prompt-cache] usage key={key(flow)} session={SESSION} model=gpt-5.4 "
        "input=2048 cached=1920 hit=94%"
    ]
    assert flow.comment == f"3f6c1c1e main gpt-5.4 key={key(flow)[:8]} 1920/2048 94%"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"body_size_limit": "1k"}, None),
        ({"body_size_limit": "1m", "stream_large_bodies": "10"}, None),
        ({"body_size_limit": "1m"}, b"data: 1\n\n" * 200),
    ],
)
def test_events_are_kept_as_far_as_mitmproxy_would(
    setup: Setup, options: dict[str, str], kept: bytes | None
) -> None:
    setup.context.options.update(**options)
    flow = setup.answer(setup.send(), b"data: 1\n\n" * 200, content_type="text/event-stream")
    assert flow.response
    assert flow.response.raw_content == kept


def test_streaming_can_be_off_or_another_addons(setup: Setup) -> None:
    setup.context.configure(setup.addon, prompt_cache_stream=False)
    flow = setup.answer(setup.send(), b"data: 1\n\n", content_type="text/event-stream")
    assert flow.response
    assert not flow.response.stream
    assert flow.response.raw_content == b"data: 1\n\n"
    setup.context.configure(setup.addon, prompt_cache_stream=True)
    flow = setup.send()
    flow.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    flow.response.raw_content = None
    flow.response.stream = True
    setup.addon.responseheaders(flow)
    setup.addon.response(flow)
    assert flow.response.stream is True
    assert flow.response.raw_content is None


def test_stream_that_another_addon_takes_over_keeps_nothing(setup: Setup) -> None:
    flow = setup.send()
    flow.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    flow.response.raw_content = None
    setup.addon.responseheaders(flow)
    flow.response.stream = True
    setup.addon.response(flow)
    assert flow.response.raw_content is None


def test_store_streamed_bodies_keeps_no_second_copy(setup: Setup) -> None:
    if "store_streamed_bodies" not in setup.context.options:
        setup.context.options.add_option("store_streamed_bodies", bool, True, "")
    setup.context.options.update(store_streamed_bodies=True)
    flow = setup.answer(setup.send(), b"data: 1\n\n", content_type="text/event-stream")
    assert flow.response
    assert flow.response.raw_content is None


def test_what_broke_off_is_reported(setup: Setup, lines: Lines) -> None:
    flow = setup.send()
    flow.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    flow.response.raw_content = None
    setup.addon.responseheaders(flow)
    assert callable(flow.response.stream)
    flow.response.stream(b"data: " + usage(2048, 1024) + b"\n\ndata: {")
    flow.error = tflow.terr()
    lines()
    setup.addon.error(flow)
    assert "input=2048 cached=1024 hit=50%" in lines()[0]
    assert (flow.response.raw_content or b"").endswith(b"data: {")
    setup.addon.response(flow)
    assert not lines()


def test_error_without_a_response(setup: Setup, lines: Lines) -> None:
    flow = setup.send()
    lines()
    setup.addon.error(flow)
    assert not lines()


def test_responses_of_other_flows_are_left_alone(setup: Setup, lines: Lines) -> None:
    flow = setup.answer(setup.send(headers={}), usage(2048, 0), content_type="text/event-stream")
    assert flow.response
    assert not flow.response.stream
    assert lines() == ["DEBUG [prompt-cache] no key: the request shows no session"]


def test_unread_coding_is_a_debug_line_once(setup: Setup, lines: Lines) -> None:
    for _ in range(2):
        setup.answer(setup.send(), b"?", content_encoding="br")
    assert [line for line in lines() if line.startswith("DEBUG")] == [
        "DEBUG [prompt-cache] https://api.openai.com/v1/messages, "
        "usage is not read: content-encoding br"
    ]


def test_comment_of_someone_else_stays(setup: Setup) -> None:
    flow = setup.flow()
    flow.comment = "mine"
    setup.addon.request(flow)
    assert setup.answer(flow, usage(2048, 0)).comment == "mine"
    flow = setup.send()
    flow.comment = "mine now"
    assert setup.answer(flow, usage(2048, 0)).comment == "mine now"
    setup.context.configure(setup.addon, prompt_cache_comment=False)
    assert setup.answer(setup.send(), usage(2048, 0)).comment == ""


@pytest.mark.parametrize("status", [400, 422])
def test_refusal(setup: Setup, lines: Lines, status: int) -> None:
    url = "https://api.example.com:8443/v1/messages"
    refusal = b'{"error":"Unsupported parameter(s): prompt_cache_key"}'
    first = setup.answer(setup.send(url=url + "?beta=true"), refusal, status)
    assert key(first)
    (line,) = [line for line in lines() if line.startswith("WARNING")]
    assert url in line
    assert "Unsupported parameter(s): prompt_cache_key" in line
    assert setup.send(url=url).request.content == BODY
    streaming = setup.flow(url=url)
    streaming.request.stream = True
    setup.addon.requestheaders(streaming)
    assert streaming.request.stream is True
    other = "https://api.example.com:8443/other/v1/messages"
    assert key(setup.send(url=other))
    assert key(setup.send())
    # The filter that the line names does the same after a restart.
    named = line.partition("--set 'prompt_cache_filter=")[2].removesuffix("'")
    setup.addon.refused.clear()
    setup.context.configure(setup.addon, prompt_cache_filter=named)
    assert setup.send(url=url + "?beta=true").request.content == BODY
    assert key(setup.send(url=other))


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (400, BODY, b"prompt is too long"),
        (200, BODY, b"prompt_cache_key"),
        (400, b'{"prompt_cache_key":"mine"}', b"prompt_cache_key"),
    ],
)
def test_no_refusal(setup: Setup, status: int, content: bytes, words: bytes) -> None:
    setup.answer(setup.send(content), words, status)
    assert key(setup.send())


@pytest.mark.parametrize("unstable", [True, False])
def test_zero_hits(setup: Setup, lines: Lines, unstable: bool) -> None:
    def turn(number: int, input_: int = 2000, cached: int = 0) -> None:
        block = f"x-anthropic-billing-header: cch={number if unstable else 0};"
        content = json.dumps({"model": "gpt", "system": [{"type": "text", "text": block}]})
        setup.answer(setup.send(content.encode()), usage(input_, cached))

    for number in range(4):
        turn(number)
    turn(4, 1999)
    assert not [line for line in lines() if line.startswith("WARNING")]
    turn(5)
    turn(6, 100)
    turn(7)
    (line,) = [line for line in lines() if line.startswith("WARNING")]
    assert SESSION in line
    assert ("CLAUDE_CODE_ATTRIBUTION_HEADER=0" in line) is unstable
    assert "the upstream reports no cached tokens; another addon rewrites bodies" in line


# Commands and shutdown


def test_sessions(setup: Setup) -> None:
    flow = setup.answer(setup.send(), usage(2048, 1920))
    setup.clock.now = 60
    header, row = setup.addon.sessions()
    assert header == COLUMNS
    assert row == [
        *(SESSION, "main", "gpt-5.4", key(flow), "new"),
        *("0:01:00", "0:59:00", "1", "2048", "1920", "94"),
    ]
    setup.clock.now = 3600
    assert setup.addon.sessions()[1][5:7] == ["-", "-"]
    assert setup.context.master.commands.execute("prompt_cache.sessions") == setup.addon.sessions()


def test_forget(setup: Setup, lines: Lines) -> None:
    before = key(setup.send())
    lines()
    setup.context.master.commands.execute(f"prompt_cache.forget {SESSION}")
    assert lines() == [f"INFO [prompt-cache] forgot keys=1 session={SESSION}"]
    assert key(setup.send()) != before
    with pytest.raises(exceptions.CommandError, match="no key is known for session nobody"):
        setup.addon.forget("nobody")


def test_explain(setup: Setup, lines: Lines) -> None:
    flows: list[Flow] = []

    class View:
        @command.command("view.flows.resolve")
        def resolve(self, _spec: str) -> Sequence[Flow]:
            return flows

    setup.context.master.addons.add(View())

    def turn(text: str, session: str = SESSION) -> http.HTTPFlow:
        content = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
        headers = {"X-Claude-Code-Session-Id": session}
        flow = setup.answer(setup.send(content.encode(), headers), usage(2048, 0))
        flow.timestamp_created = len(flows)
        flows.append(flow)
        return flow

    first = turn("a")
    turn("b", "other")
    flows.append(tflow.ttcpflow())
    last = turn("c")
    lines()
    setup.addon.explain(last)
    (line,) = lines()
    who = f"INFO [prompt-cache] explain session={SESSION} agent=main model=m: "
    assert line.startswith(f"{who}the prefix broke at messages[0].content, character 0: ")
    assert line.endswith("; the upstream reports input=2048 cached=0")
    assert last.comment.startswith("3f6c1c1e main m key=")
    assert last.comment.endswith("\nwas: a\nis: c")
    # A flow that was loaded, the addon not being there when it was saved.
    for flow in (first, last):
        flow.metadata.clear()
    last.request.content = first.request.content
    last.response = None
    setup.addon.explain(last)
    assert lines() == [f"{who}the prefix held; the upstream reports no usage"]
    with pytest.raises(exceptions.CommandError, match="no earlier request"):
        setup.addon.explain(first)
    for other in (tflow.ttcpflow(), setup.flow(b"?"), setup.flow(headers={})):
        with pytest.raises(exceptions.CommandError, match="shows no Claude Code session"):
            setup.addon.explain(other)


def test_attribution_is_stripped(setup: Setup) -> None:
    setup.context.configure(setup.addon, prompt_cache_strip_attribution=True)
    block = '{"type":"text","text":"x-anthropic-billing-header: cch=1;"}'
    for start in ('{"model":"m",', '{"prompt_cache_key":"mine",'):
        flow = setup.send((start + f'"system":[{block},1]}}').encode())
        assert (flow.request.content or b"").endswith(b'"system":[1]}')
        assert key(flow)


def test_summary(setup: Setup, lines: Lines) -> None:
    setup.addon.done()
    assert not lines()
    setup.answer(setup.send(), usage(2048, 1920))
    lines()
    setup.addon.done()
    assert lines() == [
        f"INFO [prompt-cache] session={SESSION} requests=1 input=2048 cached=1920 hit=94%",
        "INFO [prompt-cache] total sessions=1 requests=1 input=2048 cached=1920 hit=94%",
    ]


# The store; here one that is away, test_fleet.py has those that answer


def test_store_that_is_away(caplog: pytest.LogCaptureFixture, lines: Lines) -> None:
    caplog.set_level(logging.INFO, "prompt_cache_key")

    async def use() -> None:
        addon = PromptCacheKey(Clock())
        with taddons.context(Proxyserver(), addon) as context:
            context.configure(addon, prompt_cache_store="redis://user:secret@127.0.0.1:1/0")
            setup = Setup(context, addon, Clock())

            async def send(content: bytes = BODY, **changes: object) -> http.HTTPFlow:
                flow = setup.flow(content)
                waiting = addon.request(flow)
                assert waiting
                for name, value in changes.items():
                    setattr(flow, name, value)
                await waiting
                return flow

            first = key(await send())
            assert first
            assert key(await send()) == first
            assert key(await send(live=False)) is None
            assert key(await send(error=tflow.terr())) is None
            streamed_key = streamed(setup, BODY)[0].metadata["prompt_cache_key"]
            assert streamed_key == first
            assert addon.store
            with pytest.raises(exceptions.CommandError, match="the store is lost"):
                addon.forget(SESSION)
            addon.store.lost = False
            addon.forget(SESSION)
            assert key(await send()) != first
            addon.running()
            context.configure(addon, prompt_cache_keys="derived")
            assert not addon.store
            context.configure(addon, prompt_cache_keys="random")
            store = addon.store
            context.configure(addon, prompt_cache_store="memory")
            assert store
            assert not addon.store
            addon.running()

    asyncio.run(use())
    said = lines()
    warnings = [line for line in said if line.startswith("WARNING")]
    assert warnings
    assert all("requests go on with the keys known here" in line for line in warnings)
    assert "secret" not in "".join(said)


def test_store_that_is_none(setup: Setup) -> None:
    with pytest.raises(exceptions.OptionsError, match="prompt_cache_store: "):
        setup.context.configure(setup.addon, prompt_cache_store="http://127.0.0.1")
