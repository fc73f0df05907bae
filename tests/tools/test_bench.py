import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import bench
import pytest
from lib import ROOT

BENCH = ROOT / "scripts" / "bench.py"


def run(*arguments: str, path: str = os.defpath) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(BENCH), "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "addon"), "PATH": path},
    )


def test_the_table() -> None:
    done = run()

    assert (done.returncode, done.stderr) == (0, "")
    machine, *parts = done.stdout.split("\n\n")
    assert f"Python {sys.version.split()[0]}, mitmproxy " in machine
    assert [re.split("  +", part)[0] for part in parts] == [
        "the edit alone",
        "one proxied request",
        "requests per second",
        "first event of a stream",
        "one key look-up",
        "memory for a session",
        "the bridge, 3 in flight",
    ]
    for part in parts:
        names, *rows = part.rstrip("\n").split("\n")
        assert rows
        assert {(len(row) - 28) % 22 for row in (names, *rows)} == {0}
        assert all(
            float(number) > 0 for row in rows for number in re.findall(r"\d+\.\d+", row[28:])
        )


def test_the_soak_without_a_store() -> None:
    done = run("--soak", "3", path="")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^answers +[1-9]\d* *$", done.stdout, re.MULTILINE)
    assert "store" not in done.stdout


@pytest.mark.client
def test_the_soak_with_a_store() -> None:
    assert shutil.which("redis-server")
    done = run("--soak", "8", path=os.environ["PATH"])

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^the store +\d+x lost *$", done.stdout, re.MULTILINE)


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
        ({}, None),
        ({"turns": ["lost", "back"]}, None),
        ({"turns": ["lost", "back", "lost", "back"]}, None),
        ({"outcomes": []}, "answers"),
        ({"outcomes": ["well", "lost: b''"]}, "lost answers"),
        ({"outcomes": ["well", "changed"]}, "changed bodies"),
        ({"outcomes": ["well", "wrong"]}, "wrong keys"),
        ({"keys": [{"a", "b"}, {"b"}]}, "wrong keys"),
        ({"log": "Addon error: x"}, "errors in the log"),
        ({"memory": [100.0, 1.0, 150.0]}, "memory, last third"),
        ({"turns": []}, "the store"),
        ({"turns": ["lost"]}, "the store"),
    ],
)
def test_a_soak_fails_on_each_check(
    change: dict[str, object], failed: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.held(**WELL | change) is (failed is None)
    found = re.findall(r"^(.*?)  .*FAILED$", capsys.readouterr().out, re.MULTILINE)
    assert found == ([failed] if failed else [])


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_a_conversation(size: int) -> None:
    raw = bench.conversation(size)

    assert abs(len(raw) - size) < 1500
    assert raw == bench.conversation(size) != bench.conversation(size, 1)
    text = raw.decode()
    assert bench.encoded(json.loads(text)) == raw
    assert 300 < len(text) / sum(not character.isascii() for character in text) < 700


def test_a_request_of_another_session() -> None:
    content = bench.conversation(10_000)
    head, _, sent = bench.post(content, 7, "wait=1").partition(b"\r\n\r\n")

    assert head.startswith(b"POST /v1/messages?wait=1 HTTP/1.1\r\n")
    assert f"X-Claude-Code-Session-Id: {bench.session(7)}".encode() in head
    assert f"Content-Length: {len(sent)}".encode() in head
    user_id = json.loads(json.loads(sent)["metadata"]["user_id"])
    assert user_id["session_id"] == bench.session(7)


def test_medians_in_turn() -> None:
    seen: list[tuple[str, int]] = []
    times = bench.in_turn(
        0, [1, 2], *(lambda n, name=name: seen.append((name, n)) for name in "ab")
    )

    assert len(times) == 2
    assert min(times) > 0
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
