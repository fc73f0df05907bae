import hashlib
import http.client
import json
from asyncio import open_connection, run, to_thread
from typing import Any

import pytest
from upstream import ANSWER, PromptCache, Totals, Upstream, count_tokens, prompt_text

TEXT = hashlib.shake_128(b"text").hexdigest(20_000)
OTHER = hashlib.shake_128(b"other").hexdigest(20_000)


def tokens(count: int, text: str = TEXT) -> str:
    return text[: 4 * count]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("abc", 0), ("abcd", 1), ("abcdefg", 1), ("äöü✓", 1)]
)
def test_four_characters_are_a_token(text: str, count: int) -> None:
    assert count_tokens(text) == count


@pytest.mark.parametrize(
    "body",
    [
        {"messages": ["conversation"], "system": "rules", "tools": [{"name": "Read"}]},
        {"input": "conversation", "instructions": "rules", "tools": [{"name": "Read"}]},
    ],
)
def test_prompt_is_tools_then_system_then_conversation(body: dict[str, Any]) -> None:
    assert prompt_text(body) == '{"name": "Read"}\n"rules"\n"conversation"\n'


@pytest.mark.parametrize(
    "other", [{}, {"prompt_cache_key": "k"}, {"metadata": {"user_id": "u"}}, {"max_tokens": 1}]
)
def test_prompt_is_nothing_else(other: dict[str, Any]) -> None:
    assert prompt_text({"model": "m", "messages": ["hi"], **other}) == '"hi"\n'


@pytest.mark.parametrize(
    ("first", "second", "cached"),
    [
        (tokens(1023), tokens(1023), 0),
        (tokens(1024), tokens(1024), 1024),
        (tokens(1023), tokens(2000), 0),
        (tokens(1024), tokens(2000), 1024),
        (tokens(1151), tokens(2000), 1024),
        (tokens(1152), tokens(2000), 1152),
        (tokens(1500), tokens(1279), 1152),
        (tokens(1920) + tokens(128, OTHER), tokens(2048), 1920),
        (tokens(2048, OTHER), tokens(2048), 0),
        # The same route, but the prompts differ in the eighth block.
        (tokens(1000) + tokens(1000, OTHER), tokens(2000), 0),
        # What follows a difference is not a prefix, however alike.
        (tokens(1100) + "!" + TEXT[4401:8000], tokens(2000), 1024),
    ],
)
def test_prefix_needs_1024_tokens_and_grows_by_128(first: str, second: str, cached: int) -> None:
    cache = PromptCache(Clock())

    assert cache.read(first) == 0
    assert cache.read(second) == cached


@pytest.mark.parametrize(
    ("route", "cached"),
    [(("key", "model"), 1024), (("other", "model"), 0), ((None, "model"), 0), (("key", "m2"), 0)],
)
def test_another_key_or_model_is_another_route(route: tuple[str | None, str], cached: int) -> None:
    cache = PromptCache(Clock())
    cache.read(tokens(1024), "key", "model")

    assert cache.read(tokens(1024), *route) == cached


def test_the_first_256_tokens_decide_the_route() -> None:
    cache = PromptCache(Clock())
    for _ in range(15):
        cache.read(tokens(256) + tokens(1000, OTHER))
    assert cache.read(tokens(256) + tokens(1000)) == 0, "the 16th of the route, on a new machine"
    for _ in range(15):
        cache.read(tokens(255) + tokens(1000, OTHER))

    assert cache.read(tokens(256) + tokens(1000)) == 1152, "undisturbed by the other route"


def test_from_the_16th_request_in_a_minute_a_route_spills() -> None:
    clock = Clock()
    cache = PromptCache(clock)

    def minute(start: float) -> list[int]:
        cached = []
        for second in range(16):
            clock.now = start + second
            cached.append(cache.read(tokens(1024)))
        return cached

    assert minute(0) == [0, *[1024] * 14, 0]
    assert minute(60) == [1024] * 16, "the second machine knows the prompt by now"


