"""The command as it is run: the proxy, and Claude Code's status line beside it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from lib import ADDON
from lib.client import Client, request_body
from lib.messages import Reply, Request
from lib.server import Server

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from prompt_cache_key.cli import main; sys.exit(main())",
]


def reply(_: Request) -> Reply:
    usage = {"input_tokens": 1000, "cache_read_input_tokens": 24_000}
    return Reply(body=json.dumps({"content": [], "usage": usage}).encode())


def test_proxy_and_status_line(tmp_path: Path) -> None:
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ADDON.parent),
        "PYTHONUNBUFFERED": "1",
    }
    with (
        Server(reply) as server,
        subprocess.Popen(
            [*COMMAND, "-p", "0", "--mode", f"reverse:{server.url}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as proxy,
    ):
        assert proxy.stdout
        found = filter(
            None, (re.search(r"ANTHROPIC_BASE_URL=(\S+)", line) for line in proxy.stdout)
        )
        environment["ANTHROPIC_BASE_URL"] = url = next(found)[1]
        with Client(int(url.rpartition(":")[2])) as client:
            client.send("POST", "/v1/messages", [], request_body(SESSION))
        lines = [
            subprocess.run(
                [*COMMAND, "status"],
                env=environment,
                input=json.dumps({"session_id": session}),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for session in (SESSION, "another")
        ]
        proxy.terminate()
    assert lines == ["cache 96%\n", ""]
