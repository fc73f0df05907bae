"""The state that the addon's parts share: options, keys, requests in flight, sums."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from mitmproxy import http

from prompt_cache_key.bridge.waiting import WaitingRequests
from prompt_cache_key.endpoint import Destinations
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.keys import Keys, Store
from prompt_cache_key.live_page.live import Recent
from prompt_cache_key.log import LOGGER, log, text
from prompt_cache_key.misses.history import History
from prompt_cache_key.options import Options
from prompt_cache_key.rejections.learned import Rejections
from prompt_cache_key.routing import RoutingHeaders
from prompt_cache_key.stats.sessions import Sessions
from prompt_cache_key.usage.accounting import Accounting

MAX_LOGGED_ONCE = 1000
MAX_REASONS = 50


@dataclass(eq=False)
class State:
    """What the addon's parts share. `clock` returns seconds and never goes back.

    `store` has the keys: `keys` itself, or one that several proxies share. `skipped` counts
    requests that got no key, by reason; selected ones that are observed instead among them.
    """

    clock: Callable[[], float] = time.monotonic
    options: Options = field(default_factory=Options)
    keys: Keys = field(default_factory=Keys)
    bridge: WaitingRequests = field(default_factory=WaitingRequests)
    routing: RoutingHeaders = field(default_factory=RoutingHeaders)
    rejections: Rejections = field(default_factory=Rejections)
    in_flight: WeakKeyDictionary[http.HTTPFlow, RequestInFlight] = field(
        default_factory=WeakKeyDictionary
    )
    accounting: Accounting = field(default_factory=Accounting)
    history: History = field(default_factory=History)
    sessions: Sessions = field(default_factory=Sessions)
    recent: Recent = field(default_factory=Recent)
    skipped: Counter[str] = field(default_factory=Counter)
    _logged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store: Store = self.keys
        self.destinations = Destinations(self.options.filter)

    def is_new(self, what: str) -> bool:
        """Return whether something is to be logged that is logged once, and remember it."""
        if what in self._logged or len(self._logged) >= MAX_LOGGED_ONCE:
            return False
        self._logged.add(what)
        return True

    def log_once(self, level: int, flow: http.HTTPFlow, what: str) -> None:
        """Log what happened to a flow, with its URL, unless that was logged before."""
        if self.is_new(what):
            url = text(self.destinations.of(flow).url)
            log(level, f"{url}: {what}", flow.client_conn.peername)

    def skip(self, flow: http.HTTPFlow, reason: str, level: int = logging.DEBUG) -> None:
        """Count and log a request that gets no key: at DEBUG each, as a warning once a reason.

        `reason` goes on after "because".
        """
        if reason not in self.skipped and len(self.skipped) >= MAX_REASONS:
            self.skipped["other reasons"] += 1
        else:
            self.skipped[reason] += 1
        if level > logging.DEBUG:
            is_logged = self.is_new(reason)
        else:
            is_logged = logging.getLogger(LOGGER).isEnabledFor(level)
        if is_logged:
            method, url = text(flow.request.method), text(self.destinations.of(flow).url)
            what = f"no key for {method} {url}: it goes on unchanged because {reason}"
            log(level, what, flow.client_conn.peername)


def is_open(flow: http.HTTPFlow) -> bool:
    """Return whether a request is live and not answered yet."""
    return flow.live and not (flow.response or flow.error or flow.is_replay)
