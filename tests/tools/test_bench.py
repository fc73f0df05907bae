"""`scripts/bench`, and its soak."""

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import bench
import pytest
import soak
from lib import ROOT
from lib.load import conversation, post, session
from lib.recordings import encoded


def run(*arguments: str, path: str = os.defpath, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "addon"), "PATH": path, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table() -> None:
    machine, *parts = run().split("\n\n")
    assert f"Python {sys.version.split()[0]}, mitmproxy " in machine
    assert [re.split("  +", part)[0] for part in parts] == [
        "the edit alone",
        "one proxied request",
        "requests per second",
        "first event of a stream",
    ]
    for part in parts:
        names, *rows = part.rstrip("\n").split("\n")
        assert rows
        assert {(len(row) - 28) % 22 for row in (names, *rows)} == {0}
        numbers = [each for row in rows for each in re.findall(r"\d+\.\d+", row[28:])]
        assert all(float(number) > 0 for number in numbers)


@pytest.mark.client
def test_peers() -> None:
    router = os.environ["CLAUDE_CODE_ROUTER"]
    output = run("--peers", path=os.environ["PATH"], CLAUDE_CODE_ROUTER=router)
    *_, first, second, third = output.rstrip("\n").split("\n")
    for hop in (first, second, third):
        assert re.search(r"^  \S.*-?\d+\.\d ms more.*[1-9]\d*/s$", hop)
    assert "claude-code-router" in third


def test_medians_in_turn() -> None:
    seen: list[tuple[str, int]] = []
    calls = [lambda n, name=name: seen.append((name, n)) for name in "ab"]
    times = bench.in_turn(0, [1, 2], *calls)
    assert len(times) == 2
    assert min(times) > 0
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_what_hostile_input_costs_others() -> None:
    head, *rows = run("--stalls").split("\n\n")[1].rstrip("\n").split("\n")
    assert head.split("  ")[0] == "the slowest other request"
    assert len(rows) > 3
    for row in rows:
        assert re.fullmatch(r"  [a-zA-Z].* +(\d+ of \d+ ms +){2}\d+ MB +\d+ MB", row)


def test_a_soak_without_a_store() -> None:
    output = run("--soak", "1", path="")
    assert re.search(r"^answers +[1-9]\d*$", output, re.MULTILINE)
    assert "store" not in output


@pytest.mark.client
def test_a_soak_with_a_store() -> None:
    assert shutil.which("redis-server")
    output = run("--soak", "8", path=os.environ["PATH"])
    assert re.search(r"^the store +\d+x away$", output, re.MULTILINE)


AWAY, BACK = "does not answer", "answers again"
WELL: dict[str, Any] = {
    "outcomes": ["well"],
    "keys": [{"a"}, {"b"}],
    "memory": [100.0, 1.0, 149.0],
    "log": "",
    "turns": None,
}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"turns": [AWAY, BACK]}, []),
        ({"turns": [AWAY, BACK, AWAY, BACK]}, []),
        ({"outcomes": []}, ["answers"]),
        ({"outcomes": ["well", "lost: b''"]}, ["lost answers"]),
        ({"outcomes": ["well", "changed"]}, ["changed bodies"]),
        ({"outcomes": ["well", "wrong"]}, ["wrong keys"]),
        ({"keys": [{"a", "b"}, {"b"}]}, ["wrong keys"]),
        ({"log": "Addon error: x"}, ["errors in the log"]),
        ({"memory": [100.0, 1.0, 150.0]}, ["memory, last third"]),
        ({"turns": []}, ["the store"]),
        ({"turns": [AWAY]}, ["the store"]),
    ],
)
def test_a_soak_fails_on_each_check(
    change: dict[str, object], failed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak.held(**WELL | change) is (not failed)
    assert re.findall(r"^(.*?)  .*FAILED$", capsys.readouterr().out, re.MULTILINE) == failed


# --- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_a_conversation(size: int) -> None:
    raw = conversation(size)
    assert abs(len(raw) - size) < 1500
    assert raw == conversation(size) != conversation(size, 1)
    text = raw.decode()
    assert encoded(json.loads(text)) == raw
    assert 300 < len(text) / sum(not character.isascii() for character in text) < 700


def test_a_request_of_another_session() -> None:
    content = conversation(10_000)
    head, _, sent = post(content, 7, "wait=1").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/messages?wait=1 HTTP/1.1\r\n")
    assert f"X-Claude-Code-Session-Id: {session(7)}".encode() in head
    assert f"Content-Length: {len(sent)}".encode() in head
    user_id = json.loads(json.loads(sent)["metadata"]["user_id"])
    assert user_id["session_id"] == session(7)
