import pytest
from prompt_cache_key.bridge.lines import Lines, every_form, labels, length, missing, read
from unit.bridge.translators import done


def lines(*texts: str, room: int = 99, has_labels: bool = True) -> Lines:
    return done(read(list(texts), room, has_labels=has_labels))


@pytest.mark.parametrize(
    ("texts", "others", "count"),
    [
        (["a\nb\nc"], ["c\n b\t\n\na"], 0),
        (["a\nb\nc"], ["a\nc"], 1),
        (["a", "b\nc"], ["ab\nc"], 0),
        (["a", "b", "c\nd"], ["a b c\nd"], 0),
        (["a\n", "b"], ["a\n\nb"], 0),
        (["a", "b"], ["a-b"], 2),
        (["ab"], ["a", "b"], 0),
        (["a", "b c", "d"], ["ab cd"], 0),
        (["b"], ["ab"], 1),
    ],
)
def test_lines_are_found_in_any_form(texts: list[str], others: list[str], count: int) -> None:
    known = every_form([lines(*others)])
    assert missing([lines(*texts)], known) == lines(*texts).missing(known) == count


def test_blank_lines_are_none() -> None:
    assert len(lines("\n \n\t\n").as_they_are) == 0
    assert length([lines("a\n\nb\n"), lines("a", "c")]) == 4


@pytest.mark.parametrize(
    ("sizes", "room", "kept"),
    [
        ([5000], 99, 99),
        ([5000], 9999, 5000),
        ([5000, 1], 99, 99),  # a short block is read whole, wherever it stands
        ([1, 5000, 9], 99, 99),
        ([5000, 5000], 99, 98),
        ([5, 5, 5], 3, 6),  # two lines each at least
    ],
)
def test_blocks_share_the_room(sizes: list[int], room: int, kept: int) -> None:
    texts = ["\n".join(f"{n} {line}" for line in range(size)) for n, size in enumerate(sizes)]
    assert length([lines(*texts, room=room)]) == kept


def test_labels() -> None:
    one = lines("a: 1\nno label:\nb: c: d\na: 2")
    two = lines("a: 3\nx-anthropic-billing-header: cc_version=2.1; cch=0;")
    assert [len(values) for values in labels([one, two]).values()] == [3, 1]
    assert labels([lines("a: 1", has_labels=False)]) == {}
