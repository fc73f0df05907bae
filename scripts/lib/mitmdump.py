"""A real mitmdump with the addon, over loopback."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from lib import ADDON, LOOPBACK, TIMEOUT

# Log lines get their level, as `WARN [prompt-cache] …`: mitmdump shows it by colour alone.
_SCRIPT = """
import gc
import logging
import os
import sys
from mitmproxy import ctx

sys.stdout.reconfigure(line_buffering=True)

def with_level(record):
    record.msg = f"{record.levelname[:4]} {record.msg}"
    return True

logging.getLogger("prompt_cache_key").addFilter(with_level)

# What mitmproxy has loaded need not be searched for garbage: without that it ends much faster.
gc.freeze()

def running():
    servers = ctx.master.addons.get("proxyserver").servers
    print("listening on ports", *(server.listen_addrs[0][1] for server in servers))
    if log := os.environ.get("LOG"):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
"""

# mitmproxy refuses two listeners of one address, even on port 0: these spell one in four ways. A
# mode that listens on UDP too, as reverse:https:// does, takes the first only.
_ADDRESSES = (LOOPBACK, "127.1", "127.0.1", "0x7f.1")


class MitmdumpError(Exception):
    """It did not start, or a line that was waited for has not come; with all it said."""


class Mitmdump:
    """A mitmdump, with the addon unless `scripts` says otherwise; a context manager.

    `modes` are its listeners, each on a free port of 127.0.0.1 (`ports`; `port` is the first);
    `options` become `--set name=value`; `args` are further arguments. It is the mitmdump that lies
    beside `python`. Its output, with the level before each of the addon's lines, is in `lines`; in
    the file `log` from the start of its listeners on, if one is named.

    It leaves no file behind and, where its start fails, no process.
    """

    def __init__(
        self,
        *modes: str,
        scripts: Iterable[Path] = (ADDON,),
        args: Iterable[str] = (),
        python: Path = Path(sys.executable),
        log: Path | None = None,
        **options: str,
    ) -> None:
        self.lines: list[str] = []
        self.ports: list[int] = []
        self._ended = False
        self._changed = threading.Condition()
        self._home = tempfile.TemporaryDirectory()
        script = Path(self._home.name, "listening.py")
        script.write_text(_SCRIPT)
        command = [str(python.with_name("mitmdump")), "--set", f"confdir={self._home.name}"]
        modes = modes or ("regular",)
        for mode, address in zip(modes, _ADDRESSES[: len(modes)], strict=True):
            command += ["--mode", f"{mode}@{address}:0"]
        for path in (script, *scripts):
            command += ["-s", str(path)]
        for name, value in options.items():
            command += ["--set", f"{name}={value}"]
        self._process = subprocess.Popen(
            [*command, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            # Not PYTEST_CURRENT_TEST: with it mitmproxy keeps its log to itself.
            env={
                "HOME": self._home.name,
                "PATH": os.defpath,
                "PYTHONUTF8": "1",
                "LOG": str(log or ""),
            },
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            self.ports = [int(port) for port in self.find(r"^listening on ports (.*)")[1].split()]
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Where the first mode listens."""
        return self.ports[0]

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def find_all(self, pattern: str, count: int, since: int = 0) -> list[re.Match[str]]:
        """Wait for at least `count` lines that match, from line `since` on, and return them."""
        deadline = time.monotonic() + TIMEOUT
        with self._changed:
            while True:
                found = [m for line in self.lines[since:] if (m := re.search(pattern, line))]
                if len(found) >= count:
                    return found
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    failure = f"{len(found)} of {count} lines match {pattern!r}:"
                    raise MitmdumpError("\n".join([failure, *self.lines]))

    def find(self, pattern: str, since: int = 0) -> re.Match[str]:
        """Wait for a line that matches, from line `since` on, and return the first."""
        return self.find_all(pattern, 1, since)[0]

    def wait(self) -> int:
        """Wait until it ends by itself, as with `--client-replay`, and return its exit code."""
        try:
            return self._process.wait(TIMEOUT)
        finally:
            self.stop()

    def stop(self) -> None:
        """End it; what it writes is then complete."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            if self._process.stdout:
                self._process.stdout.close()
            self._home.cleanup()
