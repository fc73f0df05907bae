"""Find where the prompt of one request stops being the start of the next one's.

A prompt cache holds prefixes: of a new prompt it serves what lies before the first difference
from an earlier one. Plain Python; knows nothing of mitmproxy.
"""

import marshal
from bisect import bisect_left
from itertools import zip_longest
from json import JSONEncoder
from typing import Any, NamedTuple

# In the order in which upstreams build the prompt, see
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching. Anthropic Messages has
# `system`, OpenAI Responses `instructions` and `input`; in OpenAI Chat the system prompt is a
# message. Nothing else in a body is prompt: model settings, metadata, stream, …
_SECTIONS = ("tools", "system", "instructions", "messages", "input")

# OpenAI Responses: the upstream remembers what came before `input`.
_REMEMBERED = ("previous_response_id", "conversation")

# Types that say nothing more than that there is text; a plain string has none.
_TEXT_TYPES = ("message", "text", "input_text", "output_text")

# Where an object has parts: elements of lists, and OpenAI's {"type": "function", "function": {…}}.
# Any other object is JSON that the model sees as it was sent.
_PARTED = ("]", ".function")

# Images, files, signatures: their length in base64 says nothing of their tokens.
_OPAQUE = (".source", ".image_url", ".file_data", ".signature", ".encrypted_content")

_EXCERPT = 60

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Break(NamedTuple):
    """The first place where two prompts differ."""

    path: str
    """Such as `system[0].text`, or `tools[12]` where a whole element is new or gone."""
    at: int
    """How many characters of the value at `path` are still the same: of a string, its text; of
    anything else, its compact JSON."""
    before: str
    """The earlier value around the difference, escaped, on one line, at most 60 characters;
    empty where there was none."""
    after: str
    """The later value, likewise."""
    chars: int
    """Characters of prompt before the difference, not counting images and other base64."""
    cause: str
    """What probably happened, in a few words."""

    @property
    def tokens(self) -> int:
        """Tokens of prompt before the difference, an estimate: four characters each."""
        return self.chars // 4


def compare(before: dict[str, Any], after: dict[str, Any]) -> Break | None:
    """Find where the prompt of `before` stops being the start of the prompt of `after`.

    Both are parsed bodies of one dialect (Anthropic Messages, OpenAI Chat, OpenAI Responses).
    None: the prefix held, for `after` added nothing but messages. Tools and system blocks that
    were added are a Break, since the messages follow them. So are messages taken off the end,
    although all that is left of the prompt was there before.

    No difference: `cache_control`; a text written as a string or as a list of one block (Claude
    Code changes the one into the other when it moves its marker on); null or a missing key; the
    order of keys, except inside a tool's schema and a tool's input, which the model sees as
    they were sent.

    With `previous_response_id` or `conversation` in either body the upstream remembers the
    messages and `input` is only what is new: then only tools and instructions are compared.

    Any JSON may stand in any place: what parsed without a RecursionError compares without one.
    """
    remembered = any(body.get(key) for body in (before, after) for key in _REMEMBERED)
    sections = _SECTIONS[:-1] if remembered else _SECTIONS
    # A stack, for wild bodies may be nested deeper than Python recurses.
    todo = [(name, before.get(name), after.get(name)) for name in reversed(sections)]
    held = []
    role = None
    while todo:
        path, old, new = todo.pop()
        if _same(old, new):
            held.append((path, old))
            continue
        if path.endswith("]") and path.count("[") == 1:
            role = next((e.get("role") for e in (old, new) if isinstance(e, dict)), None)
        pairs = _pairs(path, old, new)
        if pairs is not None:
            todo += reversed(pairs)
            continue
        old_text, new_text = _text(old), _text(new)
        if old_text == new_text:
            held.append((path, old))
            continue
        at = _common(old_text, new_text)
        held.append((path, old_text[:at]))
        return Break(
            path=_escape(path),
            at=at,
            before=_excerpt(old_text, at),
            after=_excerpt(new_text, at),
            chars=_chars(held),
            cause=_cause(path, role, old_text, new_text, at),
        )
    return None


def _same(old: Any, new: Any) -> bool:
    """Tell if both are the same JSON: unlike for `==`, keys are in order and true is not 1."""
    try:
        return bool(old == new) and marshal.dumps(old, 0) == marshal.dumps(new, 0)
    except (RecursionError, ValueError):  # nested too deep for one of the two
        return False


def _pairs(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]] | None:
    """Return what to compare one by one, or None: compare these two as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        if not path.endswith(_PARTED):
            return None
        old, new = _members(old), _members(new)
        return [(f"{path}.{key}", old.get(key), new.get(key)) for key in new | old]
    if isinstance(old, list) or isinstance(new, list):
        old, new = _blocks(path, old), _blocks(path, new)
        if old is None or new is None:
            return None
        if path in ("messages", "input"):
            new = new[: len(old)]
        return [(f"{path}[{i}]", x, y) for i, (x, y) in enumerate(zip_longest(old, new))]
    return None


def _members(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: member
        for key, member in value.items()
        if key != "cache_control" and not (key == "type" and member in _TEXT_TYPES)
    }


def _blocks(path: str, value: Any) -> list[Any] | None:
    """Return `value` as the list that it could have been written as, None if it could not."""
    if isinstance(value, list):
        return value
    if not value:
        return []
    if not isinstance(value, str):
        return None
    return [{"role": "user", "content": value}] if path == "input" else [{"text": value}]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value)


def _common(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
    return bisect_left(range(min(len(a), len(b))), 1, key=lambda i: a[: i + 1] != b[: i + 1])


def _chars(todo: list[tuple[str, Any]]) -> int:
    """Return how many characters of prompt there are in these paths' values. Empties the list."""
    chars = 0
    while todo:
        path, value = todo.pop()
        if path.endswith(_OPAQUE):
            continue
        if isinstance(value, list):
            todo += [("[]", item) for item in value]
        elif isinstance(value, dict) and path.endswith(_PARTED):
            todo += [(f".{key}", member) for key, member in _members(value).items()]
        else:
            chars += len(_text(value))
    return chars


def _cause(path: str, role: object, old: str, new: str, at: int) -> str:
    if any(t.startswith("x-anthropic-billing-header:") and "\n" not in t[:at] for t in (old, new)):
        return "attribution block changed (set CLAUDE_CODE_ATTRIBUTION_HEADER=0)"
    if path.startswith("tools"):
        return "tools changed"
    if path.startswith(("system", "instructions")) or role in ("system", "developer"):
        return "system prompt changed"
    if path.count("[") == 1 and path.endswith("]") and not new:
        return "messages were removed from the end (as /rewind does)"
    return "earlier messages were rewritten (as /compact does)"


def _excerpt(text: str, at: int) -> str:
    """Return what stands around `text[at]`, with `…` where more does."""
    half = _EXCERPT // 2
    left = _fill(text[max(0, at - half) : at][::-1], half - 1)[::-1]
    right = _fill(text[at : at + _EXCERPT], _EXCERPT - 2 - len("".join(left)))
    head = "…" if len(left) < at else ""
    tail = "…" if at + len(right) < len(text) else ""
    return head + "".join(left + right) + tail


def _fill(text: str, room: int) -> list[str]:
    """Return the first characters of `text`, escaped, as many as fit."""
    pieces = []
    for piece in map(_escape, text):
        room -= len(piece)
        if room < 0:
            break
        pieces.append(piece)
    return pieces


def _escape(text: str) -> str:
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text
    )
