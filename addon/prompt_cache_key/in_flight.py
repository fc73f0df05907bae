"""A request that has a key, and what is known of it until it is answered."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from prompt_cache_key.identity import Identity
from prompt_cache_key.keys import Name
from prompt_cache_key.log import text
from prompt_cache_key.stats.totals import Count, percent
from prompt_cache_key.streaming.response_tap import ResponseTap
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import Usage, UsageReader


class Endpoint(NamedTuple):
    """What a request goes to: host with port, path without its query, and model."""

    host: str
    path: str
    model: str


@dataclass(eq=False)
class RequestInFlight:
    """Who asks what for, with which key, and who looks at the response.

    `address` is the URL without its query; `begun` is in seconds of the addon's clock; `state` one
    of new, reused, kept, replaced; `scope` who shares the key, and `name` what it is kept by, both
    empty for a client's own. `comment` is the one that was given to the flow.
    """

    identity: Identity
    endpoint: Endpoint
    address: str
    upstream: Upstream
    begun: float
    key: str = ""
    state: str = ""
    scope: str = ""
    name: Name = ()
    count: Count = field(init=False)
    comment: str = ""
    reader: UsageReader | None = None
    tap: ResponseTap | None = None

    @property
    def line(self) -> Hashable:
        """Whose requests continue each other: session, agent, model and where they go."""
        return self.identity.session, self.identity.agent, self.endpoint

    def summary(self, usage: Usage | None = None, lost: str = "") -> str:
        """Return a short line for the screen: what matters most first, as columns are narrow."""
        words = [f"lost {lost}"] if lost else []
        if usage:
            cached = "?" if usage.cached is None else usage.cached
            words.append(f"{percent(usage.hit)} {cached}/{usage.input}")
        names = (self.identity.session[:8], self.identity.agent, self.endpoint.model)
        return " ".join([*words, *map(text, names), f"key={text(self.key[:8])}"])


def thousands(tokens: int) -> str:
    """Return a number of tokens in short, such as 24.1k."""
    return f"{tokens / 1000:.1f}k" if tokens >= 1000 else str(tokens)  # noqa: PLR2004
