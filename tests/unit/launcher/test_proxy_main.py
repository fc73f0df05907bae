import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_cache_key.launcher import proxy_main
from prompt_cache_key.launcher.proxy_main import Supervised
from prompt_cache_key.launcher.task import Task
from unit.context import Context, usage

MODE = "regular@127.0.0.1:0"


class Launcher:
    """The launcher's side of a proxy's pipes."""

    def __init__(self, context: Context, folder: Path) -> None:
        self._read, self.write = os.pipe()
        self.their_life, self.life = os.pipe()
        self.report = folder / "report.html"
        self.settings = folder / "settings.json"
        self.settings.touch()
        task = Task(
            [],
            MODE,
            str(self.report),
            [str(self.settings), str(folder / "missing")],
            is_stable=False,
            to_launcher=self.write,
            life=self.their_life,
        )
        self.task = task
        self.addon = Supervised(context.addon, task)

    def heard(self) -> list[str]:
        return os.read(self._read, 1 << 16).decode().splitlines()

    def close(self) -> None:
        for each in (self._read, self.write, self.their_life, self.life):
            os.close(each)


@pytest.fixture
def launcher(context: Context, tmp_path: Path) -> Iterator[Launcher]:
    made = Launcher(context, tmp_path)
    yield made
    made.close()


def test_it_says_where_it_listens_and_ends_with_life(
    context: Context, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxyserver: Any = context.master.addons.get("proxyserver")
    proxyserver.servers = [
        SimpleNamespace(listen_addrs=[("127.0.0.1", port)], mode=SimpleNamespace(full_spec=mode))
        for port, mode in ((8082, "regular@8082"), (4321, MODE))
    ]
    context.options.confdir = str(tmp_path)

    async def live() -> None:
        ended = asyncio.Event()
        monkeypatch.setattr(context.master, "event_loop", asyncio.get_running_loop())
        monkeypatch.setattr(context.master, "shutdown", ended.set)
        launcher.addon.running()
        await asyncio.sleep(0)
        certificate = str(tmp_path / "mitmproxy-ca-cert.pem")
        assert json.loads(launcher.heard()[0]) == {"port": 4321, "certificate": certificate}
        # As if launcher and Claude Code had both ended.
        os.dup2(launcher.write, launcher.life)
        await ended.wait()

    asyncio.run(live())
    assert not launcher.settings.exists()


def test_without_requests_there_is_no_report(launcher: Launcher) -> None:
    launcher.addon.done()
    assert launcher.heard()[0].startswith("no request came through this proxy")
    assert not launcher.report.exists()


def test_summary_and_report(context: Context, launcher: Launcher) -> None:
    context.answer(context.send(), usage(1000, 900))
    launcher.addon.done()
    headline, report = launcher.heard()
    assert headline.startswith("hit rate 90%, 900 of 1,000 prompt tokens; 1 request;")
    assert report == f"report: {launcher.report}"
    assert "90" in launcher.report.read_text("utf-8")
    assert launcher.report.stat().st_mode & 0o777 == 0o600


def test_a_report_that_cannot_be_written(context: Context, launcher: Launcher) -> None:
    context.answer(context.send(), usage(1000, 900))
    launcher.report.touch()
    launcher.addon.done()
    assert launcher.heard()[1].startswith("no report: ")


@pytest.fixture
def started(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """Let `main` find the task on standard input."""
    given = json.dumps(launcher.task._replace(arguments=["--mode", MODE])._asdict())
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr(proxy_main, "task", None)
    handlers = [*logging.getLogger().handlers]
    yield launcher
    logging.getLogger().handlers = handlers


def test_main_runs_mitmdump_for_the_task(
    started: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(
        proxy_main,
        "mitmdump",
        lambda arguments: ran.append((arguments, proxy_main.task, sys.argv[0])),
    )
    proxy_main.main()
    ((arguments, task, name),) = ran
    assert (arguments, name) == (["--mode", MODE], "mitmdump")
    assert task == started.task._replace(arguments=arguments)
    assert sys.stdout.line_buffering


def test_main_tells_the_launcher_the_first_error(
    started: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[str]) -> None:
        logging.getLogger("any").error("bad %s", "option")
        logging.getLogger("any").error("and more")
        sys.exit(1)

    monkeypatch.setattr(proxy_main, "mitmdump", fail)
    with pytest.raises(SystemExit):
        proxy_main.main()
    assert started.heard() == ["bad option"]
