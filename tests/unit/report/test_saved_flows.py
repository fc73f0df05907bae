import asyncio
import gzip
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.dialects import DIALECTS
from lib.recordings import records
from mitmproxy import flow, http
from mitmproxy.net import encoding
from mitmproxy.test import tflow
from prompt_cache_key import outcome
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.report.saved_flows import MAX_BODY, finished_in, read
from prompt_cache_key.usage.reader import Usage
from unit.context import addon_context
from unit.report.saved import ID, URL, exchange, request_body, usage_body
from unit.usage import test_accounting as counts


def asked(each: flow.Flow) -> FinishedRequest:
    found = read(each)
    assert found
    return found


@pytest.mark.parametrize(
    ("each", "agent"),
    [
        (exchange(request_body()), "main"),
        (exchange(b"", x_claude_code_session_id=ID, x_claude_code_agent_id="a1"), "a1"),
        (exchange(b"{1}", x_claude_code_session_id=ID), "main"),
        (exchange({"user": json.dumps({"session_id": ID})}), "main"),
        (exchange(request_body(), x_claude_code_agent_id="x" * 300), "unknown"),
    ],
)
def test_session_that_a_request_shows(each: http.HTTPFlow, agent: str) -> None:
    assert asked(each).conversation[:2] == (ID, agent)


def test_what_the_addon_put_on_the_flow() -> None:
    bridged = exchange({"model": "gpt-5.4"})
    bridged.metadata |= {"claude_session": ID, "claude_agent": "a1", "prompt_cache_key": "k1"}
    lost, streamed = bridged.copy(), bridged.copy()
    lost.request.raw_content = streamed.request.raw_content = None
    streamed.metadata["prompt_cache_model"] = "gpt-5.6"
    for each, model in ((bridged, "gpt-5.4"), (lost, "unknown"), (streamed, "gpt-5.6")):
        found = asked(each)
        assert (found.conversation[:3], found.key) == ((ID, "a1", model), "k1")


def test_metadata_of_another_type() -> None:
    each = exchange(request_body())
    each.metadata |= {"claude_session": [ID], "claude_agent": 7, "prompt_cache_key": {"a": 1}}
    found = asked(each)
    assert (found.session, found.agent, found.key) == (f"['{ID}']", "7", "{'a': 1}")
    each.metadata = None  # type: ignore[assignment]
    assert [request.session for request in finished_in([each])] == [ID]


@pytest.mark.parametrize(
    ("own", "key"),
    [("k1", "k1"), (" ", ""), (None, ""), (7, "7"), ("k" * 300, "k" * 255 + "…")],
)
def test_key_that_a_request_has(own: Any, key: str) -> None:
    assert asked(exchange(request_body(prompt_cache_key=own))).key == key


@pytest.mark.parametrize(
    ("model", "path", "name"),
    [
        (7, "/v1/messages", "unknown"),
        ("\x1b[31m", "/v1/messages", "\x1b[31m"),
        ("m" * 300, "/v1/messages", "m" * 255 + "…"),
        (None, "/openai/deployments/gpt-5.4-team/chat/completions?api-version=1", "gpt-5.4-team"),
        ("m", "/openai/deployments/gpt-5.4-team/chat/completions", "m"),
        (None, "/deployments//chat/completions", "unknown"),
    ],
)
def test_the_model_is_the_bodys_else_azures_deployment(model: Any, path: str, name: str) -> None:
    url = f"https://gateway.test{path}"
    assert asked(exchange(request_body(model=model), url=url)).model == name


def test_headers_by_which_the_upstream_routes() -> None:
    url = "https://chatgpt.com/backend-api/codex/responses"
    found = asked(exchange(request_body(), url=url, session_id="s" * 300, other="x"))
    assert found.routing == (("session-id", "s" * 255 + "…"),)
    assert asked(exchange(request_body(), session_id="s1")).routing == ()


@pytest.mark.parametrize(
    ("content", "coding"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b" " * (MAX_BODY + 1)), "gzip"),
        (b" " * (MAX_BODY + 1), ""),
        (b"{}", "\x1bunknown"),
    ],
)
def test_a_body_that_cannot_be_read(content: bytes, coding: str) -> None:
    each = exchange(content, x_claude_code_session_id=ID)
    each.request.headers["content-encoding"] = coding
    found = asked(each)
    assert (found.session, found.model, found.body) == (ID, "unknown", b"")


def test_a_host_that_is_no_name_is_not_looked_at() -> None:
    each = exchange(request_body())
    each.request.headers["host"] = " " * 60_000
    assert read(each) is None


