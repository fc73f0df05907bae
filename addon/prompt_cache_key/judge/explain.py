"""Why an upstream could, or could not, read a prompt from its cache."""

import json
from collections.abc import Iterable

from prompt_cache_key.judge.prefix import Break, compare
from prompt_cache_key.log import pairs
from prompt_cache_key.response.usage import Usage

RECENT = 5
"""Earlier requests to compare with: up to Claude Code 2.1.138 a session's agents can't be told
apart, so the last one may be another agent's."""


def find_break(earlier: Iterable[bytes], body: bytes) -> Break | None:
    """Return where a prompt broke with all of those before it; None if it did not with one.

    All are request bodies, JSON objects. Of several breaks it is that with the longest prefix.
    """
    after = json.loads(body)
    breaks = []
    for before in earlier:
        broken = compare(json.loads(before), after)
        if not broken:
            return None
        breaks.append(broken)
    return max(breaks, key=lambda broken: broken.chars, default=None)


def explain(broken: Break | None, usage: Usage | None) -> tuple[str, str]:
    """Return one line on what became of the prefix and the cache, and the details in several."""
    reported = pairs(input=usage.input, cached=usage.cached) if usage else "no usage"
    if not broken:
        return f"the prefix held; the upstream reports {reported}", ""
    line = f"the prefix broke at {broken.path}, character {broken.at}: {broken.cause}"
    before = f"about {broken.tokens} tokens before it held (estimated)"
    details = f"{before}\nwas: {broken.before}\nis: {broken.after}"
    return f"{line}; the upstream reports {reported}", details
