"""The addon's options in mitmproxy: registered, checked, applied, and logged at start and end."""

import difflib
import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.utils import human

from prompt_cache_key.endpoint import Destinations
from prompt_cache_key.keys import derived_key, random_key
from prompt_cache_key.log import log, pairs, text
from prompt_cache_key.options import PREFIX, Options, seconds
from prompt_cache_key.redis_store import RedisStore, without_secrets
from prompt_cache_key.state import State
from prompt_cache_key.stats.money import load

ANY = ("", "::", "0.0.0.0")  # noqa: S104  # compared, not bound
PROXIES = ("regular", "upstream")


class Settings:
    """Keeps the state's options those of mitmproxy."""

    def __init__(self, state: State) -> None:
        self.state = state

    def load(self, loader: Loader) -> None:
        """Register the options, and check the values that were set before they were known."""
        for option in fields(Options):
            type_ = cast("type", option.type)
            loader.add_option(PREFIX + option.name, type_, option.default, option.metadata["help"])
        deferred = ctx.options.deferred
        if isinstance(deferred.get(f"{PREFIX}ttl"), int):  # as YAML reads a plain number
            deferred[f"{PREFIX}ttl"] = str(deferred[f"{PREFIX}ttl"])
        # mitmproxy would apply such values after this hook, where a value of the wrong type ends
        # the script's loading without a word, and an invalid one with a traceback.
        try:
            ctx.options.process_deferred()
            _read()
        except (exceptions.OptionsError, TypeError) as e:
            # mitmproxy 11 says "Not an integer: abc" and not of which option.
            names = [name for name in deferred if name.startswith(PREFIX)]
            where = "" if PREFIX in str(e) else f"{' or '.join(names)}: "
            log(logging.ERROR, f"not loaded, an option has an invalid value: {where}{e}")
            raise exceptions.OptionsError(str(e)) from None

    def configure(self, updated: set[str]) -> None:
        """Apply changed options; OptionsError makes mitmproxy restore the old values."""
        if not any(name.startswith(PREFIX) for name in updated):
            return
        state, (new, destinations) = self.state, _read()
        old, state.options = state.options, new
        state.destinations = destinations
        state.sessions.max_sessions = new.max_sessions
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

    def running(self, page_path: str) -> None:
        """Log the listeners, the settings that differ from the defaults, and the page's address."""
        self.state.store.connect()
        all_listeners = listeners()
        for mode, address in all_listeners:
            where = human.format_address(address)
            log(logging.INFO, f"listening at {where}: {clients_of(mode, address)}")
        values, defaults = _shown(self.state.options), _shown(Options())
        changed = {name: value for name, value in values.items() if value != defaults[name]}
        base = next((url_of(address) for mode, address in all_listeners if has_page(mode)), "")
        page = f"; live page: {base}{page_path}" if base and self.state.options.page else ""
        log(logging.INFO, f"active: {pairs(**changed) or 'all options have their defaults'}{page}")
        for name in ctx.options.deferred:
            if name.startswith(PREFIX):
                near = difflib.get_close_matches(name, ctx.options.keys(), 1)
                hint = f"; the nearest known option is {near[0]}" if near else ""
                log(logging.WARNING, f"unknown option {text(name)} is ignored{hint}")
        for mode in ctx.options.mode:
            kind, _, server = mode.partition(":")
            if kind == "reverse" and "://" not in server:
                what = f"--mode {text(mode)} has no scheme, so requests go on by https"
                log(logging.WARNING, f"{what}; for http write {text(f'reverse:http://{server}')}")
        if any(address[0] in ANY for _, address in all_listeners):
            log(
                logging.WARNING,
                "the proxy listens on all addresses of this machine and serves every client that "
                "reaches it; for this machine alone: --listen-host 127.0.0.1",
            )

    def done(self) -> None:
        """Log the summary, or why no request got a key."""
        state = self.state
        lines = list(state.sessions.summary(load())) if state.sessions.total.requests else []
        for line in lines:
            log(logging.INFO, line)
        if not lines and state.skipped:
            counts = state.skipped.most_common(10)
            reasons = ", ".join(f"{count} because {reason}" for reason, count in counts)
            log(logging.WARNING, f"no key for {state.skipped.total()} requests: {reasons}")
        elif not lines:
            log(logging.INFO, "no request came through this proxy")
        state.store.close()


def listeners() -> list[tuple[ProxyMode, tuple[str, int]]]:
    """Return mode and address of each listener that has an address."""
    servers = ctx.master.addons.get("proxyserver").servers
    return [(each.mode, each.listen_addrs[0][:2]) for each in servers if each.listen_addrs]


def has_page(mode: ProxyMode) -> bool:
    """Return whether a listener of a mode serves the live page."""
    return mode.type_name in (*PROXIES, "reverse")


def url_of(address: tuple[str, int]) -> str:
    """Return the URL by which a client on this machine reaches a listener."""
    host, port = address
    return f"http://{human.format_address(('127.0.0.1' if host in ANY else host, port))}"


def clients_of(mode: ProxyMode, address: tuple[str, int]) -> str:
    """Return how Claude Code and a translator come to a listener, in words to copy."""
    url = url_of(address)
    certificate = Path(ctx.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
    trust = f"NODE_EXTRA_CA_CERTS={text(str(certificate))}"
    gateway = "ANTHROPIC_BASE_URL=http://YOUR-GATEWAY"
    if mode.type_name == "reverse":
        return f"Claude Code: ANTHROPIC_BASE_URL={url} claude; a translator: base URL {url}"
    if mode.type_name in PROXIES:
        proxies = f"HTTPS_PROXY={url} HTTP_PROXY={url}"
        return f"Claude Code: {gateway} {proxies} {trust} claude; a translator: {proxies}"
    if mode.type_name == "socks5":
        return (
            "Claude Code does not support SOCKS proxies; use --mode reverse:http://YOUR-GATEWAY; "
            f"a translator: ALL_PROXY={url.replace('http', 'socks5')}"
        )
    return f"Claude Code: {gateway} {trust} claude"


def _read() -> tuple[Options, Destinations]:
    try:
        options = Options(
            **{o.name: getattr(ctx.options, PREFIX + o.name) for o in fields(Options)}
        )
    except ValueError as e:
        raise exceptions.OptionsError(str(e)) from None
    try:
        return options, Destinations(options.filter)
    except (ValueError, RecursionError, TypeError):
        what = f"not a filter expression, or too deep: {text(options.filter)}"
        raise exceptions.OptionsError(f"{PREFIX}filter: {what}") from None


def _shown(options: Options) -> dict[str, object]:
    """Return the options as they are logged: lists joined, and a store without its secrets."""
    shown = asdict(options)
    for name, value in shown.items():
        if isinstance(value, list | tuple):
            shown[name] = ",".join(value)
    return shown | {"store": without_secrets(options.store)}
