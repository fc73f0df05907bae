"""The addon's last word before a flow is sent, saved or shown.

mitmproxy runs addons in a chain. What a later one does to a stream must not be contradicted here:
so this part takes its place behind all scripts and `modify_body`, just before `save`.
"""

import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.utils import human

from prompt_cache_key.body import MEMBER_SIZE
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.state import State, is_open
from prompt_cache_key.streaming.held_request import MAX_HELD, HeldRequest
from prompt_cache_key.streaming.response_tap import ResponseTap


class Wire:
    """Streams requests and responses without a change to what others see of them.

    `is_ours` tells whether a request may get a key; `give_key` puts it into a body.
    """

    name = "prompt_cache_key_wire"

    def __init__(
        self,
        state: State,
        is_ours: Callable[[http.HTTPFlow], bool],
        give_key: Callable[..., Coroutine[Any, Any, bytes]],
    ) -> None:
        self.state = state
        self.is_ours = is_ours
        self.give_key = give_key

    def install(self) -> None:
        """Take the place before `save`."""
        addons = ctx.master.addons
        addons.register(self)
        save = addons.get("save")
        at = addons.chain.index(save) if save in addons.chain else len(addons.chain)
        addons.chain.insert(at, self)

    def remove(self) -> None:
        """Leave it."""
        if ctx.master.addons.get(self.name) is self:
            ctx.master.addons.remove(self)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Hold back a request that is streamed, and so is sent on before `request` is called."""
        request = flow.request
        if request.stream is not True or not self.is_ours(flow):
            return
        size = request.headers.get("content-length")
        length = int(size) if size and size.isascii() and size.isdigit() else None
        if (
            (size and not length)
            or (length or 0) > MAX_HELD
            or "content-encoding" in request.headers
        ):
            return
        request.stream = HeldRequest(lambda whole: self._edit(flow, whole), length)
        if length:
            request.headers["content-length"] = str(length + MEMBER_SIZE)

    def _edit(self, flow: http.HTTPFlow, whole: bytes) -> bytes:
        if not is_open(flow):
            return whole  # answered before it was whole
        return _at_once(self.give_key(flow, whole, wait=False))

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let the events of a keyed request's response pass as they come."""
        response, exchange = flow.response, self.state.exchanges.get(flow)
        if not response or not exchange or not (reader := exchange.reader):
            return
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        # One that someone else has streamed is only looked at.
        is_passed_on = self.state.options.stream and is_stream and not response.stream
        if is_passed_on or response.stream is True:
            size = _kept_size() if is_passed_on else 0
            response.stream = exchange.tap = ResponseTap(reader.feed, size, response)

    def keep(self, flow: http.HTTPFlow, exchange: RequestInFlight) -> None:
        """Give a streamed response that broke off the body that has passed."""
        response, tap = flow.response, exchange.tap
        if response and tap and response.raw_content is None and response.stream is tap:
            tap.keep()

    def response(self, flow: http.HTTPFlow) -> None:
        """Undo what others did to a streamed body: the client has got it as it was."""
        response, tap = flow.response, flow.response and flow.response.stream
        if not response or not isinstance(tap, ResponseTap) or (content := tap.content) is None:
            return
        was_edited = response.raw_content != content
        response.raw_content = content
        if was_edited:
            response.headers = tap.headers
            self.state.once(
                logging.WARNING,
                flow,
                "another addon edited a response that had been streamed, so the client has got it "
                "unedited, as it is shown and saved; to have it edited: "
                "--set prompt_cache_stream=false",
            )


def _at_once(edit: Coroutine[Any, Any, bytes]) -> bytes:
    """Return what a coroutine returns that never waits; ValueError if it does."""
    try:
        edit.send(None)
    except StopIteration as done:
        result: bytes = done.value
        return result
    edit.close()
    raise ValueError("it is streamed, and would have to wait")


def _kept_size() -> float:
    """Return up to which size mitmproxy would keep a body: any, unless it is told otherwise."""
    limits = (ctx.options.stream_large_bodies, ctx.options.body_size_limit)
    return min((human.parse_size(limit) or 0 for limit in limits if limit), default=math.inf)
