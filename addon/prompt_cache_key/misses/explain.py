"""What became of one prompt, in words."""

from collections.abc import Sequence

from prompt_cache_key.log import pairs
from prompt_cache_key.misses.judge import Sent, judge, nearest
from prompt_cache_key.stats.totals import percent


def explain(
    earlier: Sequence[Sent], sent: Sent, keep: float, diagnosis: str = ""
) -> tuple[str, str]:
    """Return one line on what a request lost or where its prompt broke, and details in several.

    The line holds no prompt, the details do. The arguments are those of `judge`.
    """
    miss, match = judge(earlier, sent, keep, diagnosis), nearest(earlier, sent)
    found = miss or (match and match.find_break())
    if miss:
        line = f"lost {miss.missed} of {miss.expected}: {miss.cause}"
    elif found:
        line = f"the prefix broke: {found.cause}"
    else:
        line = "the prefix held" if match else "the prompts could not be compared"
    if found and found.path:
        line += f", at {found.path}, character {found.at}"
    if usage := sent.usage:
        cached = "?" if usage.cached is None else usage.cached
        reported = pairs(input=usage.input, cached=cached, hit=percent(usage.hit))
    else:
        reported = "no usage"
    details = [f"was: {found.before}", f"is: {found.after}"] if found and found.path else []
    if miss and miss.remedy:
        details.append(miss.remedy)
    return f"{line}; the upstream reports {reported}", "\n".join(details)
