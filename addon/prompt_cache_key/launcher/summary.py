"""Say at the end what Claude Code's requests read from the prompt cache."""

from collections.abc import Iterator

from prompt_cache_key.log import text
from prompt_cache_key.stats.sums import Sums, dollars, percent

MAX_CAUSES = 5

STABLE_KINDS = (
    "attribution block changed",
    "total_tokens countdown",
    "tool search loaded",
    "system prompt changed",
)
"""The causes that `--stable` avoids."""


def summary(sums: Sums, skipped: int, *, is_stable: bool) -> Iterator[str]:
    """Yield the lines: hit rate and money, missed tokens by cause, and whether --stable helps.

    `skipped` are requests that came through the proxy and are not part of the sums.
    """
    if not sums.requests and skipped:
        yield f"{_requests(skipped)} came through this proxy, all skipped: the log has the reasons"
        return
    if not sums.requests:
        yield "no request came through this proxy (managed settings may lead Claude Code past it)"
        return
    yield _headline(sums)
    causes = [*sums.worst_causes()]
    for cause, count in causes[:MAX_CAUSES]:
        yield f"  {count.tokens:,} missed in {_requests(count.requests)}: {text(cause)}"
    if len(causes) > MAX_CAUSES:
        rest = sum(count.tokens for _, count in causes[MAX_CAUSES:])
        yield f"  {rest:,} missed for other causes"
    avoidable = sum(count.tokens for cause, count in causes if cause.startswith(STABLE_KINDS))
    if avoidable and not is_stable:
        yield f"--stable avoids causes of {avoidable:,} of these missed tokens"


def _headline(sums: Sums) -> str:
    rate = sums.hit_rate
    parts = [
        "hit rate unknown: no response reported cached tokens"
        if rate is None
        else f"hit rate {percent(rate)}, {sums.cached:,} of {sums.measured:,} prompt tokens"
    ]
    parts += [_requests(sums.requests), f"missed tokens {sums.missed:,}"]
    if sums.saved is not None:
        parts.append(f"saved {dollars(sums.saved)}")
    if sums.missed_cost is not None:
        parts.append(f"misses cost {dollars(sums.missed_cost)}")
    return "; ".join(parts)


def _requests(count: int) -> str:
    return f"{count:,} request{'s'[: count != 1]}"
