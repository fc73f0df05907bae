"""The outline of a prompt: its parts in the order in which upstreams read them, each with its size.

Marks between the parts say up to where the prompt was read from the cache, and where it changed.
For Anthropic Messages, OpenAI Chat Completions and OpenAI Responses. What a body says gets into
the outline escaped and cut; a line takes at most so many columns.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from prompt_cache_key.prompt_view.blocks import beginning, encode, kind, read, size
from prompt_cache_key.screen_text import COLUMNS, cut, fit, width
from prompt_cache_key.stats.sums import percent, share

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PARTS = 2000
"""Messages, or system blocks, that have a line each; the rest share one."""

MAX_TOOLS = 300
"""Tools that are named."""

_LABEL = 32  # columns at most
_NAME = 64  # columns; also the longest name that upstreams take
_SECTIONS = ("system", "instructions", "messages", "input")


class Facts(NamedTuple):
    """What is known of a request besides its body; empty, or None, where it is not.

    `input` and `cached` are tokens as the upstream reported them, `missed` those that it should
    have read from its cache and did not, for the reason `cause`. Where the prompt differs from the
    one before it, that is at `path` (such as `messages[3].content[0].text`), where there was
    `before` and is `after`.
    """

    session: str = ""
    agent: str = ""
    input: int | None = None
    cached: int | None = None
    missed: int | None = None
    cause: str = ""
    path: str = ""
    before: str = ""
    after: str = ""


class Part(NamedTuple):
    """What has a line: `path` is where it stands in the body, `tokens` an estimate."""

    path: str
    label: str
    chars: int
    tokens: float
    words: list[str]


def outline(content: bytes, facts: Facts, columns: int = COLUMNS) -> list[str]:
    """Return the lines for a request with this body; of a broken one they say what is wrong."""
    try:
        body = read(content)
        parts = list(_parts(body))
        head = [*_summary(facts, columns), *_heading(body, facts, columns)]
        return [*head, "", *_table(parts, facts, columns)]
    except ValueError as e:
        return f"The body is {e}".split("\n")
    except RecursionError:
        return ["The body is nested too deep to be read."]


def _summary(facts: Facts, columns: int) -> Iterator[str]:
    """Yield one line with hit rate and missed tokens; nothing before there is a response."""
    words = []
    if facts.input is not None and facts.cached is not None:
        rate = percent(share(facts.cached, facts.input))
        words.append(f"hit {rate}: {facts.cached:,} of {facts.input:,} tokens cached")
    elif facts.input is not None:
        words.append(f"{facts.input:,} tokens, cached tokens not reported")
    if facts.missed:
        words.append(": ".join(filter(None, (f"{facts.missed:,} missed", facts.cause))))
    if words:
        yield cut(", ".join(words), columns)


def _heading(body: dict[str, Any], facts: Facts, columns: int) -> Iterator[str]:
    members = {
        "model": body.get("model"),
        "key": body.get("prompt_cache_key"),
        "session": facts.session,
        "agent": facts.agent,
        "follows": body.get("previous_response_id") or body.get("conversation"),
    }
    for name, value in members.items():
        if value:
            text = value if isinstance(value, str) else encode(value)
            yield f"{name:<9}{cut(text, columns - 9)}"


def _parts(body: dict[str, Any]) -> Iterator[Part]:
    # The order: https://platform.claude.com/docs/en/build-with-claude/prompt-caching. The system
    # prompt is `system` in Anthropic Messages, `instructions` in OpenAI Responses, and a message
    # in Chat Completions.
    if tools := body.get("tools"):
        tools = tools if isinstance(tools, list) else [tools]
        names = [cut(_name(tool), _NAME) for tool in tools[:MAX_TOOLS]]
        names += [f"… and {more:,} more"] if (more := len(tools) - MAX_TOOLS) > 0 else []
        chars = len(encode(tools))  # upstreams render their JSON
        yield Part("tools", f"tools: {len(tools):,}", chars, chars / 4, names)
    for section in _SECTIONS:
        value = body.get(section) or []
        items = value if isinstance(value, list) else [value]
        start = "system" if section == "system" else ""
        for at, item in enumerate(items[:MAX_PARTS]):
            label = f"{start}[{at}]" if items is value else section
            path = f"{section}[{at}]"
            yield Part(path, f"{label} {kind(item)}", *size(item), [beginning(item)])
        if rest := items[MAX_PARTS:]:
            yield Part(f"{section}[…]", f"{len(rest):,} more", *size(rest), [])


def _name(tool: Any) -> str:
    """Return a tool's name: Chat Completions has it in `function`; some tools are but a type."""
    if not isinstance(tool, dict):
        return encode(tool)
    inner = tool["function"] if isinstance(tool.get("function"), dict) else tool
    return str(inner.get("name") or tool.get("type"))


