"""The files of one run: log and report, which stay, and what Claude Code and proxy read."""

import ssl
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import certifi


class Files(NamedTuple):
    """The files of one run; a context manager that removes those of no further use."""

    log: Path
    report: Path
    settings: Path
    """Claude Code's settings."""
    accepted: Path
    """Certificates that Claude Code accepts."""
    trusted: Path
    """Certificates that the proxy accepts."""

    @classmethod
    def make(cls) -> Self:
        """Make a new folder, which only its owner can enter."""
        folder = Path(tempfile.mkdtemp(prefix="claude-prompt-cache-"))
        names = "log", "report.html", "settings.json", "accepted.pem", "trusted.pem"
        return cls(*(folder / name for name in names))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.temporary:
            path.unlink(missing_ok=True)

    @property
    def temporary(self) -> tuple[Path, ...]:
        """What is of no use after the run."""
        return self.settings, self.accepted, self.trusted


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
