"""The addon in mitmproxy's own test context, and flows for it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.save import Save
from mitmproxy.test import taddons, tflow
from prompt_cache_key.hooks import PromptCacheKey

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
HEADER = {"X-Claude-Code-Session-Id": SESSION}
URL = "https://api.example.com/v1/messages?beta=true"
BODY = b'{"model":"gpt-5.4","messages":[]}'
EVENTS = "text/event-stream; charset=utf-8"


class Context:
    """The addon, a clock that stands still until it is told otherwise, and ways to send flows."""

    def __init__(self, context: taddons.context, addon: PromptCacheKey) -> None:
        self.master = context.master
        self.options = context.options
        self.addon = addon
        self.state = addon.state
        self.now = 0.0

    def set(self, **options: object) -> None:
        self.options.update(**{f"prompt_cache_{name}": value for name, value in options.items()})

    def flow(
        self,
        content: bytes = BODY,
        headers: dict[str, str] = HEADER,
        url: str = URL,
        method: str = "POST",
    ) -> http.HTTPFlow:
        request = http.Request.make(method, url, content)
        request.headers["content-type"] = "application/json"
        request.headers.update(headers)
        flow = tflow.tflow(req=request)
        flow.live = True
        return flow

    def send(self, *args: Any, **kwargs: Any) -> http.HTTPFlow:
        flow = self.flow(*args, **kwargs)
        asyncio.run(self.addon.request(flow))
        return flow

    def stream(self, flow: http.HTTPFlow) -> tuple[http.HTTPFlow, bytes]:
        """Send a request as with `stream_large_bodies`; return also what is sent on of it."""
        content, flow.request.raw_content, flow.request.stream = (
            flow.request.raw_content,
            None,
            True,
        )
        self.addon.streaming.requestheaders(flow)
        sent = content or b""
        if callable(stream := flow.request.stream):
            sent = b"".join(part for each in (sent, b"") for part in stream(each))
        asyncio.run(self.addon.request(flow))
        return flow, sent

    def begin(self, flow: http.HTTPFlow, status: int = 200, **headers: str) -> http.Response:
        """Let a response begin."""
        flow.response = http.Response.make(status)
        for name, value in headers.items():
            flow.response.headers[name.replace("_", "-")] = value
        flow.response.raw_content = None
        self.addon.responseheaders(flow)
        self.addon.streaming.responseheaders(flow)
        return flow.response

    def end(self, flow: http.HTTPFlow) -> http.HTTPFlow:
        """Let the addons behind the first have it too."""
        asyncio.run(self.addon.response(flow))
        self.addon.streaming.response(flow)
        return flow

    def answer(
        self, flow: http.HTTPFlow, content: bytes = b"{}", status: int = 200, **headers: str
    ) -> http.HTTPFlow:
        """Answer as mitmproxy does: headers, then the body through `stream` or at once."""
        response = self.begin(flow, status, **headers)
        if callable(response.stream):
            passed = [response.stream(bytes([byte])) for byte in content]
            assert passed == [[bytes([byte])] for byte in content]
            assert not response.stream(b"")
        else:
            response.raw_content = content
        return self.end(flow)


@contextmanager
def addon_context() -> Iterator[Context]:
    def clock() -> float:
        return made.now

    addon = PromptCacheKey(clock)
    with taddons.context(Proxyserver(), Save(), addon) as context:
        made = Context(context, addon)
        try:
            yield made
        finally:
            context.master.addons.remove(addon)


def key(flow: http.HTTPFlow) -> Any:
    return json.loads(flow.request.content or b"{}").get("prompt_cache_key")


def usage(input_: int, cached: int | None) -> bytes:
    details = {"cached_tokens": cached}
    return json.dumps(
        {"usage": {"prompt_tokens": input_, "prompt_tokens_details": details}}
    ).encode()