def _table(parts: list[Part], facts: Facts, columns: int) -> Iterator[str]:
    if not parts:
        yield "There is no prompt: no tools, no system prompt, no messages, no input."
        return
    ends = list(accumulate((part.tokens for part in parts), initial=0.0))
    scale = facts.input / ends[-1] if facts.input and ends[-1] else 1.0
    marks = defaultdict(list, {_after_change(parts, facts.path): list(_change(facts, columns))})
    if facts.input and facts.cached is not None:
        cached = facts.cached / scale
        nearest = min(range(len(ends)), key=lambda at: abs(ends[at] - cached))
        of = f"{facts.cached:,} of {facts.input:,}"
        marks[nearest].append(_rule(f"read from the cache up to here: {of}", columns))
    label = min(_LABEL, max(len(part.label) for part in parts))
    yield f"{'tokens':>9} {'characters':>10}"
    for at, part in enumerate(parts):
        yield from marks[at]
        yield from _row(part, scale, label, columns)
    yield from marks[len(parts)]
    yield f"{ends[-1] * scale:>9,.0f} {sum(part.chars for part in parts):>10,}  in all"
    scaled = f", scaled to the {facts.input:,} reported" if facts.input else ""
    yield from ("", f"tokens: estimated from the characters of a line{scaled}")


def _row(part: Part, scale: float, label: int, columns: int) -> Iterator[str]:
    start = f"{part.tokens * scale:>9,.0f} {part.chars:>10,}  {fit(part.label, label)}  "
    room = columns - width(start)
    first, *rest = _wrapped(part.words, room)
    yield (start + first).rstrip()
    yield from (" " * (columns - room) + line for line in rest)


def _wrapped(words: list[str], columns: int) -> list[str]:
    """Return words with commas between them, on lines of at most so many columns."""
    first, *others = words or [""]
    lines = [cut(first, columns - 1 if others else columns)]  # room for the comma
    for word in others:
        line = f"{lines[-1]}, {word}"
        if width(line) < columns:
            lines[-1] = line
        else:
            lines[-1] += ","
            lines.append(cut(word, columns - 1))
    return lines


def _after_change(parts: list[Part], path: str) -> int:
    """Return the number of parts before the mark of a change at this path.

    That of a setting, or of no path at all, stands before all parts; that of a message that is
    there no more behind them.
    """
    for at, part in enumerate(parts, 1):
        if path.startswith(part.path) or path == part.path.partition("[")[0]:
            return at
    return len(parts) if path.startswith(("messages", "input")) else 0


def _change(facts: Facts, columns: int) -> Iterator[str]:
    where = f"changed at {facts.path}" if facts.path else ""
    missed = f"{facts.missed:,} tokens missed" if facts.missed else ""
    if where or missed:
        yield _rule(
            ", ".join(filter(None, (": ".join(filter(None, (where, facts.cause))), missed))),
            columns,
        )
    for name, text in (("before", facts.before), ("after", facts.after)):
        if facts.path:
            yield f"{name:>21}   {cut(text, columns - 24) or '(nothing)'}"


def _rule(words: str, columns: int) -> str:
    return f"──── {cut(words, columns - 10)} ────"
