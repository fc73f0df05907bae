"""Run the command `claude-prompt-cache`: proxy, Claude Code, report, status line."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from prompt_cache_key import __version__
from prompt_cache_key.live_page import page_file
from prompt_cache_key.status_line import session_of, status

TOOLS = ("mitmdump", "mitmproxy", "mitmweb")

HELP = """\
usage: claude-prompt-cache claude [--to URL] [--stable] [--set NAME=VALUE] [--mode MODE] [--] …
       claude-prompt-cache [mitmdump|mitmproxy|mitmweb] [options]
       claude-prompt-cache report FILE [options]
       claude-prompt-cache status [options]
       claude-prompt-cache --version

claude  run Claude Code through a proxy of its own; what follows are Claude Code's arguments
  --to URL          the gateway (default: what Claude Code's settings and environment say)
  --stable          set Claude Code's switches that keep the beginning of a prompt unchanged
  --set NAME=VALUE  an option of the addon or of mitmproxy; may be repeated
  --mode MODE       one more listener, as for a translator's calls; may be repeated:
                    --mode reverse:https://api.openai.com@8082

mitmdump, mitmproxy, mitmweb
        run the tool with the addon, on 127.0.0.1:8080 unless its own options say otherwise:
        claude-prompt-cache --mode reverse:http://YOUR-GATEWAY
        Where each --mode is reverse, the gateway is connected to when a request needs it
        (connection_strategy=lazy).

report  write a page that says what saved flows read from the prompt cache, and what they missed
status  print a line for Claude Code's status line, if such a proxy runs

The last two and the tools have a --help of their own."""

TIMEOUT = 0.5
"""Seconds to wait for the proxy: a status line has to be there at once, or not at all."""

MAX_SIZE = 8 << 20
"""Bytes of an answer that are read."""

# mitmweb's own, and the comment behind them, where it is apart from its neighbours.
_COLUMNS = ("tls", "icon", "path", "method", "status", "size", "time", "comment")

_MITMWEB_FIXED = (11, 1, 2)

_SCRIPT = Path(__file__).parent / "script.py"


def main(arguments: Sequence[str] | None = None) -> int | str | None:
    """Do what the arguments say; return what `sys.exit` takes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("", [])
    if name in ("-h", "--help"):
        print(HELP)  # noqa: T201
    elif name == "claude":
        if sys.platform == "win32":
            return "claude-prompt-cache: `claude` needs Linux, macOS or WSL; start the proxy alone"
        # Not imported above, like the tools below: a status line can't wait for all of mitmproxy.
        from prompt_cache_key.launcher.launch import launch  # noqa: PLC0415

        return launch(rest, os.environ)
    elif name == "status":
        if line := _status(rest):
            print(line)  # noqa: T201
    elif name == "report":
        import_module("prompt_cache_key.report.command").main(rest)
    elif name in TOOLS:
        _run(name, rest)
    elif not name or name.startswith("-"):
        _run(TOOLS[0], given)
    else:
        names = ", ".join(("claude", *TOOLS, "report", "status"))
        return f"claude-prompt-cache: {name!r} is not one of {names}; see --help"
    return None


def proxy_arguments(tool: str, given: Sequence[str]) -> list[str]:
    """Return the arguments for one of mitmproxy's tools: ours, and those that were given."""
    ours = ["--listen-host", "127.0.0.1", "-s", str(_SCRIPT)]
    modes = _modes(given)
    are_reverse = modes and all(mode.startswith("reverse:") for mode in modes)
    # mitmproxy ends where an option is given twice; the user's config.yaml wins over any --set.
    if are_reverse and not any("connection_strategy" in each for each in given):
        ours += ["--set", "connection_strategy=lazy"]
    # Not replaced but added to by one more --set.
    if tool == "mitmweb" and not any("web_columns" in each for each in given):
        for column in _COLUMNS:
            ours += ["--set", f"web_columns={column}"]
    return [*ours, *given]


def warning(tool: str, mitmproxy_version: str) -> str:
    """Return what the user should know of a tool of this version before it starts, or ""."""
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", mitmproxy_version)[:3])
    if tool != "mitmweb" or numbers >= _MITMWEB_FIXED:
        return ""
    return (
        f"mitmweb {mitmproxy_version} has a known vulnerability (CVE-2025-23217); "
        "mitmproxy 11.1.2 fixes it and needs Python 3.12 or newer"
    )


def _modes(given: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--mode", action="append", default=[])
    modes: list[str] = parser.parse_known_args(given)[0].mode
    return modes


def _run(tool: str, given: Sequence[str]) -> None:
    if "--version" in given:
        print(f"claude-prompt-cache: {__version__}")  # noqa: T201
    # A file or a pipe would else get the log a block at a time.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if words := warning(tool, import_module("mitmproxy.version").VERSION):
        sys.stderr.write(f"claude-prompt-cache: {words}\n")
    try:
        getattr(import_module("mitmproxy.tools.main"), tool)(proxy_arguments(tool, given))
    except BrokenPipeError:  # as in: claude-prompt-cache --options | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status(given: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(
        prog="claude-prompt-cache status",
        description="Print what a session read from the prompt cache in one line: the session of "
        "the JSON on standard input, as Claude Code gives it to status-line commands; on a "
        "terminal, all sessions.",
    )
    help_ = "mitmproxy's confdir, in which the proxy says where its page is (default: %(default)s)"
    parser.add_argument("--confdir", type=Path, default=Path("~/.mitmproxy"), help=help_)
    folder = parser.parse_args(given).confdir.expanduser()
    url = page_file.find(folder, os.environ)
    if sys.stdin.isatty():
        return _status_of_all(url, folder)
    handed = sys.stdin.buffer.read(MAX_SIZE)
    if not (session := session_of(handed)):
        return ""
    query = urlencode({"session": session}, errors="replace")
    return status(_get(f"{url}facts.json?{query}") if url else b"", handed)


def _status_of_all(url: str | None, folder: Path) -> str:
    """Return the line for a terminal, where a reader wants to know why there are no numbers."""
    if not url:
        count = len(page_file.running(folder))
        several = f"{count} proxies run; ANTHROPIC_BASE_URL or HTTPS_PROXY chooses one"
        return several if count else f"no proxy runs (looked in {folder})"
    if not (answer := _get(f"{url}facts.json")):
        return f"no proxy at {urlsplit(url).netloc}"
    return status(answer) or f"no request yet at {urlsplit(url).netloc}"


def _get(url: str) -> bytes:
    """Return what the proxy on this machine answers; b"" if nothing does."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
        return connection.getresponse().read(MAX_SIZE)
    except (OSError, HTTPException, ValueError):
        return b""
    finally:
        connection.close()
