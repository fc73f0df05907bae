"""Insert a key into a request body: whose request, which upstream, which key, which headers."""

import logging
from asyncio import sleep
from collections.abc import Coroutine
from typing import Any, cast

from mitmproxy import http

from prompt_cache_key.body import DIAGNOSIS, MEMBER_SIZE, NAME, Body
from prompt_cache_key.endpoint import MAX_SIZE, endpoint_of, model_in_path
from prompt_cache_key.identity import (
    UNKNOWN_SESSION,
    Identity,
    find_identity,
    find_user,
    is_raw_user_id,
)
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.keys import Name, name_of
from prompt_cache_key.log import log, pairs
from prompt_cache_key.message_body import is_signed
from prompt_cache_key.options import AUTO
from prompt_cache_key.outcome import Outcome
from prompt_cache_key.state import State, is_open
from prompt_cache_key.streaming.held_request import HeldRequest
from prompt_cache_key.strip import strip
from prompt_cache_key.upstreams import DEFAULT_FILTER, RoutingHeader, upstream_of

NOBODY = Identity("", "", "")
MAX_LENGTH = 256
"""Characters of a key that goes into a log line, or into what is saved with a flow."""

LARGE = 1 << 20
"""Bytes from which a body is read and changed in two steps: both may take 60 ms for 32 MB."""

TURNS = 5
"""Turns of the event loop that others get while an origin is looked for: a request takes ten."""


