import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from log_lines import fields
from mitmproxy import http
from mitmproxy.test import tflow
from prompt_cache_key.inject import LARGE
from unit.context import BODY, HEADER, SESSION, Context, key, usage

Log = Callable[[], list[str]]

RAW = f"user_{'a' * 64}_account__session_{SESSION}"
QUESTION = (
    b'{"model":"gpt","system":"You are an agent.\\nBe brief.",'
    b'"messages":[{"role":"user","content":"why is the sky blue?"}]}'
)
OTHER_SESSION = SESSION.replace("3", "4")
OPENAI = "https://api.openai.com/v1/responses"
CODEX = "https://chatgpt.com/backend-api/codex/responses"
FRONT = "http://translator.test/v1/messages"


def of_user(device: str, session: str, model: str = "m") -> bytes:
    """Return a body whose metadata names user and session."""
    user_id = f"user_{device}_account__session_{session}"
    return json.dumps({"model": model, "metadata": {"user_id": user_id}}).encode()


def test_a_session_has_one_key_for_each_model(context: Context, log: Log) -> None:
    first, second = context.send(), context.send()
    assert first.request.content == b'{"prompt_cache_key":"%s",' % key(first).encode() + BODY[1:]
    assert key(second) == key(first)
    assert first.metadata == {
        "prompt_cache_key": key(first),
        "prompt_cache_state": "new",
        "claude_session": SESSION,
        "claude_agent": "main",
        "prompt_cache_model": "gpt-5.4",
    }
    assert second.metadata["prompt_cache_state"] == "reused"
    assert first.comment == f"3f6c1c1e main gpt-5.4 key={key(first)[:8]}"
    lines = log()
    assert all(line.startswith("INFO [prompt-cache] key=") for line in lines)
    assert list(fields(lines[0]).items()) == [
        *(("key", key(first)), ("session", SESSION), ("agent", "main"), ("model", "gpt-5.4")),
        *(("state", "new"), ("source", "header"), ("scope", "session")),
    ]
    assert fields(lines[1])["state"] == "reused"
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
def test_own_key_that_is_not_blank_stays(
    context: Context, content: bytes, overwrite: bool, state: str
) -> None:
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
def test_own_key_that_fits_no_header_is_in_none(context: Context, own: object) -> None:
    context.set(headers=["session-id"])
    flow = context.send(json.dumps({"prompt_cache_key": own}).encode())
    assert flow.metadata["prompt_cache_state"] == "kept"
    assert "session-id" not in flow.request.headers
    flow.metadata["prompt_cache_key"].encode()


def test_known_upstream_gets_its_routing_headers(context: Context) -> None:
    url = CODEX
    flow = context.send(url=url)
    assert flow.request.headers["session-id"] == key(flow)
    assert context.send(headers=HEADER | {"session-id": "own"}, url=url).request.headers[
        "session-id"
    ] == ("own")
    context.set(headers=[])
    assert "session-id" not in context.send(url=url).request.headers


def test_scope_decides_who_shares_a_key(context: Context) -> None:
    agents = [HEADER, HEADER | {"x-claude-code-agent-id": "a1"}]
    assert len({key(context.send(headers=headers)) for headers in agents}) == 1
    context.set(scope="agent")
    assert len({key(context.send(headers=headers)) for headers in agents}) == 2
    context.set(scope="user")
    both = [of_user("a" * 64, session) for session in (SESSION, OTHER_SESSION)]
    assert len({key(context.send(body, {})) for body in both}) == 1
    assert key(context.send(of_user("b" * 64, SESSION), {})) != key(context.send(both[0], {}))


def test_agent_id_that_is_malformed_has_no_key_of_its_own(context: Context, log: Log) -> None:
    bad = HEADER | {"x-claude-code-agent-id": "ü"}
    assert context.send(headers=bad).metadata["claude_agent"] == "unknown"
    context.set(scope="agent")
    log()
    assert context.send(headers=bad).request.content == BODY
    (line,) = log()
    assert line.startswith("WARNING ")
    assert "x-claude-code-agent-id" in line


def test_unknown_user_is_no_user(context: Context, log: Log) -> None:
    context.set(scope="user")
    sessions = [{"X-Claude-Code-Session-Id": name} for name in "ab"]
    assert len({key(context.send(headers=headers)) for headers in sessions}) == 2
    assert fields(log()[-1])["scope"] == "session"


def test_auto_scope_is_the_upstreams(context: Context, log: Log) -> None:
    both = [of_user("a" * 64, session, "gpt-6") for session in (SESSION, OTHER_SESSION)]
    assert len({key(context.send(body, {}, OPENAI)) for body in both}) == 1
    assert fields(log()[-1])["scope"] == "user"
    assert len({key(context.send(body, {})) for body in both}) == 2


