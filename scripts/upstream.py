"""A stand-in for an OpenAI- or Anthropic-style server: real HTTP, real usage fields, no model.

It answers every request with one fixed sentence, and reports cached prompt tokens by the rules
that OpenAI documents in https://developers.openai.com/api/docs/guides/prompt-caching .
"""

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import h11

CHARACTERS_PER_TOKEN = 4
ROUTING_TOKENS = 256
MINIMUM_TOKENS = 1024
BLOCK_TOKENS = 128
REQUESTS_PER_MINUTE = 15
IDLE_SECONDS = 600.0  # "5 to 10 minutes of inactivity": the longest of it

ANSWER = "This answer comes from a stand-in, not from a model."


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text: one for every four characters, as is usual for English."""
    return len(text) // CHARACTERS_PER_TOKEN


def prompt_text(body: dict[str, Any]) -> str:
    """Put the prompt of a parsed request together: tools, then system, then conversation.

    Each item is one line of JSON, so a conversation that grew starts with its former prompt.
    """
    items: list[Any] = []
    for name in ("tools", "system", "instructions", "messages", "input"):
        value = body.get(name, [])
        items += value if isinstance(value, list) else [value]
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


@dataclass
class _Machine:
    recent: deque[float] = field(default_factory=deque)  # when its last minute's requests came
    used: dict[int, float] = field(default_factory=dict)  # hash of a prefix -> its last use


class PromptCache:
    """Which part of a prompt is read from cache, by OpenAI's documented rules.

    - Requests are routed by model, the first 256 tokens and the prompt cache key. Each route has
      machines of its own; one takes 15 requests in any 60 seconds, what is more goes to the
      route's next machine. Where it really goes is not documented; this is the mildest reading.
    - A machine knows the prefixes it has seen, in steps of 128 tokens, and forgets those not used
      for 10 minutes. Less than 1,024 tokens are never cached.

    `clock` gives seconds on any scale that does not go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._routes: dict[tuple[str, str, str | None], list[_Machine]] = {}

    def read(self, prompt: str, key: str | None = None, model: str = "") -> int:
        """How many of the prompt's tokens come from cache; all of it is cached afterwards."""
        now = self._clock()
        used = self._machine((model, prompt[: ROUTING_TOKENS * CHARACTERS_PER_TOKEN], key)).used
        cached, prefix, matches = 0, 0, True
        step = BLOCK_TOKENS * CHARACTERS_PER_TOKEN
        for end in range(step, len(prompt) + 1, step):
            prefix = hash((prefix, prompt[end - step : end]))
            matches = matches and now - used.get(prefix, -math.inf) < IDLE_SECONDS
            cached += BLOCK_TOKENS * matches
            used[prefix] = now
        return cached if cached >= MINIMUM_TOKENS else 0

    def _machine(self, route: tuple[str, str, str | None]) -> _Machine:
        now = self._clock()
        machines = self._routes.setdefault(route, [])
        for machine in machines:
            while machine.recent and now - machine.recent[0] >= 60:  # noqa: PLR2004
                machine.recent.popleft()
            if len(machine.recent) < REQUESTS_PER_MINUTE:
                break
        else:
            machine = _Machine()
            machines.append(machine)
        machine.recent.append(now)
        return machine


