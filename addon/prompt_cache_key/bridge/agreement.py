"""Decide whether an upstream call says what a request says, and how well.

The problem: a translator drops, joins, renames and adds, and another session may say the same
words. A key that goes to another session is worse than no key, so whatever speaks against a request
outweighs what speaks for it.

The idea: lines survive translation. In 293 recorded calls of six translators (chains.jsonl) every
line is there that user or assistant had said. In 906 pairs of requests and calls translators
dropped up to 46 of 82 system lines, added 3 on average at most, and changed none but the
attribution's (2 pairs). So all that was said has to be in the call, the newest words of the call
have to be in the request, and what differs in system prompt, tools and results excludes the request
where it is more than any translator has dropped or added.

Decisions, in this order; the first that applies excludes the request:

=======================================  ==================================================
case                                     why
=======================================  ==================================================
the call says nothing                    there are no words to decide by
another number of answers                an earlier or later turn, or another conversation;
                                         no translator changes it (chains.jsonl, 293 calls)
under half of the tools and under half   anyone says "hi"; claude-code-router 1 and 2 keep
of the system prompt                     36 of 82 system lines and all tools
over half of the new result lines are    9router's rewriting spares ids ("9router-cmds" in
not the other's                          chains.jsonl), so equal ids excuse it (see below)
the newest words are not the request's   a translator adds, but not as the last word
words of the request are missing         no translator drops what was said (293 calls)
other tools, and under half in common    a translator may add a few tools or drop all
over a quarter of the system lines are   3 lines were added at most, on average (906 pairs,
not the request's                        claude-code-router 2 with `tooluse`)
the same label with another value        another working directory; in 906 pairs only the
                                         attribution had another value (twice)
=======================================  ==================================================

Equal ids excuse a missing system prompt and rewritten results, and nothing else; only ids that are
random count (`waiting` decides). Each other case is about words, and words always decide.

System messages come as the user's words (LiteLLM, 9router: between tags or after a note) or as the
assistant's (OmniRoute 3.7.9). So a message is taken for a system message if its lines are system
lines of the request: for the assistant all of them, for the user at least half, the others being
unknown to the request. The request's own messages are seen in the same way, so that a user who says
just what a system line says changes nothing.

Not promised: two requests with the same words, tools and system prompt cannot be told apart if the
translator drops the system messages that differ. `waiting` then finds a tie.
"""

from typing import NamedTuple

from prompt_cache_key.bridge.lines import Lines, count, labels, length, missing
from prompt_cache_key.bridge.prompt import Message, Prompt


class Agreement(NamedTuple):
    """How well a request and a call agree: the lesser, the better.

    `unknown`: lines of the call that the request does not have. `is_changed`: new results of tools
    are not there as they were. What the call lacks does not count: a translator drops the same of
    all.
    """

    unknown: int
    is_changed: bool


class Comparison:
    """Compares one upstream call with requests."""

    def __init__(self, call: Prompt) -> None:
        self._call = call
        self._known = call.lines()

    def work(self, request: Prompt) -> int:
        """Return about how many microseconds a comparison may take."""
        both = (request, self._call)
        parts = sum(len(each.messages) + len(each.tools) for each in both)
        return (len(self._known) + length([*request.system, *request.said]) + parts) // 5

    def agreement(self, request: Prompt, *, has_same_ids: bool = False) -> Agreement | None:
        """Return how well request and call agree; None if the call is not the request's.

        The table at the top of this file has the reasons.
        """
        call, known = self._call, request.lines()
        ours, theirs = _Turns(request, request, known), _Turns(call, request, known)
        if not theirs.said or ours.answers != theirs.answers:
            return None
        are_results_same = _mostly(ours.new, self._known) and _mostly(theirs.new, known)
        if not has_same_ids and not (self._has_frame(request) and are_results_same):
            return None
        if missing(theirs.said[:1], known) or missing(request.said, self._known):
            return None
        system = [*call.system, *theirs.system]
        if _other_tools(request, call) or _other_system(request, system, known):
            return None
        unknown = missing([*theirs.said, *system, *theirs.new], known)
        return Agreement(unknown, is_changed=missing(ours.new, self._known) > 0)

    def _has_frame(self, request: Prompt) -> bool:
        """Whether the call has at least half of the request's tools or of its system prompt."""
        return (
            2 * len(request.tools & self._call.tools) >= len(request.tools) > 0
            or 2 * missing(request.system, self._known) <= length(request.system) > 0
        )


class _Turns:
    """A conversation without what the request has as system lines.

    `said` and `system` begin with the newest; `new` are the results that came after the last of
    `answers` answers; `known` are all lines of the request.
    """

    def __init__(self, prompt: Prompt, request: Prompt, known: set[int]) -> None:
        self._system_lines = {line for each in request.system for line in each.as_they_are}
        self._known = known
        self.answers = 0
        self.said: list[Lines] = []
        self.system: list[Lines] = []
        self.new: list[Lines] = []
        is_answered = False
        for message in prompt.messages:
            if not self._add(message):
                continue
            if message.is_answer:
                self.answers += not is_answered
            is_answered = message.is_assistant and (is_answered or message.is_answer)
            if not self.answers:
                self.new += message.results

    def _add(self, message: Message) -> bool:
        """Add what a message says; return whether it is more than a system message."""
        is_system = [self._is_system(each, message) for each in message.said]
        if message.is_assistant and not (message.is_plain and all(is_system)):
            is_system = [False] * len(is_system)
        for each, is_its in zip(message.said, is_system, strict=True):
            (self.system if is_its else self.said).append(each)
        return not (message.is_plain and message.said and all(is_system))

    def _is_system(self, said: Lines, message: Message) -> bool:
        lines = said.as_they_are
        system = count(lines, self._system_lines)
        if message.is_assistant:
            return system == len(lines)
        return 2 * system >= len(lines) and system == count(lines, self._known)


def _mostly(results: list[Lines], known: set[int]) -> bool:
    """Whether at least half of the lines of tool results are known."""
    return 2 * missing(results, known) <= length(results)


def _other_tools(request: Prompt, call: Prompt) -> bool:
    """Whether the call has tools that the request lacks, and lacks most of the request's."""
    common = request.tools & call.tools
    return common != call.tools and 2 * len(common) < max(len(request.tools), 1)


def _other_system(request: Prompt, system: list[Lines], known: set[int]) -> bool:
    """Whether over a quarter of a call's system lines, or the value of a label, is another."""
    lines = {line for each in system for line in each.as_they_are}
    if 4 * len(lines - known) > len(lines):
        return True
    ours, theirs = labels(request.system), labels(system)
    return any(ours[label].isdisjoint(theirs[label]) for label in ours.keys() & theirs.keys())
