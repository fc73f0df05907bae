"""mitmproxy hooks: insert the key into a session's requests, and report what the cache brought.

A request comes to `hooks` (is it ours to touch?) and goes through `inject`; when its response has
ended it goes through `outcome`.
"""

import logging
import time
from asyncio import Semaphore
from collections.abc import Callable
from contextlib import nullcontext

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from prompt_cache_key.commands import Commands
from prompt_cache_key.identity import session_in_header
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.inject import Injector
from prompt_cache_key.live_page.listener import LivePage
from prompt_cache_key.message_body import header_names, read_body, replace_body
from prompt_cache_key.outcome import Outcome
from prompt_cache_key.prompt_view.view import PromptView
from prompt_cache_key.settings import Settings
from prompt_cache_key.state import State, is_open
from prompt_cache_key.streaming.addon import Streaming
from prompt_cache_key.streaming.held_request import HeldRequest
from prompt_cache_key.streaming.tap import Tap
from prompt_cache_key.upstreams import upstream_of
from prompt_cache_key.usage.reader import UsageReader

MAX_DECODED = 32 << 20
"""Bytes of decoded bodies in flight: 16 kB on the wire may be 16 MB."""

MAX_CODED = 4
"""Coded requests that are worked on at once; each may take three times 16 MB meanwhile."""

CANNOT_HOLD = (
    "the request is streamed (stream_large_bodies) and cannot be held back: that takes a session "
    "header, JSON and a length of up to 16 MB, and neither a coding nor a signature"
)


class PromptCacheKey:
    """Inserts one stable `prompt_cache_key` for each Claude Code session into outgoing requests.

    `clock` returns seconds and never goes back. mitmproxy asks each addon for eight hooks of each
    request, so there is one addon, which calls its parts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State(clock)
        self.outcome = Outcome(self.state)
        self.injector = Injector(self.state, self.outcome)
        self.streaming = Streaming(self.state, self.injector.edit_now)
        self.settings = Settings(self.state)
        self.commands = Commands(self.state)
        self.view = PromptView()
        self._coded = Semaphore(MAX_CODED)
        self.page = LivePage(lambda: self.state.options.page, self.state.recent)

    def load(self, loader: Loader) -> None:
        """Register options, commands and the Prompt view."""
        self.settings.load(loader)
        ctx.master.commands.collect_commands(self.commands)
        self.view.load(loader)

    def configure(self, updated: set[str]) -> None:
        """Apply changed options."""
        self.settings.configure(updated)

    def running(self) -> None:
        """Install the streaming addon, and log the settings."""
        self.streaming.install()
        self.page.running()
        self.settings.running(self.page.path)

    def done(self) -> None:
        """Log the summary, and remove what was installed."""
        self.outcome.close()
        self.settings.done()
        self.page.done()
        self.view.done()
        self.streaming.remove()

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer a request for the live page, of which no other addon hears anything."""
        if await self.page.requestheaders(flow):
            raise exceptions.AddonHalt

    async def request(self, flow: http.HTTPFlow) -> None:
        """Insert the session's key into a request that is ours to touch, or observe the request."""
        self._halt_page(flow)
        streamed = flow.request.stream
        if isinstance(streamed, HeldRequest):
            if streamed.problem:
                self.state.skip(flow, streamed.problem, logging.WARNING)
        elif not is_open(flow):
            return
        elif not (is_selected := self.state.destinations.selects(flow)) and not (
            self.state.destinations.observes(flow)
        ):
            self._skip(flow)
        elif streamed:
            if is_selected:
                self.state.skip(flow, CANNOT_HOLD, logging.WARNING)
            if session_in_header(flow.request.headers):
                await self._observe(flow, streamed)
        else:
            is_coded = b"content-encoding" in header_names(flow.request)
            async with self._coded if is_coded else nullcontext():
                await self._insert(flow, may_insert=is_selected)

    async def _insert(self, flow: http.HTTPFlow, *, may_insert: bool) -> None:
        try:
            body = await read_body(flow.request)
            ours = await self.injector.prepare(flow, body, may_insert=may_insert)
            if ours and ours.body is not body and is_open(flow):
                await replace_body(flow.request, ours.body)
        except ValueError as e:
            self.state.skip(flow, str(e), logging.WARNING)
        else:
            if ours and is_open(flow):
                self._drop_if_decoded(flow, ours)
                self.injector.begin(flow, ours)

    def _drop_if_decoded(self, flow: http.HTTPFlow, ours: RequestInFlight) -> None:
        """Drop the decoded body of a coded request where those in flight take much memory.

        Its misses have no cause then. Any other body is the flow's own, and takes no memory.
        """
        ours.is_decoded = ours.body is not flow.request.raw_content
        if ours.is_decoded:
            others = [each.body for each in self.state.in_flight.values() if each.is_decoded]
            if len(ours.body) + sum(map(len, others)) > MAX_DECODED:
                ours.body = b""

    async def _observe(self, flow: http.HTTPFlow, streamed: object) -> None:
        """Observe a streamed request that has passed as it came; its headers show the session."""
        body = streamed.content if isinstance(streamed, Tap) else None
        try:
            ours = await self.injector.prepare(flow, body or b"", may_insert=False)
        except ValueError:  # coded, too large to be kept, or not JSON
            if ours := await self.injector.prepare(flow, b"{}", may_insert=False):
                ours.body = b""
        if ours:
            self.injector.begin(flow, ours)

    def _skip(self, flow: http.HTTPFlow) -> None:
        """Count a request that the filter does not select, and log the reason."""
        request, to = flow.request, self.state.destinations.of(flow)
        if not to.url:
            self.state.skip(flow, "the Host header is too long", logging.WARNING)
        elif (
            request.method == "GET"
            and request.headers.get("upgrade", "").lower() == "websocket"
            and request.path.partition("?")[0].endswith("/responses")
        ):
            self.state.skip(flow, "requests over a WebSocket get no key", logging.WARNING)
        elif upstream_of(to.host, request.path, "").rejects:
            self.state.skip(flow, "the upstream rejects the field")
        else:
            self.state.skip(flow, "prompt_cache_filter does not select it")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Begin to read the response to a session's request."""
        self._halt_page(flow)
        if flow.response and (ours := self.state.in_flight.get(flow)):
            ours.reader = UsageReader(flow.response.headers.get("content-encoding", ""))

    async def response(self, flow: http.HTTPFlow) -> None:
        """Report what the upstream read from its cache, and keep what was streamed."""
        self._halt_page(flow)
        self.state.bridge.remove(flow, is_answered=not flow.error)
        if ours := self.state.in_flight.pop(flow, None):
            self.streaming.keep(flow, ours.tap)
            await self.outcome.finish(flow, ours)
        self.view.response(flow)

    async def error(self, flow: http.HTTPFlow) -> None:
        """Report what was seen before the client or the upstream broke off."""
        await self.response(flow)

    def _halt_page(self, flow: http.HTTPFlow) -> None:
        if self.page.is_page(flow):
            raise exceptions.AddonHalt
