import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.connection import Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test.tflow import tflow
from mitmproxy.tools import cmdline
from prompt_cache_key.launcher import proxy_main
from prompt_cache_key.launcher.files import REPORT, TEMPORARY
from prompt_cache_key.launcher.proxy_main import Problems, Supervised
from prompt_cache_key.launcher.task import Task
from unit.context import Context, usage

MODE = "regular@127.0.0.1:0"


class Launcher:
    """The launcher's side of a proxy's pipes."""

    def __init__(self, context: Context, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read, self.write = os.pipe()
        self.their_life, self.life = os.pipe()
        self.report = folder / REPORT
        self.temporary = folder / TEMPORARY
        self.temporary.mkdir()
        self.task = Task(
            ["--set", "listen_port=0", "--set", "prompt_cache_nonsense=1"],
            MODE,
            str(folder),
            is_stable=False,
            to_launcher=self.write,
            life=self.their_life,
        )
        self.problems = Problems()
        self.addon = Supervised(self.task, self.problems)
        self._context = context
        self._monkeypatch = monkeypatch
        proxyserver: Any = context.master.addons.get("proxyserver")
        proxyserver.servers = [
            SimpleNamespace(
                listen_addrs=[("127.0.0.1", port)], mode=SimpleNamespace(full_spec=mode)
            )
            for port, mode in ((8082, "regular@8082"), (4321, MODE))
        ]
        context.options.confdir = str(folder)

    async def start(self) -> asyncio.Event:
        """Let the proxy have started; return what is set when the proxy is to end."""
        ended = asyncio.Event()
        self._monkeypatch.setattr(self._context.master, "event_loop", asyncio.get_running_loop())
        self._monkeypatch.setattr(self._context.master, "shutdown", ended.set)
        self.addon.running()
        return ended

    def heard(self) -> list[str]:
        return os.read(self._read, 1 << 16).decode().splitlines()

    def close(self) -> None:
        for each in (self._read, self.write, self.their_life, self.life):
            os.close(each)


@pytest.fixture
def launcher(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Launcher]:
    made = Launcher(context, tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def running(launcher: Launcher) -> Launcher:
    asyncio.run(launcher.start())
    launcher.heard()
    return launcher


def test_it_says_where_it_listens_and_ends_with_life(launcher: Launcher, tmp_path: Path) -> None:
    async def live() -> None:
        ended = await launcher.start()
        certificate = str(tmp_path / "mitmproxy-ca-cert.pem")
        assert json.loads(launcher.heard()[0]) == {"port": 4321, "certificate": certificate}
        # As if launcher and Claude Code had both ended.
        os.dup2(launcher.write, launcher.life)
        await ended.wait()

    asyncio.run(live())
    assert not launcher.temporary.exists()


def test_nothing_is_said_of_a_start_that_failed(launcher: Launcher) -> None:
    launcher.problems.handle(logging.makeLogRecord({"levelno": logging.ERROR, "msg": "no port"}))
    asyncio.run(launcher.start())
    launcher.addon.done()
    launcher.task.tell(["the end"])
    assert launcher.heard() == ["the end"]


def test_an_unknown_option_is_an_error(
    context: Context, launcher: Launcher, log: Callable[[], list[str]]
) -> None:
    context.options.deferred["prompt_cache_nonsense"] = ["1"]
    context.options.deferred["of_config_yaml"] = ["1"]
    asyncio.run(launcher.start())
    assert log() == ["ERROR [prompt-cache] unknown option prompt_cache_nonsense"]


def test_without_requests_there_is_no_report(running: Launcher) -> None:
    running.addon.done()
    assert running.heard()[0] == "no request came through this proxy"
    assert not running.report.exists()


def test_a_gateway_that_cannot_be_reached(running: Launcher) -> None:
    server = Server(address=("127.0.0.1", 9))
    server.error = "refused"
    running.addon.server_connect_error(ServerConnectionHookData(server, tflow().client_conn))
    running.addon.done()
    assert running.heard() == ['no connection to "127.0.0.1:9: refused"']


def test_warnings_are_counted(running: Launcher) -> None:
    for _ in range(2):
        running.problems.handle(logging.makeLogRecord({"levelno": logging.WARNING}))
    running.addon.done()
    assert running.heard()[-1] == "2 warnings in the log"


def test_summary_and_report(context: Context, running: Launcher) -> None:
    context.answer(context.send(), usage(1000, 900))
    running.addon.done()
    headline, *_, report = running.heard()
    assert headline == "hit rate 90%, 900 of 1,000 prompt tokens; 1 request"
    assert report == f"report: {running.report}"
    assert "90" in running.report.read_text("utf-8")
    assert running.report.stat().st_mode & 0o777 == 0o600


def test_a_report_that_cannot_be_written(context: Context, running: Launcher) -> None:
    context.answer(context.send(), usage(1000, 900))
    running.report.touch()
    running.addon.done()
    assert running.heard()[-1].startswith("no report: ")


@pytest.fixture
def started(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """Let `main` find the task on standard input."""
    given = json.dumps(launcher.task._replace(arguments=["--mode", MODE])._asdict())
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr(proxy_main, "DumpMaster", lambda _: SimpleNamespace(addons=set()))
    handlers = [*logging.getLogger().handlers]
    yield launcher
    logging.getLogger().handlers = handlers


def test_main_runs_mitmdump_for_the_task(
    started: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(proxy_main, "run", lambda *arguments: ran.append((*arguments, sys.argv[0])))
    proxy_main.main()
    ((make, parser, arguments, name),) = ran
    assert (parser, arguments, name) == (cmdline.mitmdump, ["--mode", MODE], "mitmdump")
    (addon,) = make(None).addons
    addon.done()
    started.task.tell(["nothing else"])
    assert started.heard() == ["nothing else"]
    assert sys.stdout.line_buffering


def test_main_tells_the_launcher_the_first_error(
    started: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        logging.getLogger("any").error("[prompt-cache] bad %s", "option")
        logging.getLogger("any").error("and more")
        sys.exit(1)

    monkeypatch.setattr(proxy_main, "run", fail)
    with pytest.raises(SystemExit):
        proxy_main.main()
    assert started.heard() == ["bad option"]
