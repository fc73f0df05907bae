"""A Claude Code's request in each of the three dialects, and what their answers count.

The translation is a translator's at its simplest. It keeps the user id, as copilot-api and LiteLLM
do, and no header of the client.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lib.sessions import translated

Body = dict[str, Any]

ANSWER_TOKENS = 2


class Dialect(NamedTuple):
    """Where requests go, what becomes of a body of Claude Code's, and how a stream ends."""

    path: str
    translate: Callable[[Body], Body]
    end: str


class Usage(NamedTuple):
    """The tokens of a prompt, and how many of them were read from the cache."""

    prompt: int
    cached: int


def _messages(body: Body) -> Body:
    return body | {"max_tokens": ANSWER_TOKENS}


def _chat(body: Body) -> Body:
    system = {"role": "system", "content": _text(body.get("system", ""))}
    return {
        "model": body["model"],
        "messages": [system, *_chat_messages(body)],
        "tools": [{"type": "function", "function": _function(tool)} for tool in _tools(body)],
        "user": body["metadata"]["user_id"],
        "max_tokens": ANSWER_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _responses(body: Body) -> Body:
    found = translated(body)
    for item in found["input"]:
        if "output" in item:
            item["output"] = _text(item["output"])
        if item.get("role") == "assistant":  # llama.cpp knows one by its type and its parts only
            text = {"type": "output_text", "text": item["content"]}
            item |= {"type": "message", "content": [text]}
    user = {"user": body["metadata"]["user_id"]}
    return found | user | {"max_output_tokens": ANSWER_TOKENS}


def _chat_messages(body: Body) -> Iterator[Body]:
    for role, block in _blocks(body):
        if block["type"] == "text":
            yield {"role": role, "content": block["text"]}
        elif block["type"] == "tool_use":
            function = {"name": block["name"], "arguments": json.dumps(block["input"])}
            call = {"id": block["id"], "type": "function", "function": function}
            yield {"role": role, "content": None, "tool_calls": [call]}
        else:
            content = _text(block["content"])
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}


def _blocks(body: Body) -> Iterator[tuple[str, Body]]:
    """Yield the role and each block of the messages: text, tool_use or tool_result."""
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for block in content:
            yield message["role"], block


def _text(content: str | list[Body]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content)


def _tools(body: Body) -> list[Body]:
    return body.get("tools") or []


def _function(tool: Body) -> Body:
    return {
        "name": tool["name"],
        "description": tool["description"],
        "parameters": tool["input_schema"],
    }


DIALECTS = {
    "messages": Dialect("/v1/messages", _messages, '"message_stop"'),
    "chat": Dialect("/v1/chat/completions", _chat, "[DONE]"),
    "responses": Dialect("/v1/responses", _responses, '"response.completed"'),
}


def usage(answer: str) -> Usage | None:
    """Return what the events of an answer say of the prompt; None if they say nothing."""
    found = None
    for data in re.findall(r"^data: (\{.*\})\n\n", answer, re.MULTILINE):
        event = json.loads(data)
        holder = event.get("message") or event.get("response") or event
        counts = holder.get("usage") or {}
        if "cache_read_input_tokens" in counts:
            cached = counts["cache_read_input_tokens"]
            found = Usage(counts["input_tokens"] + cached, cached)
        elif "prompt_tokens" in counts:
            found = Usage(counts["prompt_tokens"], counts["prompt_tokens_details"]["cached_tokens"])
        elif "input_tokens" in counts:
            found = Usage(counts["input_tokens"], counts["input_tokens_details"]["cached_tokens"])
    return found
