import os
import re
import subprocess
import sys

import pictures
import pytest
from lib import ADDON, ROOT

DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def test_what_it_needs() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "pictures.py")]
    environment = {**os.environ, "PATH": "/nowhere", "PYTHONPATH": str(ADDON.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "pictures: needs chromium and tmux: apt install chromium tmux\n"


def test_a_capture_replaces_the_one_before() -> None:
    text = "\n## A\n\nx\n\n```text\nold\n```\n\n## B\n\n```text\nother\n```\n"
    assert pictures.replaced(text, "A", "new\n\\1") == text.replace("old", "new\n\\1")
    with pytest.raises(pictures.PicturesError, match="'C'"):
        pictures.replaced(text, "C", "new")


def test_each_picture_is_small_and_shown() -> None:
    shown = {
        (path.parent / name).resolve()
        for path in DOCUMENTS
        for name in re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", path.read_text("utf-8"))
    }
    assert shown == set((ROOT / "docs").glob("*.png"))
    assert max(path.stat().st_size for path in shown) < 150_000
