"""The mappings that several proxies share, in a server that speaks the Redis protocol.

It has to be Redis 7.0 or newer, or Valkey: older ones refuse a `SET` with both `NX` and `GET`.
"""

import asyncio
import hashlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from prompt_cache_key.keys import Keys, Mapping, Name
from prompt_cache_key.log import log, text

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT = 0.25
"""Seconds that a request waits for the server, at most."""

PATIENCE = 5.0
"""Seconds until an exchange is given up: longer than a request waits, to connect from far away."""

PAUSE = 1.0
"""Seconds from one try to the next while the server is away."""

_PARTS = 10
_KEY = re.compile(r"[0-9a-f-]{36}")
_SECRETS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)


def stored_name(name: Name) -> str:
    """Return what a name is called in the store, which shows no session id.

    `prompt_cache_key:` and the SHA-256, in hex, of the compact ASCII JSON array of the name.
    """
    array = json.dumps(name, separators=(",", ":"))
    return f"prompt_cache_key:{hashlib.sha256(array.encode()).hexdigest()}"


def without_secrets(url: str) -> str:
    """Return the URL of a store without user, password and options."""
    return _SECRETS.sub("", url)


def client(url: str) -> "Redis":
    """Return a client, which connects when it is used.

    ValueError if redis-py is missing or does not take the URL, which the message does not repeat.
    """
    try:
        # Of the extra [redis], and slow to import.
        from redis.asyncio import Redis, RedisError  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
    except ImportError:
        raise ValueError("redis is missing: install mitmproxy-prompt-cache-key[redis]") from None
    bad = ValueError(
        "it is neither memory nor a good redis://, rediss:// or unix:// URL, where /, ?, # and @ "
        "in a password are written %2F, %3F, %23 and %40"
    )
    try:
        parts = urlsplit(url)
        redis = Redis.from_url(
            url,
            protocol=2,
            decode_responses=True,
            encoding_errors="replace",
            retry=Retry(NoBackoff(), 1),  # the server may have closed the connection meanwhile
            # Those of redis-py can swallow the cancellation by another (Python 3.11, wait_for).
            socket_timeout=None,
            socket_connect_timeout=None,
        )
        # It reads the URL's options.
        redis.connection_pool.make_connection()  # type: ignore[no-untyped-call, unused-ignore]
    except (AttributeError, TypeError, ValueError, RedisError):
        raise bad from None
    # A bare /, ? or # in a password has ended the host, so that another one would be asked.
    if any("@" in part for part in parts[2:]):
        raise bad
    return redis


class _Offer(NamedTuple):
    """A mapping to agree on, and how many milliseconds it has to live, as of `now`."""

    name: Name
    mapping: Mapping
    now: float
    life: int
    replace: bool


