"""Run the proxy's process: mitmdump with the addon, for one Claude Code."""

import json
import logging
import sys
from pathlib import Path

from mitmproxy import ctx
from mitmproxy.options import Options
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tools import cmdline
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.tools.main import run
from mitmproxy.utils import human

from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.launcher.files import REPORT, remove_temporary, write_private
from prompt_cache_key.launcher.summary import summary
from prompt_cache_key.launcher.task import Ready, Task
from prompt_cache_key.log import log, text
from prompt_cache_key.report.page import page
from prompt_cache_key.stats.money import load
from prompt_cache_key.stats.report import report_of


class Problems(logging.Handler):
    """Keeps the first error, for which mitmproxy ends at start-up, and counts warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first_error = ""
        self.warnings = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a warning, or keep the message of an error."""
        if record.levelno < logging.ERROR:
            self.warnings += 1
        else:
            self.first_error = self.first_error or record.getMessage()


class Supervised:
    """The addon of a proxy that a launcher has started: says where it listens, sums up, ends."""

    def __init__(self, task: Task, problems: Problems) -> None:
        self._task = task
        self._problems = problems
        self._has_started = False
        self._unreachable = ""

    def running(self) -> None:
        """Tell the launcher the port, and end when launcher and Claude Code have ended."""
        ctx.master.event_loop.add_reader(self._task.life, self._end)
        given = {argument.partition("=")[0] for argument in self._task.arguments}
        for name in given.intersection(ctx.options.deferred):
            log(logging.ERROR, f"unknown option {text(name)}")  # mitmproxy ends for an error
        # All other addons have run by now.
        if not self._problems.first_error:
            self._tell_port()

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        """Keep why a connection failed."""
        where = human.format_address(data.server.address)
        self._unreachable = f"{where}: {data.server.error}"

    def done(self) -> None:
        """Write the report, and tell the launcher the summary."""
        if not self._has_started:
            return
        addon: PromptCacheKey = ctx.master.addons.get(PromptCacheKey.__name__.lower())
        state = addon.state
        sums, skipped = state.sessions.total, state.skipped.total()
        is_stable = self._task.is_stable
        lines = [*summary(sums, skipped, unreachable=self._unreachable, is_stable=is_stable)]
        if warnings := self._problems.warnings:
            lines.append(f"{warnings} warning{'s'[: warnings != 1]} in the log")
        if sums.requests:
            try:
                report = report_of("Claude Code", state.recent(), prices=load())
                content = page(report).encode(errors="replace")
                write_private(path := Path(self._task.folder) / REPORT, content)
                lines.append(f"report: {path}")
            except OSError as e:
                lines.append(f"no report: {e}")
        self._task.tell(lines)

    def _tell_port(self) -> None:
        self._has_started = True
        servers = ctx.master.addons.get("proxyserver").servers
        (server,) = (each for each in servers if each.mode.full_spec == self._task.mode)
        certificate = Path(ctx.options.confdir).expanduser().absolute() / "mitmproxy-ca-cert.pem"
        ready = Ready(server.listen_addrs[0][1], str(certificate))
        self._task.tell([json.dumps(ready._asdict())])

    def _end(self) -> None:
        ctx.master.event_loop.remove_reader(self._task.life)
        remove_temporary(Path(self._task.folder))  # the launcher may have been killed
        ctx.master.shutdown()


def main() -> None:
    """Run mitmdump for the task on standard input."""
    task = Task(**json.load(sys.stdin))
    sys.argv[0] = "mitmdump"  # the name in its messages
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is the log file
    logging.getLogger().addHandler(problems := Problems())

    def make(options: Options) -> DumpMaster:
        master = DumpMaster(options)
        master.addons.add(Supervised(task, problems))
        return master

    try:
        run(make, cmdline.mitmdump, task.arguments)  # type: ignore[arg-type]  # called like a class
    except SystemExit:
        task.tell([problems.first_error.removeprefix("[prompt-cache] ")])
        raise
