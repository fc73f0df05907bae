"""What became of a keyed request: usage, miss and rejection, told in log, comment and mark."""

import asyncio
import logging
import shlex

from mitmproxy import http

from prompt_cache_key.body import NAME
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.in_flight import RequestInFlight, thousands
from prompt_cache_key.log import log, pairs, text
from prompt_cache_key.message_body import sent_content
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.options import PREFIX, without
from prompt_cache_key.rejections.forms import refusal
from prompt_cache_key.state import State
from prompt_cache_key.stats.totals import COLLAPSED, percent
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import Usage

MARKER = ":red_circle:"
"""One of mitmproxy's emoji names, of a flow that lost tokens."""

FIELDS = (NAME, "prompt_cache_options")


class Outcome:
    """Tells of keyed requests what the upstream made of them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.accounting = Accounting()

    async def tell(self, flow: http.HTTPFlow, exchange: RequestInFlight) -> None:
        """Read a response that is over, whole or broken off, and tell what it says."""
        exchange.count.is_open = False
        response, reader = flow.response, exchange.reader
        if not response or not reader:
            return
        if not exchange.tap:
            reader.feed(response.raw_content or b"")
        if reader.unread:
            self.state.once(logging.DEBUG, flow, f"usage is not read: {reader.unread}")
        if usage := self.accounting.settle(exchange.line, reader.finish(), exchange.endpoint):
            exchange.count.report(usage)
            exchange.count.row.response_id = reader.response_id
            miss = await self._judge(flow, exchange, usage, reader.diagnosis)
            self._report(flow, exchange, usage, miss)
        if response.status_code in (400, 422) and exchange.state != "kept":
            self._check_refusal(flow, exchange, response)

    async def _judge(
        self, flow: http.HTTPFlow, exchange: RequestInFlight, usage: Usage, diagnosis: str
    ) -> Miss | None:
        """Return what the request lost; None if nothing, or if another one counts in its place."""
        if not exchange.count.is_final:
            return None
        history, (session, agent, _) = self.state.history, exchange.identity
        request = FinishedRequest(
            time=exchange.begun,
            session=session,
            agent=agent,
            model=exchange.endpoint.model,
            endpoint=exchange.address,
            key=exchange.key,
            key_state=exchange.state,
            usage=usage,
            upstream=exchange.upstream,
            diagnosis=diagnosis,
            body=sent_content(flow),
        )
        miss = None
        if history.may_have_missed(request):
            # In a thread, as a look at two large bodies takes longer than others should wait.
            miss = await asyncio.to_thread(history.judge, request)
        history.add(request)
        return miss

    def comment(
        self,
        flow: http.HTTPFlow,
        exchange: RequestInFlight,
        usage: Usage | None = None,
        miss: Miss | None = None,
    ) -> None:
        """Comment the flow, unless someone else did."""
        if self.state.options.comment and flow.comment == exchange.comment:
            lost = f"{thousands(miss.missed)}: {miss.cause}" if miss else ""
            flow.comment = exchange.comment = exchange.summary(usage, lost)

    def _report(
        self, flow: http.HTTPFlow, exchange: RequestInFlight, usage: Usage, miss: Miss | None
    ) -> None:
        client = flow.client_conn.peername
        session, agent, _ = exchange.identity
        self.comment(flow, exchange, usage, miss)
        who = {"key": exchange.key, "session": session, "model": exchange.endpoint.model}
        cached = "?" if usage.cached is None else usage.cached
        got = pairs(**who, input=usage.input, cached=cached, hit=percent(usage.hit))
        log(logging.INFO, f"usage {got}", client)
        if not exchange.count.is_final:
            flow.metadata["prompt_cache_counts"] = False  # but the call that was made for it
            return
        if miss:
            exchange.count.lose(miss.missed, miss.kind)
            flow.metadata |= {
                "prompt_cache_lost": miss.missed,
                "prompt_cache_cause": miss.cause,
                "prompt_cache_path": miss.path,
                "prompt_cache_before": miss.before,
                "prompt_cache_after": miss.after,
            }
            if self.state.options.mark and not flow.marked:
                flow.marked = MARKER
            who = {"key": exchange.key, "session": session, "agent": agent}
            lost = pairs(**who, model=exchange.endpoint.model, lost=miss.missed)
            log(logging.INFO, f'miss {lost} cause="{miss.cause}"', client)
        self.state.recent.add(_finished(flow, exchange, usage, miss))
        if seen := exchange.count.session.see(usage):
            self._warn(flow, exchange, seen, miss)

    def _warn(
        self, flow: http.HTTPFlow, exchange: RequestInFlight, seen: str, miss: Miss | None
    ) -> None:
        """Tell of a session that gets nothing from the cache, or hardly anything any more."""
        session = exchange.count.session
        cause = session.main_cause
        what = "the cache hit rate has collapsed" if seen == COLLAPSED else "nothing was cached"
        why = f"mostly: {cause}" if cause else "the upstream caches nothing, or spreads requests"
        help_ = f"; {miss.remedy}" if miss and miss.kind == cause and miss.remedy else ""
        recent = ", ".join(f"{cached}/{input_}" for cached, input_ in session.recent)
        who = pairs(session=exchange.identity.session)
        line = f"{what} in {who}, the last large prompts: {recent}; {why}{help_}"
        log(logging.WARNING, line, flow.client_conn.peername)

    def _check_refusal(
        self, flow: http.HTTPFlow, exchange: RequestInFlight, response: http.Response
    ) -> None:
        """Send no more of a field to an endpoint that has rejected a request because of it."""
        content = response.get_content(strict=False) or b""
        where = exchange.address
        for field in FIELDS:
            if form := refusal(response.status_code, content, field):
                self.state.refused.add((field, exchange.endpoint))
                what = f"{text(where)} rejects {field} for {pairs(model=exchange.endpoint.model)}"
                how = f"({response.status_code}: {form}) and gets it no more until a restart"
                # A URL that is not plain can't go into a command that is to be copied.
                if field == NAME and text(where) == where:
                    setting = f"{PREFIX}filter={without(self.state.options.filter, where)}"
                    how += f"; to make that permanent: --set {shlex.quote(setting)}"
                log(logging.WARNING, f"{what} {how}", flow.client_conn.peername)


def _finished(
    flow: http.HTTPFlow, exchange: RequestInFlight, usage: Usage, miss: Miss | None
) -> FinishedRequest:
    return FinishedRequest(
        time=flow.request.timestamp_start,
        session=exchange.identity.session,
        agent=exchange.identity.agent,
        model=exchange.endpoint.model,
        endpoint=exchange.address,
        key=exchange.key,
        usage=usage,
        is_first=exchange.count.row.requests == 1,
        miss=miss,
    )
