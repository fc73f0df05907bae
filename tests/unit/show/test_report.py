import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lib import ADDON, ROOT
from lib.recordings import records
from mitmproxy import flow, flowfilter, http
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow
from prompt_cache_key.judge.prefix import Break
from prompt_cache_key.options import GENERATIONS
from prompt_cache_key.response.usage import Usage
from prompt_cache_key.show import report
from prompt_cache_key.show.report import Bodies, Prices, Report, Row, main, marked, nearest, sums

Json: TypeAlias = Any
Object: TypeAlias = dict[str, Any]

ID = "57f0d592-a068-417f-84b7-fbb2cd013700"
OTHER = "90474187-a125-4c07-b606-8b7ff354ae9a"
URL = "https://gateway.test/v1/messages?beta=true"
PRICES = Prices(input=2.0, cached=0.2, written=3.0, output=10.0)


def user(content: str) -> Object:
    return {"role": "user", "content": content}


def assistant(content: str) -> Object:
    return {"role": "assistant", "content": content}


def tool(name: str) -> Object:
    return {"name": name, "input_schema": {"type": "object"}}


def request_body(session: str = ID, **members: Json) -> Object:
    """Return a first turn; with its tools, system prompt and messages it shares a prefix."""
    return {
        "model": "claude-opus-5-5",
        "metadata": {"user_id": json.dumps({"session_id": session})},
        "tools": [tool("A"), tool("B")],
        "system": "You are Claude Code.",
        "messages": [user("one")],
    } | members


def usage_body(input_: int, cached: int = 0, **more: int) -> Object:
    """Return an answer in the dialect of Anthropic, which counts cached tokens apart."""
    counts = {"input_tokens": input_ - cached, "cache_read_input_tokens": cached, **more}
    return {"usage": {"output_tokens": 0, **counts}}


def exchange(
    body: Object | bytes,
    at: float = 1000.0,
    answer: Object | http.Response | None = None,
    url: str = URL,
    method: str = "POST",
    **headers: str,
) -> http.HTTPFlow:
    each: http.HTTPFlow = tflow.tflow()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
    each.request = http.Request.make(method, url, content, fields)
    each.request.timestamp_start = at
    if isinstance(answer, dict):
        kind = {"content-type": "application/json"}
        answer = http.Response.make(200, json.dumps(answer), kind)
    each.response = answer
    return each


def saved(*flows: flow.Flow) -> bytes:
    file = io.BytesIO()
    writer = FlowWriter(file)
    for each in flows:
        writer.add(each)
    return file.getvalue()


def build(
    path: Path, *flows: flow.Flow, filter_: str = GENERATIONS, prices: Prices | None = None
) -> Report:
    """Return the report of flows that went through a file."""
    file = path / "flows"
    file.write_bytes(saved(*flows))
    return report.build(file, flowfilter.parse(filter_), 600, prices)


def rows_of(made: Report) -> list[Row]:
    return [row for session in made.sessions for row in session.requests]


# What is read of a flow


@pytest.mark.parametrize(
    ("each", "agent"),
    [
        (exchange(request_body()), "main"),
        (exchange(b"{}", x_claude_code_session_id=ID), "main"),
        (exchange(b"", x_claude_code_session_id=ID, x_claude_code_agent_id="a1"), "a1"),
        (exchange(b"[1]", x_claude_code_session_id=ID), "main"),
        (exchange({"user": json.dumps({"session_id": ID})}), "main"),
        (exchange({"prompt_cache_key": json.dumps({"session_id": ID})}), "main"),
        (exchange(request_body(), x_claude_code_agent_id="x" * 300), "unknown"),
    ],
)
def test_session_that_a_request_shows(tmp_path: Path, each: http.HTTPFlow, agent: str) -> None:
    [session] = build(tmp_path, each).sessions
    assert (session.id, session.requests[0].agent) == (ID, agent)


