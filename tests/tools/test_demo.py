import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path

import demo
import pytest
from lib import ADDON, ROOT
from lib.client import Client
from lib.messages import Reply, Request
from lib.server import Server
from lib.sessions import calls
from lib.stand_in import Counts

COMMAND = [sys.executable, str(ROOT / "scripts" / "demo.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ADDON.parent)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo runs."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    """What a short demo prints."""
    command = [*COMMAND, "--minutes", "2"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_shows_why_the_default_is_right(output: str) -> None:
    rates, rest = {}, {}
    for name in demo.COMPARED:
        (line,) = re.findall(rf"^{re.escape(name)}  +(\d.*)$", output, re.MULTILINE)
        numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", line)]
        rates[name], rest[name] = numbers[::2], numbers[1::2]
    none, session, user, without_attribution, auto = rest.values()
    old, new = 0, 1
    assert auto[old] == min(each[old] for each in rest.values()) < min(none[old], user[old])
    assert auto[new] == without_attribution[new] < min(none[new], session[new], user[new])
    assert rates[demo.AUTO] == [max(column) for column in zip(*rates.values(), strict=True)]


def test_the_numbers(output: str) -> None:
    """They are the same on each Python."""
    (line,) = re.findall(rf"^{demo.AUTO} .*$", output, re.MULTILINE)
    assert line.split()[3:] == ["80", "%", "435,222", "87", "%", "274,682"]


def test_the_log_lines_show_what_shares_a_key(output: str) -> None:
    lines = [match.groupdict() for match in demo.MAPPING.finditer(output)]
    for model, owner in ((demo.OLD, "session"), (demo.NEW, "model")):
        found = [line for line in lines if line["model"] == model]
        assert {line["agent"] == "main" for line in found} == {True, False}
        assert len({line["session"] for line in found}) == 2
        assert len({line["key"] for line in found}) == len({line[owner] for line in found})


def test_misses_have_their_causes(output: str) -> None:
    assert re.findall(r'\[prompt-cache\] miss .* cause="(.*)"', output) == [
        "tools reordered",
        "prompt_cache_key changed",
        "expired: idle for 40m",
        "server-side: evicted or rerouted",
    ]


def test_the_last_line_names_the_report_of_it_all(output: str, folder: Path) -> None:
    assert "stand-in" in output.splitlines()[0]
    assert [path.name for path in folder.iterdir()] == [demo.REPORT]
    assert output.splitlines()[-1].startswith(f"{demo.REPORT}: sessions ")
    page = (folder / demo.REPORT).read_text("utf-8")
    assert "tools reordered" in page
    assert "prompt_cache_keys=derived" not in page, "the client sent a key of its own"


def test_it_ends_at_once_when_told_to() -> None:
    with subprocess.Popen(COMMAND, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30)


@pytest.mark.parametrize(
    ("requests", "is_well"),
    [
        ([("m", "a", "1"), ("m", "a", "1"), ("m", "b", "3")], True),
        ([("m", "a", "1"), ("x", "a", "1"), ("x", "b", None)], True),
        ([("m", "a", "1"), ("m", "a", "2")], False),
        ([("m", "a", None)], False),
        ([("m", "a", "1"), ("m", "a", None)], False),
        ([("m", "a", "1"), ("m", "b", "1")], False),
    ],
)
def test_anything_but_one_key_for_each_owner_and_model_fails(
    requests: list[tuple[str, str, str | None]], is_well: bool
) -> None:
    with nullcontext() if is_well else pytest.raises(demo.DemoError, match="not exactly one key"):
        seen = [demo.Seen(model, "user", session, key) for model, session, key in requests]
        demo.check_keys(seen, "m", attrgetter("session"))


def test_the_sums_of_the_addon() -> None:
    log = ["x", "[prompt-cache] total sessions=2 requests=3 input=40 cached=5 hit=12%", "bye"]
    assert demo.addon_counts(log) == Counts(3, 40, 5)
    with pytest.raises(demo.DemoError, match="did not sum up:\nx"):
        demo.addon_counts(log[:1])


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (lambda _: Reply(500, body=b"no"), "answered with 500: b'no'"),
        (lambda _: Reply(body=[b"x"], complete=False), "not answered: IncompleteRead"),
    ],
)
def test_a_bad_answer_ends_the_demo(respond: Callable[[Request], Reply], message: str) -> None:
    with (
        Server(respond) as server,
        Client(server.port) as client,
        pytest.raises(demo.DemoError, match=message),
    ):
        demo.send(client, calls(1)[0], "m", 0)
