"""Find where the prompt of one request stops being the start of the next one's."""

import marshal
from bisect import bisect_left
from itertools import zip_longest
from json import JSONEncoder
from typing import Any, NamedTuple

from prompt_cache_key.misses.excerpt import escape, excerpt

# In the order in which upstreams build the prompt, see
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching. Anthropic Messages has
# `system`, OpenAI Responses `instructions` and `input`; in OpenAI Chat the system prompt is a
# message.
FRONT = ("tools", "system", "instructions")
TURNS = ("messages", "input")
"""The sections that grow with the conversation."""

# OpenAI Responses: the upstream remembers what came before `input`.
_REMEMBERED = ("previous_response_id", "conversation")

# Types that say nothing more than that there is text; a plain string has none.
_TEXT_TYPES = ("message", "text", "input_text", "output_text")

# Images, files, signatures: their length in base64 says nothing of their tokens.
_OPAQUE = ("source", "image_url", "file_data", "signature", "encrypted_content")

_LONGEST_PATH = 200
_SOME = 4  # turns behind a difference to look for, as some are removed too

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Place = tuple[str | int, ...]


class Difference(NamedTuple):
    """Where two bodies first differ."""

    place: Place
    """The keys and indexes that lead there; of a whole element that is new or gone, to that."""
    at: int
    """How many characters there are still the same: of a string, its text; of anything else, its
    compact JSON."""
    old: Any
    """What the earlier body has there; None if nothing."""
    new: Any
    """What the later one has there, likewise."""

    @property
    def path(self) -> str:
        """The place as in `system[0].text`, escaped, at most 200 characters."""
        names = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.place)
        path = escape("".join(names).removeprefix("."))
        return path if len(path) <= _LONGEST_PATH else path[: _LONGEST_PATH - 1] + "…"

    @property
    def before(self) -> str:
        """The earlier value around the difference: prompt, so for no log.

        Escaped, on one line, at most 60 characters; empty where there was none.
        """
        return excerpt(as_text(self.old), self.at)

    @property
    def after(self) -> str:
        """The later value, likewise."""
        return excerpt(as_text(self.new), self.at)


class Shared(NamedTuple):
    """How much of an earlier prompt a later one begins with."""

    depth: tuple[int, int, int, int]
    """More for an earlier prompt that shares more, and is nearer, of the same later one."""
    end: Difference | None
    """Where they part; None if the later one begins with all of the earlier."""
    parts: list[tuple[Place, Any]]
    """What they share."""

    @property
    def chars(self) -> int:
        """Characters of prompt, not counting images and other base64."""
        return _chars(self.parts.copy())


def compare(before: dict[str, Any], after: dict[str, Any]) -> Shared:
    """Find how far the prompt of `before` is the start of the prompt of `after`.

    Both are parsed bodies of one dialect (Anthropic Messages, OpenAI Chat, OpenAI Responses).
    They do not part if `after` added nothing but messages. Tools and system blocks that were
    added are a difference, since the messages follow them. So are messages taken off the end,
    although all that is left of the prompt was there before.

    No difference: `cache_control`; a text written as a string or as a list of one block (Claude
    Code changes the one into the other when it moves its marker on); null or a missing key; the
    order of keys, except inside a tool's schema and a tool's input, which the model sees as
    they were sent.

    With `previous_response_id` or `conversation` in either body the upstream remembers the
    messages and `input` is only what is new: then only tools and instructions are compared.

    Any JSON may stand in any place: what parsed without a RecursionError compares without one.
    """
    remembered = is_remembered(before) or is_remembered(after)
    names = (*FRONT, "messages") if remembered else (*FRONT, *TURNS)
    parts: list[tuple[Place, Any]] = []
    end = _walk([((name,), before.get(name), after.get(name)) for name in names], parts)
    return Shared(_depth(before, after, end), end, parts)


def differ(place: Place, old: Any, new: Any) -> Difference | None:
    """Find where two values of one place differ; None if they are the same prompt."""
    return _walk([(place, old, new)], [])


def is_remembered(body: dict[str, Any]) -> bool:
    """Whether the upstream knows what came before the body's `input`."""
    return any(body.get(name) for name in _REMEMBERED)


def elements(section: str, value: Any) -> list[Any]:
    """Return a section as the list that it is, or could have been written as; else empty."""
    return _blocks((section,), value) or []


