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


def summary(sums: Sums, skipped: int, *, unreachable: str, is_stable: bool) -> Iterator[str]:
    """Yield the lines: hit rate and money, missed tokens by cause, and whether --stable helps.

    `skipped` is how many requests got no key; `unreachable` says where the last connection that
    failed was to go, and why it failed.
    """
    if unreachable and sums.requests == sums.without_usage:
        yield f"no connection to {text(unreachable)}"
    if not sums.requests and skipped:
        yield f"{_requests(skipped)} came through this proxy, all skipped: the log has the reasons"
    elif not sums.requests and not unreachable:
        yield "no request came through this proxy"
        yield "if Claude Code did send requests, its managed settings made it bypass the proxy"
    if not sums.requests:
        return
    yield _hit_rate(sums)
    yield f"missed tokens {sums.missed:,}{_money(sums)}"
    causes = [*sums.worst_causes()]
    for cause, count in causes[:MAX_CAUSES]:
        yield f"  {count.tokens:,} in {_requests(count.requests)}: {text(cause)}"
    if len(causes) > MAX_CAUSES:
        rest = sum(count.tokens for _, count in causes[MAX_CAUSES:])
        yield f"  {rest:,} for other causes"
    avoidable = sum(count.tokens for cause, count in causes if cause.startswith(STABLE_KINDS))
    if avoidable and not is_stable:
        yield f"--stable avoids causes of {avoidable:,} of these missed tokens"


def _hit_rate(sums: Sums) -> str:
    requests = _requests(sums.requests)
    if (rate := sums.hit_rate) is None:
        return f"hit rate unknown: no response reported cached tokens; {requests}"
    return (
        f"hit rate {percent(rate)}, {sums.cached:,} of {sums.measured:,} prompt tokens; {requests}"
    )


def _money(sums: Sums) -> str:
    saved = "" if sums.saved is None else f"; saved {dollars(sums.saved)}"
    cost = "" if sums.missed_cost is None else f"; misses cost {dollars(sums.missed_cost)}"
    return f"{saved}{cost}"


def _requests(count: int) -> str:
    return f"{count:,} request{'s'[: count != 1]}"
