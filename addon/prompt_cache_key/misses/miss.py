"""A miss: prompt tokens that an upstream should have read from its cache and did not."""

from typing import NamedTuple


class Miss(NamedTuple):
    """A prompt of which an upstream read much less than it should have."""

    expected: int
    """Tokens that it should have read from its cache."""
    cached: int
    """Tokens that it did read."""
    cause: str
    """Why it read no more: words that are safe between quotes in a log line."""
    path: str
    """Where the prompt broke, such as `tools[3].name`, escaped; empty if it did not."""
    at: int
    """How many characters there are still the same."""
    before: str
    """The earlier text there, escaped, on one line: prompt, so for a page or comment, no log."""
    after: str
    """The later text, likewise."""
    remedy: str
    """What to do about it, in one line; empty where nothing is known to help."""

    @property
    def missed(self) -> int:
        """Tokens that were paid for again."""
        return self.expected - self.cached

    @property
    def kind(self) -> str:
        """The cause without what differs each time: `tool added`, `a pause`."""
        return self.cause.partition(":")[0].partition(" of ")[0]
