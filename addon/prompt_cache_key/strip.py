r"""Remove volatile text from a request body: only the named text goes, every other byte stays.

Behind a text that changes, no upstream can read anything from its cache. Three such texts:

- `attribution`: `x-anthropic-billing-header: cc_version=…; cc_entrypoint=…;`, the first line of
  the system prompt since Claude Code 2.1.36. `cc_version` ends in a suffix that differs in each
  conversation and subagent; until 2.1.181 `cch=` changed on every request. Translators pass it on
  as a block of its own or merge it with the text that follows.
- `countdown`: `<total_tokens>998210 tokens left</total_tokens>`, a system message after tool
  results since 2.1.233, which some translators move to the front.
- `session`: the session id in `metadata.user_id`, where an upstream keeps a cache for each value of
  that field (DeepSeek). Account and device stay.

How the first two bytes of a text are found without parsing the body, which may have 32 MB:

- In valid JSON a quote that is followed by a letter opens a string, and inside a string each quote
  has a backslash before it. So the bytes `"system":` without a backslash are the name of a member
  wherever they stand, never a user's text.
- The member is one of the body's own, not of an object within, if the brackets between it and the
  nearer end of the body leave exactly the outermost open. Brackets inside strings do not count.
- What grows in a conversation is its messages; what stands before or behind them does not. So the
  way to the nearer end stays the same from the first request to the last, and so does the answer.
- Only the value's own beginning is parsed then, byte for byte (as Latin-1: the structure of JSON is
  ASCII, and each byte is one character).

Names written with escapes are not recognised. Where the bounds below do not suffice, `strip` raises
ValueError. The countdown stands among the messages, so the whole body is parsed for it, up to 4 MB.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # public, unlisted by typeshed
from typing import Final

from prompt_cache_key.body import elements, members, reading

Span = tuple[int, int]

_SYSTEM = ("system", "developer")
_MARK = b'"x-anthropic-billing-header:'
# As it stands in JSON; the line's end is an escape there.
_ATTRIBUTION = re.compile(
    r'"(x-anthropic-billing-header:(?: *[\w-]+=[^;"\\]*;)+(?:\\r)?(?:\\n)?)', re.ASCII
)
_PROMPT = re.compile(rb'"(system|instructions|messages|input)"[ \t\n\r]*:[ \t\n\r]*(?=["\[])')
_METADATA = re.compile(rb'"(metadata)"[ \t\n\r]*:[ \t\n\r]*(?=\{)')
_COUNTDOWN = re.compile(r"\s*<total_tokens>[^<]*tokens left</total_tokens>\s*")
_LEGACY_SESSION = re.compile(r"(?!\A)_session_[a-f0-9-]+\Z")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
# What is one character when it is read; characters beyond the first 65,536 are two escapes.
_CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL
)

_MARKS = 64
"""Occurrences of a mark that are looked at from each end of the body."""
_WINDOW = 1024
"""Bytes before a mark in which the member's name has to stand."""
_REACH = 4 << 20
"""Bytes from an end of the body within which a member is recognised."""
_QUOTES = 200_000
"""Quotes in these bytes: each takes some 100 ns."""
_VALUE = 256 << 10
"""Bytes of a member's value that are parsed."""
_USER_ID = 4096
"""Bytes of a `metadata.user_id` that is parsed."""
_WHOLE = 4 << 20
"""Bytes of a body that is parsed as a whole."""
_VALUES = 150_000
"""Brackets, commas and quotes of such a body."""


def strip(raw: bytes, names: Iterable[str]) -> bytes:
    """Return a body, a JSON object in UTF-8, without the texts of these names.

    The body itself if it has none of them; ValueError if it cannot be told within the bounds.
    """
    for name in names:
        spans = sorted(STRIPPED[name](raw))
        if spans:
            view, ends = memoryview(raw), [0, *(end for _, end in spans)]
            starts = [*(start for start, _ in spans), len(raw)]
            raw = b"".join(view[end:start] for end, start in zip(ends, starts, strict=True))
    return raw


# --- attribution ----------------------------------------------------------------------------------


def _attribution(raw: bytes) -> Iterator[Span]:
    names: dict[int, re.Match[bytes]] = {}
    for mark in _occurrences(raw, _MARK):
        before = _PROMPT.finditer(raw, max(0, mark - _WINDOW), mark + 1)
        names |= {match.start(): match for match in before}
    # The last one of a name, as most parsers take it: so there are four at most.
    for match in {match[1]: match for match in _own_members(raw, names.values())}.values():
        find = _in_messages if match[1] in (b"messages", b"input") else _in_text
        yield from _spans(raw, match.end(), find)


def _in_text(text: str) -> Iterator[Span]:
    if found := _leading(text, 0):
        yield found[0]


def _in_messages(text: str) -> Iterator[Span]:
    message = next(elements(text, 0), None) if text[0] == "[" else None
    if not message or text[message[0]] != "{":
        return
    parts = {name: (start, end) for name, start, end in members(text, message[0])}
    if "content" not in parts or _value(text, parts.get("role")) not in _SYSTEM:
        return
    if found := _leading(text, parts["content"][0]):
        span, is_all = found
        # Upstreams may reject a message without text.
        comma = _COMMA.match(text, message[1]) if is_all else None
        yield (message[0], comma.end()) if comma else span


