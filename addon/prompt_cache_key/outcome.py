"""Report what became of a session's request: usage, misses and rejections.

When a response has ended, in this order: the usage is read and logged; `stats` decides which
requests count now, as a translator's request and the upstream call made for it are one prompt; each
of these is judged, added to the sums and the page, and annotated. Last, an error is looked through
for a rejection.
"""

import asyncio
import logging
import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from mitmproxy import http

from prompt_cache_key.body import DIAGNOSIS, NAME
from prompt_cache_key.codings import decode
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.log import log, pairs, text
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.options import PREFIX, without
from prompt_cache_key.project import project_of
from prompt_cache_key.rejections.forms import MAX_SIZE, rejection
from prompt_cache_key.screen_text import thousands
from prompt_cache_key.state import State
from prompt_cache_key.stats.sums import percent
from prompt_cache_key.usage.reader import Usage, UsageReader

if TYPE_CHECKING:
    from prompt_cache_key.stats.sessions import Ticket

MARKER = ":red_circle:"
"""The emoji name that marks a flow with missed tokens."""

MAX_WAIT = 0.1
"""Seconds that the end of a response waits for a judgement of its request. A later one is logged
and counted all the same, but is not in the flow file that mitmproxy has written by then."""

STEP = 1 << 16
"""Bytes of a whole response that are read at a time: up to 11 ms, in which no request goes on."""

MAX_JUDGED = 16
"""Requests that wait for a judgement; what is more is added without one."""


class Counted(NamedTuple):
    """A request that counts, with its flow."""

    flow: http.HTTPFlow
    ours: RequestInFlight
    request: FinishedRequest


