import io
import json
import os
import runpy
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import flowfilter
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow
from prompt_cache_key.report import command as report
from prompt_cache_key.report.command import main
from prompt_cache_key.stats.money import GivenPrices
from prompt_cache_key.stats.report import Report
from prompt_cache_key.upstreams import GENERATIONS
from unit.report.saved import ID, OTHER, exchange, request_body, saved, usage_body

Run = Callable[..., Any]

FLOWS = [exchange(request_body(), at, usage_body(2000, 1000)) for at in (1.0, 2.0, 3.0)]
DATA = saved(*FLOWS)
ENDS = [len(saved(*FLOWS[:n])) for n in range(4)]


def read(path: Path, data: bytes, filter_: str = GENERATIONS) -> Report:
    file = path / "flows"
    file.write_bytes(data)
    return report.build(file, flowfilter.parse(filter_), None, None)


# Files


def to(url: str) -> bytes:
    return saved(exchange(request_body(), url=url))


AMONG_OTHERS = saved(tflow.ttcpflow(), exchange(request_body()), tflow.tudpflow())


@pytest.mark.parametrize(
    ("data", "filter_", "count"),
    [
        (saved(exchange(request_body(), method="GET")), GENERATIONS, 0),
        (to("https://gateway.test/v1/messages/count_tokens"), GENERATIONS, 0),
        (AMONG_OTHERS, GENERATIONS, 1),
        (AMONG_OTHERS, "~all", 1),
        # Hosts that take no key are in it too.
        (to("https://api.anthropic.com/v1/messages"), GENERATIONS, 1),
        (to("http://127.0.0.1:4000/v1/responses"), GENERATIONS, 1),
        (to("https://api.openai.com/v1/chat/completions?x=1"), GENERATIONS, 1),
    ],
    ids=range(7),
)
def test_requests_that_are_in_it(tmp_path: Path, data: bytes, filter_: str, count: int) -> None:
    assert read(tmp_path, data, filter_).sums.requests == count


def test_several_places_may_count_twice(tmp_path: Path) -> None:
    flows = [exchange(request_body()), exchange(request_body(OTHER))]
    assert read(tmp_path, saved(*flows)).warnings == []
    flows[1].request.host = "127.0.0.1"
    [warning] = read(tmp_path, saved(*flows)).warnings
    assert "choose a side" in warning


