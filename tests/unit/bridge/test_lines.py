import pytest
from prompt_cache_key.bridge.passage import Passage, count, labels, length, missing, read
from unit.bridge.translators import done


def passage(*texts: str, max_lines: int = 99, has_labels: bool = True) -> Passage:
    return done(read(list(texts), max_lines, has_labels=has_labels))


@pytest.mark.parametrize(
    ("texts", "others", "lines"),
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
def test_lines_are_found_in_any_form(texts: list[str], others: list[str], lines: int) -> None:
    other = passage(*others)
    known = set(other.inner).union(*other.edges)
    assert missing([passage(*texts)], known) == passage(*texts).missing(known) == lines


def test_blank_lines_are_none() -> None:
    assert passage("\n \n\t\n").lines == ()
    assert length([passage("a\n\nb\n"), passage("a", "c")]) == 4


def test_long_texts() -> None:
    text = "\n".join(map(str, range(5000)))
    assert len(passage(text).lines) == 99
    whole = passage(text, max_lines=9999)
    assert len(set(whole.lines)) == count(whole.lines, set(whole.lines)) == 5000


def test_labels() -> None:
    one = passage("a: 1\nno label:\nb: c: d\na: 2")
    two = passage("a: 3\nx-anthropic-billing-header: cc_version=2.1; cch=0;")
    assert [len(lines) for lines in labels([one, two]).values()] == [3, 1]
    assert passage("a: 1", has_labels=False).labels == {}
