"""The live page in mitmproxy: listeners answer requests for it themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http

from prompt_cache_key.show.live import Ask, answer, host_of, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.connection import Client
    from mitmproxy.proxy.layer import NextLayer

    from prompt_cache_key.show.live import Recent

_REMOVE = "view.flows.remove"


class LivePage:
    """Answers requests for the page at `path()`, which is "" for no page, from `recent`."""

    def __init__(self, path: Callable[[], str], recent: Recent) -> None:
        self.path = path
        self.recent = recent
        self._hosts: WeakKeyDictionary[Client, str] = WeakKeyDictionary()
        self._answered: list[http.HTTPFlow] = []

    def next_layer(self, data: NextLayer) -> None:
        """Look for the Host header, which mitmproxy replaces in reverse mode before any hook.

        It is that of the connection's first request: a browser has a connection for each name.
        """
        client = data.context.client
        if client.proxy_mode.type_name == "reverse" and client not in self._hosts:
            self._hosts[client] = host_of(data.data_client())

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer a request for the page, before anything else looks at it."""
        request, client, path = flow.request, flow.client_conn, self.path()
        if request.path != "/" and not request.path.startswith(path or "?"):
            return
        ask = Ask(
            request.method,
            self._hosts.get(client, request.host_header or ""),
            request.path,
            request.headers,
            client.peername[0] if client.peername else "",
            *(client.sockname or ("", 0))[:2],
        )
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        if not flow.live or flow.response or has_body or not is_ours(ask, path):
            return
        self._clear()
        self._answered.append(flow)
        # In a thread, as a page of many requests takes longer than others should wait.
        headers, body = await asyncio.to_thread(answer, ask, self.recent.copy())
        flow.response = http.Response.make(200, body, headers)

    def _clear(self) -> None:
        """Take earlier requests for the page out of the list of flows, which they would fill."""
        over = [flow for flow in self._answered if not flow.live]
        self._answered = [flow for flow in self._answered if flow.live]
        if _REMOVE in ctx.master.commands.commands:
            for flow in over:
                ctx.master.commands.call(_REMOVE, [flow])
