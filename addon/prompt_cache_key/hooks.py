"""The mitmproxy addon: a key into each request that is ours, and what became of it.

The way of a request through the package: `hooks` (is it ours to touch?), `request.body`,
`request.speaker` and `request.bridge` (who?), `request.upstreams` (what is wanted there?),
`request.keys`, `request.body` again; then `outcome` when it is answered.
"""

import logging
import time
from asyncio import sleep
from collections.abc import Callable
from typing import cast

from mitmproxy import http

from prompt_cache_key.commands import Commands
from prompt_cache_key.exchange import Endpoint, Exchange
from prompt_cache_key.log import log, pairs
from prompt_cache_key.options import AUTO
from prompt_cache_key.outcome import Outcome
from prompt_cache_key.request.body import NAME, Body
from prompt_cache_key.request.keys import Name, name_of
from prompt_cache_key.request.speaker import Speaker, find, find_user, is_raw_user_id
from prompt_cache_key.request.stream import HeldRequest
from prompt_cache_key.request.strip import strip
from prompt_cache_key.request.upstreams import DEFAULT_FILTER, Upstream, upstream_of
from prompt_cache_key.response.usage import UsageReader
from prompt_cache_key.settings import Settings
from prompt_cache_key.show.listener import LivePage
from prompt_cache_key.show.view import PromptView
from prompt_cache_key.state import State
from prompt_cache_key.wire import Wire, sent_content

MAX_LENGTH = 256
"""Characters of a key that goes into a header or into what is saved with a flow."""


