"""The live page in mitmproxy: listeners answer requests for it themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http

from prompt_cache_key.live_page.live import Ask, address_of, answer, host_of, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.connection import Address, Client
    from mitmproxy.proxy.layer import NextLayer
    from mitmproxy.proxy.server_hooks import ServerConnectionHookData

    from prompt_cache_key.live_page.live import Recent

_REMOVE = "view.flows.remove"


class LivePage:
    """Answers requests for the page at `path()`, which is "" for no page, from `recent`."""

    def __init__(self, path: Callable[[], str], recent: Recent) -> None:
        self.path = path
        self.recent = recent
        self._hosts: WeakKeyDictionary[Client, str] = WeakKeyDictionary()
        self._answered: list[http.HTTPFlow] = []
        self._own: set[object] = set()

    def server_connected(self, data: ServerConnectionHookData) -> None:
        """Note where the proxy itself connects from.

        Whoever has the proxy ask one of its own listeners would else seem to be on this machine.
        """
        self._own.add(_end(data.server.sockname))

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        """Forget it."""
        self._own.discard(_end(data.server.sockname))

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
        is_other = not flow.live or flow.response or has_body or _end(client.peername) in self._own
        if is_other or not is_ours(ask, path):
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


def _end(address: Address | None) -> object:
    """Return an end of a connection so that both of its sides write it alike."""
    return address and (address_of(address[0]), address[1])
