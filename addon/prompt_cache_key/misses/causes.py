"""Why a prompt is no longer the start of the next one, in words that can be searched for."""

import re
from typing import Any, NamedTuple

from prompt_cache_key.log import text
from prompt_cache_key.misses.prefix import (
    FRONT,
    TURNS,
    Difference,
    as_text,
    chars_in,
    differ,
    elements,
)

KEY = "the key changed"
ATTRIBUTION = "attribution block changed"
COUNTDOWN = "total_tokens countdown"
MOVED = "system messages moved to the front"
SYSTEM = "system prompt changed"
REWRITTEN = "messages rewritten"
REMOVED = "messages removed"
TOO_MANY = "more than 15 requests a minute"
OWN = "the upstream's own"

IN_TURNS = (REWRITTEN, REMOVED)
"""Causes with which tools and system prompt are the same."""

REMEDIES = {
    KEY: "prompt_cache_keys=derived keeps it over restarts, a longer prompt_cache_ttl over pauses",
    ATTRIBUTION: "set CLAUDE_CODE_ATTRIBUTION_HEADER=0 in Claude Code, or "
    "prompt_cache_strip=attribution here",
    COUNTDOWN: "set CLAUDE_CODE_TOTAL_TOKENS_REMINDER=off in Claude Code, or "
    "prompt_cache_strip=countdown here",
    MOVED: "have the translator leave system messages where they stand",
    TOO_MANY: "prompt_cache_scope=agent gives each subagent a key of its own",
}
"""What to do about a cause, where something is known to help."""

# What upstreams render into the prompt, or look a prompt up by, besides the sections. OpenAI:
# https://developers.openai.com/api/docs/guides/prompt-caching/diagnostics; Anthropic:
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching (what invalidates the cache).
_SETTINGS = (
    ("model",),
    ("service_tier",),
    ("tool_choice",),
    ("parallel_tool_calls",),
    ("reasoning",),
    ("reasoning_effort",),
    ("thinking",),
    ("output_config",),
    ("response_format",),
    ("text", "format"),
    ("text", "verbosity"),
    ("verbosity",),
)

_ATTRIBUTION_START = "x-anthropic-billing-header:"
_COUNTDOWN_TEXT = re.compile(r"\s*<total_tokens>[^<]*</total_tokens>\s*")


class Break(NamedTuple):
    """What keeps an upstream from reading all of an earlier prompt."""

    cause: str
    """Safe between quotes in a log line."""
    path: str
    at: int
    before: str
    """Prompt, as `after`: for a page or a comment, never for the log. See `Difference`."""
    after: str


def find_break(
    before: dict[str, Any], after: dict[str, Any], end: Difference | None
) -> Break | None:
    """Name what `compare` found between two bodies, or a setting that changed behind its back.

    A setting comes before what messages say: it stands in front of them, and rewriting the last
    of them costs less.
    """
    cause = _cause(before, after, end) if end else ""
    if cause in ("", *IN_TURNS) and (setting := _changed_setting(before, after)):
        cause, end = f"settings changed: {'.'.join(map(str, setting.place))}", setting
    return Break(cause, end.path, end.at, end.before, end.after) if end else None


def turns(body: dict[str, Any]) -> list[Any]:
    """Return a body's messages, or the items of its input."""
    return [turn for name in TURNS for turn in elements(name, body.get(name))]


def is_system(turn: Any) -> bool:
    """Whether a turn is no part of the talk: a system or developer message."""
    return isinstance(turn, dict) and turn.get("role") in ("system", "developer")


def system_added(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, float]:
    """Name what a translator or engine behind here may have moved to the front; "" if nothing.

    `after` begins with all of `before`, and a system message came since. The number is the share
    of the prompt, from 0 to 1, that would be read all the same: tools, system prompt, and the
    system messages that were there before.
    """
    old, new = turns(before), turns(after)
    added = [turn for turn in new[len(old) :] if is_system(turn)]
    if not added:
        return "", 0
    front = sum(chars_in(name, after.get(name)) for name in FRONT)
    stays = front + chars_in("messages", [turn for turn in old if is_system(turn)])
    cause = COUNTDOWN if any(map(_is_countdown, added)) else MOVED
    return cause, stays / (front + chars_in("messages", new))


