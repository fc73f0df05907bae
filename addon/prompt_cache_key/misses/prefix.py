"""Find where the prompt of one request stops being the start of the next one's.

The problem. A prompt cache reads what two prompts have in common from their first token on. An
upstream renders the prompt from the request's JSON by a template that nobody outside knows. So two
bodies have to be compared part by part, in the order in which upstreams render the parts, and
what does not reach the prompt must not count as a difference.

The idea. `_walk` goes through pairs of values, the earlier body's and the later one's: first the
sections (tools, system prompt, messages), then, inside a section that differs, its elements, then
their members. Two values that are the same JSON are done with one comparison in C. Two that are not
are taken apart, but only where the parts are envelopes known from the three dialects; any other
object (a tool's schema, a tool's input) is compared as the text that the model sees. The first pair
that cannot be taken apart is the difference; its place names what was edited.

Invariants:

- Sections are compared in the order of the prompt, so the first difference found is the first in
  the prompt, and all that was passed before it is shared.
- Messages may be added at the end. Tools and blocks of the system prompt may not, since the
  messages follow them.
- A body compared with itself has no difference.

Bounds. Every value is visited at most once at each of `_DEEPEST` levels. Each step, and each kB of
text that has to be made of JSON, is taken from a `Budget`; when that is used up, or a value nests
deeper than C code goes, `NotCompared` is raised. The size of the bodies and the number of their
values are bounded before they are parsed (`comparison.parsed`).

Not promised: that an upstream renders what this module thinks. What upstreams do with parts that
no dialect documents is unknown; every member is compared, so an unknown one counts as prompt.
"""

import marshal
from bisect import bisect_left
from collections.abc import Iterable, Iterator
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

MAX_STEPS = 200_000
"""Steps that one judgement may take."""

# OpenAI Responses: the upstream remembers what came before `input`.
_REMEMBERED = ("previous_response_id", "conversation")

# Types that say nothing more than that there is text; a plain string has none.
_TEXT_TYPES = ("message", "text", "input_text", "output_text")

# Images, files, signatures: their length in base64 says nothing of their tokens.
_OPAQUE = ("source", "image_url", "file_data", "signature", "encrypted_content")

# The deepest place in the three dialects has seven keys: messages[0].content[0].content[0].text.
_DEEPEST = 8

_LONGEST_PATH = 200
_FOLLOWING = 4  # elements behind a difference to look for, as some are removed too

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Place = tuple[str | int, ...]
Pair = tuple[Place, Any, Any]


class NotCompared(ValueError):  # noqa: N818  # reads as the words that are shown
    """Two bodies have too many values to compare, or nest too deep."""


class Budget:
    """The steps that one judgement may take; `spend` raises NotCompared when none are left."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        """Take steps off the budget."""
        self.left -= steps
        if self.left < 0:
            raise NotCompared("too many values to compare")


class Difference(NamedTuple):
    """Where two bodies first differ."""

    place: Place
    """The keys and indexes that lead there; of a whole element that is new or gone, to that."""
    at: int
    """How many characters are the same there: of a string, its text; of anything else, its
    compact JSON."""
    old: Any
    """The earlier body's value there; None if there is none."""
    new: Any
    """The later body's value there; None if there is none."""

    @property
    def path(self) -> str:
        """The place as in `system[0].text`, escaped, at most 200 characters."""
        names = (
            f"[{key}]" if isinstance(key, int) else f".{key[:_LONGEST_PATH]}" for key in self.place
        )
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
        """The later value around the difference, likewise."""
        return excerpt(as_text(self.new), self.at)


class Shared(NamedTuple):
    """How much of an earlier prompt a later one begins with."""

    depth: tuple[int, int, int, int]
    """Larger for an earlier prompt that shares more with, and is nearer to, one later prompt."""
    end: Difference | None
    """Where the two part; None if the later prompt begins with all of the earlier."""
    parts: list[tuple[Place, Any]]
    """What the two share."""

    def chars(self, budget: Budget | None = None) -> int:
        """Return the characters of prompt that are shared, without images and other base64."""
        return _chars(self.parts.copy(), budget or Budget())


def compare(before: dict[str, Any], after: dict[str, Any], budget: Budget | None = None) -> Shared:
    """Find how far the prompt of `before` is the start of the prompt of `after`.

    Both are parsed bodies of one dialect (Anthropic Messages, OpenAI Chat, OpenAI Responses).
    The two do not part if `after` added nothing but messages. Tools and system blocks that were
    added are a difference, since the messages follow them. So are messages taken off the end,
    although all that is left of the prompt was there before.

    No difference: `cache_control`; a text written as a string or as a list of one block (Claude
    Code changes the one into the other when it moves its marker on); null or a missing key; the
    order of keys, except inside a tool's schema and a tool's input, which the model sees as
    they were sent.

    With `previous_response_id` or `conversation` in either body the upstream remembers the
    messages and `input` is only what is new: then only tools and instructions are compared.

    Any JSON may stand in any place; NotCompared if there is too much of it.
    """
    budget = budget or Budget()
    remembered = is_remembered(before) or is_remembered(after)
    names = (*FRONT, "messages") if remembered else (*FRONT, *TURNS)
    parts: list[tuple[Place, Any]] = []
    pairs = (((name,), before.get(name), after.get(name)) for name in names)
    end = _walk(pairs, parts, budget)
    return Shared(_depth(before, after, end, budget), end, parts)


