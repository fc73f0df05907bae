"""Notice when a session reads nothing from the cache, or hardly anything any more."""

from typing import NamedTuple

from prompt_cache_key.log import pairs
from prompt_cache_key.usage.reader import Usage

LARGE = 2000
"""Prompt tokens from which an upstream should have cached some: OpenAI begins at 1024."""

RECENT = 5
"""Large prompts of a session by which it is judged."""

NOTHING_CACHED = "nothing was cached"
COLLAPSED = "the cache hit rate has collapsed"

_HIGH = 0.8
_LOW = 0.5
_HABIT = 3  # prompts in a row


class Recent(NamedTuple):
    """The last large prompts of a session.

    `prompts` are cached and all tokens of each. `has_cached` is whether a prompt ever read any,
    `was_high` whether the hit rate has been high since the last warning.
    """

    prompts: tuple[tuple[int, int], ...] = ()
    has_cached: bool = False
    was_high: bool = False
    is_nothing_logged: bool = False


NONE_YET = Recent()


class CacheWarning(NamedTuple):
    """A session that reads too little from the cache, and the main cause of its misses."""

    what: str
    session: str
    prompts: tuple[tuple[int, int], ...]
    cause: str
    """Empty if no miss is known."""
    remedy: str
    """Empty where nothing is known to help."""

    @property
    def line(self) -> str:
        """The words for the log: what happened, why, what to do."""
        recent = ", ".join(f"{cached}/{input_}" for cached, input_ in self.prompts)
        why = f"main cause: {self.cause}" if self.cause else _NO_CAUSE
        parts = (f"{self.what} in {pairs(session=self.session)}", why, self.remedy)
        return f"{'; '.join(filter(None, parts))} (tokens read of the last large prompts: {recent})"


_NO_CAUSE = "the upstream caches nothing, or spreads requests over machines"


def look(recent: Recent, usage: Usage) -> tuple[Recent, str]:
    """Return the recent prompts with one more, and NOTHING_CACHED or COLLAPSED when that begins.

    | the last five large prompts | before                                | returns        |
    |-----------------------------|---------------------------------------|----------------|
    | read no token               | no prompt read any, not returned yet  | NOTHING_CACHED |
    | read under half             | three in a row read over four fifths  | COLLAPSED      |
    | else                        |                                       | ""             |
    """
    recent = recent._replace(has_cached=recent.has_cached or bool(usage.cached))
    if usage.cached is None or usage.input < LARGE:
        return recent, ""
    prompts = *recent.prompts[1 - RECENT :], (usage.cached, usage.input)
    is_high = len(prompts) >= _HABIT and _rate(prompts[-_HABIT:]) > _HIGH
    recent = recent._replace(prompts=prompts, was_high=recent.was_high or is_high)
    are_enough = len(prompts) == RECENT
    if are_enough and not recent.has_cached and not recent.is_nothing_logged:
        return recent._replace(is_nothing_logged=True), NOTHING_CACHED
    if are_enough and recent.was_high and _rate(prompts) < _LOW:
        return recent._replace(was_high=False), COLLAPSED
    return recent, ""


def _rate(prompts: tuple[tuple[int, int], ...]) -> float:
    return sum(cached for cached, _ in prompts) / sum(input_ for _, input_ in prompts)
