"""The addon's options in mitmproxy: registered, judged, taken on, and told of at the start."""

import difflib
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

import mitmproxy.log
from mitmproxy import ctx, exceptions, flowfilter
from mitmproxy.addonmanager import Loader, traverse
from mitmproxy.utils import human

from prompt_cache_key.endpoint import Destinations
from prompt_cache_key.keys import derived_key, random_key
from prompt_cache_key.log import LOGGER, log, pairs, start_waiting, stop_waiting, text
from prompt_cache_key.options import PREFIX, Options, seconds
from prompt_cache_key.redis_store import RedisStore, without_secrets
from prompt_cache_key.state import State

ANY = ("", "::", "0.0.0.0")  # noqa: S104  # compared, not bound


class Settings:
    """Keeps the state's options those of mitmproxy."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._heard = _Heard(state.clock)

    def load(self, loader: Loader) -> None:
        """Register the options, and judge the values that were set before they were known."""
        for option in fields(Options):
            type_ = cast("type", option.type)
            loader.add_option(PREFIX + option.name, type_, option.default, option.metadata["help"])
        # mitmproxy would apply such values after this hook, where one of a wrong type ends the
        # script's loading without a word, and one of no meaning with a traceback.
        try:
            ctx.options.process_deferred()
            _read()
        except (exceptions.OptionsError, TypeError) as e:
            # mitmproxy 11 says "Not an integer: abc" and not of which option.
            names = [name for name in ctx.options.deferred if name.startswith(PREFIX)]
            where = "" if PREFIX in str(e) else f"{' or '.join(names)}: "
            log(logging.ERROR, f"not loaded, an option has a bad value: {where}{e}")
            raise exceptions.OptionsError(str(e)) from None

    def configure(self, updated: set[str]) -> None:
        """Take on changed options; OptionsError makes mitmproxy restore the old values."""
        if not any(name.startswith(PREFIX) for name in updated):
            return
        state, (new, matches) = self.state, _read()
        old, state.options = state.options, new
        state.destinations = Destinations(matches)
        state.totals.max_sessions = new.max_sessions
        keys = state.keys
        keys.ttl, keys.sliding, keys.max_sessions = seconds(new.ttl), new.sliding, new.max_sessions
        keys.make = derived_key if new.keys == "derived" else random_key
        if new.keys != old.keys:
            keys.clear()
        if (new.store, new.keys) != (old.store, old.keys):
            state.store.close()
            # Random keys that are left in a shared store would win over the derived ones.
            shared = new.store != "memory" and new.keys == "random"
            state.store = RedisStore(new.store, keys) if shared else keys

    def running(self) -> None:
        """Say that the addon is active, how it is set, and where Claude Code should go."""
        start_waiting()
        self.state.store.connect()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, getattr(mitmproxy.log, "LegacyLogEvents", ())):
                handler.addFilter(self._heard)
        settings = asdict(self.state.options)
        del settings["filter"]
        settings["headers"] = ",".join(settings["headers"])
        settings["strip"] = ",".join(settings["strip"])
        settings["store"] = without_secrets(settings["store"])
        page, client = _here(self.state.options.page and self.state.page_path)
        page = f"; live page: {page}" if page else ""
        log(logging.INFO, f"active: {pairs(**settings)}{page}; point Claude Code here: {client}")
        for name in ctx.options.deferred:
            if name.startswith(PREFIX):
                near = difflib.get_close_matches(name, ctx.options.keys(), 1)
                hint = f"; the nearest known one is {near[0]}" if near else ""
                log(logging.WARNING, f"unknown option {text(name)} is ignored{hint}")
        if any(address[0] in ANY for address, _ in _listeners()):
            log(
                logging.WARNING,
                "the proxy listens on all addresses of this machine, and serves whoever reaches "
                "it; for this machine alone: --listen-host 127.0.0.1",
            )

    def done(self) -> None:
        """Sum up what the sessions got from the cache, or why no request got a key."""
        stop_waiting()
        totals, skipped = self.state.totals, self.state.skipped
        if totals.all.requests:
            for line in totals.summary():
                log(logging.INFO, line)
        elif skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common(10))
            log(logging.WARNING, f"{skipped.total()} requests, no key: {reasons}")
        self.state.store.close()


def _read() -> tuple[Options, flowfilter.TFilter]:
    try:
        options = Options(
            **{o.name: getattr(ctx.options, PREFIX + o.name) for o in fields(Options)}
        )
    except ValueError as e:
        raise exceptions.OptionsError(str(e)) from None
    try:
        return options, flowfilter.parse(options.filter)
    except (ValueError, RecursionError, TypeError):
        what = f"not a filter expression, or too deep: {text(options.filter)}"
        raise exceptions.OptionsError(f"{PREFIX}filter: {what}") from None


class _Heard:
    """Lets those of our lines become `add_log` events that an addon listens to.

    The events are deprecated since mitmproxy 9, and go through all addons, which costs as much as
    all else about a line. Whether anyone listens is looked up once a second.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = -math.inf
        self._is_heard = True

    def __call__(self, record: logging.LogRecord) -> bool:
        if record.name != LOGGER:
            return True
        if (now := self._clock()) >= self._until:
            self._until = now + 1
            addons = traverse(ctx.master.addons.chain)
            self._is_heard = any(hasattr(addon, "add_log") for addon in addons)
        return self._is_heard


def _listeners() -> list[tuple[tuple[str, int], str]]:
    """Return address and mode of each listener that has an address."""
    servers = ctx.master.addons.get("proxyserver").servers
    return [(s.listen_addrs[0][:2], s.mode.type_name) for s in servers if s.listen_addrs]


def _here(path: str) -> tuple[str, str]:
    """Return the URL of the live page, "" without one, and what leads Claude Code through here."""
    certificate = Path(ctx.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
    trust = f"NODE_EXTRA_CA_CERTS={certificate}"
    gateway = "ANTHROPIC_BASE_URL=http://YOUR-GATEWAY"
    (host, port), mode = next(iter(_listeners()), (("", 0), ""))
    if not port:
        return "", f"{gateway} {trust} claude"
    url = f"http://{human.format_address(('127.0.0.1' if host in ANY else host, port))}"
    if mode == "reverse":
        return path and url + path, f"ANTHROPIC_BASE_URL={url} claude"
    page = path and url + path
    if mode == "socks5":
        return "", "nowhere, for it speaks no SOCKS; use --mode reverse:http://YOUR-GATEWAY"
    # Without a base URL it talks to api.anthropic.com, which gets no key.
    return page, f"{gateway} HTTPS_PROXY={url} HTTP_PROXY={url} {trust} claude"
