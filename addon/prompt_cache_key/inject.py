"""A key into a body: who asks, what the upstream wants, which key, and what is told of it."""

import logging
from asyncio import sleep
from typing import NamedTuple, cast

from mitmproxy import http

from prompt_cache_key.body import NAME, Body
from prompt_cache_key.identity import Identity, find, find_user, is_raw_user_id
from prompt_cache_key.in_flight import Endpoint, RequestInFlight
from prompt_cache_key.keys import Name, name_of
from prompt_cache_key.log import log, pairs
from prompt_cache_key.message_body import sent_content
from prompt_cache_key.options import AUTO
from prompt_cache_key.outcome import Outcome
from prompt_cache_key.state import State, is_open
from prompt_cache_key.streaming.held_request import HeldRequest
from prompt_cache_key.strip import strip
from prompt_cache_key.upstreams import DEFAULT_FILTER, Upstream, upstream_of

MAX_LENGTH = 256
"""Characters of a key that goes into a header or into what is saved with a flow."""


TURNS = 5
"""Of the event loop that others get while a cause is looked for: a request takes some ten."""


class Cause(NamedTuple):
    """The request that a translator's call is made for, and what is known of it with a key."""

    flow: http.HTTPFlow
    exchange: RequestInFlight | None


class Injector:
    """Puts keys into bodies."""

    def __init__(self, state: State, outcome: Outcome) -> None:
        self.state = state
        self.outcome = outcome

    async def inject(self, flow: http.HTTPFlow, raw: bytes, *, wait: bool = True) -> bytes:
        """Return a body with the key of whoever speaks in it, and begin the exchange.

        Where nobody does it is returned as it is. ValueError if it can't have a key. Without
        `wait` it never waits, neither for a shared store nor while a translator's cause is found.
        """
        state, body = self.state, Body(raw)
        identity, cause = await self._who(flow, body, wait=wait)
        if not identity:
            state.skip(flow, "without a session")
            return raw
        if (stripped := strip(raw, state.options.strip)) is not raw:
            body = Body(stripped)
        to = state.destinations.of(flow)
        endpoint = Endpoint(f"{to.host}:{flow.request.port}", to.path, body.model)
        upstream = self._upstream(flow, endpoint, to.host)
        ask = RequestInFlight(identity, endpoint, to.address, upstream, state.clock())
        if body.has_key and not (state.options.overwrite or is_raw_user_id(body.own_key)):
            ask.state, edited = "kept", body.raw
            ask.key = body.own_key if isinstance(body.own_key, str) else ""
        else:
            ask.name = name = self._name(ask, cause.flow if cause else flow, body)
            get = state.store.get_now
            ask.key, is_new = (
                await state.store.get(name, ask.begun) if wait else get(name, ask.begun)
            )
            ask.state = "replaced" if body.has_key else "new" if is_new else "reused"
            more = self._question(ask, body) if wait else {}
            edited = body.with_key(ask.key, **more)
        if not is_open(flow):
            return raw  # the client has gone meanwhile
        self._begin(flow, ask, cause)
        return edited

    async def _who(
        self, flow: http.HTTPFlow, body: Body, *, wait: bool
    ) -> tuple[Identity | None, Cause | None]:
        """Return who speaks, and for a translator's call the request that caused it.

        ValueError if it can't be told whose it is and its own key is bad.
        """
        identity, bridge = find(flow.request.headers, body), self.state.bridge
        if not self.state.options.bridge:
            return identity, None
        place = flow.request.host, flow.request.port
        session = identity.session if identity else ""
        exchanges = self.state.exchanges
        known: dict[http.HTTPFlow, RequestInFlight] = {}

        async def pause() -> None:
            known.update(exchanges)  # the cause may be answered meanwhile
            for _ in range(TURNS if wait else 0):
                await sleep(0)

        # Of one session's requests it is soon found, among all others not.
        if (wait or identity) and (found := await bridge.find(body.raw, pause, session, place)):
            cause, its = cast("http.HTTPFlow", found[0]), found[1]
            its = identity or its._replace(source="bridge")
            return its, Cause(cause, exchanges.get(cause) or known.get(cause))
        if identity:
            bridge.add(flow, identity, lambda: sent_content(flow), place)
        elif is_raw_user_id(body.own_key):
            raise ValueError("it shows no session, and its own key is a user id, a bad key")
        return identity, None

    def _upstream(self, flow: http.HTTPFlow, endpoint: Endpoint, asked_for: str) -> Upstream:
        """Return what is known of where a request goes; ValueError if that rejects the field."""
        request = flow.request
        upstream = upstream_of(request.host, request.path, endpoint.model, asked_for)
        is_known = upstream.rejects and self.state.options.filter == DEFAULT_FILTER
        if is_known or (NAME, endpoint) in self.state.refused:
            raise ValueError("the upstream rejects the field")
        return upstream

    def _name(self, ask: RequestInFlight, owner: http.HTTPFlow, body: Body) -> Name:
        """Return what a request's key is kept by; `owner` is the flow of who caused it."""
        scope = self.state.options.scope
        ask.scope = ask.upstream.scope if scope == "auto" else scope
        user: tuple[str, ...] = ()
        if ask.scope == "user":
            user = find_user(body) or find_user(Body(sent_content(owner))) or _address(owner)
        return name_of(ask.scope, body.model, ask.identity, user)

    def _question(self, ask: RequestInFlight, body: Body) -> dict[str, object]:
        """Return the member that asks the upstream why it missed, where it understands that."""
        field = "prompt_cache_options"
        if not (self.state.options.diagnose and ask.upstream.diagnoses) or body.has(field):
            return {}
        last = self.state.totals.response_id(ask.identity.session, ask.identity.agent, body.model)
        is_refused = (field, ask.endpoint) in self.state.refused
        return {} if is_refused or not last else {field: {"comparison_response_id": last}}

    def _begin(self, flow: http.HTTPFlow, ask: RequestInFlight, cause: Cause | None) -> None:
        """Count a request that has its key now, and tell of it."""
        state, identity = self.state, ask.identity
        ask.count = state.totals.begin(identity.session, identity.agent, ask.endpoint.model)
        row = ask.count.row
        row.key, row.state, row.scope = ask.key[:MAX_LENGTH], ask.state, ask.scope
        row.name = ask.name
        if cause and cause.exchange:
            cause.exchange.count.begin_call(ask.count)
        state.exchanges[flow] = ask
        flow.metadata |= {
            "prompt_cache_key": ask.key[:MAX_LENGTH].encode(errors="replace").decode(),
            "prompt_cache_state": ask.state,
            "claude_session": identity.session,
            "claude_agent": identity.agent,
        }
        for name in self._header_names(flow, ask):
            flow.request.headers[name] = ask.key
        self.outcome.comment(flow, ask)
        who = pairs(key=ask.key, session=identity.session, agent=identity.agent)
        how = pairs(model=ask.endpoint.model, state=ask.state, source=identity.source)
        scope = f" scope={ask.scope}" if ask.scope else ""
        log(logging.INFO, f"{who} {how}{scope}", flow.client_conn.peername)

    def _header_names(self, flow: http.HTTPFlow, ask: RequestInFlight) -> list[str]:
        """Return the headers that are to carry the key: none if it can't stand in one."""
        names = [name for name in self.state.options.headers if name]
        if tuple(names) == AUTO:
            known = [header.name for header in ask.upstream.headers]
            names = [name for name in known if name not in flow.request.headers]
        is_plain = ask.key.isascii() and ask.key.isprintable() and len(ask.key) <= MAX_LENGTH
        if not names or not ask.key or not is_plain:
            return []
        if isinstance(flow.request.stream, HeldRequest):
            what = "it is streamed, and its headers went on before its key was known"
            self.state.once(logging.WARNING, flow, f"no {', '.join(names)}: {what}")
            return []
        return names


def _address(flow: http.HTTPFlow) -> tuple[str]:
    return (str((flow.client_conn.peername or ("",))[0]),)
