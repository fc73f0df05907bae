"""How a piece of a prompt is shown: escaped, on one line, and short."""

_LENGTH = 60


def escape(text: str) -> str:
    """Return a text with what is not printable, and the backslash, written as in Python."""
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text
    )


def excerpt(text: str, at: int) -> str:
    """Return what stands around `text[at]`, escaped, with `…` where more does; 60 characters."""
    start, end = max(0, at - _LENGTH // 2), min(len(text), at + _LENGTH)
    while len(escape(text[start:at])) > _LENGTH // 2 - 1:
        start += 1
    while len(escape(text[start:end])) > _LENGTH - 2:
        end -= 1
    return "…" * (start > 0) + escape(text[start:end]) + "…" * (end < len(text))