def test_session_and_key_that_the_addon_put_on_the_flow(tmp_path: Path) -> None:
    bridged = exchange({"model": "gpt-5.4"})
    bridged.metadata |= {"claude_session": ID, "claude_agent": "a1", "prompt_cache_key": "k1"}
    streamed = bridged.copy()
    streamed.request.raw_content = None

    [session] = build(tmp_path, bridged, streamed).sessions
    found = [(row.agent, row.model, row.key) for row in session.requests]
    assert (session.id, found) == (ID, [("a1", "gpt-5.4", "k1"), ("a1", "unknown", "k1")])


@pytest.mark.parametrize(
    ("members", "key"),
    [
        ({}, ""),
        ({"prompt_cache_key": "k1"}, "k1"),
        ({"prompt_cache_key": " "}, ""),
        ({"prompt_cache_key": None}, ""),
        ({"prompt_cache_key": 7}, "7"),
        ({"prompt_cache_key": "a\n\u202eb"}, r'"a\n\u202eb"'),
    ],
)
def test_key_that_a_request_has(tmp_path: Path, members: Object, key: str) -> None:
    [row] = rows_of(build(tmp_path, exchange(request_body(**members))))
    assert row.key == key


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-5.4", "gpt-5.4"), (7, "unknown"), ("\ud83d", r'"\ud83d"'), ("x" * 300, "x" * 255)],
)
def test_model_is_written_as_in_the_log(tmp_path: Path, model: Json, name: str) -> None:
    [row] = rows_of(build(tmp_path, exchange(request_body(model=model))))
    assert row.model.strip('"').removesuffix(r"\u2026") == name.strip('"')


def test_endpoint_has_no_query(tmp_path: Path) -> None:
    [row] = rows_of(build(tmp_path, exchange(request_body(), url=f"{URL}&key=secret")))
    assert row.endpoint == "https://gateway.test/v1/messages"


@pytest.mark.parametrize(
    ("at", "time"), [(1000.5, 1000.5), (-1.0, 0), (float("nan"), 0), (float("inf"), 0)]
)
def test_time_is_one_that_can_be_shown(tmp_path: Path, at: float, time: float) -> None:
    [row] = rows_of(build(tmp_path, exchange(request_body(), at)))
    assert row.time == time


@pytest.mark.parametrize(
    "each",
    [
        exchange(request_body(), method="GET"),
        exchange(request_body(), url="https://gateway.test/v1/messages/count_tokens"),
        exchange({"model": "gpt-5.4", "messages": [user("one")]}),
        exchange(b"\xff"),
        tflow.ttcpflow(),
        tflow.tdnsflow(),
    ],
)
def test_other_flows_are_not_in_it(tmp_path: Path, each: flow.Flow) -> None:
    assert build(tmp_path, each).sums.requests == 0


@pytest.mark.parametrize("filter_", [GENERATIONS, "~all"])
def test_flows_of_no_requests_are_left_out(tmp_path: Path, filter_: str) -> None:
    flows = [tflow.ttcpflow(), exchange(request_body()), tflow.tudpflow()]
    assert build(tmp_path, *flows, filter_=filter_).sums.requests == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://api.anthropic.com/v1/messages",
        "http://127.0.0.1:4000/v1/responses",
        "https://api.openai.com/v1/chat/completions?x=1",
    ],
)
def test_hosts_that_take_no_key_are_in_it_too(tmp_path: Path, url: str) -> None:
    assert build(tmp_path, exchange(request_body(), url=url)).sums.requests == 1


def test_metadata_that_no_addon_wrote(tmp_path: Path) -> None:
    data = saved(exchange(request_body()))
    assert data.count(b"8:metadata;0:}") == 1
    file = tmp_path / "flows"
    file.write_bytes(data.replace(b"8:metadata;0:}", b"8:metadata;0:]"))
    made = report.build(file, flowfilter.parse("~all"), 600, None)
    assert made.sums.requests == 1


def test_metadata_of_another_type(tmp_path: Path) -> None:
    each = exchange(request_body())
    each.metadata |= {"claude_session": [ID], "claude_agent": 7, "prompt_cache_key": {"a": 1}}
    [session] = build(tmp_path, each).sessions
    [row] = session.requests
    assert (session.id, row.agent, row.key) == (f"['{ID}']", "7", "\"{'a': 1}\"")


# What a response reported

