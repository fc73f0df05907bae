"""Why an upstream could, or could not, read a prompt from its cache."""

from collections.abc import Iterable

from prompt_cache_key.judge.causes import Break
from prompt_cache_key.judge.verdict import Sent, nearest
from prompt_cache_key.log import pairs
from prompt_cache_key.response.usage import Usage

RECENT = 5
"""Earlier requests to compare with: up to Claude Code 2.1.138 a session's agents can't be told
apart, so the last one may be another agent's."""


def find_break(earlier: Iterable[bytes], body: bytes) -> Break | None:
    """Return where a prompt broke with all of those before it; None if it did not with one."""
    match = nearest((Sent(0, "", each, None) for each in earlier), Sent(0, "", body, None))
    return match.find_break() if match else None


def explain(broken: Break | None, usage: Usage | None) -> tuple[str, str]:
    """Return one line on what became of the prefix and the cache, and the details in several."""
    reported = pairs(input=usage.input, cached=usage.cached) if usage else "no usage"
    if not broken:
        return f"the prefix held; the upstream reports {reported}", ""
    line = f"the prefix broke at {broken.path}, character {broken.at}: {broken.cause}"
    details = f"was: {broken.before}\nis: {broken.after}"
    return f"{line}; the upstream reports {reported}", details
