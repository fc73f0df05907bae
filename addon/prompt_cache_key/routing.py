"""Headers that an upstream routes by: their values, and clients that change them all the time.

LiteLLM's `chatgpt/` provider and some Copilot clients send a new value of such a header with each
request, so that no request meets the machine that has its prefix
(https://github.com/BerriAI/litellm/pull/42014). A header that a client sends is the client's, so
one change is let pass: it may be a new login. From the second change within one conversation on
the header is replaced.
"""

from collections import OrderedDict
from collections.abc import Hashable

MAX_CONVERSATIONS = 10_000
CHANGES = 2
"""Changes of a client's own header from which on the header is replaced."""


class RoutingHeaders:
    """The routing headers that clients send themselves, by conversation."""

    def __init__(self) -> None:
        # Hashes of the values: a header may have 64 kB.
        self._seen: OrderedDict[tuple[Hashable, str], tuple[int, int]] = OrderedDict()

    def is_replaced(self, conversation: Hashable, name: str, value: str) -> bool:
        """Return whether a client's own header is to be replaced, given its value this time."""
        key, now = (conversation, name), hash(value)
        before, changes = self._seen.pop(key, (now, 0))
        changes += changes < CHANGES and now != before
        self._seen[key] = now, changes
        if len(self._seen) > MAX_CONVERSATIONS:
            self._seen.popitem(last=False)
        return changes >= CHANGES
