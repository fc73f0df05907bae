"""Decide what the token counts of a response mean, by the response or by its conversation.

The problem. A response gives a prompt count, often a count of cached tokens and of cache writes.
By the dialect's documentation the prompt count of Chat Completions and Responses includes the
cached tokens and the cache writes, and that of Anthropic Messages excludes both. But gateways and
translators between the dialects leave out what should be in, or add what is in already, and the
field names do not show it. Counted wrongly, the prompt doubles and each hit becomes a miss.

The idea. There are three ways to count (`Counting`); each gives another size for the whole prompt.
Often one response proves one of them by arithmetic: more tokens cannot be cached than the prompt
has, and totals have to add up. An endpoint counts in one way, so a proof also holds for responses
of the same conversation, and of the same endpoint, that prove nothing themselves. And a
conversation's prompt grows by a little from turn to turn: where one way of counting continues the
last prompt and the other doubles it, the former is right.

The case that needs all this is Messages with a prompt count at least as large as cached tokens and
cache writes together. Anthropic's own responses to Claude Code hardly ever are that case: the last
message has a cache breakpoint, so `input_tokens` is a few tokens, and one such response is a proof.

Decisions, the first that applies (p prompt, c cached, w cache writes, o output):

    case                                          way to count         proof  certain  seen at
    1  c + w = 0                                  all give p           no     yes      every first
    2  uncached tokens reported, c + uncached is  the one that gives   yes    yes      DeepSeek,
       the prompt by one way                      that                                 llama.cpp
    3  total - o is p + c or p + c + w            the one that gives   yes    yes      gateways of
                                                  that                                 FACTS, chat
    4  excluded by dialect, c + w > p;            without cache        yes    yes      Anthropic;
       included by dialect, w > p                                                      pi 2048
    5  excluded by dialect, w > 0, c + w = p      whole                yes    yes      codex-proxy
    6  included by dialect, c > p >= w            as proved, or        yes    yes      gateways,
                                                  without reads                        chat
    7  one way doubles the conversation's last    whole                weak   yes      grok2api,
       prompt, the other continues it                                                  new-api
    8  the conversation has had a proof           as proved            no     yes
    9  excluded by dialect, and the endpoint      as proved            no     yes
       has had a proof
    10 included by dialect                        whole                no     yes      OpenAI
    11 excluded by dialect, total - o = p         whole                no     yes
    12 else                                       without cache        no     no

In cases 4 and 6 "more" is by over 2%: DashScope streams an estimate of the whole prompt first
(3,602) and what was read of it last (3,604). In case 6 cache writes may be in p or not; of the two
the smaller prompt is assumed, as from a larger one misses would follow that are none.

A proof replaces the conversation's and the endpoint's earlier one. A weak proof replaces the
conversation's, and the endpoint's only if that has none: it errs where one turn adds as many tokens
as the whole prompt had, which the next turn disproves (case 4) and which makes no miss.

Absent and zero. vLLM and others leave the cached tokens out where none were cached. So on a
conversation that has reported cached tokens before, a complete response without them has 0 cached
tokens. An incomplete one may have had them in its end: they stay unknown.

What is not promised. A request is counted once, when its response has ended: by the best guess at
that time (case 12). A later proof does not change earlier requests; a guess is marked
(`Usage.is_certain`), no miss is judged by it, and on one conversation there are few. Incomplete
responses are counted by what is known and prove nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from prompt_cache_key.usage.reader import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from prompt_cache_key.usage.reader import Report

MAX_SIZE: Final = 1000
"""Conversations, and endpoints, that are remembered."""

# Between two turns of a conversation the prompt grows by a little: by how much it may at most, and
# from what growth on it has doubled.
_GROWTH = (0.95, 1.25)
_DOUBLED = 1.75
# How much more than the prompt count the cached tokens may be of a prompt that was estimated.
_ESTIMATE = 1.02

_Value = TypeVar("_Value")


class Counting(Enum):
    """What an upstream's prompt count includes."""

    WHOLE = "the whole prompt"
    WITHOUT_READS = "the prompt without what was read from the cache"
    WITHOUT_CACHE = "the prompt without what was read from or written to the cache"

    def prompt(self, report: Report) -> int:
        """Return the size of the whole prompt, if it is counted this way."""
        prompt, cached, written = _counts(report)
        if self is Counting.WHOLE:
            return max(prompt, cached)
        return prompt + cached + (written if self is Counting.WITHOUT_CACHE else 0)