def test_a_minute_is_any_60_seconds() -> None:
    clock = Clock()
    cache = PromptCache(clock)
    for _ in range(15):
        cache.read(tokens(1024))

    clock.now = 59.9
    assert cache.read(tokens(1024)) == 0
    clock.now = 60.0
    assert cache.read(tokens(1024)) == 1024
    assert cache.read(tokens(1024, OTHER)) == 0


@pytest.mark.parametrize(("idle", "cached"), [(0, 1024), (599.9, 1024), (600, 0), (3600, 0)])
def test_prefixes_idle_for_ten_minutes_are_dropped(idle: float, cached: int) -> None:
    clock = Clock()
    clock.now = -100.0
    cache = PromptCache(clock)
    assert cache.read(tokens(1024)) == 0
    clock.now += 599
    cache.read(tokens(1024))

    clock.now += idle

    assert cache.read(tokens(1024)) == cached


def post(port: int, path: str, *bodies: Any, method: str = "POST") -> list[tuple[int, str, str]]:
    """Send the bodies on one connection; what comes back is status, content type and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    answers = []
    for body in bodies:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data)
        response = connection.getresponse()
        answers.append(
            (response.status, response.headers["Content-Type"], response.read().decode())
        )
    connection.close()
    return answers


def ask(path: str, *bodies: Any, method: str = "POST") -> tuple[list[tuple[int, str, str]], Totals]:
    async def exchange() -> tuple[list[tuple[int, str, str]], Totals]:
        async with Upstream() as upstream:
            answers = await to_thread(post, upstream.port, path, *bodies, method=method)
            return answers, upstream.totals

    return run(exchange())


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(item) for item in data if item != "[DONE]"]


# One item of conversation is one line of JSON: two quotes and a line feed besides the text.
PROMPT = TEXT[: 4 * 2048 - 3]
CONVERSATION = {
    "/v1/messages": "messages",
    "/v1/chat/completions": "messages",
    "/r/responses": "input",
}
OUTPUT = len(ANSWER) // 4

ANTHROPIC = {
    "input_tokens": 128,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 1920,
    "output_tokens": OUTPUT,
}
CHAT = {
    "prompt_tokens": 2048,
    "completion_tokens": OUTPUT,
    "total_tokens": 2048 + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": 1920},
}
RESPONSES = {
    "input_tokens": 2048,
    "input_tokens_details": {"cached_tokens": 1920},
    "output_tokens": OUTPUT,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 2048 + OUTPUT,
}


def twice(path: str, **fields: Any) -> str:
    """Ask with 1,920 tokens in common; what comes back is the second answer."""
    bodies = [
        {"model": "m", CONVERSATION[path]: [prompt], **fields}
        for prompt in (PROMPT[: 4 * 1920] + "!", PROMPT)
    ]
    [(first, _, _), (status, content_type, text)], totals = ask(path, *bodies)
    assert (first, status) == (200, 200)
    assert content_type == ("text/event-stream" if fields.get("stream") else "application/json")
    assert totals == Totals(requests=2, prompt=1921 + 2048, cached=1920)
    return text


@pytest.mark.parametrize(
    ("path", "usage"),
    [("/v1/messages", ANTHROPIC), ("/v1/chat/completions", CHAT), ("/r/responses", RESPONSES)],
)
def test_usage_of_an_answer(path: str, usage: dict[str, Any]) -> None:
    answer = json.loads(twice(path))

    assert answer["usage"] == usage
    assert ANSWER in json.dumps(answer)


def test_usage_of_a_messages_stream() -> None:
    start, *middle, delta, stop = events(twice("/v1/messages", stream=True))

    assert start["type"] == "message_start"
    assert start["message"]["usage"] == {**ANTHROPIC, "output_tokens": 1}
    assert [event for event in middle if "usage" in event] == []
    assert (delta["type"], delta["usage"]) == ("message_delta", ANTHROPIC)
    assert stop == {"type": "message_stop"}


def test_usage_of_a_chat_stream() -> None:
    text = twice("/v1/chat/completions", stream=True, stream_options={"include_usage": True})
    *chunks, last = events(text)

    assert [chunk["usage"] for chunk in chunks] == [None, None]
    assert (last["choices"], last["usage"]) == ([], CHAT)
    assert text.endswith("\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
def test_a_chat_stream_tells_no_usage_unasked(options: dict[str, bool] | None) -> None:
    chunks = events(twice("/v1/chat/completions", stream=True, stream_options=options))

    assert [len(chunk["choices"]) for chunk in chunks] == [1, 1]
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_of_a_responses_stream() -> None:
    created, *middle, completed = events(twice("/r/responses", stream=True))

    assert (created["type"], created["response"]["usage"]) == ("response.created", None)
    assert all("response" not in event for event in middle)
    assert completed["type"] == "response.completed"
    assert completed["response"]["usage"] == RESPONSES


@pytest.mark.parametrize("path", ["/v1/messages", "/r/responses"])
def test_events_are_named_by_their_type(path: str) -> None:
    text = twice(path, stream=True)

    names = [line.removeprefix("event: ") for line in text.splitlines() if line[:2] == "ev"]
    assert names == [event["type"] for event in events(text)]


def test_cache_control_is_no_prompt() -> None:
    marked = {"type": "text", "text": PROMPT, "cache_control": {"type": "ephemeral"}}
    plain = {"type": "text", "text": PROMPT}
    bodies = [{"model": "m", "messages": [{"content": [text]}]} for text in (marked, plain)]

    _, totals = ask("/v1/messages", *bodies)

    assert totals.cached == 2048


def test_count_tokens_answers_and_counts_for_nothing() -> None:
    body = {"messages": [PROMPT]}

    answers, totals = ask("/v1/messages/count_tokens?beta=true", body)

    assert answers == [(200, "application/json", '{"input_tokens": 2048}')]
    assert totals == Totals()


def test_on_request_sees_the_body() -> None:
    seen: list[Any] = []

    async def exchange() -> None:
        async with Upstream(on_request=seen.append) as upstream:
            await to_thread(post, upstream.port, "/v1/messages?beta=true", {"model": "m"})

    run(exchange())
    assert seen == [{"model": "m"}]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", [], "text", {}, {"model": []}, {"model": "m", "prompt_cache_key": {}}],
)
def test_what_is_no_request_gets_400_and_the_connection_lives(body: Any) -> None:
    answers, totals = ask("/v1/messages", body, {"model": "m"})

    assert [status for status, _, _ in answers] == [400, 200]
    assert totals.requests == 1


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", "/"), ("GET", "/v1/messages"), ("POST", "/x")]
)
def test_other_requests_get_404(method: str, path: str) -> None:
    answers, totals = ask(path, b"", b"", method=method)

    assert [status for status, _, _ in answers] == [404, 404]
    assert totals == Totals()


def raw(data: bytes) -> bytes:
    async def exchange() -> bytes:
        async with Upstream() as upstream:
            reader, writer = await open_connection("127.0.0.1", upstream.port)
            writer.write(data)
            answer = await reader.read()
            writer.close()
            return answer

    return run(exchange())


def test_a_client_that_speaks_no_http_is_let_go() -> None:
    assert raw(b"hello\r\n\r\n") == b""


def test_a_client_that_wants_one_answer_gets_it() -> None:
    head = (
        b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 13\r\n\r\n"
    )

    assert raw(head + b'{"model":"m"}').startswith(b"HTTP/1.1 200")


def test_idle_connections_end_with_the_server() -> None:
    async def exchange() -> bytes:
        async with Upstream() as upstream:
            reader, writer = await open_connection("127.0.0.1", upstream.port)
            writer.write(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        rest = await reader.read()
        writer.close()
        return rest

    assert run(exchange()) == b""
