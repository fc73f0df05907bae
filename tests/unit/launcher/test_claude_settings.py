import json
from pathlib import Path
from typing import Any

import pytest
from prompt_cache_key.launcher import LaunchError
from prompt_cache_key.launcher.claude_settings import ClaudeSettings, read_settings

BASE = "ANTHROPIC_BASE_URL"


def env(value: Any) -> dict[str, Any]:
    return {"env": {BASE: value}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose local, project and user settings name themselves."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = tmp_path / "project"
    for path, name in (
        (project / ".claude" / "settings.local.json", "local"),
        (project / ".claude" / "settings.json", "project"),
        (tmp_path / "home" / ".claude" / "settings.json", "user"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(env(name)))
    return project


def base_url(project: Path, *arguments: str, **environment: str) -> str | None:
    process = {BASE: "process", **environment}
    return read_settings(arguments, process, project).environment(process).get(BASE)


def test_the_order_of_sources(project: Path) -> None:
    assert base_url(project, "--settings", json.dumps(env("given"))) == "given"
    assert base_url(project) == "local"
    (project / ".claude" / "settings.local.json").unlink()
    assert base_url(project) == "project"
    (project / ".claude" / "settings.json").unlink()
    assert base_url(project) == "user"
    assert base_url(project, CLAUDE_CONFIG_DIR=str(project)) == "process"


def test_an_empty_value_counts(project: Path) -> None:
    assert base_url(project, "--settings", json.dumps(env(""))) == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--setting-sources", "project,user"], "project"),
        (["--setting-sources= user"], "user"),
        (["--setting-sources", ""], "process"),
        (["--restricted"], "process"),
        (["--", "--restricted"], "local"),
    ],
)
def test_the_files_that_count(project: Path, arguments: list[str], expected: str) -> None:
    assert base_url(project, *arguments) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"env": 1}'])
def test_a_file_that_claude_code_cannot_use_is_left_out(project: Path, content: bytes) -> None:
    (project / ".claude" / "settings.local.json").write_bytes(content)
    assert base_url(project) == "project"


def test_given_settings_are_taken_out_of_the_arguments_and_the_last_counts(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(env("file")).encode())
    arguments = ["--settings", "{}", "-p", "--settings=mine.json", "--", "--settings", "x"]
    settings = read_settings(arguments, {}, tmp_path)
    assert settings.given == env("file")
    assert settings.arguments == ("-p", "--", "--settings", "x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--settings"],
        ["--settings", "missing.json"],
        ["--settings", "{token"],
        ["--settings", "list.json"],
        ["--settings", " {" + '"a":[' * 100_000],
    ],
)
def test_unusable_given_settings_are_an_error_that_quotes_nothing(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(LaunchError) as error:
        read_settings(arguments, {}, tmp_path)
    assert "token" not in str(error.value)


def test_merged_settings_keep_all_else() -> None:
    given = {"model": "x", "env": {"A": 1, "B": "b", "C": True}}
    settings = ClaudeSettings(given, (), ())
    assert settings.merged({"B": "ours", "D": "ours"}) == {
        "model": "x",
        "env": {"A": "1", "B": "ours", "C": "true", "D": "ours"},
    }
    assert given["env"] == {"A": 1, "B": "b", "C": True}


def test_a_setting_is_found_in_any_source() -> None:
    settings = ClaudeSettings({"a": 1}, ({}, {"b": 0}), ())
    assert [settings.has(name) for name in "abc"] == [True, True, False]