_WITHOUT = (Counting.WITHOUT_READS, Counting.WITHOUT_CACHE)


@dataclass
class _Conversation:
    reports_cached: bool = False
    counting: Counting | None = None
    last: Report | None = None


class _Endpoint:
    counting: Counting | None = None


class Accounting:
    """What the counts of conversations and endpoints have shown so far."""

    def __init__(self) -> None:
        self._conversations = _Recent(_Conversation)
        self._endpoints = _Recent(_Endpoint)

    def settle(
        self, conversation: Hashable, report: Report | None, endpoint: Hashable = None
    ) -> Usage | None:
        """Return the usage that a response's report means; None without a report.

        Reports of a conversation come in the order in which their responses ended. `endpoint` is
        what counts in one way: URL and model; None: it is not known.
        """
        if not report:
            return None
        known = self._conversations.get(conversation)
        at = _Endpoint() if endpoint is None else self._endpoints.get(endpoint)
        proof, is_weak = _proof(report, known, at)
        if proof and report.is_complete:
            known.counting = proof
            if not (is_weak and at.counting):
                at.counting = proof
        counting, is_certain = (proof, True) if proof else _assumed(report, known, at)

        cached = report.cached
        if report.is_complete:
            known.last = report
            known.reports_cached |= cached is not None
            if cached is None and known.reports_cached:
                cached = 0
        prompt = counting.prompt(report)
        return Usage(prompt, cached, report.written, report.output, is_certain)


class _Recent(Generic[_Value]):
    """What is remembered of the most recently used, each made when it is first asked for."""

    def __init__(self, make: Callable[[], _Value]) -> None:
        self._make = make
        self._values: OrderedDict[Hashable, _Value] = OrderedDict()

    def get(self, name: Hashable) -> _Value:
        if (value := self._values.get(name)) is None:
            value = self._values[name] = self._make()
        self._values.move_to_end(name)
        if len(self._values) > MAX_SIZE:
            self._values.popitem(last=False)
        return value


def _counts(report: Report) -> tuple[int, int, int]:
    return report.prompt, report.cached or 0, report.written or 0


def _proof(report: Report, known: _Conversation, at: _Endpoint) -> tuple[Counting | None, bool]:
    """Return the way to count that is proved, and whether the proof is weak (cases 2 to 7)."""
    prompt, cached, written = _counts(report)
    if not cached + written:
        return None, False
    if proof := _sum(report):
        return proof, False
    most = cached + written if report.excludes_cache else written
    if most > _ESTIMATE * prompt:
        return Counting.WITHOUT_CACHE, False
    if report.excludes_cache and written and most == prompt:
        return Counting.WHOLE, False
    if cached > _ESTIMATE * prompt:
        proved = (each for each in (known.counting, at.counting) if each in _WITHOUT)
        return next(proved, Counting.WITHOUT_READS), False
    return (Counting.WHOLE if _doubles(known.last, report) else None), True


def _sum(report: Report) -> Counting | None:
    """Return the way to count by which a sum of the counts is another count (cases 2 and 3)."""
    if report.uncached:
        for counting in Counting:
            if counting.prompt(report) == (report.cached or 0) + report.uncached:
                return counting
    if report.total:
        for counting in _WITHOUT:
            whole = counting.prompt(report)
            if whole > report.prompt and whole == report.total - (report.output or 0):
                return counting
    return None


def _doubles(last: Report | None, report: Report) -> bool:
    """Return whether the prompt has doubled since the last one if the cached part comes on top.

    Without it the prompt goes on from the last one, and the cached tokens are the last prompt's.
    """
    if not last or not last.prompt:
        return False
    prompt, cached, written = _counts(report)
    least, most = _GROWTH
    return (
        least * last.prompt <= prompt <= most * last.prompt
        and (last.cached or 0) < cached <= last.prompt + (last.output or 0)
        and prompt + cached + written >= _DOUBLED * last.prompt
    )


def _assumed(report: Report, known: _Conversation, at: _Endpoint) -> tuple[Counting, bool]:
    """Return the way to count where none is proved, and if it is certain (cases 1, 8 to 12)."""
    _, cached, written = _counts(report)
    if not cached + written:
        return Counting.WHOLE, True
    if known.counting:
        return known.counting, True
    if not report.excludes_cache:
        return Counting.WHOLE, True
    if at.counting:
        return at.counting, True
    if report.total and report.total - (report.output or 0) == report.prompt:
        return Counting.WHOLE, True
    return Counting.WITHOUT_CACHE, False
