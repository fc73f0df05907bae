"""The real claude-code-router between two listeners of a mitmdump, the real Claude Code in front.

CLAUDE_CODE and CLAUDE_CODE_ROUTER name their executables; .ci/run installs them. This translator
strips from its upstream requests everything that shows the session.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import LOOPBACK, free_port
from lib.claude_code import run_claude_code
from lib.claude_code_router import claude_code_router, install
from lib.messages import EVENTS, Reply, Request
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
    return Reply(headers=EVENTS, body=pieces)


# --- the sessions -------------------------------------------------------------------------------


def test_sessions_behind_claude_code_router(tmp_path: Path) -> None:
    sessions = {str(number): str(uuid4()) for number in range(1, 4)}
    port = free_port()
    with (
        Server(answer) as upstream,
        Mitmdump(f"reverse:http://{LOOPBACK}:{port}", f"reverse:{upstream.url}") as proxy,
        claude_code_router(
            install(),
            port,
            {"stub": f"http://{LOOPBACK}:{proxy.ports[1]}{CHAT}"},
            tmp_path / "router",
        ),
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
