"""A real claude-code-router, the cheapest real translator to test and compare with."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lib import LOOPBACK, TIMEOUT

PACKAGE = "@musistudio/claude-code-router@2.0.0"
MODEL = "gpt"


class NoRouterError(Exception):
    """Why there is no claude-code-router."""


def install() -> str:
    """Return the path of `ccr`, from CLAUDE_CODE_ROUTER or installed by npm, once."""
    if path := os.environ.get("CLAUDE_CODE_ROUTER"):
        return path
    folder = Path(sys.prefix, "peers")
    installed = folder / "node_modules" / ".bin" / "ccr"
    if not installed.exists():
        if not shutil.which("npm"):
            raise NoRouterError("claude-code-router needs npm, of Node 20 or later")
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
        done = subprocess.run([*command, "--prefix", str(folder), PACKAGE], check=False)
        if done.returncode:
            raise NoRouterError(f"npm could not install {PACKAGE}")
    return str(installed)


@contextmanager
def claude_code_router(
    path: str, port: int, providers: Mapping[str, str], home: Path
) -> Iterator[None]:
    """Run claude-code-router on a port, with Chat Completions at each provider's URL.

    A request takes the provider that its model names, as `NAME,gpt`, else the first.
    """
    key = {"api_key": "sk-dummy", "models": [MODEL]}
    config = {
        "PORT": port,
        "LOG": False,
        "NON_INTERACTIVE_MODE": True,
        "Providers": [{"name": name, "api_base_url": providers[name]} | key for name in providers],
        "Router": {"default": f"{next(iter(providers))},{MODEL}"},
    }
    settings = home / ".claude-code-router"
    settings.mkdir(parents=True)
    (settings / "config.json").write_text(json.dumps(config))
    with (home / "log").open("w+") as log:
        process = subprocess.Popen(
            [path, "start"],
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + TIMEOUT
            while True:  # it does not say when it listens
                try:
                    socket.create_connection((LOOPBACK, port), TIMEOUT).close()
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise NoRouterError((home / "log").read_text()) from None
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(TIMEOUT)
