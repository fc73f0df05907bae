"""Agree on keys with other proxies, through a server that speaks the Redis protocol.

Theory of operation: each proxy has its own mappings, and the server decides where they differ. With
each request a proxy offers the key that it knows for a name, or a new one, and takes the key that
the server returns: the one offered first. One script reads, stores and resets the TTL in one step
(Redis 5 and newer, Valkey), so that one key remains where two proxies are first at the same
moment or have made keys during an outage, and a server that was emptied gets the keys again. Offers
made while an exchange is on its way are the next exchange: a hundred offers cost little more than
one, on one connection. A request waits up to `TIMEOUT` for its exchange; a late answer is still
taken. After a failed or late exchange the server counts as away: requests go on at once with the
keys known here, and once a second one request makes its offer without waiting, until such an offer
is answered in time. Not promised: one key for a session that is new during an outage, and that
`forget` reaches a server that fails in that moment.
"""

import asyncio
import hashlib
import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from prompt_cache_key.keys import Keys, Mapping, Name, as_json
from prompt_cache_key.log import log, text

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT = 0.25
"""Seconds that a request waits for the server, at most."""

PATIENCE = 5.0
"""Seconds until an exchange is given up: longer than a request waits, to connect from far away."""

PAUSE = 1.0
"""Seconds from one try to the next while the server is away."""

# Returns the key that counts and its milliseconds to live, or "" for a name that has something else
# than a key. Something else is left as it is, and so is a key without TTL.
_SCRIPT = """
local name, offered, ttl, replace, sliding = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local kind = redis.call('TYPE', name).ok
local key = kind == 'string' and redis.call('GET', name)
if kind ~= 'none' and not (key and #key == 36 and not key:find('[^0-9a-f-]')) then
  return {'', 0}
end
if not key or replace == '1' then
  redis.call('SET', name, offered, 'PX', ttl)
  return {offered, tonumber(ttl)}
end
if sliding == '1' and redis.call('PTTL', name) > 0 then
  redis.call('PEXPIRE', name, ttl)
end
return {key, redis.call('PTTL', name)}
"""

_PARTS = 10
_KEY = re.compile(r"[0-9a-f-]{36}")
_SECRETS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)


def stored_name(name: Name) -> str:
    """Return the name under which the server has a mapping: a hash, which shows no session id."""
    return f"prompt_cache_key:{hashlib.sha256(as_json(name).encode()).hexdigest()}"


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
    """A mapping to agree on; `ttl` are the milliseconds that it has left, as of `now`."""

    name: Name
    mapping: Mapping
    now: float
    ttl: int
    replace: bool


