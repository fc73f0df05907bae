"""How well a request and an upstream call agree.

Whatever speaks against a request outweighs what speaks for it: a key that goes to another session
is worse than none.
"""

from typing import NamedTuple

from prompt_cache_key.bridge.passage import Passage, count, labels, length, missing
from prompt_cache_key.bridge.prompt import Prompt


class Match(NamedTuple):
    """How well a request and a call agree: less is better.

    `unknown` are the lines of the call that the request has not; `is_changed` if new results of
    tools are not there as they were. Not what the call lacks: what a translator drops it drops of
    all.
    """

    unknown: int
    is_changed: bool


def match(request: Prompt, call: Prompt, *, by_ids: bool = False) -> Match | None:
    """Return how well they agree; None if the one did not cause the other.

    A stranger may say just what a request says: "hi". But he has other tools or another system
    prompt; or is a Claude Code too, in another conversation or directory. A translator sends on all
    that was said. It may add something, but not as the last word. Results of tools it may shorten.
    If the ids of tool calls show the cause, only what was asked after their results is compared.
    """
    views = [(each, _is_system(each, request)) for each in call.said]
    system = [*call.system, *(each for each, is_system in views if is_system)]
    said = [each for each, is_system in views if not is_system]
    if by_ids:
        last = [each for each, is_system in views[: call.asked] if not is_system][:1]
        all_said = request.said[: request.asked]
    else:
        last, all_said = said[:1], request.said
        if not last or request.answers != call.answers or not _has_frame(request, call):
            return None
        if request.ids != call.ids and _other_results(request, call):
            return None
    if missing(last, request.known) or missing(all_said, call.known):
        return None
    if _other_tools(request, call) or _other_system(request, system):
        return None
    unknown = missing([*said, *system, *call.new], request.known)
    return Match(unknown, is_changed=missing(request.new, call.known) > 0)


def _is_system(said: Passage, request: Prompt) -> bool:
    """Whether what a call says is a system message of the request.

    LiteLLM has the user say those, with a note before them, and 9router between tags.
    """
    lines = said.lines
    system = count(lines, request.system_lines)
    return 2 * system >= len(lines) and system == count(lines, request.known)


def _has_frame(request: Prompt, call: Prompt) -> bool:
    """Whether the call has at least half of the request's tools or of its system prompt."""
    lines = length(request.system)
    return (
        2 * len(request.tools & call.tools) >= len(request.tools) > 0
        or 2 * missing(request.system, call.known) <= lines > 0
    )


def _other_tools(request: Prompt, call: Prompt) -> bool:
    """Whether the call has tools that the request has not, and lacks most of those that it has."""
    common = request.tools & call.tools
    return common != call.tools and 2 * len(common) < max(len(request.tools), 1)


def _other_system(request: Prompt, system: list[Passage]) -> bool:
    """Whether over a quarter of a call's system lines, or the value of a label, is another.

    Of 906 calls that translators made none was so: they drop lines, but hardly add any, and the
    same ones to each message.
    """
    lines = {line for each in system for line in each.lines}
    if 4 * len(lines - request.known) > len(lines):
        return True
    ours, theirs = labels(request.system), labels(system)
    return any(ours[label].isdisjoint(theirs[label]) for label in ours.keys() & theirs.keys())


def _other_results(request: Prompt, call: Prompt) -> bool:
    """Whether over half of the lines of new tool results are not those of the other."""
    return any(
        2 * missing(one.new, other.known) > length(one.new)
        for one, other in ((request, call), (call, request))
    )
