from pathlib import Path

import pytest
from prompt_cache_key.launcher.files import (
    TEMPORARY,
    authorities,
    new_folder,
    write_bundle,
    write_private,
)


def test_log_and_report_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with new_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "log").touch()
        (folder / TEMPORARY / "settings.json").touch()
    assert [path.name for path in folder.iterdir()] == ["log"]


def test_a_private_file_is_new_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_private(path, b"")


def test_a_bundle_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"A")
    (tmp_path / "b").write_bytes(b"B\n")
    parts = [str(tmp_path / name) for name in ("a", "missing", "b")]
    made = write_bundle(tmp_path / "bundle", ["", *parts])
    assert Path(made).read_bytes() == b"A\nB\n\n"


def test_the_users_own_authorities_count_beside_the_public_ones() -> None:
    public, _, own = authorities("mine.pem")
    assert b"BEGIN CERTIFICATE" in Path(public).read_bytes()
    assert own == "mine.pem"