class RedisStore:
    """Makes the mappings in `keys` agree with those of all proxies that use the same server.

    A proxy offers the key that it knows for a name, or a new one, and takes on the one that the
    server has. So what is offered first becomes everyone's: a server that lost its memory learns
    it again, and of several keys that were made while it was away one remains.

    A request waits up to `timeout` seconds, and an exchange may take `patience`. While the server
    is away or too slow, requests go on at once with the keys known here, and once a second at most
    one has its offer made too; `lost` tells that this is so. `url` is as for `client`. All methods
    belong into one event loop.
    """

    def __init__(self, url: str, keys: Keys, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self.patience = PATIENCE
        self.lost = False
        self._keys = keys
        self._client = client(url)
        self._shown = f"prompt_cache_store {text(without_secrets(url))}"
        self._offers: list[_Offer] = []
        self._exchange: asyncio.Task[bool] | None = None
        self._try_at = 0.0
        self._told = False

    def connect(self) -> None:
        """Connect ahead of the first request, and so tell early of a server that is away."""
        self._exchange = asyncio.create_task(self._make_offers(self._exchange))

    async def get(self, name: Name, now: float) -> tuple[str, bool]:
        """See `Store`."""
        key, new = self._keys.get_now(name, now)
        mapping = cast("Mapping", self._keys.peek(name, now))
        exchange = self._offer(name, now)
        if exchange and not self.lost and not await self._is_in_time(exchange):
            self._lose(f"no answer within {self.timeout * 1000:.0f} ms")
        return mapping.key, new and mapping.key == key

    def get_now(self, name: Name, now: float) -> tuple[str, bool]:
        """Offer the key that is known here, or a new one, and take it without an answer."""
        got = self._keys.get_now(name, now)
        self._offer(name, now)
        return got

    def forget(self, names: list[Name], now: float) -> None:
        """Give these names new keys, for all proxies; ValueError while the server is away."""
        if self.lost:
            raise ValueError("the store is lost, and would bring the key back")
        self._keys.forget(names, now)
        for name in names:
            self._keys.get_now(name, now)
            self._offer(name, now, replace=True)

    def close(self) -> None:
        """End the connection in the background, after what is on its way if that is soon done."""
        self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        if self._exchange:
            await asyncio.wait([self._exchange], timeout=self.timeout)
        await self._client.aclose()

    def _offer(self, name: Name, now: float, *, replace: bool = False) -> asyncio.Task[bool] | None:
        """Return the exchange in which the mapping that is known here is offered, if any.

        While an exchange is on its way it is the next one, with all that is offered until then: a
        hundred offers cost little more than one, and one connection is enough.
        """
        mapping = cast("Mapping", self._keys.peek(name, now))
        if self.lost and now < self._try_at:
            return None
        self._try_at = now + PAUSE
        # Of what is left of a life nothing is rounded up: it would grow at each hand-over.
        life = max(1, int(self._keys.remaining(mapping, now) * 1000))
        self._offers.append(_Offer(name, mapping, now, life, replace))
        if len(self._offers) == 1:  # mitmproxy's tasks start at once, so the offer comes first
            self._exchange = asyncio.create_task(self._make_offers(self._exchange))
        if self.lost and self._exchange:
            self._trial = asyncio.create_task(self._try(self._exchange))
        return self._exchange

    async def _try(self, exchange: asyncio.Task[bool]) -> None:
        """Take the server for back if it has answered in time."""
        if await self._is_in_time(exchange) and exchange.result() and self.lost:
            self.lost = False
            log(logging.INFO, f"{self._shown} is back")

    async def _is_in_time(self, exchange: asyncio.Task[bool]) -> bool:
        """Wait for an exchange, which goes on if it is late or the request is cancelled."""
        # In parts, which take longer in a loop that is behind: that is no fault of the server.
        for _ in range(_PARTS):
            if (await asyncio.wait([exchange], timeout=self.timeout / _PARTS))[0]:
                return True
        return False

    async def _make_offers(self, before: asyncio.Task[bool] | None) -> bool:
        """Return whether the server has answered."""
        if before:
            await asyncio.wait([before])
        offers, self._offers = self._offers, []
        try:
            async with asyncio.timeout(self.patience):
                replies = await self._ask(offers)
            for offer, answer, left in zip(offers, replies[::2], replies[1::2], strict=True):
                self._take(offer, answer, left)
        except Exception as e:  # noqa: BLE001  # whatever happens in there, requests go on
            self._lose(_reason(e))
            return False
        return True

    async def _ask(self, offers: list[_Offer]) -> list[Any]:
        """Return two replies for each offer; with none just see whether the server answers."""
        if not offers:
            await self._client.ping()
        pipe = self._client.pipeline(transaction=False)
        for offer in offers:
            name, key = stored_name(offer.name), offer.mapping.key
            pipe.set(name, key, px=offer.life, nx=not offer.replace, get=not offer.replace)
            if self._keys.sliding:
                pipe.pexpire(name, offer.life)
            else:
                pipe.pttl(name)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
                raise reply
        return replies

    def _take(self, offer: _Offer, answer: Any, left: Any) -> None:
        """Take on what the server answered: nothing, or OK, where it has taken the offer."""
        if isinstance(answer, str) and _KEY.fullmatch(answer):
            offer.mapping.key = answer
        elif answer not in (None, True):
            if not self._told:
                self._told = True
                name = stored_name(offer.name)
                log(logging.WARNING, f"{self._shown} has something else than a key in {name}")
            return
        if not self._keys.sliding and left >= 0:  # below: it has no end, or is gone
            offer.mapping.made = offer.now - max(0, self._keys.ttl - left / 1000)

    def _lose(self, why: str) -> None:
        if not self.lost:
            self.lost = True
            line = f"{self._shown} is lost, requests go on with the keys known here: {why}"
            log(logging.WARNING, line)


def _reason(error: Exception) -> str:
    words = f"{type(error).__name__}: {error}"
    if "syntax error" in words:
        words = "it is older than Redis 7.0"
    # The error of an unknown command repeats its arguments, such as the password of AUTH.
    return text(words.partition(", with args")[0])