def test_upstream_that_explains_misses_is_asked(context: Context) -> None:
    context.set(diagnose=True)
    content = b'{"model":"gpt-6"}'
    first = context.send(content, url=OPENAI)
    assert b"prompt_cache_options" not in (first.request.content or b"")
    context.answer(first, b'{"id":"resp_1","object":"response","usage":{"input_tokens":9}}')
    asked = json.loads(context.send(content, url=OPENAI).request.content or b"")
    assert asked["prompt_cache_options"] == {"comparison_response_id": "resp_1"}
    own = b'{"model":"gpt-6","prompt_cache_options":{}}'
    assert (context.send(own, url=OPENAI).request.content or b"").endswith(own[1:])


def test_upstream_that_rejects_the_field_for_a_model_is_observed(
    context: Context, log: Log
) -> None:
    url = "https://x.openai.azure.com/openai/v1/responses"
    assert context.send(b'{"model":"grok-5"}', url=url).request.content == b'{"model":"grok-5"}'
    mapping = fields(log()[-1])
    assert mapping["state"] == "observed"
    assert "key" not in mapping
    assert key(context.send(b'{"model":"gpt-6"}', url=url))
    context.set(filter="~all")
    assert key(context.send(b'{"model":"grok-5"}', url=url))


@pytest.mark.parametrize(
    "header",
    [
        {"x-amz-content-sha256": "e3b0"},
        {"content-md5": "1B2M"},
        {"digest": "sha-256=x"},
        {"authorization": "AWS4-HMAC-SHA256 Credential=x"},
    ],
)
def test_signed_request_is_observed(context: Context, header: dict[str, str]) -> None:
    context.set(headers=["session-id"])
    flow = context.flow(headers=HEADER | header)
    before = flow.request.headers.fields
    asyncio.run(context.addon.request(flow))
    assert flow.request.content == BODY
    assert flow.request.headers.fields == before
    assert flow.metadata["prompt_cache_state"] == "observed"


def test_body_with_two_blank_keys_gets_the_key_that_is_logged(context: Context, log: Log) -> None:
    flow = context.send(b'{"model":"m","prompt_cache_key":"","prompt_cache_key":""}')
    sent = json.loads(flow.request.content or b"", object_pairs_hook=list)
    logged = fields(log()[-1])["key"]
    assert {value for name, value in sent if name == "prompt_cache_key"} == {logged}


def test_attribution_is_stripped(context: Context) -> None:
    context.set(strip=["attribution"])
    block = '{"type":"text","text":"x-anthropic-billing-header: cch=1;"}'
    for start in ('{"model":"m",', '{"prompt_cache_key":"mine",'):
        flow = context.send((start + f'"system":[{block},1]}}').encode())
        assert (flow.request.content or b"").endswith(b'"system":[1]}')
        assert key(flow)


def test_text_that_cannot_be_found_costs_neither_other_texts_nor_the_key(
    context: Context, log: Log
) -> None:
    context.set(strip=["countdown", "attribution"])
    block = b'{"type":"text","text":"x-anthropic-billing-header: cch=1;"}'
    rest = b'"messages":["total_tokens",%s]}' % b",".join([b"0"] * 200_000)
    for _ in range(2):
        flow = context.send(b'{"model":"m","system":[%s,1],%s' % (block, rest))
        sent = flow.request.content or b""
        assert sent.startswith(b'{"prompt_cache_key":"')
        assert sent.endswith(b'"system":[1],' + rest)
    (warning,) = (line for line in log() if line.startswith("WARNING"))
    assert "countdown is not stripped" in warning


# Headers


def test_header_of_each_session_has_a_key_of_its_own(context: Context) -> None:
    context.set(scope="user")
    url = "https://openrouter.ai/api/v1/chat/completions"
    both = [context.send(of_user("a" * 64, s), {}, url) for s in (SESSION, OTHER_SESSION)]
    assert len({key(each) for each in both}) == 1
    ids = {each.request.headers["x-session-id"] for each in both}
    assert len(ids) == 2
    assert key(both[0]) not in ids


def test_header_that_a_client_changes_with_each_request_is_replaced(
    context: Context, log: Log
) -> None:
    sent = [
        context.send(headers=HEADER | {"session-id": value}, url=CODEX).request.headers
        for value in "abcd"
    ]
    name = key(context.send(url=CODEX))
    assert [each["session-id"] for each in sent] == ["a", "b", name, name]
    (warning,) = (line for line in log() if line.startswith("WARNING"))
    assert "session-id" in warning


def routing(context: Context, flow: http.HTTPFlow) -> dict[str, str]:
    """Return the routing headers by which a request is judged."""
    context.answer(flow, usage(2048, 0))
    return dict(context.state.recent()[-1].routing)


