"""Where requests go: worked out once for all that go to the same, as it takes mitmproxy long."""

import re
from typing import Any, NamedTuple

from mitmproxy import flowfilter, http

MAX_KNOWN = 100
MAX_SIZE = 4096
"""Bytes of target and hosts; what is longer is worked out each time."""

_DEPLOYMENT = re.compile(r"/deployments/([^/?#]{1,256})/")
_ABOUT_DESTINATIONS = (flowfilter.FMethod, flowfilter.FUrl, flowfilter.FDomain)


class Destination(NamedTuple):
    """Where a request goes, as its client asks for it.

    `host` has no port, `path` no query. `address` is the URL without its query, which may hold a
    credential. `is_selected` is what the filter says, if it looks at nothing else.
    """

    host: str
    path: str
    address: str
    is_selected: bool


class Destinations:
    """The destinations of late, and the filter that says which requests may get a key."""

    def __init__(self, matches: flowfilter.TFilter) -> None:
        self._matches = matches
        self._is_theirs = _looks_at_nothing_else(matches)
        self._known: dict[object, Destination] = {}

    def selects(self, flow: http.HTTPFlow) -> bool:
        """Whether the filter selects a flow."""
        return self.of(flow).is_selected if self._is_theirs else bool(self._matches(flow))

    def of(self, flow: http.HTTPFlow) -> Destination:
        """Return where a flow's request goes."""
        data = flow.request.data
        hosts = tuple(value for name, value in data.headers.fields if name.lower() == b"host")
        to = data.method, data.scheme, data.host, data.port, data.authority, data.path
        key = *to, data.http_version, hosts
        if known := self._known.get(key):
            return known
        new = Destination(
            flow.request.pretty_host,
            flow.request.path.partition("?")[0],
            flow.request.pretty_url.partition("?")[0],
            self._is_theirs and bool(self._matches(flow)),
        )
        if sum(map(len, (data.path, data.authority, *hosts))) <= MAX_SIZE:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = new
        return new


def model_in_path(path: str) -> str:
    """Return the deployment that Azure's paths name; "" if the path has none.

    https://learn.microsoft.com/azure/foundry/openai/reference#chat-completions
    """
    found = _DEPLOYMENT.search(path[:MAX_SIZE])
    return found[1] if found else ""


def _looks_at_nothing_else(matches: Any) -> bool:
    """Whether what a filter says of a request depends on method, URL and host alone."""
    parts = [matches]
    for part in parts:
        if isinstance(part, flowfilter.FNot):
            parts.append(part.itm)
        elif isinstance(part, flowfilter.FAnd | flowfilter.FOr):
            parts.extend(part.lst)
        elif not isinstance(part, _ABOUT_DESTINATIONS):
            return False
    return True
