"""`scripts/proof` with real engines: needs the extra `proof`, and HAProxy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lib import ROOT

pytestmark = pytest.mark.client

PROOF = [sys.executable, str(ROOT / "scripts" / "proof.py")]


def proof(*arguments: str) -> str:
    done = subprocess.run([*PROOF, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_real_engines_read_more_from_their_caches() -> None:
    printed = proof("--short", "--dialect", "responses")
    without, with_ = re.findall(r"^  all .* ([\d.]+) %", printed, re.MULTILINE)[:2]
    assert float(with_) - float(without) >= 20
    assert re.search(
        r"The addon's totals agree: requests=21 input=\d{6} cached=\d+\.$", printed, re.MULTILINE
    )


def test_claude_code_has_to_be_named() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CLAUDE_CODE"}
    done = subprocess.run(
        [*PROOF, "--claude-code"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "in CLAUDE_CODE" in done.stderr


def test_no_answer_is_lost_while_a_replica_is_killed_and_started_again() -> None:
    printed = proof(
        "--short", "--restart", "--clients", "4", "--router", "stick", "--dialect", "chat"
    )
    assert re.search(r"The addon's totals agree: requests=21 ", printed)
    assert re.search(r"engines and addon alike: [\d,]+ in .*server-side", printed)


def test_nothing_is_left_of_one_that_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROOF, "--short"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout
        assert any(line.startswith("without the addon") for line in process.stdout)
        process.terminate()
        *_, last = process.stdout
    assert (last, process.returncode) == ("proof: interrupted\n", 1)
    assert not [*tmp_path.iterdir()]
    commands = subprocess.run(["ps", "-Ao", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in commands.stdout
