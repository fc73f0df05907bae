"""Decide which bodies are streamed, and what happens to them on their way.

mitmproxy runs addons in a chain. What a later one does to a stream must not be contradicted here:
so this part stands behind all scripts and `modify_body`, just before `save`.

What happens to a request that mitmproxy streams (`stream_large_bodies`):

| case                                                  | result                             |
|-------------------------------------------------------|------------------------------------|
| its headers show no session, or the filter skips it   | passes as it came, is not looked at |
| JSON with a length up to 16 MB, no coding, not signed | held back, then sent with its key  |
| all else: chunked, coded, larger, signed, observed    | passes as it came, and is copied   |
| mitmproxy begins to stream it when half has come      | passes as it came, is not looked at |

What happens to a response to a request of a session:

| case                                                  | result                             |
|-------------------------------------------------------|------------------------------------|
| `text/event-stream`                                   | passed on as it arrives, and read  |
| the request asks for a stream, and the type says none | passed on as it arrives, and read  |
| (missing, `text/plain`, `application/json`)           |                                    |
| another addon has set `stream`                        | read only where it said `True`     |
| another addon has made the response                   | read                               |
| all else, or `prompt_cache_stream=false`              | kept until complete, then read     |
"""

import logging
import math
from collections.abc import Callable
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.utils import human

from prompt_cache_key.body import MAX_PARSED, MEMBER_SIZE
from prompt_cache_key.identity import session_in_header
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.message_body import header_names, is_signed
from prompt_cache_key.state import State, is_open
from prompt_cache_key.streaming.held_request import MAX_HELD, HeldRequest
from prompt_cache_key.streaming.tap import ResponseTap, Tap

_MAY_BE_EVENTS = ("", "text/plain", "application/json")
"""Types under which event streams were seen: the Codex backend's have none."""


class Streaming:
    """Streams requests and responses without a change to what others see of them.

    `edit` puts the key into a whole request body; ValueError says why there is none.
    """

    name = "prompt_cache_key_streaming"

    def __init__(self, state: State, edit: Callable[[http.HTTPFlow, bytes], bytes]) -> None:
        self.state = state
        self._edit = edit

    def install(self) -> None:
        """Install this addon in mitmproxy's chain, before `save`."""
        addons = ctx.master.addons
        addons.register(self)
        save = addons.get("save")
        at = addons.chain.index(save) if save in addons.chain else len(addons.chain)
        addons.chain.insert(at, self)

    def remove(self) -> None:
        """Remove this addon from the chain."""
        if ctx.master.addons.get(self.name) is self:
            ctx.master.addons.remove(self)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Hold back or copy a request that is streamed, before its headers are sent on."""
        request, destinations = flow.request, self.state.destinations
        if request.stream is not True or not is_open(flow):
            return
        is_selected = destinations.selects(flow)
        is_ours = is_selected or destinations.observes(flow)
        if not is_ours or not session_in_header(request.headers):
            return
        length = _length_to_hold(request) if is_selected else 0
        if length:
            request.stream = HeldRequest(length, lambda whole: self._edit(flow, whole))
            request.headers["content-length"] = str(length + MEMBER_SIZE)
        else:
            request.stream = Tap(MAX_PARSED)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let a response pass as it arrives if it is a stream, and read it on its way."""
        response, ours = flow.response, self.state.in_flight.get(flow)
        if not response or not ours or not ours.reader or response.raw_content is not None:
            return  # another addon's response is complete from the start
        is_stream = _is_stream(response, ours)
        is_passed_on = self.state.options.stream and is_stream and not response.stream
        if is_passed_on or response.stream is True:  # another addon's stream is only read
            limit = _kept_size() if is_passed_on else 0
            response.stream = ours.tap = ResponseTap(limit, ours.reader.feed, response)

    def keep(self, flow: http.HTTPFlow, tap: ResponseTap | None) -> None:
        """Give a streamed response that broke off the body that has passed."""
        response = flow.response
        if response and tap and response.raw_content is None and response.stream is tap:
            tap.keep()

    def response(self, flow: http.HTTPFlow) -> None:
        """Undo what other addons did to a streamed body: the client has got it as it was."""
        response, tap = flow.response, flow.response and flow.response.stream
        if not response or not isinstance(tap, ResponseTap) or (content := tap.content) is None:
            return
        was_edited = response.raw_content != content
        response.raw_content = content
        if was_edited:
            response.headers = tap.headers
            self.state.log_once(
                logging.WARNING,
                flow,
                "another addon edited a response that had been streamed, so the client has got it "
                "unedited, as it is shown and saved; to have it edited: "
                "--set prompt_cache_stream=false",
            )


def _length_to_hold(request: http.Request) -> int:
    """Return the length of a request body that can be held back; 0 if it cannot."""
    names = header_names(request)
    size = request.headers.get("content-length", "")
    if (
        b"content-encoding" in names
        or b"transfer-encoding" in names
        or names.count(b"content-length") != 1
        or _media_type(request) != "application/json"
        or not (size.isascii() and size.isdigit() and len(size) < 10)  # noqa: PLR2004
        or int(size) > MAX_HELD
        or is_signed(request)
    ):
        return 0
    return int(size)


def _is_stream(response: http.Response, ours: RequestInFlight) -> bool:
    type_ = _media_type(response)
    return type_ == "text/event-stream" or (ours.wants_stream and type_ in _MAY_BE_EVENTS)


def _media_type(message: Any) -> str:
    type_: str = message.headers.get("content-type", "")
    return type_.partition(";")[0].strip().lower()


def _kept_size() -> float:
    """Return up to which size mitmproxy would keep a body: any, unless an option limits it."""
    limits = (ctx.options.stream_large_bodies, ctx.options.body_size_limit)
    return min((human.parse_size(limit) or 0 for limit in limits if limit), default=math.inf)
