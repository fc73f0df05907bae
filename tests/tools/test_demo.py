import asyncio
import http.client
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import pytest
from demo import (
    ADDON,
    MAPPING,
    REPORT,
    DemoError,
    ask,
    check_keys,
    conversations,
    filler,
    mappings,
    mitmdump,
    play,
    schedule,
    table,
)
from upstream import Totals, Upstream

DEMO = Path(__file__).parent.parent.parent / "scripts" / "demo.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo runs."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    """What the shortest demo prints."""
    done = subprocess.run(
        [sys.executable, str(DEMO), "--minutes", "1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ADDON.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_compares_the_same_traffic(output: str) -> None:
    rows = dict(re.findall(r"^(\w[\w ]+?)  +(\S+.*->.*)$", output, re.MULTILINE))
    numbers = {
        name: [float(text.replace(",", "")) for text in re.findall(r"[\d.,]+", row)]
        for name, row in rows.items()
    }

    requests, prompt, cached, rest, rate = numbers.values()
    assert list(numbers) == ["requests", "prompt tokens", "cached tokens", "not cached", "hit rate"]
    assert requests[0] == requests[1] == len(schedule(len(conversations()), 60))
    assert prompt[0] == prompt[1]
    assert cached[0] < cached[1]
    assert rest == [prompt[0] - cached[0], prompt[1] - cached[1]]
    assert rate == [round(100 * cached[0] / prompt[0], 1), round(100 * cached[1] / prompt[1], 1)]


def test_the_log_lines_show_what_shares_a_key(output: str) -> None:
    lines = [match.groupdict() for match in MAPPING.finditer(output)]

    keys = {line["key"] for line in lines}
    assert len(keys) == len({(line["session"], line["model"]) for line in lines}) == 5
    [agent] = [line for line in lines if line["agent"] != "main"]
    assert agent["key"] in {line["key"] for line in lines if line["agent"] == "main"}


def test_the_upstream_is_called_a_stand_in_in_one_line(output: str) -> None:
    first = output.splitlines()[0]

    assert "stand-in" in first
    assert all(number in first for number in ["256", "15", "1,024", "128", "10"])


def test_the_last_line_names_the_report_of_the_same_traffic(output: str, folder: Path) -> None:
    [rate] = re.findall(r"^hit rate .*-> *([\d.]+ %)$", output, re.MULTILINE)
    [[requests, prompt]] = re.findall(
        r"^requests .*-> *([\d,]+)\nprompt tokens .*-> *([\d,]+)$", output, re.MULTILINE
    )

    assert [path.name for path in folder.iterdir()] == [REPORT]
    assert output.splitlines()[-1] == (
        f"{REPORT}: sessions 12, requests {requests}, prompt tokens {prompt}, hit rate {rate}, "
        "prefix breaks 0, key changes 0"
    )


def test_twelve_sessions_of_four_clients_start_at_their_recorded_size() -> None:
    found = conversations()

    clients = Counter(conversation.headers["User-Agent"].split()[0] for conversation in found)
    assert clients.keys() == {f"claude-cli/{v}" for v in ("1.0.128", "2.0.76", "2.1.90", "2.1.330")}
    first = next(found[0].bodies)
    # The shortened text of 1.0.128's system prompt and tools said how long it was.
    assert len(first) > 31_216
    assert b"characters of text" not in first


def test_conversations_grow_at_their_end_and_are_always_the_same() -> None:
    for conversation, again in zip(conversations(), conversations(), strict=True):
        bodies = list(islice(conversation.bodies, 4))
        assert list(islice(again.bodies, 4)) == bodies
        if b'"tools":[{' in bodies[0]:
            growth = [len(b) - len(a) for a, b in pairwise(bodies)]
            assert min(growth) > 1000
        else:
            assert len(set(bodies)) == 1


def test_filler_has_the_length_and_the_seed_decides() -> None:
    assert len(filler("a", 4065)) == 4065
    assert filler("a", 99) == filler("a", 100)[:99] != filler("b", 99)


def test_each_player_alone_stays_below_the_limit_that_all_exceed() -> None:
    first_minute = Counter(index for at, index in schedule(15, 300) if 60 <= at < 120)

    # A session with a subagent is two players.
    assert 2 * max(first_minute.values()) < 15
    assert sum(first_minute.values()) > 2 * 15


@pytest.mark.parametrize(
    "keys",
    [
        {("session", "model"): {"a", "b"}},
        {("session", "model"): {None}},
        {("session", "model"): {"a", None}},
        {("session", "model"): {"a"}, ("other", "model"): {"a"}},
        {("session", "model"): {"a"}, ("session", "other"): {"a"}},
    ],
)
def test_anything_but_one_key_for_each_session_and_model_fails(
    keys: dict[tuple[str, str], set[str | None]],
) -> None:
    with pytest.raises(DemoError, match="not exactly one key"):
        check_keys(keys)


def test_one_key_for_each_session_and_model_passes() -> None:
    check_keys({("session", "model"): {"a"}, ("session", "other"): {"b"}, ("2", "model"): {"c"}})


def test_mappings_are_the_first_lines_of_sessions_with_several() -> None:
    def line(n: int, session: str, agent: str = "main") -> str:
        return f"[prompt-cache] key=k{n} session={session} agent={agent} model=m state=new source=x"

    log = [
        "[12:00:00.000] HTTP(S) proxy listening at *:8080.",
        "[12:00:01.000][127.0.0.1:1] " + line(1, "a"),
        line(2, "b"),
        line(3, "a"),
        line(4, "b", "subagent"),
        "[prompt-cache] usage key=k4 session=b model=m input=1 cached=1 hit=100%",
    ]

    assert mappings(log) == [line(2, "b"), line(4, "b", "subagent")]


def test_the_table_is_aligned() -> None:
    assert list(table(Totals(1234, 10_000, 5_000), Totals(1234, 10_000, 9_876))) == [
        "                     without            with",
        "requests               1,234 ->        1,234",
        "prompt tokens         10,000 ->       10,000",
        "cached tokens          5,000 ->        9,876",
        "not cached             5,000 ->          124",
        "hit rate              50.0 % ->       98.8 %",
    ]


def test_a_refused_request_ends_the_demo() -> None:
    async def ask_in_the_wrong_place() -> None:
        [conversation, *_] = conversations()
        conversation.path = "/v1/nothing"
        async with Upstream() as upstream:
            with closing(http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)) as c:
                await asyncio.to_thread(ask, c, conversation)

    with pytest.raises(DemoError, match="answered with 404"):
        asyncio.run(ask_in_the_wrong_place())


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_an_unanswered_request_ends_the_demo() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", unused_port(), timeout=5)

    with pytest.raises(DemoError, match="not answered: ConnectionRefusedError"):
        ask(connection, conversations()[0])


def test_mitmdump_ends_with_what_used_it() -> None:
    ports: list[int] = []

    async def fail_inside() -> None:
        async with mitmdump([], unused_port()) as port:
            socket.create_connection(("127.0.0.1", port)).close()
            ports.append(port)
            raise DemoError

    with pytest.raises(DemoError):
        asyncio.run(fail_inside())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))


def test_a_mitmdump_that_does_not_start_says_why() -> None:
    with pytest.raises(
        DemoError, match=r"did not start\nmitmdump said:\n(.*\n)*.*--no-such-option"
    ):
        asyncio.run(play(1, "--no-such-option"))