def _cause(before: dict[str, Any], after: dict[str, Any], end: Difference) -> str:
    if _is_attribution(end):
        return ATTRIBUTION
    if _has_countdown(end):
        return COUNTDOWN
    section = str(end.place[0])
    at = next((key for key in end.place if isinstance(key, int)), 0)
    old, new = (elements(section, body.get(section)) for body in (before, after))
    if section == "tools":
        return _tool_cause(old, new, at)
    here = {is_system(turns[at]) for turns in (old, new) if at < len(turns)}
    leads = section in FRONT or (True in here and all(map(is_system, new[:at])))
    if leads and _has_grown(end):
        return MOVED
    if leads or here == {True}:
        return SYSTEM
    follows = new[at:][:1]
    is_left = not follows or any(
        not differ((section, at), each, *follows) for each in old[at + 1 :]
    )
    return REMOVED if is_left else REWRITTEN


def _is_attribution(end: Difference) -> bool:
    for value in (end.old, end.new):
        words = _words(value)
        first_line = words[: end.at] if isinstance(value, str) else words
        if words.startswith(_ATTRIBUTION_START) and "\n" not in first_line:
            return True
    return False


def _has_countdown(end: Difference) -> bool:
    """Whether a countdown came, went or changed its number at the difference."""
    for value in (end.old, end.new):
        if not isinstance(value, str):
            if _is_countdown(value):
                return True
            continue
        for match in _COUNTDOWN_TEXT.finditer(value, max(0, end.at - 200), end.at + 200):
            if match.start() <= end.at < match.end():
                return True
    return False


def _is_countdown(value: Any) -> bool:
    return bool(_COUNTDOWN_TEXT.fullmatch(_words(value)))


def _tool_cause(old: list[Any], new: list[Any], at: int) -> str:
    olds, news = ([_tool_name(tool) for tool in tools] for tools in (old, new))
    earlier, name = (names[at] if at < len(names) else None for names in (olds, news))
    if name is not None and (earlier is None or name not in olds):
        return f"tool added: {_inline(name)}"
    if earlier is not None and (name is None or earlier not in news):
        return f"tool removed: {_inline(earlier)}"
    return f"tool edited: {_inline(name or 'unnamed')}" if name == earlier else "tools reordered"


def _inline(name: str) -> str:
    """Return a name as the log has it, without its quotes: the cause gets some as a whole."""
    quoted = text(name)
    return quoted[1:-1] if quoted.startswith('"') else quoted


def _tool_name(tool: Any) -> str:
    """Return the name of a tool of any dialect; built-in ones of OpenAI have a type only."""
    if not isinstance(tool, dict):
        return ""
    function = tool.get("function")
    inner = function.get("name") if isinstance(function, dict) else None
    return as_text(tool.get("name") or inner or tool.get("type"))


def _has_grown(end: Difference) -> bool:
    """Whether a system prompt goes on with a text of its own where the earlier one ended."""
    if isinstance(end.old, str) and isinstance(end.new, str):
        return len(end.old) == end.at > 0 and end.new[end.at :].startswith("\n")
    last = end.place[-1]
    return isinstance(last, int) and last > 0 and not is_system(end.old) and bool(end.new)


def _changed_setting(before: dict[str, Any], after: dict[str, Any]) -> Difference | None:
    for place in _SETTINGS:
        old, new = (_member(body, place) for body in (before, after))
        if found := differ(place, old, new):
            return found
    return None


def _member(value: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _words(value: Any) -> str:
    """Return the text of a block or message, of one block or of several."""
    if isinstance(value, dict):
        value = value.get("text") or value.get("content")
    if isinstance(value, list):
        return "".join(_words(block) for block in value if not isinstance(block, list))
    return value if isinstance(value, str) else ""
