"""A request of a session in flight, from its body to the end of its response."""

from dataclasses import dataclass, field

from prompt_cache_key.endpoint import Endpoint
from prompt_cache_key.identity import Identity
from prompt_cache_key.keys import Name
from prompt_cache_key.stats.sessions import Ticket
from prompt_cache_key.streaming.tap import ResponseTap
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import UsageReader


@dataclass(eq=False)
class RequestInFlight:
    """A request of a session, keyed or observed, whose response has not ended.

    `sent_at` is Unix time in seconds. `body` is the decoded body as it is sent; empty if it is too
    large to be kept. `is_decoded` says that it was coded on the wire. `state` is one of new,
    reused, kept, replaced, observed; `scope` says who shares the key, and `name` identifies its
    mapping; both are empty without a mapping of ours. `headers` are the routing headers to set,
    `routing` those that are sent, the client's own among them. `asked` says that
    `prompt_cache_options` was inserted. `origin` is the request that an upstream call is made for.
    `ticket` is what the sums know the request by. `comment` is the comment that the flow was given.
    """

    identity: Identity
    user: tuple[str, str] | None
    endpoint: Endpoint
    url: str
    upstream: Upstream
    sent_at: float
    body: bytes
    wants_stream: bool
    key: str = ""
    state: str = "observed"
    scope: str = ""
    name: Name = ()
    headers: dict[str, str] = field(default_factory=dict)
    routing: dict[str, str] = field(default_factory=dict)
    asked: bool = False
    is_decoded: bool = False
    origin: "RequestInFlight | None" = None
    ticket: Ticket = field(init=False)
    comment: str = ""
    reader: UsageReader | None = None
    tap: ResponseTap | None = None

    @property
    def conversation(self) -> tuple[str, str, Endpoint]:
        """The requests that continue each other: session, agent and endpoint."""
        return self.identity.session, self.identity.agent, self.endpoint

    def names(self) -> dict[str, str]:
        """Return the names by which log lines show the request; an observed one has no key."""
        session, agent, _ = self.identity
        names = {"session": session, "agent": agent, "model": self.endpoint.model}
        return names if self.state == "observed" else names | {"key": self.key}
