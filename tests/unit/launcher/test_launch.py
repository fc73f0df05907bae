"""Runs without a proxy's process; those with one are in tests/live/test_launcher.py."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_cache_key.launcher import LaunchError, client, launch
from prompt_cache_key.launcher.task import Ready, Task

PROGRAM = """#!/bin/sh
echo "$0 $*" >"$OUT"
"""


class Proxy:
    """Stands in for the proxy's process."""

    tasks: list[Task]
    life = 0

    def __init__(self, log: Path) -> None:
        self.log = log
        log.touch()

    def start(self, task: Task) -> Ready:
        self.tasks.append(task)
        if "fail=1" in task.arguments:
            raise LaunchError("it did not start")
        if "interrupt=1" in task.arguments:
            raise KeyboardInterrupt
        if "end=1" in task.arguments:
            signal.raise_signal(signal.SIGTERM)
        return Ready(4321, "/ca.pem")

    def end(self) -> list[str]:
        if "interrupt_end=1" in self.tasks[-1].arguments:
            signal.raise_signal(signal.SIGINT)
        return ["hit rate 90%", "report: x"]


class Run:
    """What the launcher has run."""

    def __init__(self) -> None:
        self.command: list[str] = []
        self.environment: dict[str, str] = {}
        self.settings: Any = None
        self.trusted = b""

    def __call__(self, command: list[str], environment: dict[str, str], life: int) -> int:
        assert life == Proxy.life
        self.command, self.environment = command, environment
        path = Path(command[command.index("--settings") + 1])
        assert path.stat().st_mode & 0o777 == 0o600
        self.settings = json.loads(path.read_text())
        return 7


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    made = Run()
    monkeypatch.setattr(Proxy, "tasks", [], raising=False)
    monkeypatch.setattr(launch, "ProxyProcess", Proxy)
    monkeypatch.setattr(client, "run", made)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "claude"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    for number in client.PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(signal.SIGINT)
    yield made
    signal.signal(signal.SIGINT, before)


def launched(*given: str, **process: str) -> int | str:
    return launch.launch(given, {"PATH": str(Path.cwd()), **process})


def test_through_a_gateway(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = '{"model": "m", "env": {"ANTHROPIC_AUTH_TOKEN": "secret"}}'
    assert launched("--to", "http://a:1/b", "--settings", given, "-p", "hi", MINE="x") == 7
    base_url = "http://127.0.0.1:4321/b"
    assert run.environment["ANTHROPIC_BASE_URL"] == base_url
    assert run.environment["MINE"] == "x"
    assert "NODE_EXTRA_CA_CERTS" not in run.environment
    assert run.settings["model"] == "m"
    assert run.settings["env"]["ANTHROPIC_AUTH_TOKEN"] == "secret"
    assert run.settings["env"]["ANTHROPIC_BASE_URL"] == base_url
    assert (run.command[0], *run.command[3:]) == (str(tmp_path / "claude"), "-p", "hi")
    assert "secret" not in str(run.command)
    error = capsys.readouterr().err.splitlines()
    assert error[:2] == ["claude-prompt-cache: hit rate 90%", "  report: x"]
    log = Path(error[2].removeprefix("  log: "))
    assert [path.name for path in log.parent.iterdir()] == ["log"]


def test_what_the_proxy_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_text("OWN")
    launched(
        *("--to", "http://a:1", "--mode", "reverse:https://b@8082", "--set", "prompt_cache_ttl=2h"),
        NODE_EXTRA_CA_CERTS=str(tmp_path / "own.pem"),
    )
    (task,) = Proxy.tasks
    assert task.mode == "reverse:http://a:1@127.0.0.1:0"
    modes = [task.arguments[at + 1] for at, each in enumerate(task.arguments) if each == "--mode"]
    assert modes == [task.mode, "reverse:https://b@8082"]
    assert "prompt_cache_ttl=2h" in task.arguments
    assert any(each.startswith("ssl_verify_upstream_trusted_ca=") for each in task.arguments)
    assert run.command


@pytest.mark.usefixtures("run")
def test_the_users_own_authorities_win() -> None:
    launched("--set", "ssl_verify_upstream_trusted_ca=mine.pem")
    (task,) = Proxy.tasks
    assert [each for each in task.arguments if "trusted_ca" in each] == [
        "ssl_verify_upstream_trusted_ca=mine.pem"
    ]


def test_to_anthropic(run: Run) -> None:
    assert launched() == 7
    assert run.environment["HTTPS_PROXY"] == "http://127.0.0.1:4321"
    assert run.environment["NODE_EXTRA_CA_CERTS"].endswith("/accepted.pem")
    assert run.settings["env"]["NODE_EXTRA_CA_CERTS"] == run.environment["NODE_EXTRA_CA_CERTS"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["--to"], "claude-prompt-cache: --to needs a value"),
        (
            ["--to", "x"],
            "claude-prompt-cache: --to is not a base URL such as http://127.0.0.1:4000",
        ),
        (["--set", "fail=1"], "claude-prompt-cache: it did not start"),
    ],
)
def test_an_error_is_one_line_and_nothing_runs(run: Run, given: list[str], error: str) -> None:
    assert launched(*given) == error
    assert not run.command


def test_no_claude_on_path(run: Run) -> None:
    assert str(launched(PATH="/nowhere")).startswith("claude-prompt-cache: no `claude` on PATH")
    assert not Proxy.tasks
    assert not run.command


def test_interrupted_while_the_proxy_starts(run: Run) -> None:
    assert launched("--set", "interrupt=1") == 130
    assert not run.command


@pytest.mark.usefixtures("run")
def test_interrupted_while_the_proxy_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert launched("--set", "interrupt_end=1") == 7
    assert "hit rate 90%" in capsys.readouterr().err


def test_ended_while_the_proxy_starts(run: Run) -> None:
    with pytest.raises(SystemExit) as end:
        launched("--set", "end=1")
    assert end.value.code == 143
    assert not run.command


def test_a_signal_that_is_ignored_stays_so(run: Run) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert launched("--set", "end=1") == 7
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert run.command


def test_without_a_proxy_claude_code_takes_the_launchers_place(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executed: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *args: executed.append(args))
    monkeypatch.setattr(launch, "_run", lambda *_: 0)
    launched("--stable", "mcp", "list", A="b")
    program = str(tmp_path / "claude")
    assert executed == [(program, [program, "mcp", "list"], {"PATH": str(tmp_path), "A": "b"})]
    assert capsys.readouterr().err == (
        "claude-prompt-cache: `claude mcp` sends no prompt from here: "
        "Claude Code runs without the proxy\n"
    )
    assert not run.command


def test_a_terminal_that_has_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise OSError

    monkeypatch.setattr("sys.stderr", Gone())
    assert launched() == 7
    assert run.command
