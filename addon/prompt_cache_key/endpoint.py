"""Where requests go: the endpoint of the connection, and the URL that the client asked for."""

import re
from typing import Any, NamedTuple

from mitmproxy import flowfilter, http

from prompt_cache_key.upstreams import DEFAULT_FILTER, GENERATIONS

MAX_KNOWN = 100
MAX_HOST = 300
"""Characters of a Host header with its port: names have 253 (RFC 1035). mitmproxy takes seconds to
read one of 60,000."""
MAX_SIZE = 4096
"""Bytes of target and hosts of a destination that is remembered."""
MAX_MODEL = 256
"""Characters of a model's name that tell endpoints apart."""

_DEPLOYMENT = re.compile(r"/deployments/([^/?#]{1,256})/")
_ABOUT_DESTINATIONS = (flowfilter.FMethod, flowfilter.FUrl, flowfilter.FDomain)


class Endpoint(NamedTuple):
    """Where a connection goes, whatever the Host header says, and the model that is asked for."""

    address: str
    """Host and port."""
    path: str
    """The path without its query."""
    model: str


class Destination(NamedTuple):
    """The destination of a request, as the client named it.

    `is_selected` and `is_observed` say what the filter decides, where it looks at nothing else.
    """

    host: str
    """The host without its port."""
    url: str
    """The URL without its query, which may hold a credential."""
    is_selected: bool
    is_observed: bool


class Destinations:
    """The destinations of late, and the filter that decides which requests get a key.

    mitmproxy takes as long to work out a destination as all other steps of a small request take.
    """

    def __init__(self, filter_: str) -> None:
        """Raise what `flowfilter.parse` raises where the filter is none."""
        self._selects = flowfilter.parse(filter_)
        # A request outside a user's own filter is not observed either.
        self._observes = flowfilter.parse(GENERATIONS if filter_ == DEFAULT_FILTER else "!~all")
        self._is_cached = _looks_at_destination_only(self._selects)
        self._known: dict[object, Destination] = {}

    def selects(self, flow: http.HTTPFlow) -> bool:
        """Return whether the filter selects a request to get a key."""
        to = self.of(flow)
        return to.is_selected if self._is_cached or not to.url else bool(self._selects(flow))

    def observes(self, flow: http.HTTPFlow) -> bool:
        """Return whether a request that is not selected is observed."""
        return self.of(flow).is_observed

    def of(self, flow: http.HTTPFlow) -> Destination:
        """Return the destination of a request; one without a URL if its Host is too long."""
        data = flow.request.data
        hosts = _host_headers(flow.request)
        if not _are_short(data.host, data.authority, *hosts):
            return Destination(data.host[:MAX_HOST], "", is_selected=False, is_observed=False)
        target = data.method, data.scheme, data.host, data.port, data.authority, data.path
        key = *target, data.http_version, hosts
        if known := self._known.get(key):
            return known
        new = Destination(
            flow.request.pretty_host,
            flow.request.pretty_url.partition("?")[0],
            self._is_cached and bool(self._selects(flow)),
            bool(self._observes(flow)),
        )
        if sum(map(len, (data.path, data.authority, *hosts))) <= MAX_SIZE:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = new
        return new


def has_plain_host(request: http.Request) -> bool:
    """Return whether the names of a request's host are short enough to be read."""
    return _are_short(request.data.host, request.data.authority, *_host_headers(request))


def endpoint_of(request: http.Request, model: str) -> Endpoint:
    """Return the endpoint of a request for a model."""
    path = request.path.partition("?")[0][:MAX_SIZE]
    return Endpoint(f"{request.host}:{request.port}", path, model[:MAX_MODEL])


def model_in_path(path: str) -> str:
    """Return the deployment that Azure's paths name; "" if the path has none.

    https://learn.microsoft.com/azure/foundry/openai/reference#chat-completions
    """
    found = _DEPLOYMENT.search(path[:MAX_SIZE])
    return found[1] if found else ""


def _host_headers(request: http.Request) -> tuple[bytes, ...]:
    return tuple(value for name, value in request.headers.fields if name.lower() == b"host")


def _are_short(*hosts: str | bytes) -> bool:
    return max(map(len, hosts)) <= MAX_HOST


def _looks_at_destination_only(matches: Any) -> bool:
    """Return whether a filter depends on method, URL and host alone."""
    parts = [matches]
    for part in parts:
        if isinstance(part, flowfilter.FNot):
            parts.append(part.itm)
        elif isinstance(part, flowfilter.FAnd | flowfilter.FOr):
            parts.extend(part.lst)
        elif not isinstance(part, _ABOUT_DESTINATIONS):
            return False
    return True
