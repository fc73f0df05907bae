import asyncio
from collections.abc import Callable

import pytest
from mitmproxy import exceptions
from unit.context import SESSION, Context, key, usage

Log = Callable[[], list[str]]


def test_sessions(context: Context) -> None:
    flow = context.answer(context.send(), usage(2048, 1920))
    header, row, *_ = context.master.commands.execute("promptcache.sessions")
    assert len(header) == len(row) == 1
    assert row[0].startswith(SESSION[:8])
    assert key(flow)[:8] in row[0]


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


def test_answer_in_the_console(context: Context, log: Log) -> None:
    context.send()
    log()
    vars(context.master)["keymap"] = None
    context.master.commands.execute(f"promptcache.forget {SESSION}")
    assert log() == [f"ALERT [prompt-cache] forgot keys=1 session={SESSION}"]


def test_forget_while_the_store_is_lost(context: Context) -> None:
    async def forget() -> None:
        context.set(store="redis://127.0.0.1:1")
        await context.addon.request(context.flow())
        with pytest.raises(exceptions.CommandError, match="the store is lost"):
            context.master.commands.execute(f"promptcache.forget {SESSION}")
        context.set(store="memory")

    asyncio.run(forget())
