import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mitmproxy import command, exceptions, http
from mitmproxy.flow import Flow
from mitmproxy.test import tflow
from unit.context import SESSION, Context, key, usage

Log = Callable[[], list[str]]


def test_sessions(context: Context) -> None:
    flow = context.answer(context.send(), usage(2048, 1920))
    header, row, *_ = context.master.commands.execute("promptcache.sessions")
    assert len(header) == len(row) == 1
    assert row[0].startswith(SESSION[:8])
    assert key(flow)[:8] in row[0]


@pytest.mark.parametrize("columns", [80, 120])
def test_sessions_fit_the_console(
    context: Context, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.answer(context.send(), usage(2048, 1920))
    vars(context.master)["keymap"] = None
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line for (line,) in context.master.commands.execute("promptcache.sessions")]
    # The console's window is four fifths as wide, and has a frame.
    assert max(map(len, lines)) <= columns * 4 // 5 - 2
    assert lines[0].endswith("main cause")
    assert ("key" in lines[0]) == (columns == 120)


@pytest.mark.parametrize("scope", ["session", "user"])
def test_forget(context: Context, log: Log, scope: str) -> None:
    context.set(scope=scope)
    before = key(context.send())
    log()
    context.master.commands.execute(f"promptcache.forget {SESSION}")
    assert log() == [f"INFO [prompt-cache] forgot keys=1 session={SESSION}"]
    assert key(context.send()) != before
    with pytest.raises(exceptions.CommandError, match='no key is known for session "a b"'):
        context.master.commands.call("promptcache.forget", "a b")


def test_forget_by_the_beginning_of_an_id(context: Context, log: Log) -> None:
    for session in ("one-1", "one-2", "two"):
        context.send(headers={"X-Claude-Code-Session-Id": session})
    log()
    context.master.commands.call("promptcache.forget", "t")
    assert log() == ["INFO [prompt-cache] forgot keys=1 session=two"]
    with pytest.raises(exceptions.CommandError, match="session one; 2 sessions begin with it"):
        context.master.commands.call("promptcache.forget", "one")


def test_answer_in_the_console(context: Context, log: Log) -> None:
    context.send()
    log()
    vars(context.master)["keymap"] = None
    context.master.commands.execute(f"promptcache.forget {SESSION}")
    assert log() == [f"ALERT [prompt-cache] forgot keys=1 session={SESSION}"]


def test_forget_while_the_store_does_not_answer(context: Context) -> None:
    async def forget() -> None:
        context.set(store="redis://127.0.0.1:1")
        await context.addon.request(context.flow())
        with pytest.raises(exceptions.CommandError, match="the store does not answer"):
            context.master.commands.execute(f"promptcache.forget {SESSION}")
        context.set(store="memory")

    asyncio.run(forget())


# Over the flows that mitmproxy and mitmweb keep


class View:
    """Keeps flows as mitmproxy's view does."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []

    @command.command("view.flows.resolve")
    def resolve(self, _spec: str) -> Sequence[Flow]:
        return self.flows


def turn(
    context: Context, view: View, text: str, session: str = SESSION, cached: int | None = 0
) -> http.HTTPFlow:
    content = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
    headers = {"X-Claude-Code-Session-Id": session}
    flow = context.answer(context.send(content.encode(), headers), usage(2048, cached))
    flow.timestamp_created = len(view.flows)
    view.flows.append(flow)
    return flow


def test_explain(context: Context, log: Log) -> None:
    view = View()
    context.master.addons.add(view)
    first = turn(context, view, "a")
    turn(context, view, "b", "other")
    view.flows.append(tflow.ttcpflow())
    last = turn(context, view, "c")
    log()
    for _ in range(2):
        context.master.commands.call("promptcache.explain", last)
    one, two = log()
    assert one == two
    assert "explain: no miss; the prompt changed: messages rewritten, at messages[0]" in one
    assert one.endswith(f"; session={SESSION}")
    assert last.comment.startswith("0% 0/2048 3f6c1c1e main m key=")
    assert last.comment.count(one.partition(": ")[2].partition("; session=")[0]) == 1
    # A flow that was loaded, the addon not being there when it was saved.
    for flow in (first, last):
        flow.metadata.clear()
    context.master.commands.call("promptcache.explain", last)
    assert len(log()) == 1
    with pytest.raises(exceptions.CommandError, match="no earlier request"):
        context.master.commands.call("promptcache.explain", first)
    for other in (tflow.ttcpflow(), context.flow(b"?", {}), context.flow(headers={})):
        with pytest.raises(exceptions.CommandError, match="shows no Claude Code session"):
            context.master.commands.call("promptcache.explain", other)


def test_explain_counts_what_a_response_leaves_out_as_the_log_does(
    context: Context, log: Log
) -> None:
    """As vLLM does, which reports no cached tokens where there are none."""
    view = View()
    context.master.addons.add(view)
    turn(context, view, "a", cached=128)
    last = turn(context, view, "a", cached=None)
    assert "usage hit=0% input=2048 cached=0 " in log()[-1]
    context.master.commands.call("promptcache.explain", last)
    assert "the upstream reports hit=0% input=2048 cached=0" in log()[-1]


def test_report(context: Context, log: Log, tmp_path: Path) -> None:
    view = View()
    context.master.addons.add(view)
    turn(context, view, "a")
    log()
    context.master.commands.call("promptcache.report", str(tmp_path / "report.html"))
    assert log() == [f"INFO [prompt-cache] report of 1 flows in {tmp_path / 'report.html'}"]
    assert SESSION[:8] in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(exceptions.CommandError, match="no report: "):
        context.master.commands.call("promptcache.report", str(tmp_path))


def test_mitmdump_keeps_no_flows(context: Context, tmp_path: Path) -> None:
    with pytest.raises(exceptions.CommandError, match="only mitmproxy and mitmweb keep flows"):
        context.master.commands.call("promptcache.report", str(tmp_path))
