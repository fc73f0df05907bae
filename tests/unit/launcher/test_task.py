import os

from prompt_cache_key.launcher.task import Task


def test_lines_for_the_launcher() -> None:
    ours, theirs = os.pipe()
    task = Task([], "", "", is_stable=False, to_launcher=theirs)
    task.tell(["a", "ä"])
    assert os.read(ours, 100) == "a\nä\n".encode()
    os.close(ours)
    task.tell(["nobody reads this"])
    os.close(theirs)
