import os
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import soak
from lib import ROOT


def run(seconds: int, path: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), "--quick", "--soak", str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "addon"), "PATH": path},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_without_a_store() -> None:
    output = run(1, "")

    assert re.search(r"^answers +[1-9]\d*$", output, re.MULTILINE)
    assert "store" not in output


@pytest.mark.client
def test_with_a_store() -> None:
    assert shutil.which("redis-server")

    assert re.search(r"^the store +\d+x lost$", run(8, os.environ["PATH"]), re.MULTILINE)


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
    assert soak.held(**WELL | change) is (failed is None)
    found = re.findall(r"^(.*?)  .*FAILED$", capsys.readouterr().out, re.MULTILINE)
    assert found == ([failed] if failed else [])
