"""The real claude-code-router between two listeners of a mitmdump, the real Claude Code in front.

CLAUDE_CODE and CLAUDE_CODE_ROUTER name their executables; .ci/run installs them. This translator
strips from its upstream requests everything that shows the session.
"""

import json
import os
import re
import socket
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import LOOPBACK, TIMEOUT, free_port
from lib.claude_code import run_claude_code
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server

pytestmark = pytest.mark.client

CHAT = "/v1/chat/completions"
AGENT_TASK = "Run a command as a subagent"


# --- the upstream -------------------------------------------------------------------------------


def event(**data: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
    return b"data: %b\n\n" % json.dumps(chunk | data).encode()


def choice(finish: str | None = None, **delta: object) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def stream(text: str, tool: str = "", **arguments: object) -> Iterator[bytes]:
    """Yield a text, and maybe a tool call, as a streamed chat completion."""
    yield choice(role="assistant", content=text)
    if tool:
        function = {"name": tool, "arguments": json.dumps(arguments)}
        call = {"index": 0, "id": f"call_{uuid4().hex}", "type": "function", "function": function}
        yield choice(tool_calls=[call])
    yield choice("tool_calls" if tool else "stop")
    yield event(choices=[], usage={"prompt_tokens": 9000, "completion_tokens": 9})
    yield b"data: [DONE]\n\n"


def said_by(role: str, body: dict[str, Any]) -> str:
    return json.dumps([each["content"] for each in body["messages"] if each["role"] == role])


def ticket_of(body: dict[str, Any]) -> str:
    """Return the number that the prompt of the session or of its subagent has."""
    (ticket,) = set(re.findall(r"ticket (\d+)", said_by("user", body)))
    return str(ticket)


def answer(request: Request) -> Reply:
    """Ask for a command, then for a subagent that runs one too, then say goodbye."""
    body = json.loads(request.body)
    done = Counter(each["role"] for each in body["messages"])["tool"]
    is_agent = AGENT_TASK in said_by("user", body)
    if done == 0:
        who = "agent" if is_agent else "main"
        pieces = stream("I look.", "Bash", command=f"echo ran-by-{who}", description="x")
    elif done == 1 and not is_agent:
        pieces = stream(
            "",
            "Agent",
            description="x",
            prompt=f"{AGENT_TASK} for ticket {ticket_of(body)}",
            subagent_type="general-purpose",
            run_in_background=False,
        )
    else:
        pieces = stream("goodbye")
    return Reply(headers=[("content-type", "text/event-stream")], body=pieces)


# --- the programs before it ---------------------------------------------------------------------


@contextmanager
def router(port: int, upstream_port: int, home: Path) -> Iterator[None]:
    """Run claude-code-router on a port."""
    provider = {
        "name": "stub",
        "api_base_url": f"http://{LOOPBACK}:{upstream_port}{CHAT}",
        "api_key": "sk-dummy",
        "models": ["gpt"],
    }
    config = {
        "PORT": port,
        "LOG": False,
        "NON_INTERACTIVE_MODE": True,
        "Providers": [provider],
        "Router": {"default": "stub,gpt"},
    }
    settings = home / ".claude-code-router"
    settings.mkdir(parents=True)
    (settings / "config.json").write_text(json.dumps(config))
    with (home / "log").open("w+") as log:
        process = subprocess.Popen(
            [os.environ["CLAUDE_CODE_ROUTER"], "start"],
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
                    assert process.poll() is None, (home / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def test_sessions_behind_claude_code_router(tmp_path: Path) -> None:
    sessions = {str(number): str(uuid4()) for number in range(1, 4)}
    port = free_port()
    with (
        Server(answer) as upstream,
        Mitmdump(f"reverse:http://{LOOPBACK}:{port}", f"reverse:{upstream.url}") as proxy,
        router(port, proxy.ports[1], tmp_path / "router"),
        ThreadPoolExecutor() as pool,
    ):
        runs = [
            pool.submit(
                run_claude_code,
                session,
                f"Run a command, then an agent, for ticket {ticket}",
                {"ANTHROPIC_BASE_URL": f"http://{LOOPBACK}:{proxy.port}"},
                tmp_path / session,
            )
            for ticket, session in sessions.items()
        ]
        assert [run.result() for run in runs] == ["goodbye"] * len(sessions)
        requests = upstream.take()
        bridged = proxy.find_all(
            r"INFO \[prompt-cache\] key=(\S+) session=(\S+) agent=(\S+) model=gpt "
            r"state=(?:new|reused) source=bridge scope=session$",
            len(requests),
        )
    assert upstream.broken == []

    calls = defaultdict(list)
    for request in requests:
        assert request.target == CHAT
        assert not [name for name, _ in request.headers if "claude" in name.lower()]
        body = json.loads(request.body)
        assert not body.keys() & {"user", "metadata"}
        calls[ticket_of(body)].append(request)
    assert calls.keys() == sessions.keys()
    keys = set()
    for ticket, session in sessions.items():
        assert len(calls[ticket]) == 5
        results = [said_by("tool", json.loads(request.body)) for request in calls[ticket]]
        assert any("ran-by-main" in result for result in results)
        assert any("ran-by-agent" in result for result in results)
        (key,) = {request.key for request in calls[ticket]}
        keys.add(key)
        logged = [match for match in bridged if match[2] == session]
        assert {match[1] for match in logged} == {key}
        assert sorted(Counter(match[3] == "main" for match in logged).items()) == [
            (False, 2),
            (True, 3),
        ]
    assert len(keys) == len(sessions)
    assert len(bridged) == len(requests)