EVENTS = (
    b'event: message_start\r\ndata: {"message": {"usage": {"input_tokens": 9}}}\r\n\r\n'
    b'event: message_delta\r\ndata: {"usage": {"input_tokens": 30, "cache_read_input_tokens": 70}}'
    b"\r\n\r\n"
)
SEEN = Usage(100, 70, None, None)
NO_PART = http.Response.make(200, b"", {"content-type": "application/json"})
NO_PART.raw_content = None


def answer(content: bytes, kind: str = "text/event-stream", **headers: str) -> http.Response:
    response = http.Response.make(200, b"", {"content-type": kind, **headers})
    response.raw_content = content
    return response


def encoded(coding: str) -> http.Response:
    response = answer(EVENTS)
    response.encode(coding)
    return response


@pytest.mark.parametrize(
    ("response", "usage"),
    [
        (answer(EVENTS), SEEN),
        (encoded("gzip"), SEEN),
        (encoded("br"), SEEN),
        (encoded("zstd"), SEEN),
        # broke off
        (answer(gzip.compress(EVENTS)[:-9], **{"content-encoding": "gzip"}), SEEN),
        (answer(b"no brotli", **{"content-encoding": "br"}), None),
        (
            answer(
                b'{"usage": {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 70},'
                b' "completion_tokens": 5}}',
                "application/json",
            ),
            Usage(100, 70, None, 5),
        ),
        (answer(b'{"error": "overloaded"}', "application/json"), None),
        (http.Response.make(529, b""), None),
        (NO_PART, None),
        (None, None),
    ],
)
def test_usage(tmp_path: Path, response: http.Response | None, usage: Usage | None) -> None:
    [row] = rows_of(build(tmp_path, exchange(request_body(), answer=response)))
    assert row.usage == usage


# Where a prefix broke

FIRST = request_body()
SECOND = request_body(messages=[user("one"), assistant("two"), user("three")])
THIRD = request_body(messages=[*SECOND["messages"], assistant("four"), user("five")])
ASIDE = request_body(messages=[*SECOND["messages"], user("suggest something")])
REORDERED = SECOND | {"tools": [tool("B"), tool("A")]}
SUBAGENT = request_body(tools=[tool("A")], messages=[user("search")])
SUBAGENT_ON = SUBAGENT | {"messages": [user("search"), assistant("found"), user("more")]}
PERSONA = request_body(system="You search.", messages=[user("search")])
TITLE = request_body(tools=[], system="Find a title.", messages=[user("one")])
TITLE_AGAIN = TITLE | {"messages": [user("three")]}
COMPACTED = request_body(messages=[user("This session continues another.")])
RESPONSE = {"tools": [tool("A")], "input": "one", "previous_response_id": "resp_1"}


@pytest.mark.parametrize(
    ("befores", "after", "path"),
    [
        ([], FIRST, None),
        ([FIRST], FIRST, None),
        ([FIRST], SECOND, None),
        ([THIRD, SECOND], REORDERED, "tools[0].name"),
        # The conversation goes on from one before the last.
        ([ASIDE, SECOND], THIRD, None),
        ([SUBAGENT, SECOND], THIRD, None),
        ([SUBAGENT, SECOND], SUBAGENT_ON, None),
        # It broke with what it shares most with.
        ([SUBAGENT, FIRST], SECOND | {"messages": [user("uno"), assistant("due")]}, "messages[0]"),
        ([FIRST, SUBAGENT], SECOND | {"messages": [user("uno"), assistant("due")]}, "messages[0]"),
        # Conversations that begin.
        ([SECOND], SUBAGENT, None),
        ([SECOND], PERSONA, None),
        ([SECOND], TITLE, None),
        ([TITLE], TITLE_AGAIN, None),
        ([TITLE], FIRST, None),
        ([SECOND], {"input": "one"}, None),
        # None begins.
        ([SECOND], COMPACTED, "messages[0]"),
        ([RESPONSE], RESPONSE | {"tools": [tool("B")]}, "tools[0].name"),
        ([SECOND], SECOND | {"messages": ["no message"]}, "messages[0]"),
        ([SECOND], SECOND | {"messages": [{"role": ["user"]}]}, "messages[0]"),
    ],
)
def test_nearest(befores: list[Object], after: Object, path: str | None) -> None:
    broke = nearest(befores, after)
    assert (broke and broke.path.startswith(path or "-")) is (path and True)


