"""The live page on a listener itself: who may see it, and what it says.

A web page anywhere can make a browser on this machine ask a listener, under any name that it has
led to 127.0.0.1 (DNS rebinding). So a request has to come from this machine, straight, under a name
that nobody else can have.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.log import text
from prompt_cache_key.report.page import page
from prompt_cache_key.stats import report
from prompt_cache_key.stats.facts import report_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prompt_cache_key.stats.facts import RequestFacts

NAME = "prompt-cache.internal"
"""The page's own name, for those who come through the proxy. ICANN has set `.internal` aside for
private use; no such host can be reached from elsewhere."""

REFRESH = 5
"""Seconds after which a browser asks again."""

MAX_REQUESTS = 1000
"""The last requests that the page knows."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
_HEAD = re.compile(rb"(?:GET|HEAD) [^\r\n]* HTTP/1\.[01]\r\n(?:[^\r\n]+\r\n)+\r\n")
_HOST = re.compile(rb"\r\nhost:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)


class Ask(NamedTuple):
    """A request as the client sent it.

    `path` has the query; `client` and `listener` are IP addresses, those of the connection's ends.
    """

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    client: str
    listener: str
    port: int


class Answer(NamedTuple):
    """A response with status 200."""

    headers: dict[str, str]
    body: bytes


class Recent:
    """The last requests of all sessions."""

    def __init__(self) -> None:
        self._requests: deque[tuple[str, RequestFacts]] = deque(maxlen=MAX_REQUESTS)

    def add(self, session: str, request: RequestFacts) -> None:
        """Add a request that is over; of long words only the start is kept."""
        request = request._replace(
            agent=text(request.agent),
            model=text(request.model),
            endpoint=text(request.endpoint),
            key=text(request.key),
        )
        self._requests.append((text(session), request))

    def copy(self) -> list[tuple[str, RequestFacts]]:
        """Return the requests so far, each with its session."""
        return list(self._requests)


def is_ours(ask: Ask, path: str) -> bool:
    """Whether a request is for the page at `path`, or its JSON, and may see it."""
    asked = ask.path.partition("?")[0]
    port = "" if ask.port == 80 else f":{ask.port}"  # noqa: PLR2004  # of http
    names = {f"{name}{port}" for name in ("127.0.0.1", "localhost", "[::1]", ask.listener)}
    pages = [path, f"{path}.json"]
    if ask.host.lower() == NAME:
        names.add(NAME)
        pages.append("/")
    return (
        bool(path)
        and ask.method in ("GET", "HEAD")
        and asked in pages
        and ask.host.lower() in names
        and is_near(ask.client, ask.listener)
        and not any(name in ask.headers for name in _FORWARDED)
    )


def is_near(client: str, listener: str) -> bool:
    """Whether a client is on the listener's machine, as far as the addresses of both tell."""
    address = address_of(client)
    return address is not None and (address.is_loopback or client == listener)


def address_of(name: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, one of IPv4 as such however it is written; None if it is none."""
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def host_of(head: bytes) -> str:
    """Return what a request that begins a connection has in its Host header; "" if in doubt."""
    found = _HEAD.match(head)
    hosts = _HOST.findall(found[0]) if found else []
    return hosts[0].decode("latin-1") if len(hosts) == 1 else ""


def answer(ask: Ask, requests: Sequence[tuple[str, RequestFacts]]) -> Answer:
    """Return the page, or the JSON; with the query `session=…` of that session alone."""
    path, _, query = ask.path.partition("?")
    only = [text(each) for each in parse_qs(query).get("session", [])]
    title = "live" if len(requests) < MAX_REQUESTS else f"live, the last {MAX_REQUESTS:,} requests"
    sessions = defaultdict(list)
    for session, request in requests:
        if session in only or not only:
            sessions[session].append(request)
    if path.endswith(".json"):
        facts = report.report_of(
            title, (_finished(id_, r) for id_ in sessions for r in sessions[id_])
        )
        type_, body = "application/json", json.dumps(report.as_json(facts))
    else:
        type_, body = "text/html; charset=utf-8", page(report_of(title, sessions), REFRESH)
    headers = HEADERS | {"Content-Type": type_}
    return Answer(headers, b"" if ask.method == "HEAD" else body.encode(errors="replace"))


def _finished(session: str, request: RequestFacts) -> FinishedRequest:
    names = ("time", "agent", "model", "endpoint", "key", "usage", "miss", "is_first")
    return FinishedRequest(session=session, **{name: getattr(request, name) for name in names})
