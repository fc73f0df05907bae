"""Start the proxy's process, and end it."""

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from prompt_cache_key.launcher import LaunchError
from prompt_cache_key.launcher.task import Ready, Task
from prompt_cache_key.screen_text import cut

START_TIMEOUT = 60.0
"""Seconds that the proxy has to start."""

END_TIMEOUT = 30.0
"""Seconds that the proxy has to write report and summary."""

MAX_RECEIVED = 1 << 16
"""Bytes that are read from the proxy."""

COLUMNS = 300
"""Columns of the reason for which the proxy did not start."""

_MAIN = "from prompt_cache_key.launcher.proxy_main import main; main()"


class ProxyProcess:
    """The proxy's process; `life` is the file descriptor for Claude Code to inherit."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._their_life, self.life = os.pipe()
        self._from_proxy, self._to_launcher = os.pipe()
        self._received = b""
        output = os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self._process = subprocess.Popen(
            # -P: the working directory is the user's, and may have modules of any name.
            [sys.executable, "-P", "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(self._their_life, self._to_launcher),
        )
        for each in (self._their_life, self._to_launcher, output):
            os.close(each)

    def start(self, task: Task) -> Ready:
        """Let the proxy listen; LaunchError if it does not."""
        task = task._replace(to_launcher=self._to_launcher, life=self._their_life)
        with suppress(BrokenPipeError), self._process.stdin as file:  # type: ignore[union-attr]
            file.write(json.dumps(task._asdict()).encode())
        self._receive(START_TIMEOUT, b"\n")
        line, _, self._received = self._received.partition(b"\n")
        if line.startswith(b"{"):
            return Ready(**json.loads(line))
        reason = line.decode(errors="replace") or _last_line(self._log)
        raise LaunchError(f"the proxy did not start: {cut(reason, COLUMNS)} (log: {self._log})")

    def end(self) -> list[str]:
        """End the proxy; return the lines of its summary."""
        has_ended = self._process.poll() is not None
        self._process.terminate()
        self._receive(END_TIMEOUT, b"")
        # It closes the pipe when it ends, or it does not end.
        self._process.kill()
        self._process.wait()
        for each in (self.life, self._from_proxy):
            os.close(each)
        lines = self._received.decode(errors="replace").splitlines()
        return [*lines, "the proxy ended before Claude Code"] if has_ended else lines

    def _receive(self, seconds: float, end: bytes) -> None:
        """Read what the proxy says, up to some bytes, the end of the pipe, or a time."""
        until = time.monotonic() + seconds
        while not (end and end in self._received) and len(self._received) < MAX_RECEIVED:
            ready, *_ = select.select([self._from_proxy], [], [], max(0, until - time.monotonic()))
            received = os.read(self._from_proxy, MAX_RECEIVED) if ready else b""
            if not received:
                break
            self._received += received


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "the log is empty")
