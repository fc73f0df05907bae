"""Explain one request: what it missed, or whether its prompt continues an earlier one."""

from collections.abc import Sequence

from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.log import pairs
from prompt_cache_key.misses.comparison import nearest
from prompt_cache_key.misses.judge import judge
from prompt_cache_key.misses.prefix import NotCompared
from prompt_cache_key.stats.sums import percent

NOT_COMPARED = "not compared: a body is too large, nested too deep, or no JSON object"


def explain(earlier: Sequence[FinishedRequest], request: FinishedRequest) -> tuple[str, str]:
    """Return a line on what a request missed or where its prompt changed, and details in several.

    `earlier` are requests of its conversation. The line holds no prompt, the details do.
    """
    miss = judge(earlier, request)
    try:
        found = nearest(earlier, request)
        cause = found.find_cause() if found else None
    except (NotCompared, RecursionError):
        found = cause = None
    is_judged = request.usage and request.usage.cached is not None
    line = "no miss" if is_judged else "no miss can be determined"
    if miss:
        line = f"missed {miss.missed} of {miss.expected} expected tokens: {miss.cause}"
    elif cause:
        line += f"; the prompt changed: {cause.words}"
    else:
        line += "; the prompt continues the earlier one" if found else f"; {NOT_COMPARED}"
    where = miss or cause
    details = []
    if where and where.path:
        line += f", at {where.path}, character {where.at}"
        details = [f"was: {where.before}", f"is: {where.after}"]
    if miss:
        details.append(miss.remedy)
    return f"{line}; {_reported(request)}", "\n".join(details)


def _reported(request: FinishedRequest) -> str:
    usage = request.usage
    if not usage:
        return "the upstream reports no usage"
    cached = "?" if usage.cached is None else usage.cached
    return "the upstream reports " + pairs(hit=percent(usage.hit), input=usage.input, cached=cached)
