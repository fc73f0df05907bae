"""Name the cause of missed tokens: what keeps a prompt from being read as far as an earlier one."""

import re
from collections.abc import Iterator
from itertools import dropwhile
from typing import Any, NamedTuple

from prompt_cache_key.log import text
from prompt_cache_key.misses.prefix import (
    FRONT,
    TURNS,
    Budget,
    Difference,
    as_text,
    chars_in,
    differ,
    elements,
    spelled,
)

KEY = "prompt_cache_key changed"
ATTRIBUTION = "attribution block changed"
COUNTDOWN = "total_tokens countdown"
MOVED = "system messages moved to the front"
TOOL_SEARCH = "tool search loaded"
REORDERED = "tools reordered"
ADDED = "tool added"
DROPPED = "tool removed"
EDITED = "tool edited"
SYSTEM = "system prompt changed"
SETTINGS = "settings changed"
REWRITTEN = "messages rewritten"
REMOVED = "messages removed"
EXPIRED = "expired"
ROUTING = "routing header changed"
TOO_MANY = "over 15 requests a minute"
SERVER_SIDE = "server-side"

IN_TURNS = (REWRITTEN, REMOVED)
"""Kinds with which tools and system prompt are the same."""

_TOOLS = "nothing to set: keep tools and MCP servers as they are within a session"
_MESSAGES = "nothing to set: /compact, /rewind and edits by the client change messages"

# The switches are Claude Code's own (2.1.332), by its documentation and --help, or options here.
REMEDIES = {
    KEY: "prompt_cache_keys=derived keeps a key over restarts, a longer prompt_cache_ttl over "
    "pauses",
    ATTRIBUTION: "set CLAUDE_CODE_ATTRIBUTION_HEADER=0 in Claude Code, or "
    "prompt_cache_strip=attribution here",
    COUNTDOWN: "set CLAUDE_CODE_TOTAL_TOKENS_REMINDER=off in Claude Code, or "
    "prompt_cache_strip=countdown here",
    MOVED: "nothing to set: have the translator or engine leave system messages in their places",
    TOOL_SEARCH: "set ENABLE_TOOL_SEARCH=false in Claude Code: the first prompt then has all tools",
    REORDERED: _TOOLS,
    ADDED: _TOOLS,
    DROPPED: _TOOLS,
    EDITED: _TOOLS,
    SYSTEM: "start Claude Code with --exclude-dynamic-system-prompt-sections",
    SETTINGS: "nothing to set: keep model settings as they are within a session",
    REWRITTEN: _MESSAGES,
    REMOVED: _MESSAGES,
    EXPIRED: "nothing to set: the upstream keeps a prompt no longer",
    ROUTING: "have the client send one value for a session; with prompt_cache_headers=auto it is "
    "replaced from its second change on",
    TOO_MANY: "prompt_cache_scope=agent gives each subagent a key of its own",
    SERVER_SIDE: "nothing to set: the prompt is unchanged",
}
"""What to do about each kind of cause, or that there is nothing to set."""

KEY_OF_CLIENT = (
    "the client sends keys of its own: have it keep one for a session, or set "
    "prompt_cache_overwrite=true here"
)
SHARED_KEY = "prompt_cache_scope=user lets the conversations of one user share a key"
KEY_FORGOTTEN = "nothing to set: promptcache.forget ended the key"
LONGER_CACHE = {
    True: "set CLAUDE_CODE_PROMPT_CACHE_TTL=1h in Claude Code",
    False: "set CLAUDE_CODE_SUBAGENT_PROMPT_CACHE_TTL=1h in Claude Code",
}
"""What to do about a prompt that Anthropic kept for 5 minutes: of the main agent, of a subagent."""
DIAGNOSED = "nothing to set: the upstream says so, the prompt is unchanged"

