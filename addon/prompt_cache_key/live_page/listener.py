"""The live page in mitmproxy: listeners answer requests for it themselves.

The page stands at `/prompt-cache/<secret>/` on listeners in regular, upstream and reverse mode.
Knowing the secret is the only condition: it does not matter who asks, from where, under which
name. Method and path alone decide who answers:

| method | path | answer |
|---|---|---|
| GET, HEAD | `/prompt-cache/<secret>/`, `/prompt-cache/<secret>/facts.json` | the page, its facts |
| GET, HEAD | anything else below `/prompt-cache/<32 hex digits>` | 404: the tab is an old one |
| GET, HEAD with a body | any | the upstream's |
| any | any other | the upstream's |

A request for the page leaves no flow. mitmproxy asks its addons in order, ours before those that
show, save and print flows; `AddonHalt` ends each event of such a request at ours.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from mitmproxy import ctx, http
from mitmproxy.utils import human

from prompt_cache_key.live_page import live, page_file
from prompt_cache_key.log import log, text
from prompt_cache_key.report.page import NO_JINJA, can_render

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.proxy.mode_specs import ProxyMode

    from prompt_cache_key.finished import FinishedRequest

MODES = ("regular", "upstream", "reverse")
"""The modes of listeners that serve the page."""

MAX_CACHED = 16
"""Answers that are kept until a request ends."""

PERIOD = 60
"""Seconds after which an answer is made anew all the same: whether a session is live changes."""

_PATH = re.compile(r"/prompt-cache/([0-9a-f]{32})(/[^?]*)?(?:\?(.*))?", re.DOTALL)


class LivePage:
    """Answers requests for the page, while `is_on()`, from `requests()`: the last ones.

    `clock` returns seconds and never goes back.
    """

    def __init__(
        self,
        is_on: Callable[[], object],
        requests: Callable[[], list[FinishedRequest]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.secret = secrets.token_hex(16)
        self._is_on = is_on
        self._requests = requests
        self._clock = clock
        self._flows: WeakSet[http.HTTPFlow] = WeakSet()
        self._making = asyncio.Lock()
        self._made: dict[tuple[str, str], live.Answer] = {}
        self._made_from: list[FinishedRequest] = []
        self._made_at = 0.0

    @property
    def path(self) -> str:
        """The path of the page on each listener."""
        return page_file.path_of(self.secret)

    def running(self) -> None:
        """Write the file by which the status line finds the page."""
        if not self._is_on():
            return
        if not can_render():
            log(logging.WARNING, NO_JINJA)
            return
        servers = ctx.master.addons.get("proxyserver").servers
        ports = [s.listen_addrs[0][1] for s in servers if s.listen_addrs and _serves(s.mode)]
        try:
            page_file.write(_folder(), ports, self.secret)
        except OSError as e:
            log(logging.WARNING, f"the status line will not find the live page: {text(str(e))}")

    def done(self) -> None:
        """Remove the file."""
        page_file.remove(_folder())

    def is_page(self, flow: http.HTTPFlow) -> bool:
        """Return whether a flow is a request for the page, which no other addon is to see."""
        return flow in self._flows

    async def requestheaders(self, flow: http.HTTPFlow) -> bool:
        """Answer a request for the page; return whether it is one."""
        request = flow.request
        found = _PATH.fullmatch(request.path)
        if (
            not found
            or request.method not in ("GET", "HEAD")
            or not _serves(flow.client_conn.proxy_mode)
            or _has_body(request)
            or not (flow.live and self._is_on() and can_render())
            or flow.response
        ):
            return False
        self._flows.add(flow)
        secret, page, query = found[1], found[2] or "", found[3] or ""
        is_known = hmac.compare_digest(secret, self.secret)
        if not is_known or page not in ("/", "/facts.json"):
            flow.response = http.Response.make(404, headers=live.HEADERS)
            return True
        # Should the page fail, mitmproxy logs it, and the request must not go to the upstream.
        flow.response = http.Response.make(500, headers=live.HEADERS)
        what = ("html", _command(flow)) if page == "/" else ("json", query)
        headers, body = await self._answer(what)
        is_same = request.headers.get("if-none-match") == headers["ETag"]
        content = b"" if is_same or request.method == "HEAD" else body
        flow.response = http.Response.make(304 if is_same else 200, content, headers)
        return True

    async def _answer(self, what: tuple[str, str]) -> live.Answer:
        """Return an answer, made once for all who ask before another request ends."""
        async with self._making:
            requests, now = self._requests(), self._clock()
            # Quick: each request is the same object as before, or the first one differs.
            if requests != self._made_from or now - self._made_at >= PERIOD:
                self._made_from, self._made_at = requests, now
                self._made.clear()
            if what not in self._made:
                make = live.html if what[0] == "html" else live.facts
                # In a thread, as a page of many requests takes longer than others should wait.
                made = await asyncio.to_thread(make, requests, what[1], time.time())
                if len(self._made) >= MAX_CACHED:
                    self._made.clear()
                self._made[what] = made
            return self._made[what]


def _serves(mode: ProxyMode) -> bool:
    return mode.type_name in MODES


def _has_body(request: http.Request) -> bool:
    """Return whether a body follows: if mitmproxy streams it, no addon may answer."""
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _folder() -> Path:
    return Path(ctx.options.confdir).expanduser()


def _command(flow: http.HTTPFlow) -> str:
    """Return the command that starts Claude Code through a flow's listener, "" if in doubt."""
    client = flow.client_conn
    if client.proxy_mode.type_name != "reverse" or not client.sockname:
        return ""
    return f"ANTHROPIC_BASE_URL=http://{human.format_address(client.sockname)} claude"
