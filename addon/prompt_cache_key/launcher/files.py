"""The folder of one run: log and report, which stay, and what Claude Code and the proxy read."""

import os
import shutil
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import certifi

LOG = "log"
REPORT = "report.html"
TEMPORARY = "temporary"
"""The folder in the folder, with Claude Code's settings and certificates."""


@contextmanager
def new_folder() -> Iterator[Path]:
    """Make the folder of a run, which only its owner can enter; remove TEMPORARY at the end."""
    folder = Path(tempfile.mkdtemp(prefix="claude-prompt-cache-"))
    (folder / TEMPORARY).mkdir()
    try:
        yield folder
    finally:
        remove_temporary(folder)


def remove_temporary(folder: Path) -> None:
    """Remove what is of no use after a run."""
    shutil.rmtree(folder / TEMPORARY, ignore_errors=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)


def authorities(extra: str) -> list[str]:
    """Return the certificate files of all that Claude Code would trust without the proxy."""
    return [certifi.where(), ssl.get_default_verify_paths().cafile or "", extra]


def write_bundle(path: Path, parts: Iterable[str]) -> str:
    """Write the certificates of several files into one; leave out what cannot be read."""
    with path.open("wb") as bundle:
        for part in filter(None, parts):
            with suppress(OSError):
                bundle.write(Path(part).read_bytes() + b"\n")
    return str(path)
