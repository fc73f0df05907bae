"""The mappings that several proxies share, in a Redis (7.0 or newer) or Valkey server.

A name is stored as `prompt_cache_key:` and the SHA-256 of its compact ASCII JSON array, in hex.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from .keys import Keys, Name
from .log import log, text

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "prompt_cache_key:"

TIMEOUT = 0.25
"""Seconds that a request waits for the server at most."""

PATIENCE = 5.0
"""Seconds after which an exchange is given up that no request waits for any more.

To connect across an ocean takes longer than a request may wait.
"""

PAUSE = 1.0
"""Seconds from one try to the next while the server is away."""

_KEY = re.compile(r"[0-9a-f-]{36}")


class _Offer(NamedTuple):
    """What to set a name to, and for how many milliseconds; `force` replaces what is there."""

    name: Name
    key: str
    life: int
    now: float
    force: bool = False


class RedisStore:
    """Makes the in-process `keys` agree with those of all proxies that use the same server.

    A proxy offers the key that it knows, or a new one. The first that is offered for a name is
    everyone's for as long as the server keeps it: one that lost its memory learns it again, and
    of two that were made while the server was away the first to come back wins.

    While the server is away or slow, requests go on at once with the keys known here. Offers made
    in the meantime, or while one is on its way, share a round trip and one connection.

    `url` is one that redis-py takes; ValueError, which does not repeat it, if it is bad or redis-py
    is missing. All methods but this belong into one event loop.
    """

    def __init__(self, url: str, keys: Keys, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._keys = keys
        self._client = client(url)
        self._shown = f"prompt_cache_store {without_secrets(url)}"
        self._offers: list[_Offer] = []
        self._exchange: asyncio.Task[dict[Name, str]] | None = None
        self._lost = False
        self._told = False
        self._try_at = 0.0

    async def get(self, name: Name, now: float) -> tuple[str, bool]:
        """Get the key of a name, or make one; return it, and whether it is new to all proxies."""
        key, new = self._keys.get(name, now)
        if self._lost and (now < self._try_at or not self._is_idle()):
            return key, new
        self._try_at = now + PAUSE
        left = self._keys.ttl if new
        ...
