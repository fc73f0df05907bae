import os
from pathlib import Path

import pytest
from prompt_cache_key.launcher.task import Task, write_private


def test_a_private_file_is_new_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_private(path, b"")


def test_lines_for_the_launcher() -> None:
    ours, theirs = os.pipe()
    task = Task([], "", "", [], is_stable=False, to_launcher=theirs)
    task.tell(["a", "ä"])
    assert os.read(ours, 100) == "a\nä\n".encode()
    os.close(ours)
    task.tell(["nobody reads this"])
    os.close(theirs)
