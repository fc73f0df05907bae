"""The command `claude-prompt-cache`: the proxy with the addon, the report, the status line."""

import argparse
import os
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from pathlib import Path
from urllib.parse import urlencode

from prompt_cache_key.status_line import listener_of, session_of, status

TOOLS = ("mitmdump", "mitmproxy", "mitmweb")

HELP = """\
usage: claude-prompt-cache [mitmdump|mitmproxy|mitmweb] [options]
       claude-prompt-cache report FILE [options]
       claude-prompt-cache status [options]

The first runs mitmproxy's tool with the addon, on 127.0.0.1:8080 unless the options, which are the
tool's own, say otherwise:
  claude-prompt-cache --mode reverse:http://YOUR-GATEWAY
  ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude

report  write a page that says what saved flows got from the prompt cache, and why not more
status  print a line for Claude Code's status line, if such a proxy runs

Each has a --help of its own, as has: claude-prompt-cache mitmdump --help"""

TIMEOUT = 0.5
"""Seconds to wait for the proxy: a status line has to be there at once, or not at all."""

MAX_SIZE = 8 << 20
"""Bytes of an answer that are read."""

# mitmweb's own, and the comment behind them, where it is apart from its neighbours.
_COLUMNS = ("tls", "icon", "path", "method", "status", "size", "time", "comment")

_SCRIPT = Path(__file__).parent / "script.py"


def main(arguments: Sequence[str] | None = None) -> int | str | None:
    """Do what the arguments say; return what `sys.exit` takes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("", [])
    if name in ("-h", "--help"):
        print(HELP)  # noqa: T201
    elif name == "status":
        if line := _status(rest):
            print(line)  # noqa: T201
    elif name == "report":
        # Not imported above: a status line can't wait for all of mitmproxy.
        import_module("prompt_cache_key.report.command").main(rest)
    elif name == "claude":
        from prompt_cache_key.launcher.launch import launch  # noqa: PLC0415

        return launch(rest, os.environ)
    elif name in TOOLS:
        _run(name, rest)
    elif not name or name.startswith("-"):
        _run(TOOLS[0], given)
    else:
        return f"claude-prompt-cache: {name} is none of {', '.join(TOOLS)}, report, status"
    return None


def proxy_arguments(tool: str, given: Sequence[str]) -> list[str]:
    """Return the arguments for one of mitmproxy's tools: ours, and those that were given."""
    ours = ["--listen-host", "127.0.0.1", "-s", str(_SCRIPT)]
    # A list is added to, not replaced, by one more --set. What the user's config.yaml has wins.
    if tool == "mitmweb" and not any("web_columns" in each for each in given):
        for column in _COLUMNS:
            ours += ["--set", f"web_columns={column}"]
    return [*ours, *given]


def _run(tool: str, given: Sequence[str]) -> None:
    getattr(import_module("mitmproxy.tools.main"), tool)(proxy_arguments(tool, given))


def _status(given: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(
        prog="claude-prompt-cache status",
        description="Print what a session got from the prompt cache in one line: that of the JSON "
        "on standard input, as Claude Code gives it to status-line commands; on a terminal, all.",
    )
    help_ = "where the proxy listens (default: as ANTHROPIC_BASE_URL or HTTPS_PROXY say, or 8080)"
    parser.add_argument("--port", type=int, help=help_)
    help_ = "its option prompt_cache_page (default: %(default)s)"
    parser.add_argument("--page", default="/prompt-cache", help=help_)
    options = parser.parse_args(given)
    host, port = listener_of(os.environ)
    query = ""
    if not sys.stdin.isatty():
        if not (session := session_of(sys.stdin.buffer.read(MAX_SIZE))):
            return ""
        query = "?" + urlencode({"session": session}, errors="replace")
    return status(_get(host, options.port or port, f"{options.page}.json{query}"))


def _get(host: str, port: int, path: str) -> bytes:
    """Return what is there, without a proxy; b"" if nothing is."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(MAX_SIZE)
    except (OSError, HTTPException, ValueError):
        return b""
    finally:
        connection.close()
