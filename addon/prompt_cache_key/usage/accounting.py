"""Decide what the token counts of a response mean, by the response or by its conversation.

The problem. A response gives a prompt count, often a count of cached tokens and of cache writes.
By the dialect's documentation the prompt count of Chat Completions and Responses includes the
cached tokens and the cache writes, and that of Anthropic Messages excludes both. But gateways and
translators between the dialects leave out what should be in, or add what is in already, and the
field names do not show it. Counted wrongly, the prompt doubles and each hit becomes a miss.

The idea. Two questions are to be answered: does the prompt count leave out the tokens that were
read from the cache, and those that were written to it (`_LeavesOut`)? Often one response proves an
answer by arithmetic: more tokens cannot be cached than the prompt has, and totals have to add up.
An endpoint counts in one way, so a proof also holds for responses of the same conversation, and of
the same endpoint, that prove nothing themselves. And a conversation's prompt grows by a little from
turn to turn: where one way of counting continues the last prompt and the other doubles it, the
former is right.

The case that needs all this is Messages with a prompt count at least as large as cached tokens and
cache writes together. Anthropic's own responses to Claude Code hardly ever are that case: the last
message has a cache breakpoint, so `input_tokens` is a few tokens, and one such response is a proof.

What proves an answer, the first that applies (p prompt, c cached, w cache writes, o output):

    case                                             leaves out        seen at
    1  uncached tokens reported, and c + uncached    what gives that   DeepSeek, llama.cpp
       is the prompt
    2  total - o is p + c or p + c + w               what gives that   Portkey, other gateways
    3  w > p                                         both              Anthropic; pi 2048
    4  c > p, or by dialect both are left out and    reads; writes     CLIProxyAPI 5956, gateways
       c + w > p                                     perhaps
    5  by dialect both are left out, w > 0, c + w    none              codex-proxy
       is p
    6  else the conversation's prompt would double   none (weak)       grok2api, new-api

"More" is by over 2% there: DashScope streams an estimate of the whole prompt first (3,602) and what
was read of it last (3,604). A proof replaces the conversation's and the endpoint's earlier one. A
weak proof replaces the conversation's, and the endpoint's only if that has none: it errs where one
turn adds as many tokens as the whole prompt had, which the next turn disproves (case 3 or 4) and
which makes no miss.

What is assumed without a proof, the first that applies:

    reads: as proved for the conversation; not left out, if by dialect none are; as proved for the
           endpoint; not left out, if total - o is p; else left out, which is not certain
    writes: as proved for the conversation, for the endpoint; left out, if that is not certain of
           reads either; else not left out, as from a larger prompt misses follow that are none

Absent and zero. vLLM and others leave the cached tokens out where none were cached. So on a
conversation that has reported cached tokens before, a complete response without them has 0 cached
tokens. An incomplete one may have had them in its end: they stay unknown.

What is not promised. A request is counted once, when its response has ended: by the best guess at
that time. A later proof does not change earlier requests; a guess is marked
(`Usage.is_certain`), no miss is judged by it, and on one conversation there are few. Incomplete
responses are counted by what is known and prove nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

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


class _LeavesOut(NamedTuple):
    """What an upstream's prompt count leaves out; None: it is not known."""

    reads: bool | None
    writes: bool | None

    def updated(self, proof: _LeavesOut) -> _LeavesOut:
        """Return what is known once a response has proved something."""
        is_old = proof.reads in (None, self.reads) and proof.writes is None
        return self if is_old else proof

    def prompt(self, report: Report) -> int:
        """Return the size of the whole prompt, if it is counted this way."""
        prompt, cached, written = _counts(report)
        whole = prompt + cached * bool(self.reads) + written * bool(self.writes)
        return max(whole, cached)  # an estimate may be smaller


_UNKNOWN = _LeavesOut(None, None)
_NONE = _LeavesOut(reads=False, writes=False)
_BOTH = _LeavesOut(reads=True, writes=True)


@dataclass
class _Conversation:
    reports_cached: bool = False
    leaves_out: _LeavesOut = _UNKNOWN
    last: Report | None = None


@dataclass
class _Endpoint:
    leaves_out: _LeavesOut = _UNKNOWN


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
        proof, is_weak = _proof(report, known.last)
        proved = known.leaves_out.updated(proof)
        if report.is_complete:
            known.leaves_out = proved
            if not is_weak or at.leaves_out == _UNKNOWN:
                at.leaves_out = at.leaves_out.updated(proof)
        leaves_out, is_certain = _assumed(report, proved, at.leaves_out)

        cached = report.cached
        if report.is_complete:
            known.last = report
            known.reports_cached |= cached is not None
            if cached is None and known.reports_cached:
                cached = 0
        prompt = leaves_out.prompt(report)
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


def _proof(report: Report, last: Report | None) -> tuple[_LeavesOut, bool]:
    """Return what a response proves, and whether the proof is weak."""
    prompt, cached, written = _counts(report)
    if proof := _sum(report):
        return proof, False
    most = _ESTIMATE * prompt
    if written > most:
        return _BOTH, False
    if cached > most or (report.excludes_cache and cached + written > most):
        return _LeavesOut(reads=True, writes=None), False
    if report.excludes_cache and written and cached + written == prompt:
        return _NONE, False
    return (_NONE if _doubles(last, report) else _UNKNOWN), True


def _sum(report: Report) -> _LeavesOut | None:
    """Return the way to count by which one count is the sum of others (cases 1 and 2)."""
    prompt, cached, written = _counts(report)
    ways = [_NONE, _LeavesOut(reads=True, writes=False if written else None), _BOTH]
    if report.uncached and cached + written:
        for way in ways:
            if way.prompt(report) == cached + report.uncached:
                return way
    if report.total:
        for way in ways[1:]:
            whole = way.prompt(report)
            if whole > prompt and whole == report.total - (report.output or 0):
                return way
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


def _assumed(report: Report, proved: _LeavesOut, at: _LeavesOut) -> tuple[_LeavesOut, bool]:
    """Return what the prompt count leaves out, and whether that is certain.

    `proved` is of the conversation, `at` of the endpoint.
    """
    prompt, cached, written = _counts(report)
    if proved.reads is None:
        if not report.excludes_cache or not cached + written:
            return _NONE, True
        if at.reads is None:
            is_sum = report.total and report.total - (report.output or 0) == prompt
            return (_NONE, True) if is_sum else (_BOTH, False)
        proved = at
    if proved.reads and proved.writes is None and at.reads:
        return at, True
    return proved, True