# What upstreams render into the prompt, or look a prompt up by, besides the sections. OpenAI:
# https://developers.openai.com/api/docs/guides/prompt-caching/diagnostics; Anthropic:
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching (what invalidates the cache).
_SETTINGS = (
    ("model",),
    ("service_tier",),
    ("speed",),
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
_COUNTDOWN_REACH = 200  # characters around a difference, more than any countdown has

# Claude Code 2.1.330 and 2.1.332, see tests/data/tool_search.jsonl.
_TOOL_SEARCH_CALL = "ToolSearch"
_PLACEHOLDER = "DeferredToolPlaceholder"

_NAMED = 5  # tools in one cause
_LONGEST_NAME = 48


class Cause(NamedTuple):
    """The cause of missed tokens, with what to do about it and its place in the prompt."""

    kind: str
    """What sums are made by: the words without what differs each time."""
    words: str
    """Safe between quotes in a log line."""
    remedy: str
    path: str = ""
    at: int = 0
    before: str = ""
    """Prompt, as `after`: for a page or a comment, never for the log. See `Difference`."""
    after: str = ""


def cause_of(kind: str, detail: str = "", end: Difference | None = None) -> Cause:
    """Return the cause of a kind, with the kind's remedy and the place of a difference."""
    cause = Cause(kind, f"{kind}: {detail}" if detail else kind, REMEDIES[kind])
    if not end:
        return cause
    return cause._replace(path=end.path, at=end.at, before=end.before, after=end.after)


# The first difference in the prompt decides, as nothing behind it can be read.
#
# the difference                      cause                      fixed by
# ----------------------------------- -------------------------- -----------------------------------
# the attribution block's line        attribution block changed  claude_code.jsonl, 2.1.330 214: it
#                                                                changed in each request
# a <total_tokens> text               total_tokens countdown     countdown.jsonl
# in tools                            see _tool_cause
# the system prompt goes on where     system messages moved to   claude-code issue 90018: some
# the earlier one ended, and none is  the front                  translators put them there
# left among the messages
# in the system prompt, or in a       system prompt changed
# system message
# in messages; a setting changed too  settings changed           settings are rendered in front
# a message is gone, the next follow  messages removed           claude_code.jsonl, 2.1.330 473:
#                                                                /compact; /rewind
# in messages                         messages rewritten
def find_cause(
    before: dict[str, Any],
    after: dict[str, Any],
    end: Difference | None,
    budget: Budget | None = None,
) -> Cause | None:
    """Name what `compare` found between two bodies, or a setting that changed besides."""
    budget = budget or Budget()
    cause = None
    if end:
        kind, detail = _named(before, after, end, budget)
        cause = cause_of(kind, detail, end)
    if not cause or cause.kind in IN_TURNS:
        setting = _changed_setting(before, after, budget)
        if setting:
            return cause_of(SETTINGS, ".".join(map(str, setting.place)), setting)
    return cause


def turns(body: dict[str, Any]) -> list[Any]:
    """Return a body's messages, or the items of its input."""
    return [turn for name in TURNS for turn in elements(name, body.get(name))]


def is_system(turn: Any) -> bool:
    """Return whether a turn is a system or developer message."""
    return isinstance(turn, dict) and turn.get("role") in ("system", "developer")


def as_cached_by_anthropic(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without what Anthropic leaves out of the prompt it caches.

    The attribution block changes with each request there, and hits happen all the same. Tools with
    `defer_loading` are no part of the prompt's front, see
    https://platform.claude.com/docs/en/agents-and-tools/tool-use/tool-search-tool. An index behind
    such a tool is smaller by one in the path of a difference.
    """
    system, tools = body.get("system"), body.get("tools")
    if isinstance(system, str):
        system = _without_attribution(system)
    elif isinstance(system, list) and system and isinstance(system[0], dict):
        system = [system[0] | {"text": _without_attribution(system[0].get("text"))}, *system[1:]]
    if isinstance(tools, list):
        tools = [tool for tool in tools if not _is_deferred(tool)]
    return body | {"system": system, "tools": tools}


def words(value: Any) -> str:
    """Return the text of a block or message, of one block or of several."""
    if isinstance(value, dict):
        value = value.get("text") or value.get("content")
    if isinstance(value, list):
        return "".join(words(block) for block in value if not isinstance(block, list))
    return value if isinstance(value, str) else ""


def system_added(
    before: dict[str, Any], after: dict[str, Any], budget: Budget | None = None
) -> tuple[str, float]:
    """Name what a translator or engine behind here may have moved to the front; "" if nothing.

    `after` begins with all of `before`, and a system message came since. The number is the share
    of the prompt, from 0 to 1, that would be read all the same: tools, system prompt, and the
    system messages that were there before.
    """
    budget = budget or Budget()
    old, new = turns(before), turns(after)
    added = [turn for turn in new[len(old) :] if is_system(turn)]
    if not added:
        return "", 0
    front = sum(chars_in(name, after.get(name), budget) for name in FRONT)
    stays = front + chars_in("messages", [turn for turn in old if is_system(turn)], budget)
    kind = COUNTDOWN if any(map(_is_countdown, added)) else MOVED
    return kind, stays / (front + chars_in("messages", new, budget))


def inline(name: str, length: int = 256) -> str:
    """Return a name as the log has it, without its quotes: the cause gets some as a whole."""
    quoted = text(name if len(name) <= length else name[: length - 1] + "…")
    return quoted[1:-1] if quoted.startswith('"') else quoted


def _named(
    before: dict[str, Any], after: dict[str, Any], end: Difference, budget: Budget
) -> tuple[str, str]:
    """Return kind and detail of the cause of a difference."""
    if _is_attribution(end):
        return ATTRIBUTION, ""
    if _has_countdown(end):
        return COUNTDOWN, ""
    section = str(end.place[0])
    if section == "tools":
        return _tool_cause(before, after, budget)
    at = next((key for key in end.place if isinstance(key, int)), 0)
    old, new = (elements(section, body.get(section)) for body in (before, after))
    here = {is_system(turns[at]) for turns in (old, new) if at < len(turns)}
    leads = section in FRONT or (True in here and all(map(is_system, new[:at])))
    following = dropwhile(is_system, turns(after))
    if leads and _has_grown(end) and not any(map(is_system, following)):
        return MOVED, ""
    if leads or here == {True}:
        return SYSTEM, ""
    follows = new[at:][:1]
    is_left = not follows or any(
        not differ((section, at), each, follows[0], budget) for each in old[at + 1 :]
    )
    return (REMOVED if is_left else REWRITTEN), ""


def _is_attribution(end: Difference) -> bool:
    for value in (end.old, end.new):
        said = words(value)
        first_line = said[: end.at] if isinstance(value, str) else said
        if said.startswith(_ATTRIBUTION_START) and "\n" not in first_line:
            return True
    return False


def _without_attribution(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_ATTRIBUTION_START):
        return value.partition("\n")[2]
    return value


def _has_countdown(end: Difference) -> bool:
    """Return whether a countdown came, went or changed its number at the difference."""
    for value in (end.old, end.new):
        if not isinstance(value, str):
            if _is_countdown(value):
                return True
            continue
        start = max(0, end.at - _COUNTDOWN_REACH)
        for found in _COUNTDOWN_TEXT.finditer(value, start, end.at + _COUNTDOWN_REACH):
            if found.start() <= end.at < found.end():
                return True
    return False


def _is_countdown(value: Any) -> bool:
    return bool(_COUNTDOWN_TEXT.fullmatch(words(value)))


# The placeholder of Claude Code's tool search is left out: it moves when tools are inserted.
#
# the tool at the first difference    cause                fixed by
# ----------------------------------- -------------------- -----------------------------------------
# is new, and ToolSearch was called   tool search loaded   tool_search.jsonl; with all such tools
# since and names it, or it has
# `defer_loading`
# is new                              tool added           claude_code.jsonl, 1.0.128 163
# was there, and is nowhere now       tool removed         claude_code.jsonl, 1.0.128 160
# has the same name, another text     tool edited
# else                                tools reordered
def _tool_cause(before: dict[str, Any], after: dict[str, Any], budget: Budget) -> tuple[str, str]:
    """Return kind and detail of the first difference between two lists of tools."""
    old, new = (
        [tool for tool in elements("tools", body.get("tools")) if _tool_name(tool) != _PLACEHOLDER]
        for body in (before, after)
    )
    olds, news = ([_tool_name(tool) for tool in tools] for tools in (old, new))
    end = differ(("tools",), old, new, budget)
    known, searches = set(olds), _tool_searches(before, after)
    loaded = [
        name
        for name, tool in zip(news, new, strict=True)
        if name not in known and (_is_deferred(tool) or _names(searches, name, budget))
    ]
    if not end:  # but the placeholder
        return (TOOL_SEARCH, "") if searches else (REORDERED, "")
    at = next((key for key in end.place if isinstance(key, int)), 0)
    earlier, name = (names[at] if at < len(names) else None for names in (olds, news))
    if name in loaded:
        return TOOL_SEARCH, _listed(loaded)
    if name is not None and (earlier is None or name not in known):
        return ADDED, inline(name)
    if earlier is not None and earlier not in news:
        return DROPPED, inline(earlier)
    return (EDITED, inline(name or "unnamed")) if name == earlier else (REORDERED, "")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(inline(name, _LONGEST_NAME) for name in names[:_NAMED]) + more


def _tool_searches(before: dict[str, Any], after: dict[str, Any]) -> list[Any]:
    """Return the turns since the earlier prompt if they call Claude Code's tool search."""
    since = turns(after)[len(turns(before)) :]
    calls = (call for turn in since for call in _calls(turn))
    return since if any(_tool_name(call) == _TOOL_SEARCH_CALL for call in calls) else []


def _names(searches: list[Any], name: str, budget: Budget) -> bool:
    """Return whether a search for tools asked for a tool by its name, or found it."""
    return any(name in spelled(turn, budget) for turn in searches)


def _calls(turn: Any) -> Iterator[Any]:
    """Yield what can be a tool call in a turn: Responses' item, Messages' block, Chat's call."""
    if isinstance(turn, dict):
        yield turn
        for parts in (turn.get("content"), turn.get("tool_calls")):
            yield from parts if isinstance(parts, list) else ()


def _is_deferred(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("defer_loading") is True


def _tool_name(tool: Any) -> str:
    """Return the name of a tool of any dialect; built-in ones of OpenAI have a type only."""
    if not isinstance(tool, dict):
        return ""
    function = tool.get("function")
    inner = function.get("name") if isinstance(function, dict) else None
    return as_text(tool.get("name") or inner or tool.get("type"))


def _has_grown(end: Difference) -> bool:
    """Return whether a system prompt goes on with another text where the earlier one ended."""
    if isinstance(end.old, str) and isinstance(end.new, str):
        return len(end.old) == end.at > 0 and end.new[end.at :].startswith("\n")
    last = end.place[-1]
    return isinstance(last, int) and last > 0 and not is_system(end.old) and bool(end.new)


def _changed_setting(
    before: dict[str, Any], after: dict[str, Any], budget: Budget
) -> Difference | None:
    for place in _SETTINGS:
        old, new = (_member(body, place) for body in (before, after))
        if found := differ(place, old, new, budget):
            return found
    return None


def _member(value: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value
