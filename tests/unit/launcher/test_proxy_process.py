import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_cache_key.launcher import LaunchError, proxy_process
from prompt_cache_key.launcher.proxy_process import ProxyProcess
from prompt_cache_key.launcher.task import Ready, Task

TASK = Task(["--mode", "regular"], "regular", "folder", is_stable=False)

# A proxy at its simplest: says it listens, waits for the end of life, and sums up.
PROXY = """
import json, os, signal, sys
task = json.load(sys.stdin)
tell = lambda text: os.write(task["to_launcher"], text.encode())
"""
LISTENS = 'tell(json.dumps({"port": 8, "certificate": "c"}) + chr(10))\n'
ENDS = """
signal.signal(signal.SIGTERM, lambda *_: (tell("a\\nb\\n"), os._exit(0)))
print("ready", flush=True)
tell("")
while True: signal.pause()
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def proxy(monkeypatch: pytest.MonkeyPatch, log: Path, script: str) -> ProxyProcess:
    monkeypatch.setattr(proxy_process, "_MAIN", PROXY + script)
    return ProxyProcess(log)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = [*Path("/dev/fd").iterdir()]
    yield
    assert len([*Path("/dev/fd").iterdir()]) <= len(before)


def test_from_start_to_summary(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    process = proxy(monkeypatch, log, ENDS.replace('tell("")', LISTENS))
    assert process.start(TASK) == Ready(8, "c")
    assert process.end() == ["a", "b"]
    assert log.read_text() == "ready\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_it_has_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    process = proxy(monkeypatch, log, f"print(os.getsid(0) == os.getpid(), flush=True)\n{LISTENS}")
    process.start(TASK)
    process.end()
    assert log.read_text() == "True\n"


def test_it_reads_the_end_of_life(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    script = 'os.read(task["life"], 1)\nprint("ended", flush=True)\nos.close(task["to_launcher"])\n'
    process = proxy(monkeypatch, log, LISTENS + script + "signal.pause()")
    process.start(TASK)
    life = os.dup(0)
    os.dup2(life, process.life)  # closes the pipe
    os.close(life)
    process._receive(30, b"")
    process.end()
    assert log.read_text() == "ended\n"


def test_it_says_why_it_did_not_start(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    process = proxy(monkeypatch, log, 'tell("bad option\\n")')
    with pytest.raises(LaunchError, match=r"^the proxy did not start: bad option \(log: "):
        process.start(TASK)
    process.end()


@pytest.mark.parametrize(
    ("script", "reason"),
    [("sys.exit('one\\n two \\n\\n')", "two"), ("os._exit(1)", "the log is empty")],
)
def test_else_the_log_says_it(
    monkeypatch: pytest.MonkeyPatch, log: Path, script: str, reason: str
) -> None:
    process = proxy(monkeypatch, log, script)
    with pytest.raises(LaunchError, match=rf"not start: {reason} \(log"):
        process.start(TASK)
    process.end()


def test_it_may_end_before_it_has_read_its_task(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(proxy_process, "_MAIN", "import os; os._exit(1)")
    process = ProxyProcess(log)
    with pytest.raises(LaunchError, match="the log is empty"):
        process.start(TASK._replace(arguments=["x" * (1 << 20)]))
    process.end()


def test_a_proxy_that_ended_too_early(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    process = proxy(monkeypatch, log, f"{LISTENS}os._exit(1)")
    process.start(TASK)
    process._process.wait()
    assert process.end() == ["the proxy ended before Claude Code"]


def test_a_proxy_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(proxy_process, "END_TIMEOUT", 0.01)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    process = proxy(monkeypatch, log, f"{ignore}{LISTENS}signal.pause()\nsignal.pause()")
    process.start(TASK)
    assert process.end() == []
