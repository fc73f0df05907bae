"""The scripts in a fresh clone, without network."""

import shutil
import subprocess
from pathlib import Path

import pytest
from lib import ROOT


@pytest.mark.parametrize("name", ["run", "demo", "report", "bench", "fuzz", "test"])
def test_help_is_there_before_anything_is_installed(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shown = subprocess.run(
        [tmp_path / "scripts" / name, "--help"], capture_output=True, text=True, check=True
    )
    assert f"scripts/{name} " in shown.stdout
    assert not shown.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"scripts", "pyproject.toml"}