@given(cut=st.integers(0, len(DATA)))
def test_a_file_that_breaks_off_is_read_up_to_there(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    made = read(tmp_path_factory.getbasetemp(), DATA[:cut])
    whole = sum(end <= cut for end in ENDS) - 1
    assert made.sums.requests == whole
    is_flow = b":" in DATA[:cut]
    broken = (
        f"the file is broken after {whole} flows" if is_flow else "not a file of mitmproxy flows"
    )
    problems = [] if cut in ENDS else [broken]
    assert [warning.partition(":")[0] for warning in made.warnings] == problems


@given(at=st.integers(0, len(DATA) - 1), put=st.binary(min_size=1, max_size=4))
def test_a_corrupt_file_is_read_up_to_there(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes
) -> None:
    made = read(tmp_path_factory.getbasetemp(), DATA[:at] + put + DATA[at + len(put) :])
    assert made.sums.requests >= sum(end <= at for end in ENDS) - 1
    assert "\n" not in "".join(made.warnings)


def test_a_flow_that_lacks_something_is_the_end(tmp_path: Path) -> None:
    made = read(tmp_path, DATA[: ENDS[1]] + DATA[ENDS[1] :].replace(b"2:id;", b"2:ix;"))
    assert made.warnings == ["the file is broken after 1 flows: KeyError: 'id'"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "flows"
    with file.open("wb") as out:
        writer = FlowWriter(out)
        for n in range(100):
            writer.add(exchange(request_body(turns=5, n=n), n, usage_body(20_000, 20_000)))
    tracemalloc.start()
    try:
        made = report.build(file, flowfilter.parse(GENERATIONS), None, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.sums.requests == 100
    assert peak < file.stat().st_size / 2


def test_a_host_that_is_no_name_does_not_hold_up_the_report(tmp_path: Path) -> None:
    hostile = exchange(request_body())
    hostile.request.headers["host"] = " " * 60_000
    data = saved(hostile, tflow.ttcpflow(), exchange(request_body()))
    assert read(tmp_path, data).sums.requests == 1


# The command


@pytest.fixture(autouse=True)
def _no_price_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "load", lambda: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "saved.flows"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def run(file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command and returns what it prints, read if that is JSON."""

    def run(*arguments: str) -> Any:
        main([str(file), *arguments])
        out = capsys.readouterr().out
        return json.loads(out) if out.startswith("{") else out

    return run


def test_the_page_lies_beside_the_file_or_where_it_is_told(file: Path, run: Run) -> None:
    for page, arguments in (("saved.flows.html", []), ("x.html", ["-o", f"{file.parent}/x.html"])):
        assert run(*arguments) == (
            f"{file.with_name(page)}: sessions 1, requests 3, prompt tokens 6,000, "
            "hit rate 50%, missed tokens 0 in 0 requests\n"
        )
        html = file.with_name(page).read_text("utf-8")
        assert html.startswith("<!doctype html>")
        assert html.endswith("</html>\n")
    assert len(list(file.parent.iterdir())) == 3


def test_json(file: Path, run: Run) -> None:
    first = exchange(request_body(prompt_cache_key="k1"), 1000, usage_body(5000))
    second = exchange(request_body(turns=2, prompt_cache_key="k2"), 2000, usage_body(9000, 1000))
    file.write_bytes(saved(first, second))
    found = run("--json", "--price-input", "2")
    assert list(file.parent.iterdir()) == [file]
    assert (found["title"], found["warnings"]) == ("saved.flows", [])
    assert found["sums"]["cost"] == pytest.approx(14_000 * 2 / 1e6)
    [cause] = found["sums"]["causes"]
    assert (cause["cause"], cause["tokens"]) == ("prompt_cache_key changed", 4000)
    assert (found["sums"]["first"], found["sums"]["new"]) == (5000, 9000)
    [session] = found["sessions"]
    assert session["id"] == ID
    assert session["requests"][1]["key"] == "k2"
    assert session["requests"][1]["miss"]["missed"] == 4000
    target = file.with_name("report.json")
    assert run("--json", "-o", str(target)).startswith(f"{target}: sessions 1")
    assert json.loads(target.read_text("utf-8"))["sessions"][0]["id"] == ID


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "expired: idle for 11m"),
        (["--retention", "30m"], "server-side: evicted or rerouted"),
        (["--retention", "5m"], "expired: idle for 11m"),
    ],
)
def test_retention(file: Path, run: Run, arguments: list[str], cause: str) -> None:
    flows = [exchange(request_body(turns=n), 660 * n, usage_body(5000)) for n in (1, 2)]
    file.write_bytes(saved(*flows))
    [session] = run("--json", *arguments)["sessions"]
    assert session["requests"][1]["miss"]["cause"] == cause


@pytest.mark.parametrize(
    ("arguments", "cost", "saved"),
    [
        ([], None, None),
        # 3 requests of 2,000 prompt tokens, half of them cached, and 10 tokens of output.
        (["--price-input", "2"], 3 * 4000, 0),
        (["--price-input", "2", "--price-cached", "0"], 3 * 2000, 3 * 2000),
        (["--price-input=2", "--price-cached=.2", "--price-written=3"], 3 * 2200, 3 * 1800),
        (["--price-output", "10"], 3 * 100, 0),
    ],
)
def test_prices(run: Run, arguments: list[str], cost: float | None, saved: float | None) -> None:
    sums = run("--json", *arguments)["sums"]
    dollars = [sums["cost"], sums["saved"]]
    if cost is None:
        assert dollars == [None, None]
    else:
        assert [1e6 * each for each in dollars] == pytest.approx([cost, saved])


def test_the_price_list_is_used_where_no_price_is_given(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "load", lambda: GivenPrices(1e4, 1e3, 1e4, 0))
    assert run().endswith(" in 0 requests, saved $27.00, misses cost $0.00\n")
    assert run("--price-input", "0").endswith(", saved $0.00, misses cost $0.00\n")


def test_filter(run: Run) -> None:
    assert run("--json", "--filter", "~d gateway.test")["sums"]["requests"] == 3
    with pytest.raises(SystemExit, match="no request of a Claude Code session in it"):
        run("--filter", "~d other.test")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("--retention", "soon", "seconds"),
        ("--filter", "~~", "expression"),
        ("--price-input", "free", "price"),
        ("--price-input", "nan", "price"),
        ("--price-output", "-1", "price"),
    ],
)
def test_bad_arguments(
    run: Run, capsys: pytest.CaptureFixture[str], name: str, value: str, kind: str
) -> None:
    with pytest.raises(SystemExit):
        run(f"{name}={value}")
    assert f"argument {name}: invalid {kind} value: '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("none", [], r"^report: .*none: No such file or directory$"),
        ("", [], r"^report: .*: Is a directory$"),
        ("empty", [], r"^report: .*empty: no request of a Claude Code session in it$"),
        ("text", [], r"^report: .*text: not a file of mitmproxy flows$"),
        ("json", [], r"^report: .*json: not a file of mitmproxy flows$"),
        ("begun", [], r"^report: .*begun: the file is broken after 0 flows: .*FlowReadException"),
        ("saved.flows", ["-o", "/dev/null/x"], r"^report: /dev/null/x: Not a directory$"),
    ],
)
def test_nothing_to_report(file: Path, name: str, arguments: list[str], complaint: str) -> None:
    file.with_name("empty").touch()
    file.with_name("text").write_text("no flows\n")
    file.with_name("json").write_text('{"no": "HAR"}\n')
    file.with_name("begun").write_bytes(DATA[:100])
    with pytest.raises(SystemExit, match=complaint):
        main([str(file.parent / name), *arguments])


def test_a_broken_file_is_told_of(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(DATA[:-1])
    main([str(file), "--json"])
    out, err = capsys.readouterr()
    assert err.startswith(f"report: {file}: the file is broken after 2 flows: ")
    assert err.count("\n") == 1
    assert json.loads(out)["warnings"][0] in err


@pytest.mark.parametrize(
    ("limit", "is_terminal", "is_shown"),
    [(0, True, True), (len(DATA), True, False), (0, False, False)],
    ids=["over the limit", "at the limit", "in a pipe"],
)
def test_a_progress_bar_for_a_large_file_on_a_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, limit: int, is_terminal: bool, is_shown: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr(report, "LARGE_FILE", limit)
    monkeypatch.setattr(sys, "stderr", screen)
    run()
    start, *bars = screen.getvalue().split("\r")
    assert start == ""
    if is_shown:
        assert bars[2] == f"[{'#' * 40}] 100%"
        assert [line.rstrip() for line in bars[3:]] == ["", ""]
    else:
        assert bars == []


def test_output_may_be_cut_off(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        main([str(file), "--json"])


def test_python_can_run_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(file)])
    monkeypatch.delitem(sys.modules, report.__name__)
    runpy.run_module(report.__name__, run_name="__main__")
    assert "requests 3" in capsys.readouterr().out


def test_help_does_not_wait_for_mitmproxy() -> None:
    code = (
        "import sys; from prompt_cache_key.report.command import main\n"
        "try: main(['--help'])\n"
        "finally: print('mitmproxy' in sys.modules)"
    )
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "--price-input" in done.stdout
    assert done.stdout.endswith("False\n")
