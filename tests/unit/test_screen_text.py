import pytest
from prompt_cache_key.screen_text import cut, fit, printable, thousands, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße ✓ 中文", "Grüße ✓ 中文"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("C1 \x9b31m", "C1 \\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("half a pair \ud83d", "half a pair \\ud83d"),
        ("a\u2028b\u00a0c", "a\\u2028b\\xa0c"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ten chars.", "ten chars."),
        ("eleven char", "eleven ch…"),
        ("two\n\n  lines", "two lines"),
        ("中文中文中", "中文中文中"),
        ("中文中文中文", "中文中文…"),
        ("x" * 1_000_000, "xxxxxxxxx…"),
        (" " * 1_000_000, "…"),
        ("\x1b\x1b\x1b", "\\x1b\\x1b\\…"),
        ("", ""),
    ],
)
def test_cut(text: str, shown: str) -> None:
    assert cut(text, 10) == shown
    assert width(fit(text, 10)) == 10


def test_fit() -> None:
    assert fit("中", 4) == "中  "


@pytest.mark.parametrize(
    ("tokens", "short"), [(999, "999"), (1000, "1.0k"), (24_064, "24.1k"), (1_300_211, "1.3M")]
)
def test_thousands(tokens: int, short: str) -> None:
    assert thousands(tokens) == short
