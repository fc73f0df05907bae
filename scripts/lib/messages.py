"""Requests and responses as a server and a client see them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Headers = Sequence[tuple[str, str]]

EVENTS: Headers = (("content-type", "text/event-stream"),)
"""The headers of a stream of server-sent events."""


def event(type_: str, **data: object) -> bytes:
    """Return a server-sent event as Anthropic and OpenAI Responses write it."""
    return f"event: {type_}\ndata: {json.dumps({'type': type_} | data)}\n\n".encode()


def header(headers: Headers, name: str) -> str | None:
    """Return the value of the first header of that name in any case."""
    return next((value for n, value in headers if n.lower() == name.lower()), None)


@dataclass(frozen=True)
class Request:
    """A request as it came, whole; over HTTP/1.1 with the names in the case that was sent."""

    version: str
    method: str
    target: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of the first header of that name in any case."""
        return header(self.headers, name)

    @cached_property
    def json(self) -> Any:
        """What is in the JSON body."""
        return json.loads(self.body)

    @property
    def key(self) -> Any:
        """The `prompt_cache_key` in the JSON body; None without one."""
        return self.json.get("prompt_cache_key")


@dataclass(frozen=True)
class Reply:
    """What a server answers.

    A `body` of several pieces is sent piece by piece, chunked, as the iterable gives them: one
    that waits stalls the answer. Without `complete` the connection breaks off after the last.
    """

    status: int = 200
    headers: Headers = (("content-type", "application/json"),)
    body: bytes | Iterable[bytes] = b"{}"
    complete: bool = True

    def pieces(self, method: str) -> Iterable[bytes]:
        """Return what is sent of the body in answer to that method."""
        if method == "HEAD":
            return []
        return [self.body] if isinstance(self.body, bytes) else self.body


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: Headers
    body: bytes