@dataclass
class Totals:
    """What a number of requests used: prompt tokens in all, and those read from cache."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0

    def add(self, prompt: int, cached: int) -> None:
        """Count one request."""
        self.requests += 1
        self.prompt += prompt
        self.cached += cached


Reply = tuple[dict[str, Any], list[dict[str, Any]]]  # the JSON answer, the same as events


def _messages(body: dict[str, Any], prompt: int, cached: int) -> Reply:
    """Anthropic: `input_tokens` excludes the cached ones; in the first and the last event."""
    usage = {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": count_tokens(ANSWER),
    }
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    reply = {
        "id": "msg_standin",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": ANSWER}],
        **end,
        "usage": usage,
    }
    start = {**reply, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": ANSWER}
    return reply, [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": usage},
        {"type": "message_stop"},
    ]


def _chat(body: dict[str, Any], prompt: int, cached: int) -> Reply:
    """OpenAI Chat: `prompt_tokens` includes the cached ones; streamed only when asked for."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": count_tokens(ANSWER),
        "total_tokens": prompt + count_tokens(ANSWER),
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    head = {"id": "chatcmpl-standin", "created": 0, "model": body["model"]}
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    chunk = {**head, "object": "chat.completion.chunk"}
    events: list[dict[str, Any]] = [
        {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        events = [{**event, "usage": None} for event in events]
        events.append({**chunk, "choices": [], "usage": usage})
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}, events


def _responses(body: dict[str, Any], prompt: int, cached: int) -> Reply:
    """OpenAI Responses: `input_tokens` includes the cached ones; streamed in the last event."""
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": count_tokens(ANSWER),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + count_tokens(ANSWER),
    }
    text = {"type": "output_text", "text": ANSWER, "annotations": []}
    item = {"id": "msg_standin", "type": "message", "role": "assistant", "status": "completed"}
    done = {**item, "content": [text]}
    head = {"id": "resp_standin", "object": "response", "created_at": 0, "model": body["model"]}
    reply = {**head, "status": "completed", "output": [done], "usage": usage}
    created = {**head, "status": "in_progress", "output": [], "usage": None}
    added = {**item, "status": "in_progress", "content": []}
    at = {"item_id": "msg_standin", "output_index": 0, "content_index": 0}
    return reply, [
        {"type": "response.created", "response": created},
        {"type": "response.output_item.added", "output_index": 0, "item": added},
        {"type": "response.output_text.delta", **at, "delta": ANSWER},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": reply},
    ]


DIALECTS = {"/messages": _messages, "/chat/completions": _chat, "/responses": _responses}


def _sse(event: dict[str, Any]) -> bytes:
    # OpenAI Chat has no event names, the other two repeat the type as the name.
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _without_cache_control(value: dict[str, Any]) -> dict[str, Any]:
    value.pop("cache_control", None)  # a marker that clients move from turn to turn, not prompt
    return value


class Upstream:
    """The server, an async context manager: it listens on 127.0.0.1 at `port` while it is open.

    `totals` counts the answered generation requests; `on_request` gets the parsed body of each.
    """

    port: int

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_request: Callable[[dict[str, Any]], None] = lambda _body: None,
    ) -> None:
        self.totals = Totals()
        self._cache = PromptCache(clock)
        self._on_request = on_request
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        body = bytearray()
        self._writers.add(writer)
        try:
            while not isinstance(event := connection.next_event(), h11.ConnectionClosed):
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(1 << 16))
                elif isinstance(event, h11.Request):
                    request = event
                    body.clear()
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    for part in self._answer(request, bytes(body)):
                        writer.write(connection.send(part) or b"")
                    await writer.drain()
                    if connection.our_state is h11.MUST_CLOSE:
                        break
                    connection.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError):
            pass  # the client broke off: nobody to tell
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, request: h11.Request, raw: bytes) -> list[h11.Event]:
        path = request.target.decode().partition("?")[0]
        dialect = next((d for end, d in DIALECTS.items() if path.endswith(end)), None)
        if request.method != b"POST" or not (dialect or path.endswith("/messages/count_tokens")):
            head = h11.Response(status_code=404, headers=[("Content-Length", "0")])
            return [head, h11.EndOfMessage()]
        try:
            body = json.loads(raw, object_hook=_without_cache_control)
            prompt = prompt_text(body)
            key = body.get("prompt_cache_key")
            cached = self._cache.read(prompt, key, body["model"]) if dialect else 0
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return _json(400, {"error": {"message": f"not a request: {error!r}"}})
        if not dialect:
            return _json(200, {"input_tokens": count_tokens(prompt)})
        self.totals.add(count_tokens(prompt), cached)
        self._on_request(body)
        reply, events = dialect(body, count_tokens(prompt), cached)
        if not body.get("stream"):
            return _json(200, reply)
        # Without a Content-Length h11 sends chunks, one for each Data.
        head = h11.Response(status_code=200, headers=[("Content-Type", "text/event-stream")])
        end = [h11.Data(b"data: [DONE]\n\n")] if dialect is _chat else []
        return [head, *(h11.Data(_sse(event)) for event in events), *end, h11.EndOfMessage()]


def _json(status: int, value: dict[str, Any]) -> list[h11.Event]:
    data = json.dumps(value).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    head = h11.Response(status_code=status, headers=headers)
    return [head, h11.Data(data), h11.EndOfMessage()]
