import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lib import free_port
from lib.messages import Reply
from lib.server import Server
from prompt_cache_key import __version__
from prompt_cache_key.cli import TOOLS, main, proxy_arguments, warning
from prompt_cache_key.launcher import launch
from prompt_cache_key.live_page import page_file

REQUEST = {"time": 1, "usage": {"input": 1000, "cached": 962}}
FACTS = {"sums": {"requests": 3}, "sessions": [{"requests": [REQUEST]}]}
GIVEN = b'{"session_id": "a b"}'
SECRET = "0123456789abcdef" * 2


@pytest.fixture
def keep_logging() -> Iterator[None]:
    """mitmproxy's tools never take their handlers away."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return mitmproxy's confdir of a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ANTHROPIC_BASE_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    give(monkeypatch, GIVEN)
    return tmp_path / ".mitmproxy"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Server]:
    """Serve the facts where the file in the confdir says."""
    with Server(lambda _: Reply(body=json.dumps(FACTS).encode())) as server:
        page_file.write(home, [server.port], SECRET)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        yield server


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as file:
        monkeypatch.setattr("sys.stdin", file)
        yield
    os.close(ours)


def give(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) is None
    assert capsys.readouterr().out.startswith("usage: claude-prompt-cache claude [--to URL]")


def test_an_unknown_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["claude-prompt-cache", "mitmdmup"])
    assert str(main()).startswith("claude-prompt-cache: 'mitmdmup' is not one of claude, ")


def test_claude_gets_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[object] = []

    def record(*arguments: object) -> int:
        got.extend(arguments)
        return 7

    monkeypatch.setattr(launch, "launch", record)
    assert main(["claude", "--stable", "-p"]) == 7
    assert got == [["--stable", "-p"], os.environ]


def test_no_launcher_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert "needs Linux, macOS or WSL" in str(main(["claude"]))


@pytest.mark.usefixtures("keep_logging")
@pytest.mark.parametrize("given", [["mitmdump", "--version"], ["--version"]])
def test_our_version_stands_beside_mitmproxys(
    given: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(given)
    ours, theirs, *_ = capfd.readouterr().out.splitlines()
    assert ours == f"claude-prompt-cache: {__version__}"
    assert theirs.startswith("Mitmproxy: 1")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let mitmproxy's tools record their arguments."""
    runs: list[list[str]] = []
    for name in TOOLS:
        monkeypatch.setattr(f"mitmproxy.tools.main.{name}", runs.append)
    return runs


def test_a_log_in_a_file_gets_each_line_at_once(
    tool: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stdout", file)
    main([])
    assert tool == [proxy_arguments("mitmdump", [])]
    assert file.line_buffering


def test_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def tell(_: list[str]) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("mitmproxy.tools.main.mitmdump", tell)
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr("sys.stdout", file)
        assert main(["--options"]) is None
        file.write("more")
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.parametrize(
    ("name", "version", "has_warning"),
    [
        ("mitmweb", "11.0.2", True),
        ("mitmweb", "11.1.2", False),
        ("mitmweb", "12.3.1", False),
        ("mitmdump", "11.0.2", False),
    ],
)
def test_a_vulnerable_mitmweb(
    name: str,
    version: str,
    has_warning: bool,
    tool: list[list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mitmproxy.version.VERSION", version)
    main([name])
    assert ("CVE-2025-23217" in capfd.readouterr().err) is has_warning
    assert bool(warning(name, version)) is has_warning
    assert tool


@pytest.mark.parametrize(
    ("given", "is_lazy"),
    [
        ([], False),
        (["--mode", "regular"], False),
        (["--mode", "reverse:http://a"], True),
        (["-m", "reverse:http://a", "--mode=reverse:https://b@8082"], True),
        (["-m", "reverse:http://a", "--mode", "regular@8082"], False),
        (["-m", "reverse:http://a", "--set", "connection_strategy=eager"], False),
    ],
)
def test_lazy_where_each_listener_is_in_reverse_mode(given: list[str], is_lazy: bool) -> None:
    assert ("connection_strategy=lazy" in proxy_arguments("mitmdump", given)) is is_lazy


def test_the_addon_and_the_listener() -> None:
    address, *script, mode = proxy_arguments("mitmdump", ["--mode=regular"])[1:]
    assert (address, script[0], mode) == ("127.0.0.1", "-s", "--mode=regular")
    assert Path(script[1]).is_file()


@pytest.mark.parametrize(
    ("given", "shown"),
    [([], True), (["-p", "0"], True), (["--set", "web_columns=path"], False)],
)
def test_mitmweb_shows_the_comment(given: list[str], shown: bool) -> None:
    assert ("web_columns=comment" in proxy_arguments("mitmweb", given)) is shown


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "missing")])
    assert end.value.code
    assert "missing" in f"{end.value.code}{capsys.readouterr().err}"


def test_status_of_a_session(page: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) is None
    assert capsys.readouterr().out == "cache 96%\n"
    (request,) = page.take()
    assert request.target == f"{page_file.path_of(SECRET)}facts.json?session=a+b"


def test_status_of_all_on_a_terminal(
    page: Server, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch):
        main(["status", "--confdir", str(home)])
    assert capsys.readouterr().out == "cache 96%\n"
    (request,) = page.take()
    assert request.target == f"{page_file.path_of(SECRET)}facts.json"


def test_a_terminal_is_told_why_there_are_no_numbers(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch):
        main(["status"])
        assert capsys.readouterr().out == f"no proxy runs (looked in {home})\n"
        page_file.write(home, [port := free_port()], SECRET)
        main(["status"])
        assert f"127.0.0.1:{port}" in capsys.readouterr().out
        with Server(lambda _: Reply(body=b"{}")) as server:
            page_file.write(home, [server.port], SECRET)
            main(["status"])
        assert f"127.0.0.1:{server.port}" in capsys.readouterr().out


def test_a_terminal_is_told_of_several_proxies(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    for pid in (os.getpid(), os.getppid()):
        entry = page_file.Entry(pid, [8080], SECRET)
        (home / f"prompt-cache-{pid}.json").write_text(json.dumps(entry._asdict()))
    with terminal(monkeypatch):
        main(["status"])
    assert capsys.readouterr().out.startswith("2 proxies run; ")


@pytest.mark.parametrize("given", [b"", b"{}", b"\xff"])
def test_no_session_no_line(
    page: Server, given: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, given)
    main(["status"])
    assert capsys.readouterr().out == ""
    assert page.take() == []


@pytest.mark.parametrize("runs", [False, True])
def test_no_proxy_no_line(
    home: Path, runs: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, b'{"session_id": "\\ud83d"}')
    if runs:
        page_file.write(home, [free_port()], SECRET)
    main(["status"])
    assert capsys.readouterr() == ("", "")