def differ(place: Place, old: Any, new: Any, budget: Budget | None = None) -> Difference | None:
    """Find where two values of one place differ; None if they are the same prompt."""
    return _walk([(place, old, new)], [], budget or Budget())


def is_remembered(body: dict[str, Any]) -> bool:
    """Return whether the upstream knows what came before the body's `input`."""
    return any(body.get(name) for name in _REMEMBERED)


def elements(section: str, value: Any) -> list[Any]:
    """Return a section as the list that it is, or could have been written as; else empty."""
    return _blocks((section,), value) or []


def chars_in(section: str, value: Any, budget: Budget | None = None) -> int:
    """Return how many characters of prompt there are in a section, or an element of it."""
    return _chars([((section,), value)], budget or Budget())


def chars_of(body: dict[str, Any], budget: Budget) -> int:
    """Return how many characters of prompt there are in a body."""
    return sum(chars_in(name, body.get(name), budget) for name in (*FRONT, *TURNS))


def as_text(value: Any) -> str:
    """Return a string's text, of anything else its compact JSON, of None nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value)


def spelled(value: Any, budget: Budget) -> str:
    """Return `as_text` of a value within a budget."""
    try:
        text = as_text(value)
    except RecursionError:
        raise NotCompared("nested too deep") from None
    budget.spend(len(text) >> 10)
    return text


def _depth(
    before: dict[str, Any], after: dict[str, Any], end: Difference | None, budget: Budget
) -> tuple[int, int, int, int]:
    """Return section, element, whether the same turns follow, and character of the difference.

    Of two earlier prompts that share equally much, the one that the later prompt contains as a
    whole is nearer than a branch that was left at that point, as by /rewind. A longer prompt of
    which one turn was edited there, and the next turns are the same, is nearer than both.
    """
    if not end:
        return len(FRONT), sum(len(elements(name, before.get(name))) for name in TURNS), 0, 0
    section = str(end.place[0])
    at = next((key for key in end.place if isinstance(key, int)), 0)
    if section in FRONT:
        return FRONT.index(section), at, 0, end.at
    old, new = (elements(section, body.get(section)) for body in (before, after))
    budget.spend(_FOLLOWING * max(0, len(old) - at))
    goes_on = any(_same(x, y) for x in new[at : at + _FOLLOWING] for y in old[at + 1 :])
    return len(FRONT), at, 1 if goes_on else -1, end.at


def _walk(
    pairs: Iterable[Pair], held: list[tuple[Place, Any]], budget: Budget
) -> Difference | None:
    """Compare pairs in order up to the first difference; add what is the same to `held`."""
    stack = [iter(pairs)]
    while stack:
        pair = next(stack[-1], None)
        if pair is None:
            stack.pop()
            continue
        budget.spend()
        place, old, new = pair
        if _same(old, new):
            held.append((place, old))
            continue
        inner = _pairs(place, old, new) if len(place) < _DEEPEST else None
        if inner is not None:
            stack.append(inner)
            continue
        old_text, new_text = spelled(old, budget), spelled(new, budget)
        at = _common(old_text, new_text)
        held.append((place, old_text[:at]))
        if old_text != new_text:
            return Difference(place, at, old, new)
    return None


def _same(old: Any, new: Any) -> bool:
    """Return whether both are the same JSON: unlike for `==`, keys are in order, true is not 1."""
    try:
        # Version 2 writes floats in binary, and no references to objects that occur twice.
        return bool(old == new) and marshal.dumps(old, 2) == marshal.dumps(new, 2)
    except (RecursionError, ValueError):
        raise NotCompared("nested too deep") from None


def _pairs(place: Place, old: Any, new: Any) -> Iterator[Pair] | None:
    """Return what to compare one by one, or None: compare these two as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        if not _is_parted(place):
            return None
        old, new = _members(old), _members(new)
        if not all(_same(old.get(name), new.get(name)) for name in ("role", "type")):
            return None
        return (((*place, key), old.get(key), new.get(key)) for key in new | old)
    if isinstance(old, list) or isinstance(new, list):
        old, new = _blocks(place, old), _blocks(place, new)
        if old is None or new is None:
            return None
        if len(place) == 1 and place[0] in TURNS:
            new = new[: len(old)]
        return (((*place, i), x, y) for i, (x, y) in enumerate(zip_longest(old, new)))
    return None


def _is_parted(place: Place) -> bool:
    """Return whether an object has parts: any other is JSON that the model sees as it was sent.

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


def _chars(todo: list[tuple[Place, Any]], budget: Budget) -> int:
    """Return how many characters of prompt there are in these places' values. Empties the list."""
    chars = 0
    while todo:
        place, value = todo.pop()
        if len(place) > 1 and place[-1] in _OPAQUE:
            continue
        if isinstance(value, list) and len(place) <= _DEEPEST:
            budget.spend(len(value))
            todo += [((*place, 0), item) for item in value]
        elif isinstance(value, dict) and _is_parted(place):
            budget.spend(len(value))
            todo += [((*place, key), member) for key, member in _members(value).items()]
        else:
            chars += len(spelled(value, budget))
    return chars
