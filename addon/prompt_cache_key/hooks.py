"""The mitmproxy addon: a key into each request that is ours, and what became of it.

A request comes to `hooks` (is it ours to touch?) and goes through `inject`; when it is answered,
its response goes through `outcome`.
"""

import gc
import logging
import time
from collections.abc import Callable

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import AddonHalt

from prompt_cache_key.commands import Commands
from prompt_cache_key.inject import Injector
from prompt_cache_key.live_page.listener import LivePage
from prompt_cache_key.log import pairs
from prompt_cache_key.message_body import content, replace
from prompt_cache_key.outcome import Outcome
from prompt_cache_key.prompt_view.view import PromptView
from prompt_cache_key.settings import Settings
from prompt_cache_key.state import State, is_open
from prompt_cache_key.streaming.addon import Wire
from prompt_cache_key.streaming.held_request import HeldRequest
from prompt_cache_key.upstreams import upstream_of
from prompt_cache_key.usage.reader import UsageReader


class PromptCacheKey:
    """Puts one stable `prompt_cache_key` for each Claude Code session into outgoing requests.

    `clock` returns seconds and never goes back. mitmproxy asks each addon for eight hooks of each
    request, so there is one, and what would be others is called by it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State(clock)
        self.outcome = Outcome(self.state)
        self.injector = Injector(self.state, self.outcome)
        self.wire = Wire(self.state, self.is_ours, self.injector.inject)
        self.settings = Settings(self.state)
        self.commands = Commands(self.state)
        self.view = PromptView()
        self.page = LivePage(lambda: self.state.options.page, self.state.recent)
        self.state.page_path = self.page.path
        self._has_run = False

    def load(self, loader: Loader) -> None:
        """Register options, commands and the Prompt view."""
        self.settings.load(loader)
        ctx.master.commands.collect_commands(self.commands)
        self.view.load(loader)

    def configure(self, updated: set[str]) -> None:
        """Take on changed options."""
        self.settings.configure(updated)

    def running(self) -> None:
        """Take the place next to the wire, and tell of the settings."""
        self.wire.install()
        self.settings.running()
        self.page.running()
        if not self._has_run:  # a script that is touched runs again
            # What mitmproxy is made of is no garbage, and to look through it each time that the
            # objects of large bodies set off a full collection takes 60 ms.
            gc.freeze()
        self._has_run = True

    def done(self) -> None:
        """Sum up, and leave it."""
        self.settings.done()
        self.view.done()
        self.page.done()
        self.wire.remove()

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer a request for the live page, which no other addon is to see."""
        if await self.page.requestheaders(flow):
            raise AddonHalt

    def _halt(self, flow: http.HTTPFlow) -> None:
        """End an event of a request for the live page at this addon."""
        if self.page.is_page(flow):
            raise AddonHalt

    def is_ours(self, flow: http.HTTPFlow) -> bool:
        """Whether a request is live, unanswered and selected."""
        return is_open(flow) and self.state.destinations.selects(flow)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Put the session's key into a request that is ours to touch."""
        self._halt(flow)
        held = flow.request.stream
        if isinstance(held, HeldRequest):
            if held.problem:
                self.state.skip(flow, held.problem, logging.WARNING)
        elif self.is_ours(flow):
            try:
                body = content(flow.request)
                edited = await self.injector.inject(flow, body)
                if edited is not body:
                    replace(flow.request, edited)
            except ValueError as e:
                self.state.skip(flow, str(e), logging.WARNING)
        elif is_open(flow):
            host = self.state.destinations.of(flow).host
            rejects = upstream_of(host, "", "").rejects
            where = f"to a host that rejects the field ({pairs(host=host)})"
            self.state.skip(flow, where if rejects else "left out by prompt_cache_filter")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Begin to look at the response to a keyed request."""
        self._halt(flow)
        if flow.response and (exchange := self.state.exchanges.get(flow)):
            get = flow.response.headers.get
            exchange.reader = UsageReader(get("content-encoding", ""))

    async def response(self, flow: http.HTTPFlow) -> None:
        """Report what the upstream read from its cache, and keep what was streamed."""
        self._halt(flow)
        self.state.bridge.remove(flow)
        if exchange := self.state.exchanges.pop(flow, None):
            self.wire.keep(flow, exchange)
            await self.outcome.tell(flow, exchange)
        if isinstance(flow.request.stream, HeldRequest):
            flow.request.stream.content = b""  # flows are kept long, and this one without a body
        self.view.response(flow)

    async def error(self, flow: http.HTTPFlow) -> None:
        """Do the same with what was seen before one side broke off."""
        await self.response(flow)