class RedisStore:
    """Makes the mappings in `keys` agree with those of all proxies that use the same server.

    `url` is as for `client`. All methods belong into one event loop.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        self.timeout = TIMEOUT
        self.patience = PATIENCE
        self._keys = keys
        self._client = client(url)
        self._shown = f"prompt_cache_store {text(without_secrets(url))}"
        self._offers: list[_Offer] = []
        self._exchange: asyncio.Task[bool] | None = None
        self._is_away = False
        self._try_at = 0.0
        self._has_warned = False

    def connect(self) -> None:
        """Connect before the first request, so that a server that is away is logged early."""
        self._exchange = asyncio.create_task(self._make_offers(self._exchange))

    async def get(self, name: Name, now: float) -> tuple[str, bool]:
        """Return the key of a name, and whether it is new to all proxies."""
        mapping, is_new = self._keys.use(name, now)
        offered = mapping.key
        exchange = self._offer(name, mapping, now)
        if exchange and not self._is_away and not await self._is_in_time(exchange):
            self._set_away(f"no answer within {self.timeout * 1000:.0f} ms")
        return mapping.key, is_new and mapping.key == offered

    def get_now(self, name: Name, now: float) -> tuple[str, bool]:
        """Return the key known here, or a new one, and offer it without waiting for an answer."""
        mapping, is_new = self._keys.use(name, now)
        self._offer(name, mapping, now)
        return mapping.key, is_new

    def forget(self, names: list[Name], now: float) -> None:
        """Give names new keys, for all proxies; ValueError while the server is away."""
        if self._is_away:
            raise ValueError("the store does not answer, and would return the forgotten key later")
        self._keys.forget(names, now)
        for name in names:
            self._offer(name, self._keys.use(name, now)[0], now, replace=True)

    def close(self) -> None:
        """Close the connection in the background, after the exchange that is on its way."""
        self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        if self._exchange:
            await asyncio.wait([self._exchange], timeout=self.timeout)
        await self._client.aclose()

    def _offer(
        self, name: Name, mapping: Mapping, now: float, *, replace: bool = False
    ) -> asyncio.Task[bool] | None:
        """Return the exchange that offers a mapping; None while the server is left alone."""
        if self._is_away and now < self._try_at:
            return None
        self._try_at = now + PAUSE
        # Not rounded up, or the TTL would grow with each offer.
        ttl = max(1, int(self._keys.remaining(mapping, now) * 1000))
        self._offers.append(_Offer(name, mapping, now, ttl, replace))
        if len(self._offers) == 1:  # mitmproxy's tasks start at once, so the offer comes first
            self._exchange = asyncio.create_task(self._make_offers(self._exchange))
        if self._is_away and self._exchange:
            self._trial = asyncio.create_task(self._try(self._exchange))
        return self._exchange

    async def _try(self, exchange: asyncio.Task[bool]) -> None:
        """Count the server as back if an exchange is answered in time."""
        if await self._is_in_time(exchange) and exchange.result() and self._is_away:
            self._is_away = False
            log(logging.INFO, f"{self._shown} answers again")

    async def _is_in_time(self, exchange: asyncio.Task[bool]) -> bool:
        """Wait for an exchange, which goes on if it is late or the request is cancelled."""
        # In parts, which take longer in an event loop that is behind: the server is not at fault.
        for _ in range(_PARTS):
            if (await asyncio.wait([exchange], timeout=self.timeout / _PARTS))[0]:
                return True
        return False

    async def _make_offers(self, before: asyncio.Task[bool] | None) -> bool:
        """Return whether the server has answered all offers that were made until `before` ended."""
        if before:
            await asyncio.wait([before])
        offers, self._offers = self._offers, []
        try:
            async with asyncio.timeout(self.patience):
                replies = await self._ask(offers)
            for offer, reply in zip(offers, replies, strict=True):
                self._take(offer, reply)
        except Exception as e:  # noqa: BLE001  # whatever a server does, requests go on
            self._set_away(_reason(e))
            return False
        return True

    async def _ask(self, offers: list[_Offer]) -> list[Any]:
        """Return the reply to each offer; without offers try the connection."""
        if not offers:
            await self._client.ping()
        pipe = self._client.pipeline(transaction=False)
        for offer in offers:
            flags = int(offer.replace), int(self._keys.sliding)
            pipe.eval(_SCRIPT, 1, stored_name(offer.name), offer.mapping.key, offer.ttl, *flags)
        # Raised in there, an error would be hidden behind the text of the script.
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        if any(isinstance(reply, Exception) for reply in replies):
            # The host may be another one by now, as after a failover.
            await self._client.aclose()
        return replies

    def _take(self, offer: _Offer, reply: Any) -> None:
        """Take the key that the server has, and its age if use does not reset the TTL."""
        match reply:
            case Exception():
                raise reply
            case ["", int()]:
                if not self._has_warned:
                    self._has_warned = True
                    name = stored_name(offer.name)
                    log(logging.WARNING, f"{self._shown} has something else than a key in {name}")
            case [str(key), int(left)] if _KEY.fullmatch(key):
                offer.mapping.key = key
                if not self._keys.sliding and left >= 0:  # below: the key has no TTL, or is gone
                    offer.mapping.made = offer.now - max(0, self._keys.ttl - left / 1000)
            case _:
                raise ValueError("the reply is no key")

    def _set_away(self, why: str) -> None:
        if not self._is_away:
            self._is_away = True
            line = f"{self._shown} does not answer, requests go on with the keys known here: {why}"
            log(logging.WARNING, line)


def _reason(error: Exception) -> str:
    words = f"{type(error).__name__}: {error}".removesuffix(": ")
    # The error of an unknown command repeats its arguments, such as the password of AUTH.
    return text(words.partition(", with args")[0])