def test_routing_headers_by_which_a_request_is_judged_are_those_that_were_sent(
    context: Context,
) -> None:
    own = HEADER | {"Session-Id": "own"}
    sent = context.send(url=CODEX)
    assert routing(context, sent)["session-id"] == key(sent)
    assert routing(context, context.send(headers=own, url=CODEX))["session-id"] == "own"
    held, _ = context.stream(context.flow(url=CODEX))
    assert routing(context, held) == {}
    held, _ = context.stream(context.flow(headers=own, url=CODEX))
    assert routing(context, held) == {"session-id": "own"}


# The bridge


def total(context: Context) -> tuple[int, int, int]:
    sums = context.state.sessions.total
    return sums.requests, sums.input, sums.cached


def test_call_gets_the_key_of_its_origin_and_counts_in_its_place(
    context: Context, log: Log
) -> None:
    front = context.send(QUESTION, url=FRONT)
    calls = [context.send(QUESTION, {}) for _ in range(2)]
    assert {key(front)} == {key(call) for call in calls}
    mapping = fields(log()[-1])
    assert (mapping["state"], mapping["source"]) == ("reused", "bridge")
    for flow in (*calls, front):
        context.answer(flow, usage(2048, 1920))
    assert total(context) == (2, 4096, 3840)
    assert key(context.send(QUESTION, {})) is None


def test_call_after_its_client_has_gone_gets_no_key(context: Context) -> None:
    front = context.send(QUESTION, url=FRONT)
    front.error = tflow.terr()
    asyncio.run(context.addon.error(front))
    context.send(QUESTION, HEADER | {"X-Claude-Code-Session-Id": OTHER_SESSION}, FRONT)
    assert key(context.send(QUESTION, {})) is None


def test_call_that_shows_its_session_counts_in_place_of_its_origin(context: Context) -> None:
    front = context.send(QUESTION, url=FRONT)
    call, _ = context.stream(context.flow(QUESTION))
    for flow in (front, call):
        context.answer(flow, usage(2048, 1920))
    assert total(context) == (1, 2048, 1920)


@pytest.mark.parametrize("headers", [HEADER, {}])
def test_others_have_their_turn_while_the_origin_of_a_large_call_is_found(
    context: Context, headers: dict[str, str]
) -> None:
    large = QUESTION.replace(b"why", b"why? " * 100_000)
    fronts = [context.send(each, url=FRONT) for each in (large, QUESTION)]
    turns = 0

    async def search() -> None:
        nonlocal turns
        call = context.flow(large, headers)
        searching = asyncio.create_task(context.addon.request(call))
        while not searching.done():
            await asyncio.sleep(0)
            turns += 1
        assert call.metadata["prompt_cache_key"] == key(fronts[0])

    asyncio.run(search())
    assert turns > 10


def test_call_that_one_of_two_sessions_of_a_user_makes_gets_the_users_key(
    context: Context, log: Log
) -> None:
    context.set(scope="user")
    fronts = []
    for session in (SESSION, OTHER_SESSION):
        user_id = of_user("a" * 64, session)[len(b'{"model": "m", ') :]
        fronts.append(context.send(QUESTION[:-1] + b"," + user_id, {}, FRONT))
    call = context.send(QUESTION, {}, "https://openrouter.ai/api/v1/chat/completions")
    assert "x-session-id" not in call.request.headers
    assert key(call) == key(fronts[0]) == key(fronts[1])
    mapping = fields(log()[-1])
    assert (mapping["session"], mapping["scope"]) == ("?", "user")
    context.answer(call, usage(2048, 1920))
    assert total(context) == (1, 2048, 1920)


def test_bridge_can_be_off(context: Context) -> None:
    context.set(bridge=False)
    context.send(QUESTION)
    assert context.send(QUESTION, {}, "http://other.test/messages").request.content == QUESTION


def test_raw_user_id_as_key_is_replaced_where_the_bridge_knows_the_session(
    context: Context,
) -> None:
    context.send(QUESTION, url=FRONT)
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
    assert all("does not answer, requests go on with the keys known here" in line for line in log())


def test_large_body_gets_its_key(context: Context) -> None:
    body = b'{"model":"m","x":"%b"}' % (b"x" * LARGE)
    flow = context.send(body)
    assert flow.request.content == b'{"prompt_cache_key":"%b",%b' % (key(flow).encode(), body[1:])


def test_body_that_cannot_be_parsed_has_a_key_but_no_user(context: Context) -> None:
    context.set(scope="user")
    deep = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b',"metadata" :1}'
    flow = context.send(deep)
    assert (flow.request.content or b"").endswith(deep[1:])
    assert flow.metadata["prompt_cache_state"] == "new"


def test_held_request_that_would_have_to_wait_passes_without_a_key(
    context: Context, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    async def wait(*_: object, **__: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(context.state.bridge, "find", wait)
    _, sent = context.stream(context.flow())
    assert sent.rstrip() == BODY
    assert "would have to wait" in log()[-1]
