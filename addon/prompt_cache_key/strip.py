"""Volatile text taken out of a body: only what is named goes, each other byte stays.

Claude Code puts two such texts into its prompts, and behind one that changes no upstream can read
anything from its cache:

- `attribution`: `x-anthropic-billing-header: cc_version=…; cc_entrypoint=…;`, the first line of
  the system prompt since 2.1.36. Its `cch=` changed on every request until 2.1.181. Gateways merge
  it with the text that follows it.
- `countdown`: `<total_tokens>998210 tokens left</total_tokens>`, a system message after tool
  results since 2.1.233, which some translators move to the front.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator

from prompt_cache_key.body import elements, members, reading

_SYSTEM = ("system", "developer")
# As it stands in JSON; the line's end is an escape there.
_ATTRIBUTION = re.compile(r'"(x-anthropic-billing-header:(?: *[\w-]+=[^;"\\]*;)+(?:\\r)?(?:\\n)?)')
_COUNTDOWN = re.compile(r"\s*<total_tokens>[^<]*tokens left</total_tokens>\s*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")

Span = tuple[int, int]


def strip(raw: bytes, names: Iterable[str]) -> bytes:
    """Return a body, a JSON object in UTF-8, without the texts of these names.

    ValueError if it may have one of them and can't be read.
    """
    for name in names:
        mark, find = STRIPPED[name]
        if mark in raw:
            with reading():
                text = raw.decode()
                spans = list(find(text))
            for start, end in reversed(spans):
                text = text[:start] + text[end:]
            raw = text.encode()
    return raw


def _attribution(text: str) -> Iterator[Span]:
    for name, start, _ in members(text):
        if name in ("system", "instructions"):
            yield from _leading(text, start)
        elif name in ("messages", "input") and text[start] == "[":
            for first, _ in elements(text, start):
                if text[first] == "{":
                    parts = {part: (at, end) for part, at, end in members(text, first)}
                    if _value(text, parts.get("role")) in _SYSTEM and "content" in parts:
                        yield from _leading(text, parts["content"][0])
                break


def _leading(text: str, start: int) -> Iterator[Span]:
    """Yield where the attribution stands if the first text of a content begins with it."""
    block: Span | None = None
    if text[start] == "[":
        block = next(elements(text, start), None)
        parts = members(text, block[0]) if block and text[block[0]] == "{" else iter(())
        start = next((at for name, at, _ in parts if name == "text"), start)
    match = _ATTRIBUTION.match(text, start)
    if match and block and text[match.end()] == '"':
        # An upstream may refuse a block without text.
        comma = _COMMA.match(text, block[1])
        yield block[0], comma.end() if comma else block[1]
    elif match:
        yield match.span(1)


def _countdown(text: str) -> Iterator[Span]:
    for name, start, _ in members(text):
        if name not in ("messages", "input") or text[start] != "[":
            continue
        before = None
        for at, end in elements(text, start):
            if before is not None and _is_countdown(_value(text, (at, end))):
                yield before, end
            before = end


def _is_countdown(message: object) -> bool:
    if not isinstance(message, dict) or message.get("role") not in _SYSTEM:
        return False
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    return isinstance(content, str) and bool(_COUNTDOWN.fullmatch(content))


def _value(text: str, span: Span | None) -> object:
    return json.loads(text[slice(*span)], parse_int=float) if span else None


STRIPPED: dict[str, tuple[bytes, Callable[[str], Iterator[Span]]]] = {
    "attribution": (b'"x-anthropic-billing-header:', _attribution),
    "countdown": (b"total_tokens", _countdown),
}
