"""What each identity sent lately, kept to judge what it sends next."""

from collections import OrderedDict, deque
from collections.abc import Hashable

from prompt_cache_key.misses.judge import MAX_SIZE, Sent, judge, may_have_lost
from prompt_cache_key.misses.miss import Miss

KEPT_SIZE = 32 << 20
"""Bytes of bodies in all."""

KEPT_EACH = 8
"""Bodies of one identity: up to 2.1.138 subagents that work at once are all `main`."""

BUSY = 15
"""Requests a minute with one key that OpenAI keeps on one machine, see
https://developers.openai.com/api/docs/guides/prompt-caching"""

_MINUTE = 60
_MIN_SIZE = 4096  # what a small body counts as, for the objects around it


class History:
    """The last bodies of each identity; who has not spoken for longest goes first.

    `judge` may run in a thread while requests are added.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, deque[Sent]] = OrderedDict()
        self._size = 0
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, identity: Hashable, sent: Sent) -> None:
        """Keep a request that was answered, after it was judged."""
        self._count(sent)
        if not sent.usage or len(sent.content) > MAX_SIZE:
            return
        kept = self._kept.setdefault(identity, deque())
        self._kept.move_to_end(identity)
        kept.append(sent)
        self._size += _size(sent)
        if len(kept) > KEPT_EACH:
            self._size -= _size(kept.popleft())
        while self._size > KEPT_SIZE:
            oldest, bodies = next(iter(self._kept.items()))
            self._size -= _size(bodies.popleft())
            if not bodies:
                del self._kept[oldest]

    def may_have_lost(self, identity: Hashable, sent: Sent) -> bool:
        """Tell at no cost whether `judge` has to look at the bodies, which takes milliseconds."""
        return may_have_lost(self._kept.get(identity, ()), sent)

    def judge(
        self,
        identity: Hashable,
        sent: Sent,
        keep: float,
        diagnosis: str = "",
        *,
        is_limited: bool = False,
    ) -> Miss | None:
        """Judge a request that was not added yet; see the function of this name.

        `is_limited` tells that too many requests with one key go to other machines there.
        """
        times = tuple(self._times.get(sent.key, ()))
        is_busy = is_limited and sum(abs(sent.time - time) < _MINUTE for time in times) == BUSY
        earlier = tuple(self._kept.get(identity, ()))
        return judge(earlier, sent, keep, diagnosis, is_busy=is_busy)

    def _count(self, sent: Sent) -> None:
        if not sent.key:
            return
        self._times.setdefault(sent.key, deque(maxlen=BUSY)).append(sent.time)
        self._times.move_to_end(sent.key)
        while sent.time - next(iter(self._times.values()))[-1] > _MINUTE:
            self._times.popitem(last=False)


def _size(sent: Sent) -> int:
    return max(len(sent.content), _MIN_SIZE)
