"""What the addon's parts share: settings, keys, requests in flight, sums."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from mitmproxy import flowfilter, http

from prompt_cache_key.bridge.bridge import Bridge
from prompt_cache_key.endpoint import Destinations
from prompt_cache_key.in_flight import Endpoint, RequestInFlight
from prompt_cache_key.keys import Keys, Store
from prompt_cache_key.live_page.live import Recent
from prompt_cache_key.log import log, text
from prompt_cache_key.misses.history import History
from prompt_cache_key.options import Options
from prompt_cache_key.stats.totals import Totals

MAX_TOLD = 1000
MAX_REASONS = 50


@dataclass(eq=False)
class State:
    """All of it. `clock` returns seconds and never goes back.

    `refused` are endpoints that reject a field; `skipped` counts requests without a key by reason.
    """

    clock: Callable[[], float] = time.monotonic
    options: Options = field(default_factory=Options)
    keys: Keys = field(default_factory=Keys)
    bridge: Bridge = field(default_factory=Bridge)
    totals: Totals = field(default_factory=Totals)
    history: History = field(default_factory=History)
    exchanges: WeakKeyDictionary[http.HTTPFlow, RequestInFlight] = field(
        default_factory=WeakKeyDictionary
    )
    recent: Recent = field(default_factory=Recent)
    page_path: str = ""
    refused: set[tuple[str, Endpoint]] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store: Store = self.keys
        self.destinations = Destinations(flowfilter.parse(self.options.filter))

    def once(self, level: int, flow: http.HTTPFlow, cause: str, before: str = "") -> None:
        """Log what happened to a flow, with words before its URL, unless it happened before."""
        if cause not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(cause)
            where = text(self.destinations.of(flow).address)
            log(level, f"{before}{where}, {cause}", flow.client_conn.peername)

    def skip(self, flow: http.HTTPFlow, reason: str, level: int = logging.DEBUG) -> None:
        """Count a request that gets no key, and say why: at DEBUG each, as a warning once."""
        if reason not in self.skipped and len(self.skipped) >= MAX_REASONS:
            self.skipped["for other reasons"] += 1
        else:
            self.skipped[reason] += 1
        what = f"no key for {text(flow.request.method)}"
        if level > logging.DEBUG:
            self.once(level, flow, f"it goes on unchanged: {reason}", f"{what} ")
        else:
            where = text(self.destinations.of(flow).address)
            log(level, f"{what} {where}: {reason}", flow.client_conn.peername)


def is_open(flow: http.HTTPFlow) -> bool:
    """Whether a request is live and not answered yet."""
    return flow.live and not (flow.response or flow.error or flow.is_replay)
