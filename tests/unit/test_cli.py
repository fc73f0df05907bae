import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
from lib import free_port
from lib.messages import Reply
from lib.server import Server
from prompt_cache_key.cli import main, proxy_arguments

REQUEST = {"time": 1, "usage": {"input": 1000, "cached": 962}}
FACTS = {"sums": {"requests": 3}, "sessions": [{"requests": [REQUEST]}]}
GIVEN = b'{"session_id": "a b"}'


@pytest.fixture
def keep_logging() -> Iterator[None]:
    """mitmproxy's tools never take their handlers away."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(lambda _: Reply(body=json.dumps(FACTS).encode())) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        give(monkeypatch, GIVEN)
        yield server


def give(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) is None
    assert capsys.readouterr().out.startswith("usage: claude-prompt-cache [mitmdump|")


def test_an_unknown_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["claude-prompt-cache", "mitmdmup"])
    assert str(main()).startswith("claude-prompt-cache: mitmdmup is none of mitmdump, ")


@pytest.mark.usefixtures("keep_logging")
@pytest.mark.parametrize("given", [["mitmdump", "--version"], ["--version"]])
def test_a_tool_runs(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert capsys.readouterr().out.startswith("Mitmproxy: 1")


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
    assert request.target == "/prompt-cache.json?session=a+b"


def test_status_of_all_on_a_terminal(
    page: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        main(["status", "--page", "/cache"])
    os.close(ours)
    assert capsys.readouterr().out == "cache 96%\n"
    (request,) = page.take()
    assert request.target == "/cache.json"


@pytest.mark.parametrize("given", [b"", b"{}", b"\xff"])
def test_no_session_no_line(
    page: Server, given: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, given)
    main(["status"])
    assert capsys.readouterr().out == ""
    assert page.take() == []


def test_no_proxy_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, b'{"session_id": "\\ud83d"}')
    main(["status", "--port", str(free_port())])
    assert capsys.readouterr() == ("", "")
