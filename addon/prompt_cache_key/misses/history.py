"""Keep the last requests of each conversation, to judge the next one by."""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.identity import UNKNOWN_SESSION
from prompt_cache_key.misses.cold_start import cold_start, may_be_cold
from prompt_cache_key.misses.comparison import MAX_SIZE
from prompt_cache_key.misses.judge import judge, may_have_missed, precedes
from prompt_cache_key.misses.miss import Miss

KEPT_SIZE = 32 << 20
"""Bytes of bodies in all."""

KEPT_EACH = 8
"""Bodies of one conversation: up to 2.1.138 subagents that work at once are all `main`."""

BUSY = 15
"""Requests a minute with one key that OpenAI keeps on one machine, see
https://developers.openai.com/api/docs/guides/prompt-caching"""

_MINUTE = 60
_MIN_SIZE = 4096  # what a small body counts as, for the objects around it
_MAX_KEYS = 10_000  # whose requests of the last minute are counted
_MAX_OTHERS = 4  # conversations that a new one is compared with


class History:
    """The last bodies of each conversation; the least recently used are dropped first.

    `judge` and `cold_start` may run in a thread while requests are added. One such thread at a time
    is enough: both take up to 0.6 s of CPU and 115 MB for hostile bodies.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, deque[FinishedRequest]] = OrderedDict()
        self._size = 0
        # By the key's hash: a key of the client's own may have megabytes.
        self._times: OrderedDict[int, deque[float]] = OrderedDict()

    def add(self, request: FinishedRequest) -> None:
        """Keep a request that was answered, after it was judged."""
        self._count(request)
        is_judged = request.usage and request.session != UNKNOWN_SESSION
        if not is_judged or len(request.body) > MAX_SIZE:
            return
        kept = self._kept.setdefault(request.conversation, deque())
        self._kept.move_to_end(request.conversation)
        kept.append(request)
        self._size += _size(request)
        if len(kept) > KEPT_EACH:
            self._size -= _size(kept.popleft())
        while self._size > KEPT_SIZE:
            oldest, requests = next(iter(self._kept.items()))
            self._size -= _size(requests.popleft())
            if not requests:
                del self._kept[oldest]

    def may_have_missed(self, request: FinishedRequest) -> bool:
        """Return at no cost whether `judge` has to compare bodies, which takes milliseconds."""
        return may_have_missed(self._earlier(request), request)

    def judge(self, request: FinishedRequest) -> Miss | None:
        """Return the miss of a request that was not added yet.

        None if nothing was missed or it cannot be determined.
        """
        times = tuple(self._times.get(hash(request.key), ()))
        in_minute = sum(abs(request.time - time) < _MINUTE for time in times)
        is_busy = request.upstream.is_limited and in_minute == BUSY
        return judge(self._earlier(request), request, is_busy=is_busy)

    def may_be_cold(self, request: FinishedRequest) -> bool:
        """Return at no cost whether `cold_start` has to compare bodies."""
        return may_be_cold(request) and any(self._others(request))

    def cold_start(self, request: FinishedRequest) -> Miss | None:
        """Return why a session's first request, not added yet, read nothing from the cache.

        None unless another session of its user and project, within the retention and at the same
        endpoint and model, has sent a prompt that begins alike. Its tokens are no missed tokens of
        the session's: the reason is for a warning, not for sums.
        """
        if not may_be_cold(request):
            return None
        return cold_start(self._others(request), request)

    def forget(self, session: str) -> None:
        """Mark the requests of a session whose keys `promptcache.forget` has ended."""
        for requests in self._kept.values():
            for at, each in enumerate(requests):
                if each.session == session:
                    requests[at] = each._replace(key_state="forgotten")

    def _earlier(self, request: FinishedRequest) -> tuple[FinishedRequest, ...]:
        return tuple(self._kept.get(request.conversation, ()))

    def _others(self, request: FinishedRequest) -> Iterator[FinishedRequest]:
        """Yield the last request of each other conversation like a session's first, latest first.

        Nothing if the session is known, or the request's user or project is not.
        """
        kept = [requests[-1] for requests in tuple(self._kept.values()) if requests]
        if not (request.user and request.project):
            return
        if any(each.session == request.session for each in kept):
            return
        alike = [each for each in reversed(kept) if _is_alike(each, request)]
        yield from alike[:_MAX_OTHERS]

    def _count(self, request: FinishedRequest) -> None:
        """Note the time of a request where the requests with one key are limited."""
        if not request.key or not request.upstream.is_limited:
            return
        key = hash(request.key)
        self._times.setdefault(key, deque(maxlen=BUSY)).append(request.time)
        self._times.move_to_end(key)
        while (
            len(self._times) > _MAX_KEYS
            or request.time - next(iter(self._times.values()))[-1] > _MINUTE
        ):
            self._times.popitem(last=False)


def _is_alike(other: FinishedRequest, request: FinishedRequest) -> bool:
    return (
        other.conversation[1:] == request.conversation[1:]
        and other.user == request.user
        and other.project == request.project
        and precedes(other, request)
    )


def _size(request: FinishedRequest) -> int:
    return max(len(request.body) + len(request.key), _MIN_SIZE)
