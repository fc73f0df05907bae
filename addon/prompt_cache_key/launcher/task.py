"""What the launcher tells the proxy's process, and what the proxy says first."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple


class Task(NamedTuple):
    """The proxy's task: JSON on its standard input, as a command line would show in `ps`."""

    arguments: list[str]
    """mitmdump's arguments."""
    mode: str
    """The mode of the listener that Claude Code uses."""
    folder: str
    """The folder of the run."""
    is_stable: bool
    """Whether Claude Code runs with `--stable`."""
    to_launcher: int = -1
    """A file descriptor: where to write that the proxy listens, and the summary."""
    life: int = -1
    """A file descriptor whose end of file says that launcher and Claude Code have ended."""

    def tell(self, lines: Iterable[str]) -> None:
        """Write lines to the launcher, unless the launcher was killed."""
        with suppress(OSError):
            os.write(self.to_launcher, "".join(f"{line}\n" for line in lines).encode())


class Ready(NamedTuple):
    """The proxy's first line to the launcher, as JSON."""

    port: int
    """The port that Claude Code uses."""
    certificate: str
    """The file of mitmproxy's certificate."""
