import pytest
from prompt_cache_key.misses.excerpt import escape, excerpt

LEFT, RIGHT = "<" * 29, ">" * 28


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("", 0, ""),
        ("a" * 58, 0, "a" * 58),
        ("a" * 59, 0, "a" * 58 + "…"),
        (LEFT + "1" + RIGHT, 29, LEFT + "1" + RIGHT),
        ("." + LEFT + "1" + RIGHT, 30, "…" + LEFT + "1" + RIGHT),
        (LEFT + "1" + RIGHT + ".", 29, LEFT + "1" + RIGHT + "…"),
        ("a\n\t\x00b\x1b[31m", 1, "a\\n\\t\\x00b\\x1b[31m"),
        ("é✓😀", 2, "é✓😀"),
        # never half an escape
        ("\x00" * 20 + "a", 20, "…" + "\\x00" * 7 + "a"),
        ("\x00" * 20, 0, "\\x00" * 14 + "…"),
    ],
)
def test_excerpt(text: str, at: int, expected: str) -> None:
    assert excerpt(text, at) == expected


def test_escape() -> None:
    assert escape("\\n\n\ud83d\u2028\x9b é") == "\\\\n\\n\\ud83d\\u2028\\x9b é"