def test_the_project_is_the_folder_that_the_prompt_names() -> None:
    system = "# Environment\n - Primary working directory: /home/me/shop\n"
    assert asked(exchange(request_body(system=system))).project == "shop"
    assert asked(exchange(request_body())).project == ""


def test_endpoint_has_no_query() -> None:
    found = asked(exchange(request_body(), url=f"{URL}&key=secret"))
    assert found.endpoint == "https://gateway.test/v1/messages"


@pytest.mark.parametrize(
    ("at", "time"), [(1000.5, 1000.5), (-1.0, 0), (float("nan"), 0), (float("inf"), 0)]
)
def test_time_is_one_that_can_be_shown(at: float, time: float) -> None:
    assert asked(exchange(request_body(), at)).time == time


@pytest.mark.parametrize(
    ("url", "host", "keep"),
    [
        (URL, "gateway.test", 600),
        ("https://api.anthropic.com/v1/messages", "api.anthropic.com", 300),
        ("http://127.0.0.1/v1/messages", "api.anthropic.com", 300),
    ],
)
def test_how_long_the_upstream_keeps_a_prefix(url: str, host: str, keep: int) -> None:
    each = exchange(request_body(), url=url)
    each.request.host_header = host
    assert asked(each).upstream.retention == keep


@pytest.mark.parametrize("each", [exchange({"model": "m"}), exchange(b"\xff"), tflow.ttcpflow()])
def test_other_flows(each: flow.Flow) -> None:
    assert read(each) is None


EVENTS = (
    b'event: message_start\r\ndata: {"message": {"usage": {"input_tokens": 9}}}\r\n\r\n'
    b'event: message_delta\r\ndata: {"usage": {"input_tokens": 30, "cache_read_input_tokens": 70},'
    b' "diagnostics": {"cache_miss_reason": {"type": "tools_changed"}}}\r\n\r\n'
)
SEEN = Usage(100, 70, None, None)


def answer(content: bytes | None, **headers: str) -> http.Response:
    response = http.Response.make(200, b"", {"content-type": "text/event-stream", **headers})
    response.raw_content = content
    return response


def encoded(coding: str) -> http.Response:
    response = answer(EVENTS)
    response.encode(coding)
    return response


@pytest.mark.parametrize(
    ("response", "usage"),
    [
        (answer(EVENTS), SEEN),
        (encoded("zstd"), SEEN),
        (answer(gzip.compress(EVENTS)[:-9], **{"content-encoding": "gzip"}), SEEN),
        (answer(b"no brotli", **{"content-encoding": "br"}), None),
        (answer(None), None),
        (None, None),
    ],
)
def test_usage(response: http.Response | None, usage: Usage | None) -> None:
    found = asked(exchange(request_body(), answer=response))
    assert (found.usage, found.diagnosis) == (usage, "tools changed" if usage else "")


def test_requests_are_judged_in_the_order_of_their_answers_each_agents_apart() -> None:
    failed = exchange(request_body(), 1, http.Response.make(529))
    flows = [
        failed,
        exchange(request_body(), 2, usage_body(5000)),
        exchange(request_body(turns=2), 3, usage_body(9000, 4864)),
        exchange(request_body(turns=2), 3, usage_body(9000), x_claude_code_agent_id="a1"),
        exchange(request_body(turns=3), 604, usage_body(14_000, 128)),
        tflow.ttcpflow(),
    ]
    requests = [*finished_in(flows)]
    assert {(each.session, each.body) for each in requests} == {(ID, b"")}
    assert [(each.agent, each.is_first, each.missed) for each in requests] == [
        ("main", False, 0),
        ("main", True, 0),
        ("main", False, 0),
        ("a1", True, 0),
        ("main", False, 8872),
    ]
    for retention, kind in ((None, "expired"), (3600, "server-side")):
        miss = [*finished_in(flows, retention)][-1].miss
        assert miss
        assert miss.kind == kind


def test_a_request_in_whose_place_a_call_has_counted_is_left_out() -> None:
    flows = [exchange(request_body(), at, usage_body(5000)) for at in (1, 2)]
    flows[0].metadata["prompt_cache_counts"] = False
    assert [each.time for each in finished_in(flows)] == [2]


def test_what_a_response_leaves_out_is_known_from_the_conversation() -> None:
    """vLLM reports no cached tokens where there are none."""
    flows = [
        exchange(request_body(), 1, usage_body(5000, 128)),
        exchange(request_body(turns=2), 2, usage_body(9000, None)),
    ]
    assert [each.usage and each.usage.cached for each in finished_in(flows)] == [128, 0]


