import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy.test import tflow
from unit.context import BODY, HEADER, SESSION, URL, Context, key, usage

Log = Callable[[], list[str]]

RAW = f"user_{'a' * 64}_account__session_{SESSION}"
QUESTION = (
    b'{"model":"gpt","system":"You are an agent.\\nBe brief.",'
    b'"messages":[{"role":"user","content":"why is the sky blue?"}]}'
)
PROBLEM = f"WARNING [prompt-cache] no key for POST {URL[:-10]}, it goes on unchanged: "


def test_mapping(context: Context, log: Log) -> None:
    first, second = context.send(), context.send()
    assert first.request.content == b'{"prompt_cache_key":"%s",' % key(first).encode() + BODY[1:]
    assert key(second) == key(first)
    assert first.metadata == {
        "prompt_cache_key": key(first),
        "prompt_cache_state": "new",
        "claude_session": SESSION,
        "claude_agent": "main",
    }
    assert second.metadata["prompt_cache_state"] == "reused"
    assert first.comment == f"3f6c1c1e main gpt-5.4 key={key(first)[:8]}"
    line = f"INFO [prompt-cache] key={key(first)} session={SESSION} agent=main model=gpt-5.4"
    how = "source=header scope=session"
    assert log() == [f"{line} state=new {how}", f"{line} state=reused {how}"]
    assert key(context.send(headers={"X-Claude-Code-Session-Id": "other"})) != key(first)
    assert key(context.send(b'{"model":"gpt-5.4-mini"}')) != key(first)


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
def test_states(context: Context, content: bytes, overwrite: bool, state: str) -> None:
    context.set(overwrite=overwrite)
    flow = context.send(content)
    assert flow.metadata["prompt_cache_state"] == state
    assert flow.metadata["prompt_cache_key"] == (key(flow) if key(flow) != 7 else "")
    if state == "kept":
        assert flow.request.content == content
    else:
        assert len(key(flow)) == 36


def test_chosen_headers_get_the_same_value(context: Context) -> None:
    context.set(headers=["session-id", "", "x-grok-conv-id"])
    for content in (BODY, b'{"prompt_cache_key":"mine"}'):
        headers = context.send(content).request.headers
        assert headers["session-id"] == headers["x-grok-conv-id"] != ""


@pytest.mark.parametrize("own", ["a\r\nb", "ü", "x" * 257, 7, {"a": 1}, "\ud800"])
def test_own_key_that_no_header_can_carry(context: Context, own: object) -> None:
    context.set(headers=["session-id"])
    flow = context.send(json.dumps({"prompt_cache_key": own}).encode())
    assert flow.metadata["prompt_cache_state"] == "kept"
    assert "session-id" not in flow.request.headers
    flow.metadata["prompt_cache_key"].encode()


def test_headers_of_a_known_upstream(context: Context) -> None:
    url = "https://chatgpt.com/backend-api/codex/responses"
    flow = context.send(url=url)
    assert flow.request.headers["session-id"] == key(flow)
    assert context.send(headers=HEADER | {"session-id": "own"}, url=url).request.headers[
        "session-id"
    ] == ("own")
    context.set(headers=[])
    assert "session-id" not in context.send(url=url).request.headers


def test_scope(context: Context, log: Log) -> None:
    agents = [HEADER, HEADER | {"x-claude-code-agent-id": "a1"}]
    assert len({key(context.send(headers=headers)) for headers in agents}) == 1
    bad = HEADER | {"x-claude-code-agent-id": "ü"}
    assert context.send(headers=bad).metadata["claude_agent"] == "unknown"
    context.set(scope="agent")
    assert len({key(context.send(headers=headers)) for headers in agents}) == 2
    log()
    assert context.send(headers=bad).request.content == BODY
    assert log() == [PROBLEM + "its header x-claude-code-agent-id is malformed"]
    context.set(scope="user")
    sessions = [{"X-Claude-Code-Session-Id": name} for name in "ab"]
    assert len({key(context.send(headers=headers)) for headers in sessions}) == 1
    assert log()[-1].endswith(" source=header scope=user")
    ids = [json.dumps({"metadata": {"user_id": RAW.replace("a" * 64, x * 64)}}) for x in "ab"]
    assert len({key(context.send(body.encode(), {})) for body in ids}) == 2