def test_recorded_conversations(tmp_path: Path) -> None:
    """Only these broke; up to 2.1.90 subagents speak as the main agent does, and break nothing."""
    found = {}
    for client in {record["client"] for record in records("claude_code")}:
        flows = [
            exchange(
                record["body"].encode(),
                record["seq"],
                url=f"https://gateway.test{record['path']}",
                method=record["method"],
                **dict(record["headers"]),
            )
            for record in records("claude_code")
            if record["client"] == client
        ]
        for row in rows_of(
            build(tmp_path, *sorted(flows, key=lambda f: f.request.timestamp_start))
        ):
            if row.broke:
                found[client, row.time] = (row.broke.path, row.broke.cause)
    assert found == {
        ("claude-code 2.1.330", 214): (
            "system[0].text",
            "attribution block changed (set CLAUDE_CODE_ATTRIBUTION_HEADER=0)",
        ),
        ("claude-code 2.1.330", 473): (
            "messages[13].content",
            "earlier messages were rewritten (as /compact does)",
        ),
    }


def test_path_of_a_break_is_written_as_in_the_log(tmp_path: Path) -> None:
    first = exchange(request_body(messages=[user("one") | {"a b": 1}, assistant("two")]))
    second = exchange(request_body(messages=[user("one") | {"a b": 2}, assistant("two")]))
    _, row = rows_of(build(tmp_path, first, second))
    assert row.broke
    assert row.broke.path == '"messages[0].a b"'


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"])
def test_bodies_that_cannot_be_compared(content: bytes) -> None:
    bodies = Bodies()
    assert bodies.compare("a", json.dumps(SECOND).encode()) is None
    assert bodies.compare("a", content) is None
    assert bodies.compare("a", json.dumps(REORDERED).encode())


def compared(bodies: Bodies, speaker: str, request: Object) -> bool:
    """Whether a body was compared with one before: both have turns, so all else is a break."""
    return bodies.compare(speaker, json.dumps(request).encode()) is not None


def turn(name: str, size: int = 0) -> Object:
    return {"messages": [user(name + "x" * size), assistant("two")]}


def test_the_last_bodies_of_a_speaker_are_kept() -> None:
    bodies = Bodies()
    for n in range(report.KEPT_EACH + 1):
        assert compared(bodies, "a", turn(str(n))) is (n > 0)
    assert not compared(bodies, "b", turn("1"))
    assert not compared(bodies, "a", turn("1"))
    assert compared(bodies, "a", turn("0"))


def test_the_speaker_silent_for_longest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "KEPT_SIZE", 5 * 4096)
    bodies = Bodies()
    for speaker in "aabbab":
        compared(bodies, speaker, turn(speaker))
    assert not compared(bodies, "c", turn("c"))  # in place of the first of a
    assert not compared(bodies, "d", turn("d"))
    assert not compared(bodies, "e", turn("e"))
    assert not compared(bodies, "a", turn("other"))
    assert compared(bodies, "b", turn("other"))


def test_a_body_over_the_limit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "KEPT_SIZE", 8192)
    bodies = Bodies()
    assert not compared(bodies, "a", turn("a", 10_000))
    assert not compared(bodies, "a", turn("b", 10_000))


# Keys and pauses


