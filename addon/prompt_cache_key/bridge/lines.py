"""Read the lines of texts as hashes, to find them again in what a translator makes of the texts.

Translators join and split the blocks that lines stand in, so lines are compared. Only hashes are
kept, in arrays: 8 bytes a line, and nothing for the garbage collector to visit.
"""

from array import array
from collections.abc import Collection, Generator, Iterable
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
Steps = Generator[int, None, _T]
"""Work in steps: before each step it yields the microseconds that the step may take."""

_STEP = 1000  # lines
_ATTRIBUTION = "x-anthropic-billing-header"


class Lines(NamedTuple):
    """The lines of one message or of one tool result.

    A translator may join blocks, which changes their first and last lines. So with several blocks
    `edges` holds those in three forms: as they are, joined, joined by a space. `inner` are all
    other lines. `labels` are the lines of the form `label: value`: label, line, label, line; not
    the attribution's, whose value differs in 2 of 906 calls.
    """

    inner: "array[int]"
    edges: tuple["array[int]", ...]
    labels: "array[int]"

    @property
    def as_they_are(self) -> "array[int]":
        """All lines, the first and last of each block unjoined."""
        return self.inner + self.edges[0] if self.edges else self.inner

    def missing(self, known: set[int]) -> int:
        """Return how many lines are not known; first and last lines may be known in any form."""
        is_edge_known = any(known.issuperset(form) for form in self.edges)
        lines = self.inner if is_edge_known else self.as_they_are
        return len(lines) - count(lines, known)


def count(lines: Collection[int], known: set[int]) -> int:
    """Return how many of the lines are known."""
    return sum(map(known.__contains__, lines))


def missing(groups: Iterable[Lines], known: set[int]) -> int:
    """Return how many lines of all groups are not known."""
    return sum(group.missing(known) for group in groups)


def length(groups: Iterable[Lines]) -> int:
    """Return how many lines all groups have."""
    return sum(len(group.as_they_are) for group in groups)


def every_form(groups: Iterable[Lines]) -> set[int]:
    """Return the lines of all groups in every form."""
    return {line for group in groups for form in (group.inner, *group.edges) for line in form}


def labels(groups: Iterable[Lines]) -> dict[int, set[int]]:
    """Return the lines of the form `label: value` of all groups, by label."""
    found: dict[int, set[int]] = {}
    for group in groups:
        for label, line in zip(group.labels[::2], group.labels[1::2], strict=True):
            found.setdefault(label, set()).add(line)
    return found


def read(blocks: list[str], room: int, *, has_labels: bool) -> Steps[Lines]:
    """Read the first lines of each block, so many that all together have room."""
    yield sum(map(len, blocks)) // 500
    share = _share([block.count("\n") + 1 for block in blocks], room)
    inner: set[int] = set()
    labelled: array[int] = array("q")
    ends = []
    for block in blocks:
        yield 5 + len(block) // 500
        lines = block.split("\n", share)[:share]
        for start in range(0, len(lines), _STEP):
            yield min(len(lines), _STEP)
            step = list(map(str.strip, lines[start : start + _STEP]))
            if has_labels:
                _add_labels(labelled, step)
            inner.update(map(hash, filter(None, step)))
        ends.append([line.strip() for line in (lines[0], *lines[1:][-1:])])
    edges: tuple[array[int], ...] = ()
    if len(blocks) > 1:
        yield 5 * len(blocks) + sum(map(len, blocks)) // 500
        forms = [[line for end in ends for line in end], _joined(ends, ""), _joined(ends, " ")]
        hashed = [set(map(hash, filter(None, form))) for form in forms]
        inner -= hashed[0]
        edges = tuple(array("q", form - inner) for form in hashed)
    return Lines(array("q", inner), edges, labelled)


def _share(sizes: list[int], room: int) -> int:
    """Return how many lines each block may have, at least two: long ones share what is left."""
    share = room
    for number, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - number)
        if size > share:
            break
        room -= size
    return max(2, share)


def _add_labels(labelled: "array[int]", lines: list[str]) -> None:
    for line in lines:
        label, colon, _ = line.partition(": ")
        if colon and label != _ATTRIBUTION:
            labelled.extend((hash(label), hash(line)))


def _joined(ends: list[list[str]], separator: str) -> list[str]:
    """Return the first and last lines of blocks as they are when the blocks are joined."""
    joined, pieces = [], []
    for first, *rest in ends:
        pieces.append(first)
        if rest:
            joined.append(separator.join(pieces).strip())
            pieces = rest[-1:]
    return [*joined, separator.join(pieces).strip()]
