"""The screen of mitmproxy's console."""

from shutil import get_terminal_size

from mitmproxy import ctx

from prompt_cache_key.screen_text import COLUMNS


def is_console() -> bool:
    """Return whether the tool is mitmproxy, not mitmweb or mitmdump."""
    return "keymap" in vars(ctx.master)


def columns(share: float = 1) -> int:
    """Return the columns of a share of the console's screen; `COLUMNS` in other tools."""
    return int(get_terminal_size().columns * share) if is_console() else COLUMNS
