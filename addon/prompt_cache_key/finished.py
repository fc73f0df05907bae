"""The one model of a finished request: a Claude Code request and what its response reported.

The live log, the sums, the table, the page, the status line and the report of saved flows are all
made of these.
"""

from typing import NamedTuple

from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import Usage


class FinishedRequest(NamedTuple):
    """A request of a Claude Code session whose response has ended or broken off.

    Text fields are as the request has them; escape and cut them (`log.text`) where they are shown.
    """

    time: float
    """When the request was sent: Unix time in seconds."""
    session: str
    """The session id; `?` if the user is known but not which of the user's sessions."""
    agent: str
    model: str
    endpoint: str
    """The URL without its query."""
    key: str = ""
    """The `prompt_cache_key` that was sent; empty without one (an observed request)."""
    usage: Usage | None = None
    """The tokens that the upstream reported; None if it reported none."""
    miss: Miss | None = None
    """The missed tokens and their cause; None if nothing was missed or it cannot be determined."""
    is_first: bool = False
    """Whether it is the first of its session, agent and model that reports usage."""
    upstream: Upstream = Upstream()
    """What is known of the upstream that the request went to."""
    diagnosis: str = ""
    """The upstream's own words for a miss; empty if it gave none."""
    project: str = ""
    """The last folder of the working directory named in the prompt: for the page, never the log."""
    key_state: str = ""
    """The `state` of the log line: new, reused, kept, replaced or observed; `forgotten` once
    `promptcache.forget` has ended the key; empty if unknown."""
    routing: tuple[tuple[str, str], ...] = ()
    """The routing headers that were sent: names in lower case, with their values."""
    user: tuple[str, str] | None = None
    """Account and device of `metadata.user_id`; None if unknown."""
    answered: float = 0.0
    """When its response began, in Unix time: no earlier is its prompt in the cache; 0: unknown."""
    body: bytes = b""
    """The request body, decoded: only while misses are determined, empty in sums and pages."""

    @property
    def conversation(self) -> tuple[str, str, str, str]:
        """The requests that continue each other: session, agent, model and endpoint."""
        return self.session, self.agent, self.model, self.endpoint

    @property
    def missed(self) -> int:
        """Tokens that should have been read from the cache and were not."""
        return self.miss.missed if self.miss else 0

    @property
    def new(self) -> int:
        """Prompt tokens that no cache could have held; 0 where cached tokens are not reported."""
        if not self.usage or self.usage.cached is None:
            return 0
        return self.usage.input - self.usage.cached - self.missed
