"""The mappings: one prompt cache key for each model and owner, in an in-process TTL cache."""

import json
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prompt_cache_key.identity import UNKNOWN, Identity

Name = tuple[str, ...]
"""Identifies a mapping: (model, session), (model, session, agent), or (model, "", account, device).

A session is never empty, so that no session is taken for a user, whatever its id is.
"""


def name_of(scope: str, model: str, identity: Identity, user: tuple[str, ...]) -> Name:
    """Return the name of the mapping that a request uses in a scope: session, agent or user.

    `user` is (account, device) and matters in scope `user` alone. ValueError if the scope is
    `agent` and the agent's header is malformed.
    """
    if scope == "user":
        return (model, "", *user)
    if scope == "session":
        return (model, identity.session)
    if identity.agent == UNKNOWN:
        raise ValueError("the header x-claude-code-agent-id is malformed")
    return (model, identity.session, identity.agent)


def random_key(_name: Name) -> str:
    """Return a random UUIDv4."""
    return str(uuid.uuid4())


def derived_key(name: Name) -> str:
    """Return the UUIDv5 of the name: the same on every proxy and after every restart.

    In the URL namespace, such as of `prompt_cache_key:["gpt-5.4","3f6c1c1e-…"]`.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"prompt_cache_key:{as_json(name)}"))


def as_json(name: Name) -> str:
    """Return a name as a compact JSON array in ASCII."""
    return json.dumps(name, separators=(",", ":"))


class Store(Protocol):
    """A store of mappings: `Keys`, or one that several proxies share."""

    async def get(self, name: Name, now: float) -> tuple[str, bool]:
        """Return the key of a name, made if there is none, and whether it is new."""

    def get_now(self, name: Name, now: float) -> tuple[str, bool]:
        """Return the same as `get` without waiting for a server."""

    def forget(self, names: list[Name], now: float) -> None:
        """Give names new keys from now on. ValueError if that cannot be done for all proxies."""

    def connect(self) -> None:
        """Connect to the server; needs a running event loop."""

    def close(self) -> None:
        """Close the connection to the server."""


@dataclass(slots=True)
class Mapping:
    """A key, and when it was made and last used, in seconds of the caller's clock."""

    key: str
    made: float
    used: float


class Keys:
    """An in-process TTL cache of keys: each use is O(1), with no thread, timer or sweep.

    A mapping expires `ttl` seconds after its last use, or after it was made if not `sliding`.
    Over `max_sessions` mappings the least recently used is evicted. `make` makes a new key. All
    of these may be changed at any time.
    """

    def __init__(
        self,
        ttl: float = 3600,
        max_sessions: int = 10_000,
        *,
        sliding: bool = True,
        make: Callable[[Name], str] = random_key,
    ) -> None:
        self.ttl = ttl
        self.max_sessions = max_sessions
        self.sliding = sliding
        self.make = make
        self._mappings: OrderedDict[Name, Mapping] = OrderedDict()

    def __len__(self) -> int:
        return len(self._mappings)

    async def get(self, name: Name, now: float) -> tuple[str, bool]:
        """Return the key of a name, made if there is none, and whether it is new."""
        return self.get_now(name, now)

    def get_now(self, name: Name, now: float) -> tuple[str, bool]:
        """Return the key of a name, made if there is none, and whether it is new."""
        mapping, is_new = self.use(name, now)
        return mapping.key, is_new

    def use(self, name: Name, now: float) -> tuple[Mapping, bool]:
        """Use the mapping of a name, made if there is none; return it and whether it is new."""
        mapping = self.peek(name, now)
        if is_new := mapping is None:
            mapping = self._mappings[name] = Mapping(self.make(name), now, now)
        mapping.used = now
        self._mappings.move_to_end(name)
        while len(self._mappings) > self.max_sessions:
            self._mappings.popitem(last=False)
        return mapping, is_new

    def peek(self, name: Name, now: float) -> Mapping | None:
        """Return the mapping of a name without using it; None if it is missing or expired."""
        mapping = self._mappings.get(name)
        return mapping if mapping and self.remaining(mapping, now) > 0 else None

    def remaining(self, mapping: Mapping, now: float) -> float:
        """Return the seconds that a mapping's TTL has left; 0 or less if it has expired."""
        return (mapping.used if self.sliding else mapping.made) + self.ttl - now

    def forget(self, names: list[Name], now: float) -> None:  # noqa: ARG002  # as `Store` has it
        """Evict the mappings of names."""
        for name in names:
            self._mappings.pop(name, None)

    def connect(self) -> None:
        """Do nothing: there is no server."""

    def close(self) -> None:
        """Do nothing: there is no server."""

    def names(self, session: str) -> list[Name]:
        """Return the names of a session's mappings, of any model and agent."""
        return [name for name in self._mappings if name[1] == session]

    def clear(self) -> None:
        """Evict all mappings."""
        self._mappings.clear()
