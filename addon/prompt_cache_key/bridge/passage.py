"""The lines of a text, as hashes, to be found again in what a translator makes of it.

Translators join and split the blocks that lines stand in, so lines are what is compared; hashes
are kept of them, so that no text is.
"""

from collections.abc import Generator
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
Steps = Generator[int, None, _T]
"""Work in steps, for the event loop's sake: before each it yields the microseconds it may take."""

_STEP = 1000  # lines
_ATTRIBUTION = "x-anthropic-billing-header"


class Passage(NamedTuple):
    """The lines of one message or of one tool result.

    `edges` are the first and last lines of its blocks, which a translator may join: as they are,
    joined, and joined by a space. `inner` are the other lines. `labels` are the lines of the form
    `label: value` by label, but for the attribution's, which was seen to differ. These are tuples
    and few sets, as the garbage collector visits all that is in a set.
    """

    inner: tuple[int, ...]
    edges: list[tuple[int, ...]]
    labels: dict[int, set[int]]

    @property
    def lines(self) -> tuple[int, ...]:
        """All lines, as they are."""
        return self.inner + self.edges[0]

    def missing(self, known: set[int]) -> int:
        """Return how many lines are not known, the edges in any form."""
        lines = self.lines
        if any(known.issuperset(form) for form in self.edges):
            lines = self.inner
        return len(lines) - count(lines, known)


def count(lines: tuple[int, ...], known: set[int]) -> int:
    """Return how many of these lines are known."""
    return sum(map(known.__contains__, lines))


def missing(passages: list[Passage], known: set[int]) -> int:
    """Return how many lines of all these are not known."""
    return sum(passage.missing(known) for passage in passages)


def length(passages: list[Passage]) -> int:
    """Return how many lines all these have."""
    return sum(len(passage.lines) for passage in passages)


def labels(passages: list[Passage]) -> dict[int, set[int]]:
    """Return the lines of the form `label: value` of all these by label."""
    found: dict[int, set[int]] = {}
    for passage in passages:
        for label, lines in passage.labels.items():
            found.setdefault(label, set()).update(lines)
    return found


def read(texts: list[str], max_lines: int, *, has_labels: bool) -> Steps[Passage]:
    """Read a passage of these blocks, of each at most the first `max_lines` lines."""
    inner: set[int] = set()
    found: dict[int, set[int]] = {}
    blocks = []
    for text in texts:
        lines = text.split("\n", max_lines)[:max_lines]
        for start in range(0, len(lines), _STEP):
            yield min(len(lines), _STEP) + 5
            step = list(map(str.strip, lines[start : start + _STEP]))
            if has_labels:
                _add_labels(found, step)
            is_first, is_last = start == 0, start + _STEP >= len(lines)
            inner.update(map(hash, filter(None, step[is_first : len(step) - is_last])))
        blocks.append([line.strip() for line in (lines[0], *lines[1:][-1:])])
    forms = [[line for block in blocks for line in block]]
    if len(blocks) > 1:
        forms += [_joined(blocks, ""), _joined(blocks, " ")]
    edges = [tuple(set(map(hash, filter(None, form))) - inner) for form in forms]
    return Passage(tuple(inner), edges, found)


def _add_labels(found: dict[int, set[int]], lines: list[str]) -> None:
    for line in lines:
        label, colon, _ = line.partition(": ")
        if colon and label != _ATTRIBUTION:
            found.setdefault(hash(label), set()).add(hash(line))


def _joined(blocks: list[list[str]], separator: str) -> list[str]:
    """Return the first and last lines of the blocks as they are when those are joined."""
    edges, pieces = [], []
    for first, *rest in blocks:
        pieces.append(first)
        if rest:
            edges.append(separator.join(pieces).strip())
            pieces = rest[-1:]
    return [*edges, separator.join(pieces).strip()]
