"""Bodies, and what a message, or a block of one, is in a few words: kind, size and beginning.

The three dialects share the few member names that are looked at; any JSON may stand in any place.
"""

from __future__ import annotations

import json
from collections import Counter
from json import JSONEncoder
from typing import TYPE_CHECKING, Any

from prompt_cache_key.screen_text import cut

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SIZE = 4 << 20
"""Bytes of a body that is read."""

MAX_VALUES = 100_000
"""Values of a body that is read, at most: its brackets and commas are counted before."""

MAX_BEGINNING = 400
"""Characters of a beginning, more than any line has room for."""

IMAGE_TOKENS = 1500
"""What an image may take, whatever its length in base64, see
https://platform.claude.com/docs/en/build-with-claude/vision#calculate-image-costs"""

_FEW = 3  # blocks of a message that its beginning shows
_IMAGES = ("source", "image_url", "input_audio", "file_data")
_UNSEEN = ("signature", "encrypted_content", "cache_control")  # by the model
_SPECIAL = frozenset((*_IMAGES, *_UNSEEN))
_TEXT = ("input_text", "output_text")
_WORDS = ("text", "thinking", "content", "output", "refusal", "summary", "tool_calls")
_ARGUMENTS = ("input", "arguments")

encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def read(content: bytes) -> dict[str, Any]:
    """Return a JSON object; ValueError says, fit for a screen, what the content is instead."""
    if not content.strip():
        raise ValueError("empty")
    if len(content) > MAX_SIZE:
        raise ValueError(f"too large to be shown: {len(content):,} bytes")
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"too large to be shown: over {MAX_VALUES:,} values")
    try:
        body = json.loads(content)
    except json.JSONDecodeError as e:
        before, after = e.doc[max(0, e.pos - 30) : e.pos], e.doc[e.pos : e.pos + 30]
        raise ValueError(
            f"no JSON: {e.msg} (character {e.pos:,} of {len(e.doc):,}):\n"
            f"{cut(before, 48)} ▶ {cut(after, 48)}"
        ) from None
    except ValueError as e:
        raise ValueError(f"no JSON: {cut(str(e), 78)}") from None
    if not isinstance(body, dict):
        raise ValueError(f"no JSON object: {cut(encode(body), 50)}")  # noqa: TRY004
    return body


def kind(item: Any) -> str:
    """Return such as `user text(2)`, `assistant thinking+tool_use`, `function_call` or `text`."""
    if isinstance(item, str):
        return "text"
    if not isinstance(item, dict):
        return "no object"
    if "role" in item:
        kinds = Counter(map(kind, _blocks(item)))
        parts = (name if count == 1 else f"{name}({count})" for name, count in kinds.items())
        return f"{item['role']} {'+'.join(parts)}"
    type_ = item.get("type", "no type")
    return "text" if type_ in _TEXT else str(type_)


def beginning(item: Any) -> str:
    """Return how its text begins, or its call; of several blocks, how the first few begin."""
    found: Iterable[str]
    if isinstance(item, list):
        found = map(beginning, item[:_FEW])
    elif not isinstance(item, dict):
        found = [item if isinstance(item, str) else encode(item)]
    elif "role" not in item and item.get("name"):
        found = [str(item["name"]), *(_text(item[name]) for name in _ARGUMENTS if name in item)]
        return " ".join(each[:MAX_BEGINNING] for each in found)
    elif "function" in item:
        return beginning(item["function"])
    else:
        found = (beginning(item[name]) for name in _WORDS if item.get(name))
    return " · ".join(filter(None, found))[:MAX_BEGINNING]


def size(item: Any) -> tuple[int, float]:
    """Return its characters, and the tokens of prompt that those may be: four to a token."""
    chars = unseen = images = 0
    todo = [item]  # a stack, for wild bodies may be nested deeper than Python recurses
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            for name, member in value.items():
                if name in _SPECIAL and (name in _UNSEEN or _is_image(member)):
                    unseen += len(_text(member))
                    images += name in _IMAGES
                else:
                    todo.append(member)
        else:
            chars += len(str(value))  # as long as in JSON: "True" is "true"
    return chars + unseen, chars / 4 + images * IMAGE_TOKENS


def _blocks(message: dict[str, Any]) -> list[Any]:
    content, calls = message.get("content"), message.get("tool_calls")
    blocks = content if isinstance(content, list) else [content] if content else []
    return blocks + calls if isinstance(calls, list) else blocks


def _is_image(member: Any) -> bool:
    return isinstance(member, dict) or str(member).startswith("data:")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)
