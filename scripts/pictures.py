"""Make the pictures and captures in docs/ again, from real runs.

Real Claude Codes (CLAUDE_CODE names the program) go through mitmweb, looked at in Chromium, and
through mitmproxy in tmux, to a stand-in of a gateway.
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

from lib import ADDON, LOOPBACK, ROOT, TIMEOUT, free_port
from lib.claude_code import run_claude_code
from lib.client import Client
from lib.gateway import Gateway, Step, call, say
from lib.server import Server
from PIL import Image
from prompt_cache_key.cli import proxy_arguments
from prompt_cache_key.live_page import page_file
from prompt_cache_key.report import command as report

DOCS = ROOT / "docs"
CAPTURES = DOCS / "screen.md"
COLUMNS = 100
CAUSE = "tool search loaded"
"""The cause of the miss that is shown."""

PROJECTS = {
    "ff856cd8-58cc-4691-b4c0-bd1020ede5a9": "shop",
    "b827d662-4f0b-4e6a-9a3c-52f2a1f0c7de": "shop",
    "90474187-3f1d-4b7e-8d6a-1c0e5b9a7f24": "wiki",
}
PROMPTS = "Why do some orders have no invoice?", "Fix it, and tell the team"
FUNCTION = "def total_of_{name}_{number}(items):\n    return sum(item.price for item in items)\n\n"
FILES = {
    "README.md": "# The shop\n\nOrders become invoices, once a night.\n" * 60,
    "orders.py": "".join(FUNCTION.format(name="order", number=at) for at in range(110)),
    "invoices.py": "".join(FUNCTION.format(name="invoice", number=at) for at in range(70)),
}


def read(name: str) -> Step:
    """Return the call of Claude Code's tool that shows a file."""
    return call("Bash", command=f"cat {name}", description=f"Show {name}")


AGENT = {"subagent_type": "general-purpose", "run_in_background": False}
AGENT_STEPS = [read("README.md"), read("invoices.py"), say("Invoices are made from orders.")]
FEW_STEPS = [read("README.md"), read("orders.py"), say("Orders without a date have none.")]
STEPS = dict.fromkeys(PROJECTS, FEW_STEPS) | {
    next(iter(PROJECTS)): [
        read("README.md"),
        read("orders.py"),
        call("Agent", description="Look into invoices", prompt="How are invoices made?", **AGENT),
        call("ToolSearch", query="select:CronList,Monitor", max_results=5),
        read("invoices.py"),
        say("Orders without a date have none."),
        read("orders.py")._replace(is_evicted=True),
        call("Bash", command="date >> README.md", description="Note the date"),
        say("Done."),
    ]
}
"""What the gateway answers: one session looks for tools, is resumed, and is evicted."""

PASSWORD = "pictures"  # noqa: S105  # of a mitmweb that nobody else can reach
WEB, PAGE, PHONE = (1700, 1200), (1280, 1150), (400, 1500)
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
    """Run Claude Code through a tool of mitmproxy's, then yield its terminal and its port."""
    gateway = Gateway(STEPS, AGENT_STEPS)
    port = free_port()
    with Server(gateway.respond) as server:
        command = [str(Path(sys.executable).with_name(tool)), "-s", str(ADDON), *arguments]
        command += ["--mode", f"reverse:{server.url}", "--set", "connection_strategy=lazy"]
        command += ["--listen-host", LOOPBACK, "-p", str(port)]
        with Terminal(home, command) as terminal:
            wait_for(port)
            settings = {"ANTHROPIC_BASE_URL": f"http://{LOOPBACK}:{port}"}
            for session, project in PROJECTS.items():
                folder = home / project
                folder.mkdir(exist_ok=True)
                for name, text in FILES.items():
                    (folder / name).write_text(text)
                run_claude_code(session, PROMPTS[0], settings, folder)
            session, project = next(iter(PROJECTS.items()))
            run_claude_code(session, PROMPTS[1], settings, home / project, resumes=True)
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
    flows, web_port = home / "pictures.flows", free_port()
    columns = [each for each in proxy_arguments("mitmweb", ()) if each.startswith("web_columns=")]
    options = [*columns, f"web_port={web_port}", "web_open_browser=false"]
    options += [f"web_password={PASSWORD}"]
    arguments = [word for option in options for word in ("--set", option)]
    with played("mitmweb", home, "-w", str(flows), *arguments) as (_, port):
        found = ask(web_port, f"/flows?token={PASSWORD}")
        (missed,) = (each["id"] for each in found if CAUSE in each["comment"])
        web = f"http://{LOOPBACK}:{web_port}/?token={PASSWORD}#/flows"
        take(home, "mitmweb", f"{web}/{missed}/request", WEB, PATIENT)
        base_url = {"ANTHROPIC_BASE_URL": f"http://{LOOPBACK}:{port}"}
        page = page_file.find(home / ".mitmproxy", base_url)
        if not page:
            raise PicturesError("the live page is not found")
        take(home, "live-light", page, PAGE)
        take(home, "live-dark", page, PAGE, "--blink-settings=preferredColorScheme=0")
        take(home, "live-phone", page, PHONE)
    report.main([str(flows), "-o", str(home / "report.html")])
    take(home, "report", (home / "report.html").as_uri(), PAGE)


def captures(home: Path) -> Iterator[tuple[str, str]]:
    """Yield what mitmproxy shows, each with its heading in the document."""
    with played("mitmproxy", home) as (terminal, _):
        yield "The flow list", terminal.show(24, r"\[(\d\d)/\1\]", "G")
        table = terminal.show(14, "main cause", ":promptcache.sessions", "Enter")
        yield "promptcache.sessions", table
        terminal.show(46, r"\[1/1\]", "q", "f", f'~comment "{CAUSE}"', "Enter")
        shown = terminal.show(80, "tokens: estimated", "Enter")
        # Of the 22 headers one will do.
        shown = re.sub(
            r"(?<=\nAccept: )( +).*?(?=\nPrompt )", r"\1application/json\n…", shown, flags=re.DOTALL
        )
        yield "The Prompt view", re.sub(r"\n{3,}", "\n\n", shown)


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
    if "CLAUDE_CODE" not in os.environ:
        sys.exit("pictures: needs Claude Code: CLAUDE_CODE=PATH scripts/pictures")
    try:
        with tempfile.TemporaryDirectory() as folder:
            browse(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            for capture in captures(Path(folder)):
                CAPTURES.write_text(replaced(CAPTURES.read_text("utf-8"), *capture), "utf-8")
    except (PicturesError, AssertionError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"pictures: {str(error) or repr(error)}")


if __name__ == "__main__":
    main()
