"""The file that tells the status line where the live page is: `prompt-cache-<pid>.json`.

It has the process id, the listeners' ports and the page's secret, so only its owner may read it.
Files of processes that have ended are removed when another proxy starts. What is in the folder is
not trusted: a file is read up to `MAX_SIZE`, neither through a link nor from a pipe, and counts
only if all of it is as `write` writes it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MAX_FILES = 1000
"""Entries of the folder that are looked at."""

MAX_SIZE = 4096
MAX_PORTS = 64

_NAME = re.compile(r"prompt-cache-([1-9][0-9]{0,9})\.json")
_SECRET = re.compile(r"[0-9a-f]{32}")
_NEAR = ("127.0.0.1", "localhost", "::1")
_VARIABLES = ("ANTHROPIC_BASE_URL", "HTTPS_PROXY", "https_proxy")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


class Entry(NamedTuple):
    """What a file says."""

    pid: int
    ports: list[int]
    secret: str


def path_of(secret: str) -> str:
    """Return the path of the page with this secret, on each listener."""
    return f"/prompt-cache/{secret}/"


def write(folder: Path, ports: Iterable[int], secret: str) -> None:
    """Write the file of this process, and remove those of processes that have ended.

    OSError if the file cannot be written. A new home lacks the folder until mitmproxy makes it for
    its certificates.
    """
    pid = os.getpid()
    folder.mkdir(parents=True, exist_ok=True)
    for path, other in _files(folder):
        if not is_running(other):
            with suppress(OSError):
                path.unlink()
    remove(folder)
    entry = Entry(pid, [*ports][:MAX_PORTS], secret)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
    with os.fdopen(os.open(_path(folder, pid), flags, 0o600), "w") as file:
        json.dump(entry._asdict(), file)


def remove(folder: Path) -> None:
    """Remove the file of this process, if there is one."""
    with suppress(OSError):
        _path(folder, os.getpid()).unlink()


def find(folder: Path, environment: Mapping[str, str]) -> str | None:
    """Return the URL of the live page of the proxy that Claude Code goes through.

    That is the proxy with the port of `ANTHROPIC_BASE_URL` or of `HTTPS_PROXY`, on this machine;
    else the only one that runs. None if there is no such proxy, or more than one.
    """
    entries = running(folder)
    for name in _VARIABLES:
        host, port = _listener(environment.get(name, ""))
        for entry in entries:
            if port in entry.ports:
                return _url(host, port, entry)
    if len(entries) == 1 and entries[0].ports:
        return _url(_NEAR[0], entries[0].ports[0], entries[0])
    return None


def running(folder: Path) -> list[Entry]:
    """Return what the files of the proxies that run say."""
    return [entry for path, pid in _files(folder) if is_running(pid) and (entry := read(path))]


def read(path: Path) -> Entry | None:
    """Read a file; None if it is not one that `write` has written."""
    try:
        # Without O_NONBLOCK, to open a pipe would wait for its other end.
        handle = os.open(path, os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            content = file.read(MAX_SIZE + 1)
        entry = Entry(**json.loads(content))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    pid, ports, secret = entry
    is_sound = (
        len(content) <= MAX_SIZE
        and path.name == f"prompt-cache-{pid}.json"
        and isinstance(ports, list)
        and len(ports) <= MAX_PORTS
        and all(type(port) is int and 0 < port < 1 << 16 for port in ports)
        and isinstance(secret, str)
        and _SECRET.fullmatch(secret)
    )
    return entry if is_sound else None


def is_running(pid: int) -> bool:
    """Return whether a process runs; on Windows, where to ask may end it, always true."""
    try:
        if os.name != "nt":
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process
        pass
    return True


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files in a folder that have the name of one, with the process id in the name."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, MAX_FILES):
            if found := _NAME.fullmatch(entry.name):
                yield folder / entry.name, int(found[1])


def _path(folder: Path, pid: int) -> Path:
    return folder / f"prompt-cache-{pid}.json"


def _listener(url: str) -> tuple[str, int]:
    """Return host and port of a URL on this machine; the secret is for no other machine."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname in _NEAR:
            return parts.hostname, parts.port or 80
    return "", 0


def _url(host: str, port: int, entry: Entry) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path_of(entry.secret)}"
