"""A stand-in for OpenAI's Responses API: real HTTP, real usage fields, no model.

A mitmproxy that takes it for the next proxy leads requests for OpenAI's host to it. It answers
every one with a fixed sentence, and reports what `rules` says of its prompt.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from lib.messages import EVENTS, Reply, Request, event
from lib.rules import CHARACTERS_PER_TOKEN, PromptCache, count_tokens, pieces_of, rules_of

URL = "http://api.openai.com/v1/responses"
TIME_HEADER = "x-virtual-time"
"""The time at which a request is sent, in seconds since the epoch."""

ANSWER = "This answer comes from a stand-in, not from a model."


@dataclass
class Counts:
    """What a number of requests used: prompt tokens in all, and those read from cache."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0

    def add(self, other: "Counts") -> None:
        """Count what another one has counted too."""
        self.requests += other.requests
        self.prompt += other.prompt
        self.cached += other.cached


class StandIn:
    """What a `Server` answers: `Server(stand_in.respond)`.

    `counts` has what was answered, `caches` what is remembered, both by model.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        self.caches: dict[str, PromptCache] = {}

    def respond(self, request: Request) -> Reply:
        """Answer a streamed request; 404 for another URL."""
        if request.target != URL:
            return Reply(404)
        model, pieces = request.json["model"], pieces_of(request.json)
        cache = self.caches.setdefault(model, PromptCache(rules_of(model)))
        read = cache.read(pieces, request.key, float(request.header(TIME_HEADER) or 0))
        tokens, cached = count_tokens("".join(pieces)), read // CHARACTERS_PER_TOKEN
        self.counts[model].add(Counts(1, tokens, cached))
        body = (event(each["type"], **each) for each in _events(model, tokens, cached))
        return Reply(headers=EVENTS, body=body)


def _events(model: str, prompt: int, cached: int) -> list[dict[str, Any]]:
    """Return the events of an answer; `input_tokens` includes the cached ones."""
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
    head = {"id": "resp_standin", "object": "response", "created_at": 0, "model": model}
    created = {**head, "status": "in_progress", "output": [], "usage": None}
    added = {**item, "status": "in_progress", "content": []}
    completed = {**head, "status": "completed", "output": [done], "usage": usage}
    at = {"item_id": "msg_standin", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "response": created},
        {"type": "response.output_item.added", "output_index": 0, "item": added},
        {"type": "response.output_text.delta", **at, "delta": ANSWER},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": completed},
    ]