TURNS = [
    (DIALECTS["chat"].path, counts.chat(9000, 4000)),
    (DIALECTS["chat"].path, counts.chat(9000)),
    (DIALECTS["chat"].path, counts.chat(500, 9000, total_tokens=9600)),
    (DIALECTS["responses"].path, counts.responses(9000, 128, 8800)),
    (DIALECTS["messages"].path, counts.messages(3, 8000, 400)),
    (DIALECTS["messages"].path, counts.messages(9000, 8000, 0)),
    (DIALECTS["messages"].path, counts.messages(9000)),
]


@given(st.data())
def test_the_report_says_what_the_live_log_says(draw: st.DataObject) -> None:
    """Of any conversations, whole, cut off and coded."""
    live: list[FinishedRequest] = []
    flows: list[http.HTTPFlow] = []
    with addon_context() as context, pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "MAX_WAIT", None)
        patch.setattr(context.state.recent, "add", live.append)
        for at in range(draw.draw(st.integers(1, 9))):
            path, usage = draw.draw(st.sampled_from(TURNS))
            turns, is_streamed = draw.draw(st.integers(1, 9)), draw.draw(st.booleans())
            agent = draw.draw(st.sampled_from([{}, {"x-claude-code-agent-id": "a1"}]))
            asked = json.dumps(request_body(turns=turns, stream=is_streamed)).encode()
            each = context.flow(asked, agent, f"https://gateway.test{path}")
            each.request.timestamp_start = 1000.0 + at * draw.draw(st.sampled_from([1, 900]))
            asyncio.run(context.addon.request(each))
            answer = counts.stream_of(usage) if is_streamed else counts.body_of(usage)
            answer = answer[: draw.draw(st.just(len(answer)) | st.integers(0, len(answer)))]
            coding = draw.draw(st.sampled_from(["identity", "gzip", "br"]))
            context.answer(each, encoding.encode(answer, coding), content_encoding=coding)
            flows.append(each)
    assert [*finished_in(flows)] == [request._replace(body=b"", user=None) for request in live]


# The whole prompt and its cached part of each turn; the fifth and the last are misses.
TRUTH = [
    *((20_000, 0), (21_000, 19_968), (24_000, 20_992), (24_500, 23_936), (40_000, 5000)),
    *((41_000, 39_936), (45_000, 40_960), (45_300, 0)),
]


@pytest.mark.parametrize("has_total", [False, True])
@pytest.mark.parametrize("has_writes", [False, True])
@pytest.mark.parametrize("leaves_out", ["", "reads", "reads and writes"])
@pytest.mark.parametrize("make", [counts.chat, counts.responses, counts.messages])
def test_whatever_a_prompt_count_leaves_out_misses_are_misses(
    make: Any, leaves_out: str, has_writes: bool, has_total: bool
) -> None:
    flows = []
    for turn, (whole, cached) in enumerate(TRUTH):
        written = whole - cached - 20 if has_writes else 0
        prompt = whole - cached * ("reads" in leaves_out) - written * ("writes" in leaves_out)
        total = {"total_tokens": whole + 100} if has_total else {}
        answer = {"usage": make(prompt, cached, written if has_writes else None, **total)}
        # Words as many as tokens.
        sizes = [size for size, _ in TRUTH[: turn + 1]]
        said = ["w" * (size - last) for last, size in pairwise([0, *sizes])]
        roles = [("user", "assistant")[at % 2] for at, _ in enumerate(said)]
        turns = [{"role": role, "content": words} for role, words in zip(roles, said, strict=True)]
        body = request_body(messages=turns)
        flows.append(exchange(body, 1000 + turn, answer))
    found = [*finished_in(flows)]
    assert [at for at, each in enumerate(found) if each.miss] == [4, 7]
    usages = [each.usage for each in found if each.usage]
    for usage, (whole, cached) in zip(usages, TRUTH, strict=True):
        assert usage.cached == cached
        assert usage.input == whole or not usage.is_certain


def test_recorded_conversations() -> None:
    """With nothing cached at all, each request that could have read something has a miss."""
    flows = [
        exchange(
            record["body"].encode(),
            record["seq"],
            usage_body(20_000),
            url=f"https://gateway.test{record['path']}",
            method=record["method"],
            **dict(record["headers"]),
        )
        for record in sorted(records("claude_code"), key=lambda record: int(record["seq"]))
        if record["body"] and "count_tokens" not in record["path"]
    ]
    found = [*finished_in(flows)]
    causes = {int(each.time): each.miss.cause for each in found if each.miss}
    assert {214: "attribution block changed"}.items() <= causes.items()
    assert set(causes.values()) == {"attribution block changed", "server-side: evicted or rerouted"}