def _leading(text: str, start: int) -> tuple[Span, bool] | None:
    """Return where the attribution stands that a content begins with, and whether it is all."""
    block: Span | None = None
    if text[start] == "[":
        block = next(elements(text, start), None)
        parts = members(text, block[0]) if block and text[block[0]] == "{" else iter(())
        start = next((at for name, at, _ in parts if name == "text"), start)
    match = _ATTRIBUTION.match(text, start)
    if not match:
        return None
    is_all = text[match.end() : match.end() + 1] == '"'
    if not block or not is_all:
        return match.span(1), is_all
    # Upstreams may reject a block without text.
    comma = _COMMA.match(text, block[1])
    return (block[0], comma.end() if comma else block[1]), not comma


# --- session --------------------------------------------------------------------------------------


def _session(raw: bytes) -> Iterator[Span]:
    found = (_METADATA.match(raw, at) for at in _occurrences(raw, b'"metadata"'))
    for match in _own_members(raw, filter(None, found)):
        yield from _spans(raw, match.end(), _in_metadata)


def _in_metadata(text: str) -> Iterator[Span]:
    for name, start, end in members(text):
        if name == "user_id" and text[start] == '"' and end - start <= _USER_ID:
            user_id, _ = scanstring(text, start + 1)
            places = [each.start() for each in _CHARACTER.finditer(text, start + 1, end - 1)]
            places.append(end - 1)
            if user_id.startswith("{"):
                spans = _member_spans(user_id, "session_id")
            else:
                spans = (each.span() for each in _LEGACY_SESSION.finditer(user_id))
            yield from ((places[first], places[last]) for first, last in spans)


def _member_spans(text: str, removed: str) -> Iterator[Span]:
    """Yield what has to go from the text of an object with the members of a name: a comma too."""
    start, before = max(0, text.find('"')), -1
    for name, _, end in members(text):
        comma = _COMMA.match(text, end)
        after = comma.end() if comma else end
        if name == removed:
            yield (start, after) if before < 0 else (before, end)
        if name != removed or before >= 0:
            before = end
        start = after


# --- countdown ------------------------------------------------------------------------------------


def _countdown(raw: bytes) -> Iterator[Span]:
    if b"total_tokens" not in raw:
        return
    if len(raw) > _WHOLE or sum(map(raw.count, (b"{", b"[", b",", b'"'))) > _VALUES:
        raise ValueError("the body is too large to look for the countdown in it")
    with reading():
        text = raw.decode("latin-1")
        for name, start, _ in members(text):
            if name not in ("messages", "input") or text[start] != "[":
                continue
            before = 0
            for at, end in elements(text, start):
                is_candidate = before and text.find("total_tokens", at, end) >= 0
                if is_candidate and _is_countdown(_value(text, (at, end))):
                    yield before, end
                before = end


def _is_countdown(message: object) -> bool:
    if not isinstance(message, dict) or message.get("role") not in _SYSTEM:
        return False
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    return isinstance(content, str) and bool(_COUNTDOWN.fullmatch(content))


STRIPPED: Final[dict[str, Callable[[bytes], Iterator[Span]]]] = {
    "attribution": _attribution,
    "countdown": _countdown,
    "session": _session,
}


# --- members of the body --------------------------------------------------------------------------


def _occurrences(raw: bytes, mark: bytes) -> set[int]:
    """Return where a mark stands: its first and its last occurrences."""
    found, first, last = set(), -1, len(raw)
    for _ in range(_MARKS):
        first = raw.find(mark, first + 1)
        last = raw.rfind(mark, 0, last)
        if first < 0 or last < 0:
            break
        found |= {first, last}
    return found


def _own_members(raw: bytes, names: Iterable[re.Match[bytes]]) -> list[re.Match[bytes]]:
    """Return those names that are of the body's own members, not of an object within it.

    ValueError if none is, and some are too far from both ends of the body to tell.
    """
    own, is_certain = [], True
    places = sorted(names, key=re.Match.start)
    sides = (
        (0, 1, [each for each in places if each.start() <= len(raw) // 2]),
        (len(raw), -1, [each for each in reversed(places) if each.start() > len(raw) // 2]),
    )
    for origin, sign, side in sides:
        at, depth, quotes = origin, 0, 0
        for name in side:
            span = sorted((at, name.start()))
            quotes += raw.count(b'"', *span)
            if abs(name.start() - origin) > _REACH or quotes > _QUOTES:
                is_certain = False
                break
            at, depth = name.start(), depth + sign * _opened(raw[slice(*span)])
            if depth == 1:
                own.append(name)
    if not own and not is_certain:
        raise ValueError("the body is too large to look for the text in it")
    return sorted(own, key=re.Match.start)


def _opened(part: bytes) -> int:
    """Return how many more brackets open than close in a part that cuts no string."""
    plain = part.replace(rb"\\", b"").replace(rb"\"", b"")
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, (b"{", b"["))) - sum(map(outside.count, (b"}", b"]")))


def _spans(raw: bytes, at: int, find: Callable[[str], Iterator[Span]]) -> list[Span]:
    """Return what `find` yields for the value that begins at a place, as places in the body.

    Nothing if the value is too long or no JSON.
    """
    try:
        spans = list(find(raw[at : at + _VALUE].decode("latin-1")))
    except (ValueError, RecursionError):
        return []
    return [(at + start, at + end) for start, end in spans]


def _value(text: str, span: Span | None) -> object:
    return json.loads(text[slice(*span)], parse_int=float) if span else None
