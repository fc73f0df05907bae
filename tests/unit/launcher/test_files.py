from pathlib import Path

from prompt_cache_key.launcher.files import Files, authorities, write_bundle


def test_log_and_report_stay() -> None:
    with Files.make() as files:
        assert files.log.parent.stat().st_mode & 0o777 == 0o700
        for path in files[:-1]:
            path.touch()
    assert {path.name for path in files.log.parent.iterdir()} == {"log", "report.html"}
    for path in (files.log, files.report):
        path.unlink()
    files.log.parent.rmdir()


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
