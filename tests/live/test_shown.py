"""What a real mitmdump shows: the Prompt view, and the status line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lib import ADDON
from lib.client import Client, request_body
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.proxied import cached_reply

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(cached_reply) as server:
        yield server


@pytest.fixture(scope="module")
def mitmdump(server: Server) -> Iterator[Mitmdump]:
    with Mitmdump(f"reverse:{server.url}", "regular", flow_detail="3") as mitmdump:
        with Client(mitmdump.port) as client:
            body = request_body(SESSION, tools=[{"name": "Bash"}, {"name": "\u202eRead"}])
            client.send("POST", "/v1/messages", [("content-type", "application/json")], body)
        server.take()
        yield mitmdump


def test_the_prompt_is_printed(mitmdump: Mitmdump) -> None:
    mitmdump.find(r"^ +hit 96%: 24,000 of 25,000 tokens cached$")
    mitmdump.find(rf"^ +session  {SESSION}$")
    mitmdump.find(r"^ +[\d,]+ +34  tools: 2 +Bash, \\u202eRead$")
    mitmdump.find(r"^ +──── read from the cache up to here: 24,000 of 25,000 ────$")


# --- the status line ----------------------------------------------------------------------------

CODE = "import sys; from prompt_cache_key.cli import main; sys.exit(main())"


def test_the_command_and_a_status_line_beside_it(tmp_path: Path) -> None:
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ADDON.parent)}
    env["PYTHONUNBUFFERED"] = "1"

    def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", CODE, *arguments]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **options)

    with (
        Server(cached_reply) as server,
        start("-p", "0", "--mode", f"reverse:{server.url}") as proxy,
        ExitStack() as stack,
    ):
        stack.callback(proxy.terminate)
        assert proxy.stdout
        urls = (re.search(r"ANTHROPIC_BASE_URL=(\S+)", line) for line in proxy.stdout)
        env["ANTHROPIC_BASE_URL"] = url = next(filter(None, urls))[1]
        with Client(int(url.rpartition(":")[2])) as client:
            for _ in range(2):
                client.send("POST", "/v1/messages", [], request_body(SESSION))
        for session, line in ((SESSION, "cache 96%, session 97%\n"), ("another", "")):
            with start("status", stdin=subprocess.PIPE) as status:
                assert status.communicate(json.dumps({"session_id": session}))[0] == line
            assert status.returncode == 0