def test_openai_6_is_asked_by_user_and_why_it_missed(context: Context) -> None:
    context.set(diagnose=True)
    url = "https://api.openai.com/v1/responses"
    content = b'{"model":"gpt-6"}'
    first = context.send(content, url=url)
    assert key(first) == key(context.send(content, {"X-Claude-Code-Session-Id": "other"}, url))
    assert b"prompt_cache_options" not in (first.request.content or b"")
    context.answer(first, b'{"id":"resp_1","object":"response","usage":{"input_tokens":9}}')
    asked = json.loads(context.send(content, url=url).request.content or b"")
    assert asked["prompt_cache_options"] == {"comparison_response_id": "resp_1"}
    own = b'{"model":"gpt-6","prompt_cache_options":{}}'
    assert (context.send(own, url=url).request.content or b"").endswith(own[1:])


def test_known_to_reject_it_behind_a_tunnel_and_for_some_models(context: Context, log: Log) -> None:
    url = "https://x.openai.azure.com/openai/v1/responses"
    assert context.send(b'{"model":"grok-5"}', url=url).request.content == b'{"model":"grok-5"}'
    assert log()[0].endswith("it goes on unchanged: the upstream rejects the field")
    assert key(context.send(b'{"model":"gpt-6"}', url=url))
    context.set(filter="~all")
    assert key(context.send(b'{"model":"grok-5"}', url=url))


def test_attribution_is_stripped(context: Context) -> None:
    context.set(strip=["attribution"])
    block = '{"type":"text","text":"x-anthropic-billing-header: cch=1;"}'
    for start in ('{"model":"m",', '{"prompt_cache_key":"mine",'):
        flow = context.send((start + f'"system":[{block},1]}}').encode())
        assert (flow.request.content or b"").endswith(b'"system":[1]}')
        assert key(flow)


# The bridge


def test_call_gets_the_key_of_its_cause(context: Context, log: Log) -> None:
    front = context.send(QUESTION, url="http://translator.test/v1/messages")
    calls = [context.send(QUESTION, {}) for _ in range(2)]
    assert {key(front)} == {key(call) for call in calls}
    assert log()[-1].endswith("state=reused source=bridge scope=session")
    for flow in (*calls, front):
        context.answer(flow, usage(2048, 1920))
    assert str(context.state.totals.all) == "requests=2 input=4096 cached=3840 hit=94%"
    assert key(context.send(QUESTION, {})) is None


def test_call_that_shows_its_session_counts_in_place_of_its_cause(context: Context) -> None:
    front = context.send(QUESTION, url="http://translator.test/v1/messages")
    call, _ = context.stream(context.flow(QUESTION))
    for flow in (front, call):
        context.answer(flow, usage(2048, 1920))
    assert str(context.state.totals.all) == "requests=1 input=2048 cached=1920 hit=94%"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_others_have_their_turn_while_the_cause_of_a_large_call_is_found(
    context: Context, is_streamed: bool
) -> None:
    large = QUESTION.replace(b"why", b"why? " * 600_000)
    fronts = [
        context.send(each, url="http://translator.test/v1/messages") for each in (large, QUESTION)
    ]
    call = context.flow(large)
    if is_streamed:
        context.stream(call)
    else:
        asyncio.run(context.addon.request(call))
    assert call.metadata["prompt_cache_key"] == key(fronts[0])
    context.answer(call, usage(2048, 0))
    context.answer(fronts[0], usage(1, 0))
    assert context.state.totals.all.input == 2048


def test_bridge_is_off(context: Context) -> None:
    context.set(bridge=False)
    context.send(QUESTION)
    assert context.send(QUESTION, {}, "http://other.test/messages").request.content == QUESTION


def test_bad_own_key_is_replaced_where_the_bridge_knows_the_session(context: Context) -> None:
    context.send(QUESTION, url="http://translator.test/v1/messages")
    flow = context.send(QUESTION[:-1] + b',"prompt_cache_key":"%s"}' % RAW[:64].encode(), {})
    assert flow.metadata["prompt_cache_state"] == "replaced"


@pytest.mark.parametrize("change", [{"live": False}, {"error": tflow.terr()}])
def test_client_that_goes_while_the_store_is_asked(
    context: Context, change: dict[str, Any], log: Log
) -> None:
    flow = context.flow()

    async def go_meanwhile() -> None:
        context.set(store="redis://127.0.0.1:1")
        asking = asyncio.create_task(context.addon.request(flow))
        await asyncio.sleep(0)
        for name, value in change.items():
            setattr(flow, name, value)
        await asking
        context.set(store="memory")

    asyncio.run(go_meanwhile())
    assert flow.request.content == BODY
    assert all("is lost, requests go on with the keys known here" in line for line in log())
