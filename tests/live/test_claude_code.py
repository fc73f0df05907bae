"""The real Claude Code, through a real mitmdump, against a server that speaks its dialect.

CLAUDE_CODE names its binary; .ci/run installs one.
"""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import ADDON
from lib.claude_code import run_claude_code
from lib.gateway import AGENT_HEADER, SESSION_HEADER, call, say, stream
from lib.messages import EVENTS, Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.tls_server import TlsServer

pytestmark = pytest.mark.client

# https://gateway.test is the server of the test.
_TO_UPSTREAM = """
def server_connect(data):
    if data.server.address[0] == "gateway.test":
        data.server.address = ("127.0.0.1", %d)
"""


def tool_results(request: Request) -> list[dict[str, Any]]:
    return [
        block
        for message in json.loads(request.body)["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def answer(request: Request) -> Reply:
    """Ask for a command, then for a subagent that runs one too, then say goodbye."""
    if not request.target.startswith("/v1/messages?"):
        return Reply()
    done = len(tool_results(request))
    agent = request.header(AGENT_HEADER)
    if done == 0:
        step = call("Bash", command=f"echo ran-by-{'agent' if agent else 'main'}", description="x")
    elif done == 1 and not agent:
        step = call(
            "Agent",
            description="x",
            prompt="run a command",
            subagent_type="general-purpose",
            run_in_background=False,
        )
    else:
        step = say("goodbye")
    usage = {"input_tokens": 10, "output_tokens": 1}
    return Reply(headers=EVENTS, body=stream(step.block, usage, "claude-opus-5-5"))


@pytest.mark.parametrize("mode", ["reverse", "regular"])
def test_sessions(tmp_path: Path, mode: str) -> None:
    script = tmp_path / "to_upstream.py"
    sessions = [str(uuid4()), str(uuid4())]
    with (TlsServer if mode == "regular" else Server)(answer) as upstream:
        script.write_text(_TO_UPSTREAM % upstream.port)
        modes = f"reverse:{upstream.url}" if mode == "reverse" else "regular"
        with Mitmdump(modes, scripts=[script, ADDON], ssl_insecure="true") as proxy:
            # As the addon says: `Claude Code: NAME=value … claude; a translator: …`.
            *assignments, command = shlex.split(proxy.find(" Claude Code: (.*);")[1])
            assert command == "claude"
            settings = dict(assignment.split("=", 1) for assignment in assignments)
            if mode == "regular":
                assert settings["ANTHROPIC_BASE_URL"] == "http://YOUR-GATEWAY"
                settings["ANTHROPIC_BASE_URL"] = "https://gateway.test"
            with ThreadPoolExecutor() as pool:
                runs = [
                    pool.submit(
                        run_claude_code,
                        session,
                        "run a command and then an agent",
                        settings,
                        tmp_path / session,
                    )
                    for session in sessions
                ]
                assert [run.result() for run in runs] == ["goodbye", "goodbye"]

            keys = []
            for session in sessions:
                requests = [
                    request
                    for request in upstream.requests
                    if request.target.startswith("/v1/messages?")
                    and request.header(SESSION_HEADER) == session
                ]
                agents = {request.header(AGENT_HEADER) for request in requests}
                assert len(agents) == 2
                assert len(requests) >= 5
                results = json.dumps([tool_results(request) for request in requests])
                assert "ran-by-main" in results
                assert "ran-by-agent" in results
                (key,) = {request.key for request in requests}
                for agent in agents:
                    proxy.find(
                        rf"INFO \[prompt-cache\] key={key} session={session} "
                        rf"agent={agent or 'main'} model=[\w-]+ state=(new|reused) "
                        r"source=header scope=session$"
                    )
                keys.append(key)
    assert len(set(keys)) == 2
    assert {request.header(SESSION_HEADER) for request in upstream.requests} == set(sessions)
    assert upstream.broken == []
