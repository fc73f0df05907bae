"""Run Claude Code in the foreground.

The terminal sends Ctrl-C to the process group, that is to Claude Code and to the launcher, which
ignores it. The launcher passes SIGTERM and SIGHUP on, and kills a Claude Code that does not end
then. Where Claude Code stops (Ctrl-Z), the launcher stops too, so that the shell takes the terminal
back; when the shell continues the launcher, the launcher continues Claude Code.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

GRACE = 10.0
"""Seconds that Claude Code has to end after a signal that was passed on."""

PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def run(command: Sequence[str], environment: Mapping[str, str], inherited: int) -> int:
    """Run the command to its end; return its exit status, 128 + n for a signal n."""
    pid = 0

    def pass_on(number: int, _: object) -> None:
        if pid:
            _kill(pid, number)
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        else:
            early.append(number)

    early: list[int] = []
    handlers: dict[int, Callable[[int, Any], object]] = {
        # Not SIG_IGN, which Claude Code would inherit.
        **dict.fromkeys((signal.SIGINT, signal.SIGQUIT), lambda *_: None),
        **dict.fromkeys(PASSED_ON, pass_on),
        signal.SIGALRM: lambda *_: _kill(pid, signal.SIGKILL),
    }
    ignored = [number for number in handlers if signal.getsignal(number) is signal.SIG_IGN]
    before = {n: signal.signal(n, handlers[n]) for n in handlers if n not in ignored}
    try:
        process = subprocess.Popen(command, env=environment, pass_fds=(inherited,))
        pid = process.pid
        for number in early:
            pass_on(number, None)
        process.returncode = _wait(pid)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait(pid: int) -> int:
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        os.kill(os.getpid(), signal.SIGSTOP)
        _kill(pid, signal.SIGCONT)
