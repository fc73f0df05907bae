"""Start a proxy, run Claude Code through it, and say at the end what came of it."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from prompt_cache_key.launcher import LaunchError, client
from prompt_cache_key.launcher.arguments import Arguments, parse, reason_without_proxy
from prompt_cache_key.launcher.claude_settings import ClaudeSettings, read_settings
from prompt_cache_key.launcher.files import (
    LOG,
    TEMPORARY,
    authorities,
    new_folder,
    write_bundle,
    write_private,
)
from prompt_cache_key.launcher.plan import CERTIFICATES, HOST, Plan, plan
from prompt_cache_key.launcher.proxy_process import ProxyProcess
from prompt_cache_key.launcher.task import Task

_TRUSTED = "ssl_verify_upstream_trusted_ca"
_SCRIPT = Path(__file__).parents[1] / "script.py"


def launch(given: Sequence[str], process: Mapping[str, str]) -> int | str:
    """Run Claude Code for these arguments and variables; return the exit status, or an error."""
    try:
        arguments = parse(given)
        program = shutil.which("claude", path=process.get("PATH"))
        if not program:
            return _error("no `claude` on PATH; install Claude Code, or add its folder to PATH")
        settings = read_settings(arguments.claude, process, Path.cwd())
        environment = settings.environment(process)
        if reason := reason_without_proxy(arguments.claude, environment):
            _say([f"{reason}: Claude Code runs without the proxy"])
            os.execve(program, [program, *arguments.claude], process)  # noqa: S606
        plan_ = plan(arguments, settings, environment)
        return _run(program, plan_, arguments, settings, process)
    except (LaunchError, OSError) as e:
        return _error(str(e))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(
    program: str,
    plan_: Plan,
    arguments: Arguments,
    settings: ClaudeSettings,
    process: Mapping[str, str],
) -> int:
    extra = settings.environment(process).get(CERTIFICATES, "")
    _handle(client.PASSED_ON, _exit)
    with new_folder() as folder:
        log, temporary = folder / LOG, folder / TEMPORARY
        proxy = ProxyProcess(log)
        try:
            ready = proxy.start(_task(plan_, arguments, folder, extra))
            variables = plan_.variables(ready.port)
            if not plan_.is_reverse:
                accepted = [ready.certificate, extra]
                variables[CERTIFICATES] = write_bundle(temporary / "accepted.pem", accepted)
            path = temporary / "settings.json"
            write_private(path, json.dumps(settings.merged(variables)).encode())
            command = [program, "--settings", str(path), *plan_.claude]
            # A user who presses Ctrl-C until Claude Code ends may press Ctrl-C once too often.
            _handle((signal.SIGINT,), lambda *_: None)
            status = client.run(command, {**process, **variables}, proxy.life)
        finally:
            lines = proxy.end()
        _say([*lines, f"log: {log}"])
        return status


def _task(plan_: Plan, arguments: Arguments, folder: Path, extra: str) -> Task:
    mode = f"{plan_.mode}@{HOST}:0"
    options = plan_.options
    if not any(option.startswith(f"{_TRUSTED}=") for option in options):
        trusted = write_bundle(folder / TEMPORARY / "trusted.pem", authorities(extra))
        options = (f"{_TRUSTED}={trusted}", *options)
    mitmdump = ["--listen-host", HOST, "-s", str(_SCRIPT)]
    for each in (mode, *arguments.modes):
        mitmdump += ["--mode", each]
    for each in options:
        mitmdump += ["--set", each]
    return Task(mitmdump, mode, str(folder), arguments.is_stable)


def _error(message: str) -> str:
    return f"claude-prompt-cache: {message}"


def _handle(numbers: Iterable[int], handler: Callable[[int, Any], object]) -> None:
    """Handle signals, but for those that are ignored, as under nohup."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _say(lines: Iterable[str]) -> None:
    with suppress(OSError):  # the terminal may have gone
        sys.stderr.write("claude-prompt-cache: " + "\n  ".join(lines) + "\n")
        sys.stderr.flush()
