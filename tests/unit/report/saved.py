"""Flows as mitmproxy saves them, made up."""

import io
import json
from typing import Any, TypeAlias

from mitmproxy import flow, http
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

Object: TypeAlias = dict[str, Any]

ID = "57f0d592-a068-417f-84b7-fbb2cd013700"
OTHER = "90474187-a125-4c07-b606-8b7ff354ae9a"
URL = "https://gateway.test/v1/messages?beta=true"
WORDS = "words " * 3000


def request_body(session: str = ID, turns: int = 1, **members: Any) -> Object:
    """Return a request; with one of other turns it shares a prefix."""
    roles = ["user", "assistant"] * turns
    return {
        "model": "claude-opus-5-5",
        "metadata": {"user_id": json.dumps({"session_id": session})},
        "tools": [{"name": name, "input_schema": {}} for name in "AB"],
        "system": "You are Claude Code.",
        "messages": [{"role": role, "content": WORDS} for role in roles[: 2 * turns - 1]],
    } | members


def usage_body(input_: int, cached: int | None = 0) -> Object:
    """Return an answer in OpenAI's dialect."""
    usage: Object = {"prompt_tokens": input_, "completion_tokens": 10}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return {"usage": usage}


def exchange(
    body: Object | bytes,
    at: float = 1000.0,
    answer: Object | http.Response | None = None,
    url: str = URL,
    method: str = "POST",
    **headers: str,
) -> http.HTTPFlow:
    each: http.HTTPFlow = tflow.tflow()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
    each.request = http.Request.make(method, url, content, fields)
    each.request.timestamp_start = at
    if isinstance(answer, dict):
        kind = {"content-type": "application/json"}
        answer = http.Response.make(200, json.dumps(answer), kind)
    each.response = answer
    if answer:
        answer.timestamp_start = at
    return each


def saved(*flows: flow.Flow) -> bytes:
    file = io.BytesIO()
    writer = FlowWriter(file)
    for each in flows:
        writer.add(each)
    return file.getvalue()