class Outcome:
    """Reports what the upstream's cache brought."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._tickets: dict[Ticket, tuple[http.HTTPFlow, RequestInFlight]] = {}
        self._judging = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unjudged: list[Counted] = []
        # Of its own: asyncio's default is what names of hosts are looked up in.
        self._thread = ThreadPoolExecutor(1, "prompt_cache_key")

    def begin(self, flow: http.HTTPFlow, ours: RequestInFlight) -> None:
        """Register a request that is sent on, and comment its flow."""
        sessions, identity = self.state.sessions, ours.identity
        ours.ticket = sessions.begin(identity.session, identity.agent, ours.endpoint.model)
        ours.ticket.row.set_key(ours.key, ours.state, ours.scope, ours.name)
        if ours.origin:
            sessions.begin_call(ours.origin.ticket, ours.ticket)
        self._tickets[ours.ticket] = flow, ours
        self._annotate(flow, ours)

    def last_response_id(self, ours: RequestInFlight) -> str:
        """Return the id of the last response in the conversation of a request, or ""."""
        identity = ours.identity
        return self.state.sessions.response_id(
            identity.session, identity.agent, ours.endpoint.model
        )

    async def finish(self, flow: http.HTTPFlow, ours: RequestInFlight) -> None:
        """Report a request whose response has ended or broken off."""
        response, reader = flow.response, ours.reader
        usage, diagnosis = None, ""
        if response and reader:
            if not ours.tap:
                await _feed(reader, response.raw_content or b"")
            report = reader.finish()
            if reader.unread:
                self.state.log_once(logging.DEBUG, flow, f"usage is not read: {reader.unread}")
            settle = self.state.accounting.settle
            usage = settle(ours.conversation, report, ours.endpoint)
            diagnosis = reader.diagnosis
            if usage:
                ours.ticket.row.response_id = reader.response_id
                self._log_usage(flow, ours, usage)
        finished = _finished(ours, usage, diagnosis, response)
        counted = self._count(ours, finished)
        if not any(each.flow is flow for each in counted):
            flow.metadata["prompt_cache_counts"] = False  # the call made for this request counts
        while counted and not self._unjudged and not self._may_be_missed(counted[0].request):
            self.state.history.add(counted[0].request)
            self._add([counted.pop(0)])
        if counted and len(self._unjudged) < MAX_JUDGED:
            self._unjudged += counted
            # The client of a response that is not streamed waits for this hook.
            task = asyncio.create_task(self._judge(counted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.wait([task], timeout=MAX_WAIT)
        else:
            self._add(counted)
        if response and reader and ours.state != "observed":
            self._check_rejection(flow, ours, response, usage)

    def close(self) -> None:
        """Add the requests that wait for a judgement or a response: neither comes any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for task in self._tasks:
            task.cancel()
        self._add(self._unjudged)
        for ticket in self.state.sessions.close():
            _, ours = self._tickets[ticket]
            self._add(self._count(ours, _finished(ours)))

    def _count(self, ours: RequestInFlight, finished: FinishedRequest) -> list[Counted]:
        """Return the requests that count now that one has finished."""
        counted = []
        for ticket, request in self.state.sessions.finish(ours.ticket, finished):
            flow, its = self._tickets.pop(ticket)
            if request:
                counted.append(Counted(flow, its, request))
        return counted

    def _may_be_missed(self, request: FinishedRequest) -> bool:
        """Return at no cost whether a request has to be judged, as few have."""
        history = self.state.history
        return history.may_have_missed(request) or (
            request.is_first and history.may_be_cold(request)
        )

    async def _judge(self, counted: list[Counted]) -> None:
        """Judge requests in a thread, as the comparison of large bodies takes a second."""
        history, loop = self.state.history, asyncio.get_running_loop()
        async with self._judging:
            for each in counted:
                request, cold = each.request, None
                if history.may_have_missed(request):
                    miss = await loop.run_in_executor(self._thread, history.judge, request)
                    request = request._replace(miss=miss)
                elif request.is_first and history.may_be_cold(request):
                    cold = await loop.run_in_executor(self._thread, history.cold_start, request)
                history.add(request)
                self._unjudged.remove(each)
                self._add([each._replace(request=request)], cold)

    def _add(self, counted: Iterable[Counted], cold: Miss | None = None) -> None:
        """Add requests that count to the sums and the page, and report their misses."""
        for flow, ours, request in counted:
            client = flow.client_conn.peername
            if miss := request.miss:
                self._report_miss(flow, ours, request, miss)
            self.state.recent.add(request)
            warning = self.state.sessions.add(request)
            if warning:
                log(logging.WARNING, warning.line, client)
            if cold and self.state.is_new(f"cold start: {cold.kind}"):
                who = pairs(session=request.session, model=request.model)
                what = f"a new conversation read nothing of what another one has cached ({who})"
                why = f"expected {cold.expected} tokens; main cause: {cold.cause}"
                log(logging.WARNING, "; ".join(filter(None, (what, why, cold.remedy))), client)

    def _log_usage(self, flow: http.HTTPFlow, ours: RequestInFlight, usage: Usage) -> None:
        words: dict[str, object] = {
            "hit": percent(usage.hit),
            "input": usage.input,
            "cached": "?" if usage.cached is None else usage.cached,
        }
        if usage.written is not None:
            words["written"] = usage.written
        log(logging.INFO, f"usage {pairs(**words, **ours.names())}", flow.client_conn.peername)
        self._annotate(flow, ours, usage)

    def _report_miss(
        self, flow: http.HTTPFlow, ours: RequestInFlight, request: FinishedRequest, miss: Miss
    ) -> None:
        flow.metadata |= {
            "prompt_cache_missed": miss.missed,
            "prompt_cache_cause": miss.cause,
            "prompt_cache_path": miss.path,
            "prompt_cache_before": miss.before,
            "prompt_cache_after": miss.after,
        }
        missed = pairs(missed=miss.missed)
        words = f'miss {missed} cause="{miss.cause}" {pairs(**ours.names())}'
        log(logging.INFO, words, flow.client_conn.peername)
        self._annotate(flow, ours, request.usage, miss)
        if self.state.options.annotate and not flow.marked:
            flow.marked = MARKER

    def _annotate(
        self,
        flow: http.HTTPFlow,
        ours: RequestInFlight,
        usage: Usage | None = None,
        miss: Miss | None = None,
    ) -> None:
        """Put a summary into the comment of a flow, unless somebody else has commented it."""
        if not self.state.options.annotate or flow.comment != ours.comment:
            return
        words = [f"missed {thousands(miss.missed)}: {miss.cause}"] if miss else []
        if usage:
            cached = "?" if usage.cached is None else usage.cached
            words.append(f"{percent(usage.hit)} {cached}/{usage.input}")
        names = ours.names()
        words += map(text, (names["session"][:8], names["agent"], names["model"]))
        words += [f"key={text(ours.key[:8])}"] if ours.key else []
        flow.comment = ours.comment = " ".join(words)

    def _check_rejection(
        self,
        flow: http.HTTPFlow,
        ours: RequestInFlight,
        response: http.Response,
        usage: Usage | None,
    ) -> None:
        """Learn that an endpoint rejects a field that was inserted."""
        rejections, endpoint = self.state.rejections, ours.endpoint
        place = endpoint.address, endpoint.path
        if usage:
            rejections.accepted(endpoint)
            return
        if ours.state == "kept":
            return
        body = _error_of(response)
        for field in [NAME, DIAGNOSIS][: 1 + ours.asked]:
            if form := rejection(response.status_code, body, field):
                if rejections.learn(field, endpoint, place):
                    self._warn_rejection(flow, ours, field, f"{response.status_code}: {form}")
                return
        if response.status_code < 300:  # noqa: PLR2004
            rejections.accepted(endpoint)
        elif response.status_code == 400 and rejections.count_400(endpoint, place):  # noqa: PLR2004
            what = f"three requests with a key in a row got 400 from {text(ours.url)}"
            how = "if the key is the reason, leave the endpoint out"
            if option := self._filter_without(ours):
                how += f": {option}"
            log(logging.WARNING, f"{what}; {how}")

    def _warn_rejection(
        self, flow: http.HTTPFlow, ours: RequestInFlight, field: str, why: str
    ) -> None:
        what = f"{text(ours.url)} rejects {field} for {pairs(model=ours.endpoint.model)} ({why})"
        how = "and gets it no more until a restart"
        if field == NAME and (option := self._filter_without(ours)):
            how += f"; to make that permanent: {option}"
        log(logging.WARNING, f"{what} {how}", flow.client_conn.peername)

    def _filter_without(self, ours: RequestInFlight) -> str:
        """Return the option that leaves an endpoint out; "" if it cannot be written."""
        if text(ours.url) != ours.url:
            return ""  # a URL that is not plain cannot go into a command
        setting = f"{PREFIX}filter={without(self.state.options.filter, ours.url)}"
        return f"--set {shlex.quote(setting)}"