class PromptCacheKey:
    """Puts one stable `prompt_cache_key` for each Claude Code session into outgoing requests.

    `clock` returns seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State(clock)
        self.outcome = Outcome(self.state)
        self.wire = Wire(self.state, self.is_ours, self.give_key)
        page = LivePage(lambda: self.state.options.page, self.state.recent)
        self.addons = [Settings(self.state), Commands(self.state), PromptView(), page]

    def running(self) -> None:
        """Take the place next to the wire."""
        self.wire.install()

    def done(self) -> None:
        """Leave it."""
        self.wire.remove()

    def is_ours(self, flow: http.HTTPFlow) -> bool:
        """Whether a request is live, unanswered and selected."""
        return _is_open(flow) and bool(self.state.matches(flow))

    async def request(self, flow: http.HTTPFlow) -> None:
        """Put the session's key into a request that is ours to touch."""
        held = flow.request.stream
        if isinstance(held, HeldRequest):
            if held.problem:
                self.state.skip(flow, held.problem, logging.WARNING)
        elif self.is_ours(flow):
            try:
                content = _content(flow.request)
                edited = await self.give_key(flow, content)
                if edited is not content:
                    flow.request.content = edited
            except ValueError as e:
                self.state.skip(flow, str(e), logging.WARNING)
        elif _is_open(flow):
            host = flow.request.pretty_host
            rejects = upstream_of(host, "", "").rejects
            where = f"to a host that rejects the field ({pairs(host=host)})"
            self.state.skip(flow, where if rejects else "left out by prompt_cache_filter")

    async def give_key(self, flow: http.HTTPFlow, raw: bytes, *, wait: bool = True) -> bytes:
        """Return a body with the key of whoever speaks in it, and begin the exchange.

        Where nobody does it is returned as it is. ValueError if it can't have a key. Without
        `wait` it never waits, neither for a shared store nor while a translator's cause is found.
        """
        state, body = self.state, Body(raw)
        speaker, cause = await self._who(flow, body, wait=wait)
        if not speaker:
            state.skip(flow, "without a session")
            return raw
        if (stripped := strip(raw, state.options.strip)) is not raw:
            body = Body(stripped)
        ask = Exchange(speaker, _endpoint(flow, body.model), state.clock())
        ask.upstream = self._upstream(flow, ask.endpoint)
        if body.has_key and not (state.options.overwrite or is_raw_user_id(body.own_key)):
            ask.state, edited = "kept", body.raw
            ask.key = body.own_key if isinstance(body.own_key, str) else ""
        else:
            ask.name = name = self._name(ask, cause or flow, body)
            get = state.store.get_now
            ask.key, is_new = (
                await state.store.get(name, ask.begun) if wait else get(name, ask.begun)
            )
            ask.state = "replaced" if body.has_key else "new" if is_new else "reused"
            edited = body.with_key(ask.key, **self._question(ask, body))
        if not _is_open(flow):
            return raw  # the client has gone meanwhile
        self._begin(flow, ask, cause)
        return edited

    async def _who(
        self, flow: http.HTTPFlow, body: Body, *, wait: bool
    ) -> tuple[Speaker | None, http.HTTPFlow | None]:
        """Return who speaks, and for a translator's call the request that caused it.

        ValueError if it can't be told whose it is and its own key is bad.
        """
        speaker, bridge = find(flow.request.headers, body), self.state.bridge
        if not self.state.options.bridge:
            return speaker, None
        place = flow.request.host, flow.request.port
        session = speaker.session if speaker else ""
        # Of one session's requests it is soon found, among all others not.
        if (wait or speaker) and (
            found := await bridge.find(body.raw, _pause if wait else _go_on, session, place)
        ):
            cause, its = cast("http.HTTPFlow", found[0]), found[1]
            return speaker or its._replace(source="bridge"), cause
        if speaker:
            bridge.add(flow, speaker, lambda: sent_content(flow), place)
        elif is_raw_user_id(body.own_key):
            raise ValueError("it shows no session, and its own key is a user id, a bad key")
        return speaker, None

    def _upstream(self, flow: http.HTTPFlow, endpoint: Endpoint) -> Upstream:
        """Return what is known of where a request goes; ValueError if that rejects the field."""
        # The one that is connected to, and the one that is asked for, as behind a tunnel.
        path, model = flow.request.path, endpoint.model
        upstream = upstream_of(flow.request.host, path, model)
        if not upstream.name:
            upstream = upstream_of(endpoint.host, path, model)
        is_known = upstream.rejects and self.state.options.filter == DEFAULT_FILTER
        if is_known or (NAME, endpoint) in self.state.refused:
            raise ValueError("the upstream rejects the field")
        return upstream

    def _name(self, ask: Exchange, owner: http.HTTPFlow, body: Body) -> Name:
        """Return what a request's key is kept by; `owner` is the flow of who caused it."""
        scope = self.state.options.scope
        ask.scope = ask.upstream.scope if scope == "auto" else scope
        user: tuple[str, ...] = ()
        if ask.scope == "user":
            user = find_user(body) or find_user(Body(sent_content(owner))) or _address(owner)
        return name_of(ask.scope, body.model, ask.speaker, user)

    def _question(self, ask: Exchange, body: Body) -> dict[str, object]:
        """Return the member that asks the upstream why it missed, where it understands that."""
        field = "prompt_cache_options"
        if not (self.state.options.diagnose and ask.upstream.diagnoses) or body.has(field):
            return {}
        last = self.state.totals.response_id(ask.speaker.session, ask.speaker.agent, body.model)
        is_refused = (field, ask.endpoint) in self.state.refused
        return {} if is_refused or not last else {field: {"comparison_response_id": last}}

    def _begin(self, flow: http.HTTPFlow, ask: Exchange, cause: http.HTTPFlow | None) -> None:
        """Count a request that has its key now, and tell of it."""
        state, speaker = self.state, ask.speaker
        ask.count = state.totals.begin(speaker.session, speaker.agent, ask.endpoint.model)
        row = ask.count.row
        row.key, row.state, row.scope = ask.key[:MAX_LENGTH], ask.state, ask.scope
        row.name = ask.name
        if cause and (of_cause := state.exchanges.get(cause)):
            of_cause.count.begin_call(ask.count)
        state.exchanges[flow] = ask
        flow.metadata |= {
            "prompt_cache_key": ask.key[:MAX_LENGTH].encode(errors="replace").decode(),
            "prompt_cache_state": ask.state,
            "claude_session": speaker.session,
            "claude_agent": speaker.agent,
        }
        flow.request.headers.update(dict.fromkeys(self._header_names(flow, ask), ask.key))
        self.outcome.comment(flow, ask)
        who = pairs(key=ask.key, session=speaker.session, agent=speaker.agent)
        how = pairs(model=ask.endpoint.model, state=ask.state, source=speaker.source)
        scope = f" scope={ask.scope}" if ask.scope else ""
        log(logging.INFO, f"{who} {how}{scope}", flow.client_conn.peername)

    def _header_names(self, flow: http.HTTPFlow, ask: Exchange) -> list[str]:
        """Return the headers that are to carry the key: none if it can't stand in one."""
        names = [name for name in self.state.options.headers if name]
        if tuple(names) == AUTO:
            names = [name for name in ask.upstream.headers if name not in flow.request.headers]
        is_plain = ask.key.isascii() and ask.key.isprintable() and len(ask.key) <= MAX_LENGTH
        if not names or not ask.key or not is_plain:
            return []
        if isinstance(flow.request.stream, HeldRequest):
            what = "it is streamed, and its headers went on before its key was known"
            self.state.once(logging.WARNING, flow, f"no {', '.join(names)}: {what}")
            return []
        return names

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Begin to look at the response to a keyed request."""
        if flow.response and (exchange := self.state.exchanges.get(flow)):
            get = flow.response.headers.get
            exchange.reader = UsageReader(get("content-type", ""), get("content-encoding", ""))

    async def response(self, flow: http.HTTPFlow) -> None:
        """Report what the upstream read from its cache, and keep what was streamed."""
        self.state.bridge.remove(flow)
        if exchange := self.state.exchanges.pop(flow, None):
            self.wire.keep(flow, exchange)
            await self.outcome.tell(flow, exchange)
        if isinstance(flow.request.stream, HeldRequest):
            flow.request.stream.content = b""  # flows are kept long, and this one without a body

    async def error(self, flow: http.HTTPFlow) -> None:
        """Do the same with what was seen before one side broke off."""
        await self.response(flow)


def _is_open(flow: http.HTTPFlow) -> bool:
    return flow.live and not (flow.response or flow.error or flow.is_replay)


async def _pause() -> None:
    await sleep(0)


async def _go_on() -> None:
    pass


def _endpoint(flow: http.HTTPFlow, model: str) -> Endpoint:
    host = f"{flow.request.pretty_host}:{flow.request.port}"
    return Endpoint(host, flow.request.path.partition("?")[0], model)


def _address(flow: http.HTTPFlow) -> tuple[str]:
    return (str((flow.client_conn.peername or ("",))[0]),)


def _content(request: http.Request) -> bytes:
    """Return the decoded body; ValueError if there is none to work on."""
    if request.stream or request.raw_content is None:
        raise ValueError("it is streamed (stream_large_bodies) in a way that has no room for a key")
    try:
        return request.get_content() or b""
    except ValueError:
        raise ValueError("its content-encoding is unknown, or the body is corrupt") from None