def chars_in(section: str, value: Any) -> int:
    """Return how many characters of prompt there are in a section, or an element of it."""
    return _chars([((section,), value)])


def as_text(value: Any) -> str:
    """Return a string's text, of anything else its compact JSON, of None nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value)


def _depth(
    before: dict[str, Any], after: dict[str, Any], end: Difference | None
) -> tuple[int, int, int, int]:
    """Return section, element, whether the same turns follow, and character of the difference.

    What held is nearer than a branch that was left where it ends, as by /rewind, but not nearer
    than a longer one of which a turn was changed there and the next are the same.
    """
    if not end:
        return len(FRONT), sum(len(elements(name, before.get(name))) for name in TURNS), 0, 0
    section = str(end.place[0])
    at = next((key for key in end.place if isinstance(key, int)), 0)
    if section in FRONT:
        return FRONT.index(section), at, 0, end.at
    old, new = (elements(section, body.get(section)) for body in (before, after))
    goes_on = any(_same(x, y) for x in new[at : at + _SOME] for y in old[at + 1 :])
    return len(FRONT), at, 1 if goes_on else -1, end.at


def _walk(pairs: list[tuple[Place, Any, Any]], held: list[tuple[Place, Any]]) -> Difference | None:
    """Compare pairs in order up to the first difference; what is the same goes to `held`."""
    # A stack, for wild bodies may be nested deeper than Python recurses.
    todo = pairs[::-1]
    while todo:
        place, old, new = todo.pop()
        if _same(old, new):
            held.append((place, old))
            continue
        inner = _pairs(place, old, new)
        if inner is not None:
            todo += reversed(inner)
            continue
        old_text, new_text = as_text(old), as_text(new)
        at = _common(old_text, new_text)
        held.append((place, old_text[:at]))
        if old_text != new_text:
            return Difference(place, at, old, new)
    return None


def _same(old: Any, new: Any) -> bool:
    """Tell if both are the same JSON: unlike for `==`, keys are in order and true is not 1."""
    try:
        return bool(old == new) and marshal.dumps(old, 0) == marshal.dumps(new, 0)
    except (RecursionError, ValueError):  # nested too deep for one of the two
        return False


def _pairs(place: Place, old: Any, new: Any) -> list[tuple[Place, Any, Any]] | None:
    """Return what to compare one by one, or None: compare these two as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        if not _is_parted(place):
            return None
        old, new = _members(old), _members(new)
        if not all(_same(old.get(name), new.get(name)) for name in ("role", "type")):
            return None
        return [((*place, key), old.get(key), new.get(key)) for key in new | old]
    if isinstance(old, list) or isinstance(new, list):
        old, new = _blocks(place, old), _blocks(place, new)
        if old is None or new is None:
            return None
        if len(place) == 1 and place[0] in TURNS:
            new = new[: len(old)]
        return [((*place, i), x, y) for i, (x, y) in enumerate(zip_longest(old, new))]
    return None


def _is_parted(place: Place) -> bool:
    """Whether an object has parts: any other is JSON that the model sees as it was sent.

    Parts have elements of lists, and OpenAI's {"type": "function", "function": {…}}.
    """
    return isinstance(place[-1], int) or (len(place) > 1 and place[-1] == "function")


def _members(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: member
        for key, member in value.items()
        if key != "cache_control" and not (key == "type" and member in _TEXT_TYPES)
    }


def _blocks(place: Place, value: Any) -> list[Any] | None:
    """Return `value` as the list that it could have been written as, None if it could not."""
    if isinstance(value, list):
        return value
    if not value:
        return []
    if not isinstance(value, str):
        return None
    return [{"role": "user", "content": value}] if place == ("input",) else [{"text": value}]


def _common(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
    return bisect_left(range(min(len(a), len(b))), 1, key=lambda i: a[: i + 1] != b[: i + 1])


def _chars(todo: list[tuple[Place, Any]]) -> int:
    """Return how many characters of prompt there are in these places' values. Empties the list."""
    chars = 0
    while todo:
        place, value = todo.pop()
        if len(place) > 1 and place[-1] in _OPAQUE:
            continue
        if isinstance(value, list):
            todo += [((*place, 0), item) for item in value]
        elif isinstance(value, dict) and _is_parted(place):
            todo += [((*place, key), member) for key, member in _members(value).items()]
        else:
            chars += len(as_text(value))
    return chars