async def _feed(reader: UsageReader, body: bytes) -> None:
    """Let a reader read a whole body in steps, between which other requests go on."""
    for start in range(0, len(body), STEP):
        if start:
            await asyncio.sleep(0)
        reader.feed(body[start : start + STEP])


def _finished(
    ours: RequestInFlight,
    usage: Usage | None = None,
    diagnosis: str = "",
    response: http.Response | None = None,
) -> FinishedRequest:
    session, agent, _ = ours.identity
    return FinishedRequest(
        time=ours.sent_at,
        session=session,
        agent=agent,
        model=ours.endpoint.model,
        endpoint=ours.url,
        key=ours.key,
        key_state=ours.state,
        routing=tuple(ours.routing.items()),
        user=ours.user,
        usage=usage,
        upstream=ours.upstream,
        diagnosis=diagnosis,
        answered=response.timestamp_start if response else 0,
        project=project_of(ours.body),
        body=ours.body,
    )


def _error_of(response: http.Response) -> bytes:
    """Return the body of a response that may be an error, decoded; b"" if it is too large."""
    raw = response.raw_content or b""
    if not raw or len(raw) > MAX_SIZE:
        return b""
    try:
        return decode(raw, response.headers.get("content-encoding", ""), MAX_SIZE)
    except ValueError:
        return b""
