"""Make the pictures and captures in docs/ again, from real runs.

Recorded sessions go through mitmweb, looked at in Chromium, and through mitmproxy in tmux, with the
stand-in of `lib` as their upstream and on the virtual clock of the demo.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import demo
from lib import LOOPBACK, ROOT, TIMEOUT, free_port
from lib.client import Client
from lib.mitmdump import MitmdumpError
from lib.server import Server
from lib.sessions import calls, unlucky_calls
from lib.stand_in import StandIn
from PIL import Image
from prompt_cache_key.cli import proxy_arguments
from prompt_cache_key.report import command as report

DOCS = ROOT / "docs"
CAPTURES = DOCS / "screen.md"
COLUMNS = 100
SECONDS = 5
"""For how long the lucky sessions are played."""

PASSWORD = "pictures"  # noqa: S105  # of a mitmweb that nobody else can reach
WEB, PAGE, PHONE = (1400, 860), (1280, 1120), (400, 1500)
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-lcd-text",
]
# Without it mitmweb has no flows yet. With it a page that refreshes itself would never be ready.
PATIENT = "--virtual-time-budget=4000"


class PicturesError(Exception):
    """What went wrong, in words for the one who makes the pictures."""


class Terminal:
    """A terminal of `COLUMNS` in which a command runs, in tmux; a context manager."""

    def __init__(self, home: Path, command: list[str]) -> None:
        self._env = {"HOME": str(home), "TMUX_TMPDIR": str(home), "LANG": "C.UTF-8"}
        self._env |= {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}
        self._command = command

    def __enter__(self) -> Self:
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", str(COLUMNS), *self._command)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(PicturesError):  # as when the command has ended
            self._tmux("kill-server")

    def show(self, rows: int, pattern: str, *keys: str) -> str:
        """Press keys, each a text or a name as tmux has it; return what is shown then.

        That is waited for until some of its text matches and it has come to rest.
        """
        self._tmux("resize-window", "-y", str(rows))
        self._tmux("send-keys", *keys)
        deadline, before = time.monotonic() + TIMEOUT, ""
        while True:
            shown = self._tmux("capture-pane", "-p")
            if shown == before and re.search(pattern, shown):
                return "\n".join(line.rstrip() for line in shown.rstrip().split("\n"))
            if time.monotonic() > deadline:
                raise PicturesError(f"the terminal does not show {pattern!r}:\n{shown}")
            before = shown
            time.sleep(0.5)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", *arguments], env=self._env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PicturesError(f"tmux: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def played(tool: str, home: Path, *arguments: str) -> Iterator[tuple[Terminal, int]]:
    """Play sessions through a tool of mitmproxy's, then yield its terminal and its port."""
    script, port, stand_in = home / "virtual.py", free_port(), StandIn()
    script.write_text(demo.SCRIPT + demo.WITH_ADDON)
    turns = [(call, demo.OLD) for call in calls(SECONDS)]
    turns += [(call, demo.UNLUCKY) for call in unlucky_calls()]
    turns.sort(key=lambda turn: turn[0].at)
    start = time.time() - turns[-1][0].at
    with Server(stand_in.respond) as server:
        command = [str(Path(sys.executable).with_name(tool)), "-s", str(script), *arguments]
        command += ["--listen-host", LOOPBACK, "-p", str(port), "--mode", f"upstream:{server.url}"]
        with Terminal(home, command) as terminal:
            wait_for(port)
            with Client(port) as client:
                for call, model in turns:
                    demo.play_call(client, stand_in, call, model, start)
            yield terminal, port


def wait_for(port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            socket.create_connection((LOOPBACK, port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise PicturesError("mitmproxy does not start") from None
            time.sleep(0.1)
        else:
            return


def ask(port: int, target: str) -> Any:
    """Return the JSON that a listener of this machine answers with."""
    with Client(port) as client:
        return json.loads(client.send("GET", target, [("Host", f"{LOOPBACK}:{port}")]).body)


def take(home: Path, name: str, url: str, size: tuple[int, int], *flags: str) -> None:
    """Take a picture of a page."""
    picture, (width, height) = DOCS / f"{name}.png", size
    command = [*CHROMIUM, *flags, f"--user-data-dir={home}/chromium", f"--screenshot={picture}"]
    picture.unlink(missing_ok=True)
    done = subprocess.run(
        [*command, f"--window-size={width},{height}", url],
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    if not picture.exists():
        raise PicturesError(f"Chromium took no picture of {name}:\n{done.stderr[-1000:]}")
    with Image.open(picture) as taken:  # a screen has few colours
        taken.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes")


def browse(home: Path) -> None:
    """Take the pictures of mitmweb, the live page and the report."""
    flows, web_port = home / "demo.flows", free_port()
    columns = [each for each in proxy_arguments("mitmweb", ()) if each.startswith("web_columns=")]
    options = [*columns, f"web_port={web_port}", "web_open_browser=false"]
    options += [f"web_password={PASSWORD}"]
    arguments = [word for option in options for word in ("--set", option)]
    with played("mitmweb", home, "-w", str(flows), *arguments) as (_, port):
        found = ask(web_port, f"/flows?token={PASSWORD}")
        (lost,) = (each["id"] for each in found if "tools reordered" in each["comment"])
        web = f"http://{LOOPBACK}:{web_port}/?token={PASSWORD}#/flows"
        take(home, "mitmweb", f"{web}/{lost}/request", WEB, PATIENT)
        page = f"http://{LOOPBACK}:{port}/prompt-cache"
        take(home, "live-light", page, PAGE)
        take(home, "live-dark", page, PAGE, "--blink-settings=preferredColorScheme=0")
        take(home, "live-phone", page, PHONE)
    report.main([str(flows), "-o", str(home / "report.html")])
    take(home, "report", (home / "report.html").as_uri(), PAGE)


def captures(home: Path) -> Iterator[tuple[str, str]]:
    """Yield what mitmproxy shows, each with its heading in the document."""
    with played("mitmproxy", home) as (terminal, _):
        yield "The flow list", terminal.show(27, r"\[(\d\d)/\1\]", "G")
        table = terminal.show(15, "main cause", ":promptcache.sessions", "Enter")
        yield "promptcache.sessions", table
        terminal.show(46, r"\[1/1\]", "q", "f", '~comment "tools reordered"', "Enter")
        yield "The Prompt view", terminal.show(46, "read from the cache", "Enter")


def replaced(text: str, heading: str, shown: str) -> str:
    """Return a document with another capture under a heading."""
    block = re.compile(
        rf"(\n## {re.escape(heading)}\n(?:(?!\n## ).)*?```text\n).*?(?=```)", re.DOTALL
    )
    made, count = block.subn(lambda found: f"{found[1]}{shown}\n", text, count=1)
    if not count:
        raise PicturesError(f"the document has no capture under {heading!r}")
    return made


def main() -> None:
    """Make them all; end with a message and status 1 if that cannot be done."""
    argparse.ArgumentParser(
        description="Make the pictures and captures in docs/ again."
    ).parse_args()
    if missing := [each for each in ("chromium", "tmux") if not shutil.which(each)]:
        sys.exit(f"pictures: needs {' and '.join(missing)}: apt install {' '.join(missing)}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            browse(Path(folder))
            for capture in captures(Path(folder)):
                CAPTURES.write_text(replaced(CAPTURES.read_text("utf-8"), *capture), "utf-8")
    except (
        PicturesError,
        demo.DemoError,
        MitmdumpError,
        OSError,
        subprocess.TimeoutExpired,
    ) as error:
        sys.exit(f"pictures: {str(error) or repr(error)}")


if __name__ == "__main__":
    main()
