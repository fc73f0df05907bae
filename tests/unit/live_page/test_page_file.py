import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prompt_cache_key.live_page import page_file
from prompt_cache_key.live_page.page_file import MAX_FILES, MAX_PORTS, find, is_running, read

SECRET = "0123456789abcdef" * 2
OTHER = "f" * 32
PID = os.getpid()
PARENT = os.getppid()


@pytest.fixture(scope="module")
def dead() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def put(folder: Path, pid: Any, ports: Any, secret: Any = OTHER, **more: Any) -> Path:
    path = folder / f"prompt-cache-{pid}.json"
    path.write_text(json.dumps({"pid": pid, "ports": ports, "secret": secret} | more))
    return path


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    page_file.write(tmp_path, [8080, 8082], SECRET)
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name == f"prompt-cache-{PID}.json"
    assert json.loads(path.read_text()) == {"pid": PID, "ports": [8080, 8082], "secret": SECRET}
    assert read(path) == (PID, [8080, 8082], SECRET)
    page_file.remove(tmp_path)
    page_file.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_home_has_no_folder_yet(tmp_path: Path) -> None:
    page_file.write(tmp_path / "home" / ".mitmproxy", [8080], SECRET)
    assert read(tmp_path / "home" / ".mitmproxy" / f"prompt-cache-{PID}.json")


def test_a_file_that_is_there_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    link = tmp_path / f"prompt-cache-{PID}.json"
    link.symlink_to(target)
    page_file.write(tmp_path, [8080], SECRET)
    assert target.read_text() == "precious"
    assert not link.is_symlink()
    assert read(link) == (PID, [8080], SECRET)


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / f"prompt-cache-{PID}.json").mkdir()
    with pytest.raises(FileExistsError):
        page_file.write(tmp_path, [8080], SECRET)


def test_files_of_ended_processes_are_removed(tmp_path: Path, dead: int) -> None:
    gone, stays, foreign = (
        put(tmp_path, dead, [1]),
        put(tmp_path, PARENT, [2]),
        put(tmp_path, "x1", [3]),
    )
    page_file.write(tmp_path, [8080], SECRET)
    assert not gone.exists()
    assert stays.exists()
    assert foreign.exists()


def test_only_so_many_entries_are_looked_at(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 5):
        (tmp_path / f"prompt-cache-{4_000_000_000 + number}.json").touch()
    page_file.write(tmp_path, range(1, 200), SECRET)
    assert len(list(tmp_path.iterdir())) == 6
    written = read(tmp_path / f"prompt-cache-{PID}.json")
    assert written
    assert len(written.ports) == MAX_PORTS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 4000,
        b"\xff",
        b'{"pid": 1}',
        json.dumps({"pid": PID, "ports": [80], "secret": SECRET, "more": 1}).encode(),
        json.dumps({"pid": PID, "ports": [80], "secret": SECRET}).encode() + b" " * 5000,
        *(
            json.dumps({"pid": PID, "ports": [80], "secret": SECRET} | changed).encode()
            for changed in (
                {"pid": PID + 1},
                {"pid": None},
                {"ports": 80},
                {"ports": ["80"]},
                {"ports": [True]},
                {"ports": [0]},
                {"ports": [1 << 16]},
                {"ports": [80] * (MAX_PORTS + 1)},
                {"secret": 5},
                {"secret": SECRET.upper()},
                {"secret": SECRET + "/"},
                {"secret": SECRET + "\n"},
            )
        ),
    ],
    ids=itertools.count(),
)
def test_a_file_that_we_did_not_write_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"prompt-cache-{PID}.json"
    path.write_bytes(content)
    assert read(path) is None
    assert find(tmp_path, {}) is None


def test_links_pipes_and_folders_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / f"prompt-cache-{PID}.json"
    real = put(tmp_path, "real", [80])
    path.symlink_to(real)
    assert read(path) is None
    path.unlink()
    os.mkfifo(path)
    assert read(path) is None
    path.unlink()
    path.mkdir()
    assert read(path) is None
    assert read(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:8080"}, f"http://127.0.0.1:8080 {SECRET}"),
        ({"ANTHROPIC_BASE_URL": "http://localhost:8082/v1"}, f"http://localhost:8082 {SECRET}"),
        ({"HTTPS_PROXY": "http://[::1]:9000"}, f"http://[::1]:9000 {OTHER}"),
        ({"https_proxy": "http://127.0.0.1"}, f"http://127.0.0.1:80 {OTHER}"),
        (
            {
                "ANTHROPIC_BASE_URL": "http://127.0.0.1:3456",
                "HTTPS_PROXY": "http://127.0.0.1:8080",
            },
            f"http://127.0.0.1:8080 {SECRET}",
        ),
        ({"ANTHROPIC_BASE_URL": "http://evil.example:8080"}, None),
        ({"ANTHROPIC_BASE_URL": "https://127.0.0.1:8080"}, None),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:99999"}, None),
        ({"ANTHROPIC_BASE_URL": "http://[::1"}, None),
        ({}, None),
    ],
)
def test_the_proxy_of_the_environment_is_found(
    tmp_path: Path, dead: int, environment: dict[str, str], url: str | None
) -> None:
    put(tmp_path, PID, [8080, 8082], SECRET)
    put(tmp_path, PARENT, [9000, 80], OTHER)
    put(tmp_path, dead, [8080], "d" * 32)
    found = find(tmp_path, environment)
    if url:
        origin, secret = url.split()
        url = f"{origin}/prompt-cache/{secret}/"
    assert found == url


def test_the_only_proxy_that_runs_is_found(tmp_path: Path, dead: int) -> None:
    put(tmp_path, dead, [8080])
    assert find(tmp_path, {}) is None
    put(tmp_path, PID, [], SECRET)
    assert find(tmp_path, {}) is None
    put(tmp_path, PID, [8081], SECRET)
    elsewhere = {"ANTHROPIC_BASE_URL": "http://gateway.example"}
    for environment in ({}, elsewhere):
        assert find(tmp_path, environment) == f"http://127.0.0.1:8081/prompt-cache/{SECRET}/"
    assert find(tmp_path / "missing", {}) is None


def test_which_processes_run(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_running(PID)
    assert not is_running(dead)
    assert not is_running(1 << 70)

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert is_running(1)