class Injector:
    """Inserts keys into request bodies."""

    def __init__(self, state: State, outcome: Outcome) -> None:
        self.state = state
        self.outcome = outcome

    async def prepare(
        self, flow: http.HTTPFlow, raw: bytes, *, may_insert: bool, may_wait: bool = True
    ) -> RequestInFlight | None:
        """Return a session's request, its body with the key; None if no session is shown.

        Nothing is changed or logged yet: `begin` does that. Without `may_insert` the request is
        observed, and its body stays. Without `may_wait` nothing is waited for, neither a shared
        store nor other requests. ValueError if the request can neither have a key nor be observed.
        """
        body, request = Body(raw), flow.request
        to = self.state.destinations.of(flow)
        model = body.model or model_in_path(request.path)
        ours = RequestInFlight(
            identity=NOBODY,
            user=_user(body),
            endpoint=endpoint_of(request, model),
            url=to.url[:MAX_SIZE],
            upstream=upstream_of(request.host, request.path, model, to.host),
            sent_at=request.timestamp_start,
            body=raw,
            wants_stream=body.wants_stream,
        )
        await self._identify(flow, ours, body, may_wait=may_wait)
        if ours.identity is NOBODY:
            self.state.skip(flow, "the request shows no session")
            return None
        reason = self._reason_to_observe(flow, ours)
        if may_insert and not reason:
            if may_wait and len(raw) > LARGE:
                await sleep(0)
            await self._insert(flow, ours, body, may_wait=may_wait)
        elif may_insert:
            self.state.skip(flow, reason)
        return ours

    def edit_now(self, flow: http.HTTPFlow, whole: bytes) -> bytes:
        """Return a held body with its key, without waiting; ValueError if it cannot have one."""
        if not is_open(flow):
            self.state.skip(flow, "the request was answered before it was complete")
            return whole
        ours = _at_once(self.prepare(flow, whole, may_insert=True, may_wait=False))
        if not ours:
            return whole
        if len(ours.body) > len(whole) + MEMBER_SIZE:
            raise ValueError("the request is streamed, and its length leaves no room for the key")
        self.begin(flow, ours)
        return ours.body

    def begin(self, flow: http.HTTPFlow, ours: RequestInFlight) -> None:
        """Set the headers of a request whose body is about to be sent, count it and log it."""
        state, identity = self.state, ours.identity
        if ours.headers:
            flow.request.headers.update(ours.headers)
        state.in_flight[flow] = ours
        if not ours.origin and identity.session != UNKNOWN_SESSION:
            state.bridge.add(
                flow,
                identity,
                lambda: ours.body,
                endpoint=ours.endpoint.address,
                user=ours.user,
                model=ours.endpoint.model,
            )
        self.outcome.begin(flow, ours)
        key = ours.key[:MAX_LENGTH].encode(errors="replace").decode()
        flow.metadata |= {
            "prompt_cache_key": key,
            "prompt_cache_state": ours.state,
            "claude_session": identity.session,
            "claude_agent": identity.agent,
            "prompt_cache_model": ours.endpoint.model,  # a streamed body is not saved
        }
        words = {} if ours.state == "observed" else {"key": ours.key}
        words |= ours.names() | {"state": ours.state, "source": identity.source}
        if ours.scope:
            words["scope"] = ours.scope
        log(logging.INFO, pairs(**words), flow.client_conn.peername)

    async def _identify(
        self, flow: http.HTTPFlow, ours: RequestInFlight, body: Body, *, may_wait: bool
    ) -> None:
        """Find the identity of a request, and the origin of a translator's upstream call.

        A request without an origin waits for its answer, and may be the origin of a call.
        ValueError if there is no identity, and the client's own key is a bad one.
        """
        identity, bridge = find_identity(flow.request.headers, body), self.state.bridge
        ours.identity = identity or NOBODY
        origin = None
        if self.state.options.bridge and (may_wait or identity):
            in_flight = self.state.in_flight
            known = dict(in_flight)  # the origin may be answered meanwhile

            async def pause() -> None:
                known.update(in_flight)
                for _ in range(TURNS):
                    await sleep(0)

            origin = await bridge.find(
                body.raw,
                pause if may_wait else None,
                session=identity.session if identity else "",
                endpoint=ours.endpoint.address,
                is_user_scope=self._scope(ours) == "user",
            )
        if origin:
            # Of several that are equally likely the first counts as the one that the call is for.
            waiting = cast("http.HTTPFlow", origin.candidates[0])
            ours.origin = known.get(waiting) or in_flight.get(waiting)
            ours.user = ours.user or origin.user
            if not identity:
                ours.identity = origin.identity._replace(source="bridge")
        elif not identity and is_raw_user_id(body.own_key):
            raise ValueError("the request shows no session, and its own key is a user id")

    def _scope(self, ours: RequestInFlight) -> str:
        scope = self.state.options.scope
        return ours.upstream.scope if scope == "auto" else scope

    async def _insert(
        self, flow: http.HTTPFlow, ours: RequestInFlight, body: Body, *, may_wait: bool
    ) -> None:
        """Put the key into the body of a request, and its headers beside it."""
        options = self.state.options
        names = ours.upstream.strip if tuple(options.strip) == AUTO else tuple(options.strip)
        for name in filter(None, names):
            try:
                stripped = strip(body.raw, [name])
            except ValueError as e:
                self.state.log_once(logging.WARNING, flow, f"{name} is not stripped: {e}")
            else:
                body = body if stripped is body.raw else Body(stripped)
        if body.has_key and not (options.overwrite or is_raw_user_id(body.own_key)):
            ours.state, ours.body = "kept", body.raw
            ours.key = body.own_key if isinstance(body.own_key, str) else ""
        else:
            ours.scope = self._scope(ours)
            if ours.scope == "user" and not ours.user:
                ours.scope = "session"  # an unknown user is not a user
            ours.name = self._name(ours, ours.scope)
            ours.key, is_new = await self._get(ours.name, may_wait=may_wait)
            ours.state = "replaced" if body.has_key else "new" if is_new else "reused"
            question = self._question(ours, body) if may_wait else {}
            ours.asked = bool(question)
            ours.body = body.with_key(ours.key, **question)
        await self._add_headers(flow, ours, may_wait=may_wait)

    async def _get(self, name: Name, *, may_wait: bool) -> tuple[str, bool]:
        store, now = self.state.store, self.state.clock()
        return await store.get(name, now) if may_wait else store.get_now(name, now)

    def _name(self, ours: RequestInFlight, scope: str) -> Name:
        return name_of(scope, ours.endpoint.model, ours.identity, ours.user or ())

    def _reason_to_observe(self, flow: http.HTTPFlow, ours: RequestInFlight) -> str:
        """Return why a session's request gets no key; "" if it gets one."""
        is_default = self.state.options.filter == DEFAULT_FILTER
        if ours.upstream.rejects and is_default:
            return "the upstream rejects the field"
        if self.state.rejections.rejects(NAME, ours.endpoint):
            return "the upstream has rejected the field"
        if is_signed(flow.request):
            return "the headers hold a signature or checksum of the body"
        return ""

    def _question(self, ours: RequestInFlight, body: Body) -> dict[str, object]:
        """Return the member that asks the upstream to explain a miss, where it can."""
        if not (self.state.options.diagnose and ours.upstream.diagnoses) or body.has(DIAGNOSIS):
            return {}
        if self.state.rejections.rejects(DIAGNOSIS, ours.endpoint):
            return {}
        last = self.outcome.last_response_id(ours)
        return {DIAGNOSIS: {"comparison_response_id": last}} if last else {}

    async def _add_headers(
        self, flow: http.HTTPFlow, ours: RequestInFlight, *, may_wait: bool
    ) -> None:
        """Choose the routing headers that carry the key; a held request's headers are gone."""
        chosen = tuple(filter(None, self.state.options.headers))
        is_auto, is_held = chosen == AUTO, isinstance(flow.request.stream, HeldRequest)
        headers = ours.upstream.headers if is_auto else tuple(map(RoutingHeader, chosen))
        for header in headers:
            name, own = header.name.lower(), flow.request.headers.get(header.name)
            is_replaced = self.state.routing.is_replaced
            stays = is_auto and own is not None and not is_replaced(ours.conversation, name, own)
            if own is not None and (stays or is_held):
                ours.routing[name] = own[:MAX_LENGTH]
            if stays:
                continue
            if is_held:
                what = "the request is streamed, and its headers went on before its key was known"
                self.state.log_once(logging.WARNING, flow, f"no header {name}: {what}")
                continue
            if is_auto and own is not None:
                what = f"the client changes {name} with each request, so the addon replaces it"
                self.state.log_once(logging.WARNING, flow, what)
            value = ours.key
            if header.scope == "session" and ours.scope != "session":
                value = ""
                if ours.identity.session != UNKNOWN_SESSION:
                    value, _ = await self._get(self._name(ours, "session"), may_wait=may_wait)
            if header.takes(value):
                ours.headers[header.name] = ours.routing[name] = value


def _user(body: Body) -> tuple[str, str] | None:
    try:
        return find_user(body)
    except ValueError:  # the body cannot be parsed; the session may be known all the same
        return None


def _at_once(steps: Coroutine[Any, Any, RequestInFlight | None]) -> RequestInFlight | None:
    """Return what a coroutine returns that waits for nothing; ValueError if it waits."""
    try:
        steps.send(None)
    except StopIteration as done:
        result: RequestInFlight | None = done.value
        return result
    steps.close()
    raise ValueError("the request is streamed, and would have to wait")