def row(time: float, key: str = "k", model: str = "m", usage: Usage | None = None) -> Row:
    return Row(time, "main", model, "https://gateway.test", key, usage, None)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([row(1)], [(True, None, 0)]),
        ([row(1), row(2)], [(True, None, 0), (False, None, 0)]),
        ([row(1), row(2, "l"), row(3, "")], [(True, None, 0), (False, "k", 0), (False, "l", 0)]),
        ([row(1, ""), row(2)], [(True, None, 0), (False, "", 0)]),
        ([row(1), row(2, "l", "n"), row(3)], [(True, None, 0), (True, None, 0), (False, None, 0)]),
        ([row(0), row(600)], [(True, None, 0), (False, None, 0)]),
        ([row(0), row(601)], [(True, None, 0), (False, None, 601)]),
        ([row(0), row(5, "k", "n"), row(601)], [(True, None, 0)] * 2 + [(False, None, 601)]),
        # too short for a cache
        ([row(0), row(601, usage=Usage(1023, 0, None, None))], [(True, None, 0), (False, None, 0)]),
        (
            [row(0), row(601, usage=Usage(1024, 0, None, None))],
            [(True, None, 0), (False, None, 601)],
        ),
    ],
)
def test_marked(rows: list[Row], expected: list[tuple[bool, str | None, float]]) -> None:
    for order in (rows, rows[::-1]):
        found = list(marked(order, 600))
        assert [(each.is_first, each.old_key, each.pause) for each in found] == expected
        assert [each.time for each in found] == [each.time for each in rows]


BROKE = Break("tools[0]", 0, "", "", 40, "tools changed")


@pytest.mark.parametrize(
    ("each", "why"),
    [
        (row(1), "new text, or a miss of the upstream's own"),
        (row(1)._replace(is_first=True), "an agent's first request to a model"),
        (row(1)._replace(broke=BROKE), "the prefix broke: tools changed"),
        (row(1)._replace(broke=BROKE, pause=700), "a long pause"),
        (row(1)._replace(broke=BROKE, pause=700, old_key=""), "the key changed"),
    ],
)
def test_why_tokens_did_not_come_from_the_cache(each: Row, why: str) -> None:
    assert each.why == why


# Sums and costs


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(1_000_000, 0, None, None), 2.0),
        (Usage(1_000_000, 1_000_000, None, None), 0.2),
        (Usage(1_000_000, 500_000, 500_000, 100_000), 0.1 + 1.5 + 1.0),
        (Usage(1_000_000, 500_000, 250_000, 0), 0.1 + 0.75 + 0.5),
        # more written than there was
        (Usage(1_000_000, 0, 2_000_000, None), 6.0),
    ],
)
def test_cost(usage: Usage, cost: float) -> None:
    assert PRICES.cost(usage) == pytest.approx(cost)


def test_sums() -> None:
    rows = [
        row(1, usage=Usage(1000, 0, 500, 10)),
        row(2, usage=Usage(3000, 1000, None, None))._replace(broke=BROKE, old_key="k"),
        row(3)._replace(old_key="", pause=700),
    ]
    assert sums(rows, None)._asdict() == {
        "requests": 3,
        "without_usage": 1,
        "prompt_tokens": 4000,
        "cached_tokens": 1000,
        "uncached_tokens": 3000,
        "written_tokens": 500,
        "output_tokens": 10,
        "hit_percent": 25.0,
        "breaks": 1,
        "key_changes": 2,
        "pauses": 1,
        "cost": None,
        "cost_without_cache": None,
    }
    priced = sums(rows, PRICES)
    assert priced.cost == pytest.approx((500 * 2 + 500 * 3 + 2000 * 2 + 1000 * 0.2 + 100) / 1e6)
    assert priced.cost_without_cache == pytest.approx((4000 * 2 + 10 * 10) / 1e6)


def test_sums_of_nothing() -> None:
    assert sums([], None).hit_percent == 0


def test_what_missed_the_cache_most_comes_first(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        exchange(request_body(ID), 5, usage_body(5000, 4000)),
        exchange(request_body(OTHER), 1, usage_body(4000, 2000)),
        exchange(request_body(OTHER), 2, usage_body(4000, 3500)),
        exchange(request_body(OTHER, model="gpt-5.4"), 3, usage_body(3000)),
    )
    assert [session.id for session in made.sessions] == [OTHER, ID]
    assert [of.uncached_tokens for _, of in made.sessions[0].speakers] == [3000, 2500]
    assert [(why, of.uncached_tokens) for why, of in made.causes] == [
        ("an agent's first request to a model", 6000),
        ("new text, or a miss of the upstream's own", 500),
    ]
    assert made.sums.uncached_tokens == sum(of.uncached_tokens for _, of in made.causes)


