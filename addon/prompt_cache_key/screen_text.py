"""Text for a screen of fixed-width characters: escaped, and cut by the columns it takes."""

from unicodedata import east_asian_width

COLUMNS = 100
"""The width of the lines that the addon makes: half of a wide screen."""


def printable(text: str) -> str:
    """Return a text with each character that is not printable escaped.

    Those are control characters (C1 too), overrides of the direction, lone surrogates, and spaces
    and line ends other than the plain space.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """Return the columns that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def fit(text: str, columns: int) -> str:
    """Return a text cut, or filled up with spaces, to exactly so many columns."""
    short = cut(text, columns)
    return short + " " * (columns - width(short))


def cut(text: str, columns: int) -> str:
    """Return a text printable, on one line and cut to columns, with `…` where it was cut."""
    start = text[: 4 * columns]  # the text may have 1 MB
    plain = printable(" ".join(start.split()))
    if len(start) == len(text) and width(plain) <= columns:
        return plain
    room = columns - 1
    for at, char in enumerate(plain):
        room -= width(char)
        if room < 0:
            return plain[:at] + "…"
    return plain + "…"


def thousands(tokens: int) -> str:
    """Return a number of tokens in short, such as 999, 24.1k or 1.3M."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.1f}{name}"
    return str(tokens)
