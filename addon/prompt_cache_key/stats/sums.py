"""Sums over finished requests: tokens, hit rate, causes and money."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_cache_key.finished import FinishedRequest


@dataclass
class CauseSum:
    """The misses of one kind: how many requests, how many missed tokens, and what helps."""

    requests: int = 0
    tokens: int = 0
    remedy: str = ""


@dataclass
class Sums:
    """What finished requests used, read from the cache and missed."""

    requests: int = 0
    without_usage: int = 0
    misses: int = 0
    input: int = 0
    measured: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    missed: int = 0
    new: int = 0
    causes: dict[str, CauseSum] = field(default_factory=dict)
    saved: float | None = None
    missed_cost: float | None = None

    def add(self, request: FinishedRequest) -> None:
        """Add a finished request."""
        self.requests += 1
        usage, miss = request.usage, request.miss
        if not usage:
            self.without_usage += 1
            return
        self.input += usage.input
        self.measured += usage.input if usage.cached is not None else 0
        self.cached += usage.cached or 0
        self.written += usage.written or 0
        self.output += usage.output or 0
        self.missed += request.missed
        self.new += request.new
        if miss:
            self.misses += 1
            cause = self.causes.setdefault(miss.kind, CauseSum(remedy=miss.remedy))
            cause.requests += 1
            cause.tokens += miss.missed

    @property
    def hit_rate(self) -> float | None:
        """Percent of the measured prompt tokens that were read from the cache; None without any."""
        return 100 * self.cached / self.measured if self.measured else None

    @property
    def main_cause(self) -> str:
        """The cause with most missed tokens; empty without misses."""
        return max(self.causes, key=lambda name: self.causes[name].tokens, default="")