# Files


FLOWS = [exchange(request_body(), at, usage_body(2000, 1000)) for at in (1.0, 2.0, 3.0)]
DATA = saved(*FLOWS)
ENDS = [len(saved(*FLOWS[:n])) for n in range(4)]
LENIENT = settings(max_examples=50, deadline=None)


def read(path: Path, data: bytes) -> Report:
    file = path / "flows"
    file.write_bytes(data)
    return report.build(file, flowfilter.parse(GENERATIONS), 600, None)


@given(cut=st.integers(0, len(DATA)))
@LENIENT
def test_a_file_that_breaks_off_is_read_up_to_there(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    made = read(tmp_path_factory.getbasetemp(), DATA[:cut])
    whole = sum(end <= cut for end in ENDS) - 1
    assert made.sums.requests == whole
    assert made.problem.startswith(
        f"the file is broken after {whole} flows" if cut not in ENDS else ""
    )
    assert bool(made.problem) is (cut not in ENDS)


@given(at=st.integers(0, len(DATA) - 1), put=st.binary(min_size=1, max_size=4))
@LENIENT
def test_a_corrupt_file_is_read_up_to_there(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes
) -> None:
    made = read(tmp_path_factory.getbasetemp(), DATA[:at] + put + DATA[at + len(put) :])
    assert made.sums.requests >= sum(end <= at for end in ENDS) - 1
    assert "\n" not in made.problem


def test_a_flow_that_lacks_something_is_the_end(tmp_path: Path) -> None:
    made = read(tmp_path, DATA[: ENDS[1]] + DATA[ENDS[1] :].replace(b"2:id;", b"2:ix;"))
    assert made.problem == "the file is broken after 1 flows: \"KeyError: 'id'\""


def big(file: Path, count: int, size: int) -> None:
    with file.open("wb") as out:
        writer = FlowWriter(out)
        for n in range(count):
            request = request_body(messages=[user("x" * size), assistant("two"), user(f"{n}")])
            writer.add(exchange(request, n, usage_body(size // 4)))


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "KEPT_SIZE", 4 << 20)
    file = tmp_path / "flows"
    big(file, 500, 80_000)
    assert file.stat().st_size > 36 << 20
    tracemalloc.start()
    try:
        made = report.build(file, flowfilter.parse(GENERATIONS), 600, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.sums.requests == 500
    assert peak < 10 << 20


# The command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "saved.flows"
    path.write_bytes(DATA)
    return path


def test_the_page_lies_beside_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(file)])

    page = file.with_name("saved.flows.html")
    assert capsys.readouterr() == (
        f"{page}: sessions 1, requests 3, prompt tokens 6,000, hit rate 50.0 %, "
        "prefix breaks 0, key changes 0\n",
        "",
    )
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_the_page_goes_where_it_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = file.with_name("other.html")
    main([str(file), "-o", str(page)])
    assert capsys.readouterr().out.startswith(f"{page}: ")
    assert page.read_text("utf-8").endswith("</html>\n")
    assert len(list(file.parent.iterdir())) == 2


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "flows"
    second = exchange(REORDERED | {"prompt_cache_key": "k2"}, 2000, answer=usage_body(2000, 500))
    first = exchange(SECOND | {"prompt_cache_key": "k1"}, 1000, answer=usage_body(1500))
    file.write_bytes(saved(first, second))

    main([str(file), "--json", "--keep", "5m", "--price-input", "2"])

    found = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == [file]
    assert found["file"] == "flows"
    assert found["problem"] == ""
    assert found["keep"] == 300
    assert found["prices"] == {"input": 2, "cached": 2, "written": 2, "output": 0}
    assert found["sums"]["cost"] == pytest.approx(3500 * 2 / 1e6)
    assert [why for why, _ in found["causes"]] == [
        "an agent's first request to a model",
        "the key changed",
    ]
    [session] = found["sessions"]
    speaker = ["main", "claude-opus-5-5", "https://gateway.test/v1/messages"]
    assert session["id"] == ID
    assert session["speakers"] == [[speaker, session["sums"]]]
    assert session["requests"][1] == {
        "time": 2000,
        "agent": "main",
        "model": "claude-opus-5-5",
        "endpoint": "https://gateway.test/v1/messages",
        "key": "k2",
        "usage": {"input": 2000, "cached": 500, "written": None, "output": 0},
        "broke": {
            "path": "tools[0].name",
            "at": 0,
            "before": "A",
            "after": "B",
            "chars": 0,
            "cause": "tools changed",
            "tokens": 0,
        },
        "is_first": False,
        "old_key": "k1",
        "pause": 1000,
    }


def test_json_into_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = file.with_name("report.json")
    main([str(file), "--json", "-o", str(target)])
    assert capsys.readouterr().out.startswith(f"{target}: sessions 1")
    assert json.loads(target.read_text("utf-8"))["sums"]["requests"] == 3


@pytest.mark.parametrize(
    ("arguments", "prices"),
    [
        ([], None),
        (["--price-input", "2"], [2, 2, 2, 0]),
        (["--price-input", "2", "--price-cached", "0"], [2, 0, 2, 0]),
        (["--price-input=2", "--price-cached=.2", "--price-written=3"], [2, 0.2, 3, 0]),
        (["--price-output", "10"], [0, 0, 0, 10]),
    ],
)
def test_prices(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    prices: list[float] | None,
) -> None:
    main([str(file), "--json", *arguments])
    found = json.loads(capsys.readouterr().out)["prices"]
    assert (found and list(found.values())) == prices


def test_filter(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(file), "--json", "--filter", "~d gateway.test"])
    assert json.loads(capsys.readouterr().out)["sums"]["requests"] == 3
    with pytest.raises(SystemExit, match="no request of a Claude Code session in it"):
        main([str(file), "--filter", "~d other.test"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--keep", "soon"], "argument --keep: invalid seconds value: 'soon'"),
        (["--filter", "~~"], "argument --filter: invalid parse value: '~~'"),
        (["--price-input", "free"], "argument --price-input: invalid price value: 'free'"),
        (["--price-input", "nan"], "argument --price-input: invalid price value: 'nan'"),
        (["--price-output=-1"], "argument --price-output: invalid price value: '-1'"),
    ],
)
def test_bad_arguments(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit):
        main([str(file), *arguments])
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("none", [], r"^report: \[Errno 2\] No such file or directory: '.*none'$"),
        ("", [], r"^report: \[Errno 21\] Is a directory: "),
        ("empty", [], r"^report: .*empty: no request of a Claude Code session in it$"),
        ("text", [], r"^report: .*text: the file is broken after 0 flows: .*FlowReadException"),
        ("saved.flows", ["-o", "/dev/null/x"], r"^report: \[Errno 20\] Not a directory: "),
    ],
)
def test_nothing_to_report(file: Path, name: str, arguments: list[str], complaint: str) -> None:
    file.with_name("empty").touch()
    file.with_name("text").write_text("no flows\n")
    with pytest.raises(SystemExit, match=complaint):
        main([str(file.parent / name), *arguments])


def test_a_broken_file_is_told_of(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(DATA[:-1])
    main([str(file), "--json"])
    told = capsys.readouterr()
    assert told.err.startswith(f"report: {file}: the file is broken after 2 flows: ")
    assert told.err.count("\n") == 1
    assert json.loads(told.out)["problem"] in told.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("limit", [0, len(DATA)])
def test_a_progress_bar_for_a_large_file_on_a_terminal(
    file: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(report, "LARGE_FILE", limit)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    main([str(file)])
    lines = terminal.getvalue().split("\r")
    if limit:
        assert lines == [""]
    else:
        assert lines[3] == f"[{'#' * 40}] 100%"
        assert [line.rstrip() for line in (lines[0], *lines[4:])] == ["", "", ""]


def test_no_progress_bar_in_a_pipe(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "LARGE_FILE", 0)
    main([str(file)])
    assert capsys.readouterr().err == ""


def test_output_may_be_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "flows"
    file.write_bytes(saved(*(exchange(request_body(f"{n}"), n) for n in range(300))))
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), str(file), "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ADDON.parent)},
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.stderr.read() == b""
