"""The command as it is run: the proxy, and Claude Code's status line beside it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from lib import ADDON
from lib.client import Client, request_body
from lib.server import Server
from live.proxied import cached_reply

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"
CODE = "import sys; from prompt_cache_key.cli import main; sys.exit(main())"


def test_proxy_and_status_line(tmp_path: Path) -> None:
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ADDON.parent)}
    env["PYTHONUNBUFFERED"] = "1"

    def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", CODE, *arguments]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **options)

    with (
        Server(cached_reply) as server,
        start("-p", "0", "--mode", f"reverse:{server.url}") as proxy,
    ):
        assert proxy.stdout
        urls = (re.search(r"ANTHROPIC_BASE_URL=(\S+)", line) for line in proxy.stdout)
        env["ANTHROPIC_BASE_URL"] = url = next(filter(None, urls))[1]
        with Client(int(url.rpartition(":")[2])) as client:
            client.send("POST", "/v1/messages", [], request_body(SESSION))
        for session, line in ((SESSION, "cache 96%\n"), ("another", "")):
            with start("status", stdin=subprocess.PIPE) as status:
                assert status.communicate(json.dumps({"session_id": session}))[0] == line
            assert status.returncode == 0
        proxy.terminate()
