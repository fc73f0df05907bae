"""Remember which endpoints reject a field, and decide when to warn about an endpoint.

An upstream that rejects `prompt_cache_key` is learned from its first error (see `forms`), and later
requests go there without the field. An error that names nothing can't be learned. So the 400s to
requests with a key are counted, and after three in a row one warning names the option to try:

    response to a request with a key    key accepted before    what to call
    ----------------------------------  ---------------------  -----------------------------------
    an error in a known form            yes or no              `learn`: the field is left out
    400 in no known form                no                     `count_400`: the third in a row warns
    400 in no known form                yes                    `count_400`: not counted, as it is
                                                               not the key that is wrong
    no error                            yes or no              `accepted`: nothing is counted again
    any other error                     yes or no              nothing

An endpoint is whatever identifies the connection's end, the path and the model; its place is the
endpoint without the model. Clients choose the names of models, so both the memory and the warnings
are bounded: an endpoint's hash is kept, not its name, the least recently used is evicted first, and
each place is warned about once.
"""

from collections.abc import Hashable

MAX_ENDPOINTS = 1000
"""Endpoints remembered; the least recently used is evicted first."""
MAX_WARNINGS = 100
"""Warnings in all, however many places there are."""
_IN_A_ROW = 3
_ACCEPTED = -1


class Rejections:
    """The endpoints that reject a field, and the 400s in a row of those that may reject the key."""

    def __init__(self) -> None:
        self._rejected: dict[int, int] = {}
        self._errors: dict[int, int] = {}  # 400s in a row, or _ACCEPTED
        self._warned: set[int] = set()

    def learn(self, field: str, endpoint: Hashable, place: Hashable) -> bool:
        """Remember that an endpoint rejects a field; return whether to warn about it."""
        _put(self._rejected, hash((field, endpoint)), 1)
        return self._is_new_warning(field, place)

    def rejects(self, field: str, endpoint: Hashable) -> bool:
        """Return whether an endpoint is known to reject a field."""
        key = hash((field, endpoint))
        if key not in self._rejected:
            return False
        _put(self._rejected, key, 1)
        return True

    def accepted(self, endpoint: Hashable) -> None:
        """Remember that an endpoint has accepted a request with a key."""
        _put(self._errors, hash((endpoint,)), _ACCEPTED)

    def count_400(self, endpoint: Hashable, place: Hashable) -> bool:
        """Count a 400 that names nothing; return whether to warn that the key may be the reason."""
        key = hash((endpoint,))
        errors = self._errors.get(key, 0)
        errors += errors != _ACCEPTED
        _put(self._errors, key, errors)
        return errors == _IN_A_ROW and self._is_new_warning("", place)

    def _is_new_warning(self, field: str, place: Hashable) -> bool:
        warning = hash((field, place))
        if warning in self._warned or len(self._warned) >= MAX_WARNINGS:
            return False
        self._warned.add(warning)
        return True


def _put(memory: dict[int, int], key: int, value: int) -> None:
    """Put a value last into a bounded memory, of which the first is evicted."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > MAX_ENDPOINTS:
        del memory[next(iter(memory))]
