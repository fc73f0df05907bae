"""A bridge with requests that wait, and what it finds for calls."""

import asyncio
from typing import Any

from prompt_cache_key.bridge.waiting import (
    Origin,
    User,
    WaitingRequests,
)
from prompt_cache_key.identity import Identity
from unit.bridge.translators import (
    Json,
    encoded,
)


def identity(session: str, agent: str = "main") -> Identity:
    return Identity(session, agent, "header")


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def add(
    bridge: WaitingRequests, name: Any, body: Json, session: str = "", user: User | None = None
) -> None:
    bridge.add(name, identity(session or name), lambda: encoded(body), user=user, model="m")


def waiting(bodies: dict[str, Json]) -> WaitingRequests:
    """Return a bridge with a waiting request for each of these sessions."""
    bridge = WaitingRequests(Clock())
    for session, body in bodies.items():
        add(bridge, session, body)
    return bridge


def origins(
    bridge: WaitingRequests, calls: list[bytes], at_pause: Any = list, **more: Any
) -> list[Origin | None]:
    """Return the origins of calls that come at once; each lets others go on in its pauses."""

    async def pause() -> None:
        at_pause()
        await asyncio.sleep(0)

    async def find_all() -> list[Origin | None]:
        return await asyncio.gather(*(bridge.find(call, pause, **more) for call in calls))

    return asyncio.run(find_all())


def find(bridge: WaitingRequests, call: Json, session: str = "", at_pause: Any = list) -> Any:
    (origin,) = origins(bridge, [encoded(call)], at_pause, session=session)
    return origin and origin.request
