import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prompt_cache_key.launcher import client

SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
FOREVER = "while :; do sleep 0.01; done"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The launcher's handlers are gone when Claude Code has ended."""
    before = [signal.getsignal(each) for each in SIGNALS]
    yield
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def run(script: str, **environment: str) -> int:
    ours, theirs = os.pipe()
    try:
        return client.run(["/bin/sh", "-c", script], {**os.environ, **environment}, theirs)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ('exit "$CODE"', 3)]
)
def test_the_exit_status_is_claude_codes(script: str, status: int) -> None:
    assert run(script, CODE="3") == status


def test_claude_code_inherits_the_pipe() -> None:
    ours, theirs = os.pipe()
    write = f"import os; os.write({theirs}, b'alive')"
    client.run([sys.executable, "-c", write], os.environ, theirs)
    os.close(theirs)
    assert os.read(ours, 100) == b"alive"
    os.close(ours)


@pytest.mark.parametrize("name", ["INT", "QUIT"])
def test_what_the_terminal_sends_is_claude_codes_alone(name: str) -> None:
    # The launcher goes on, and Claude Code has not inherited that it is ignored.
    assert run(f"kill -{name} $PPID; trap 'exit 4' {name}; kill -{name} $$; exit 5") == 4


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_a_signal_is_passed_on(name: str) -> None:
    assert run(f"trap 'exit 6' {name}; kill -{name} $PPID; {FOREVER}") == 6


def test_a_signal_before_claude_code_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return popen(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    assert run(FOREVER) == 128 + signal.SIGTERM


def test_claude_code_is_killed_if_it_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GRACE", 0.01)
    assert run(f"trap '' TERM; kill -TERM $PPID; {FOREVER}") == 128 + signal.SIGKILL


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("kill -HUP $PPID; kill -HUP $$; exit 5") == 5
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_launcher_stops_with_claude_code(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[bool, int]] = []
    kill = os.kill

    def record(pid: int, number: int) -> None:
        sent.append((pid == os.getpid(), number))
        if pid != os.getpid():
            kill(pid, number)
            monkeypatch.undo()

    monkeypatch.setattr(os, "kill", record)
    assert run("kill -STOP $$; exit 3") == 3
    assert sent == [(True, signal.SIGSTOP), (False, signal.SIGCONT)]


def test_a_process_that_has_gone_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: int) -> None:
        monkeypatch.undo()
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    assert run("kill -TERM $PPID; exit 2") in (2, 143)
