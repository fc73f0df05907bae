"""A stand-in for a gateway: it answers a real Claude Code, and reads prompts from a cache.

It speaks Anthropic Messages. What it says is laid down in steps; what it reads from its cache
follows `rules`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from lib.messages import EVENTS, Reply, Request, event
from lib.rules import CHARACTERS_PER_TOKEN, SINCE_GPT_5_6, PromptCache, count_tokens, pieces_of

SESSION_HEADER = "x-claude-code-session-id"
AGENT_HEADER = "x-claude-code-agent-id"

_numbers = count(1)


class Step(NamedTuple):
    """An answer: one content block, a text or the call of a tool."""

    block: dict[str, Any]
    is_evicted: bool = False
    """Whether nothing is cached any more when its request comes."""


def say(text: str) -> Step:
    """Return an answer that ends the turn."""
    return Step({"type": "text", "text": text})


def call(name: str, **arguments: object) -> Step:
    """Return an answer that calls a tool."""
    id_ = f"toolu_01{next(_numbers):022}"
    return Step({"type": "tool_use", "id": id_, "name": name, "input": arguments})


class Gateway:
    """What a `Server` answers: `Server(gateway.respond)`.

    `steps` has the answers of each session, in order, `agent_steps` those of each subagent.
    """

    def __init__(self, steps: Mapping[str, Sequence[Step]], agent_steps: Sequence[Step]) -> None:
        self._steps = steps
        self._agent_steps = agent_steps
        self._cache = PromptCache(SINCE_GPT_5_6)

    def respond(self, request: Request) -> Reply:
        """Answer a request with the step that comes after those in its prompt."""
        if not request.target.startswith("/v1/messages?"):
            return Reply(404)
        done = [each for each in request.json["messages"] if each["role"] == "assistant"]
        session = request.header(SESSION_HEADER) or ""
        is_agent = request.header(AGENT_HEADER)
        steps = self._agent_steps if is_agent else self._steps[session]
        step = steps[len(done)] if request.json.get("tools") else say("A title")
        if step.is_evicted:
            self._cache.clear()
        pieces = pieces_of(request.json)
        tokens = count_tokens("".join(pieces))
        cached = self._cache.read(pieces, request.key, 0) // CHARACTERS_PER_TOKEN
        usage = {"input_tokens": 4, "output_tokens": 60, "cache_read_input_tokens": cached}
        usage["cache_creation_input_tokens"] = max(0, tokens - cached - 4)
        body = stream(step.block, usage, request.json["model"])
        return Reply(headers=EVENTS, body=body)


def stream(block: dict[str, Any], usage: dict[str, int], model: str) -> Iterator[bytes]:
    """Yield an answer of one content block as server-sent events."""
    head = {"id": f"msg_{next(_numbers)}", "type": "message", "role": "assistant", "content": []}
    yield event("message_start", message=head | {"model": model, "usage": usage})
    if block["type"] == "text":
        start, delta = {"type": "text", "text": ""}, block | {"type": "text_delta"}
    else:
        start = block | {"input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    yield event("content_block_start", index=0, content_block=start)
    yield event("content_block_delta", index=0, delta=delta)
    yield event("content_block_stop", index=0)
    stop = "tool_use" if block["type"] == "tool_use" else "end_turn"
    yield event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=usage)
    yield event("message_stop")
