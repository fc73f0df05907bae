import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import demo
import pytest
from lib import ADDON, ROOT
from lib.stand_in import Counts

COMMAND = [sys.executable, str(ROOT / "scripts" / "demo.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ADDON.parent)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo runs."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    """What the shortest demo prints."""
    command = [*COMMAND, "--minutes", "1"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def cells(output: str, name: str) -> list[float]:
    (row,) = re.findall(rf"^{name}(.*)$", output, re.MULTILINE)
    return [float(text.replace(",", "")) for text in re.findall(r"[\d.,]+", row)]


def test_the_table_shows_why_the_default_is_right(output: str) -> None:
    for model in (demo.OLD, demo.NEW):
        none, session, user = cells(output, f"{model}, hit rate")
        assert session > none if model == demo.OLD else session < none
        assert user == pytest.approx(none)
    assert re.findall(r" (\S+) (?:%|) *\*", output) …


def test_the_log_lines_show_what_shares_a_key(output: str) -> None:
    lines = [match.groupdict() for match in demo.MAPPING.finditer(output)]

    for model, owner in ((demo.OLD, "session"), (demo.NEW, "model")):
        found = [line for line in lines if line["model"] == model]
        assert {line["agent"] == "main" for line in found} == {True, False}
        assert len({line["session"] for line in found}) == 2
        assert len({line["key"] for line in found}) == len({line[owner] for line in found})


def test_misses_have_their_causes(output: str) -> None:
    assert re.findall(r'\[prompt-cache\] miss .* cause="(.*)"', output) == [
        "tools reordered",
        "the key changed",
        "a pause of 40m",
        "the upstream's own",
    ]
