"""Prompts in three dialects, the recorded ones at full length, and a model of a prefix cache."""

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, TypeAlias

from lib.recordings import records, restored
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.usage.reader import Usage

Object: TypeAlias = dict[str, Any]

DIALECTS = ("messages", "chat", "responses")

ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.330.abc; cch="
COUNTDOWN = "<total_tokens>{} tokens left</total_tokens>"
SYSTEM = ("You are Claude Code.", "long " * 4000)
TURNS = tuple(
    ("user" if number % 2 else "assistant", f"{number} " + "words " * 3000) for number in (1, 2, 3)
)


def body(
    dialect: str,
    *,
    tools: Sequence[str] = ("Bash", "Edit", "Read"),
    schema: str = "",
    system: Sequence[str] = SYSTEM,
    turns: Sequence[tuple[str, str]] = TURNS,
    **settings: Any,
) -> Object:
    """Return a body; `schema` is a word in the last tool's schema."""
    parts = {name: {"type": "object", "title": "tool " * 1000} for name in tools}
    if tools and schema:
        parts[tools[-1]]["title"] += schema
    if dialect == "messages":
        return settings | {
            "tools": [{"name": name, "input_schema": part} for name, part in parts.items()],
            "system": [{"type": "text", "text": text} for text in system],
            "messages": [{"role": role, "content": text} for role, text in turns],
        }
    if dialect == "chat":
        functions = [{"name": name, "parameters": part} for name, part in parts.items()]
        front = [("system", text) for text in system]
        return settings | {
            "messages": [{"role": role, "content": text} for role, text in (*front, *turns)],
            "tools": [{"type": "function", "function": each} for each in functions],
        }
    return settings | {
        "instructions": "\n\n".join(system),
        "input": [
            {
                "type": "message",
                "role": {"system": "developer"}.get(role, role),
                "content": [{"type": f"{'out' * (role[0] == 'a') or 'in'}put_text", "text": text}],
            }
            for role, text in turns
        ],
        "tools": [
            {"type": "function", "name": name, "parameters": part} for name, part in parts.items()
        ],
    }


def finished(request: Object | bytes, usage: Usage | None, **fields: Any) -> FinishedRequest:
    """Return a finished request with that body; its key is `k`."""
    raw = request if isinstance(request, bytes) else json.dumps(request).encode()
    usual: Object = {"time": 0.0, "session": "s", "agent": "main", "model": "m", "key": "k"}
    return FinishedRequest(endpoint="http://e", usage=usage, body=raw, **usual | fields)


SHORT = 1300
"""Characters of a recorded text up to which a tool may have printed it."""


def moved(request: Object) -> Object:
    """Return a request in Anthropic's dialect as some translators send it on."""
    system, rest = list(request.get("system", [])), []
    for message in request["messages"]:
        if message["role"] != "system":
            rest.append(message)
            continue
        content = message["content"]
        system += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return request | {"system": system, "messages": rest}


def _text(_: str, length: int) -> str:
    """Return a text of that length; of what a tool may have printed, ten times of it."""
    return f"{length:05} " * (length // 6 * (1 if length > SHORT else 10))


def recorded(name: str) -> Iterator[tuple[str, str, Object]]:
    """Yield each generation of a recording, in order: client and number, identity, body."""
    for request in sorted(records(name), key=lambda request: int(request["seq"])):
        if request["body"] and "count_tokens" not in request["path"]:
            whole = restored(request["body"], _text)
            headers = {name.lower(): value for name, value in request["headers"]}
            agent = headers.get("x-claude-code-agent-id", "main")
            client = request["client"].removeprefix("claude-code ")
            identity = f"{client} {whole['metadata']['user_id']} {agent} {whole['model']}"
            yield f"{client} {request['seq']}", identity, whole


class Cache:
    """Reads from each prompt what it shares with those before it, in blocks of `step` tokens."""

    def __init__(self, step: int = 128) -> None:
        self.step = step
        self.prefixes: set[bytes] = set()
        """Hashes of all that is cached."""

    def read(self, request: Object) -> Usage:
        """Return what an upstream would report; a token has four characters."""
        prompt = _rendered(request).encode()
        digest, prefixes = sha256(), []
        for start in range(0, len(prompt) - 4 * self.step, 4 * self.step):
            digest.update(prompt[start : start + 4 * self.step])
            prefixes.append(digest.digest())
        cached = next(
            (i for i, each in enumerate(prefixes) if each not in self.prefixes), len(prefixes)
        )
        self.prefixes.update(prefixes)
        return Usage(len(prompt) // 4, cached * self.step, None, None)


def _rendered(request: Object) -> str:
    front = ("tools", "system", "instructions")
    outside = ("messages", "input", "metadata", "stream", "max_tokens", "diagnostics")
    settings = sorted(request.keys() - {*front, *outside})
    turns = [*request.get("messages", []), *request.get("input", [])]
    parts = [request.get(name) for name in (*front, *settings)] + turns
    return "\n".join(json.dumps(_unmarked(part)) for part in parts)


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if not isinstance(value, dict):
        return value
    content = value.get("content")
    if isinstance(content, str):
        value = value | {"content": [{"type": "text", "text": content}]}
    return {key: _unmarked(item) for key, item in value.items() if key != "cache_control"}
