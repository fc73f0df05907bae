import os
import re
import subprocess
import sys

import bench
from lib import ROOT


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "addon"), "PATH": os.defpath},
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


def test_medians_in_turn() -> None:
    seen: list[tuple[str, int]] = []
    times = bench.in_turn(
        0, [1, 2], *(lambda n, name=name: seen.append((name, n)) for name in "ab")
    )

    assert len(times) == 2
    assert min(times) > 0
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
