"""A miss: prompt tokens that an upstream should have read from its cache and did not."""

from typing import NamedTuple


class Miss(NamedTuple):
    """A prompt of which an upstream read much less from its cache than it should have."""

    expected: int
    """Tokens that should have been read from the cache."""
    cached: int
    """Tokens that were read from the cache."""
    cause: str
    """Why no more tokens were read: words that are safe between quotes in a log line."""
    kind: str
    """The cause without what differs each time, such as `tool added` and `expired`."""
    path: str = ""
    """Where the prompt changed, such as `tools[3].name`, escaped; empty if it did not."""
    at: int = 0
    """How many characters are the same at that place."""
    before: str = ""
    """The earlier text there, escaped, on one line: prompt, so for a page or comment, no log."""
    after: str = ""
    """The later text there, likewise."""
    remedy: str = ""
    """What to do about the cause, or that there is nothing to set, in one line."""

    @property
    def missed(self) -> int:
        """Tokens that should have been read from the cache and were not."""
        return self.expected - self.cached
