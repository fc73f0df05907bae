"""The mappings that several proxies share, in a server that speaks the Redis protocol.

Each proxy offers the key that it knows for a name, or a new one, and takes on the key that the
server has. So the key that is offered first becomes the key of all proxies: a server that lost its
memory learns the keys again, and of several keys that were made while the server was away one
remains. One script does this in one step, on Redis 2.6 and newer and on Valkey.

A request waits up to `TIMEOUT` for the server. While the server is away or too slow, requests go on
at once with the keys known here, and once a second one request makes its offer all the same.
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

# Return the key that counts and its milliseconds to live; "" if the name has something else than a
# key, which is left as it is. A key that has no end gets none: somebody may have wanted it so.
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
_SECRETS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)


def stored_name(name: Name) -> str:
    """Return the name under which the store has a mapping; it shows no session id.

    It is `prompt_cache_key:` and the SHA-256, in hex, of the compact ASCII JSON array of the name.
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
    """A mapping to agree on; `ttl` are the milliseconds that it has left, as of `now`."""

    name: Name
    mapping: Mapping
    now: float
    ttl: int
    replace: bool


class RedisStore:
    """Makes the mappings in `keys` agree with those of all proxies that use the same server.

    `lost` says that the server is away or too slow. `url` is as for `client`. All methods belong
    into one event loop.
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
        self._has_warned = False

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
        # Not rounded up, or the TTL would grow at each hand-over.
        ttl = max(1, int(self._keys.remaining(mapping, now) * 1000))
        self._offers.append(_Offer(name, mapping, now, ttl, replace))
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
            for offer, (key, left) in zip(offers, replies, strict=True):
                self._take(offer, key, left)
        except Exception as e:  # noqa: BLE001  # whatever happens in there, requests go on
            self._lose(_reason(e))
            return False
        return True

    async def _ask(self, offers: list[_Offer]) -> list[Any]:
        """Return key and milliseconds left for each offer; without offers try the connection."""
        if not offers:
            await self._client.ping()
        pipe = self._client.pipeline(transaction=False)
        for offer in offers:
            flags = int(offer.replace), int(self._keys.sliding)
            pipe.eval(_SCRIPT, 1, stored_name(offer.name), offer.mapping.key, offer.ttl, *flags)
        replies: list[Any] = await pipe.execute()
        return replies

    def _take(self, offer: _Offer, key: str, left: int) -> None:
        """Take on the key that the server has, and its age if use does not reset the TTL."""
        if not key:
            if not self._has_warned:
                self._has_warned = True
                name = stored_name(offer.name)
                log(logging.WARNING, f"{self._shown} has something else than a key in {name}")
            return
        offer.mapping.key = key
        if not self._keys.sliding and left >= 0:  # below: the key has no end, or is gone
            offer.mapping.made = offer.now - max(0, self._keys.ttl - left / 1000)

    def _lose(self, why: str) -> None:
        if not self.lost:
            self.lost = True
            line = f"{self._shown} is lost, requests go on with the keys known here: {why}"
            log(logging.WARNING, line)


def _reason(error: Exception) -> str:
    words = f"{type(error).__name__}: {error}"
    # The error of an unknown command repeats its arguments, such as the password of AUTH.
    return text(words.partition(", with args")[0])
