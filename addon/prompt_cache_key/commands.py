"""The commands `promptcache.*`. mitmweb's command bar takes letters and dots only."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

from mitmproxy import command, ctx, exceptions, types
from mitmproxy.flow import Flow
from mitmproxy.log import ALERT

from prompt_cache_key.console import columns, is_console
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.log import log, pairs, text
from prompt_cache_key.misses.explain import explain
from prompt_cache_key.misses.history import KEPT_EACH
from prompt_cache_key.report.page import page
from prompt_cache_key.report.saved_flows import finished_in, read
from prompt_cache_key.sessions_table import table
from prompt_cache_key.state import State
from prompt_cache_key.stats.money import at_hand, load
from prompt_cache_key.stats.report import report_of
from prompt_cache_key.usage.accounting import Accounting


class Commands:
    """Shows what the addon knows, forgets a session's keys, and explains a flow."""

    def __init__(self, state: State) -> None:
        self.state = state

    @command.command("promptcache.sessions")
    def sessions(self) -> types.Data:
        """Show the sessions: their keys, and what they read from the cache."""
        # The console shows it in a window of four fifths of the screen, less its frame.
        room = columns(4 / 5) - 2 * is_console()
        lines = table(self.state.sessions.rows(), room, at_hand())
        # A row of one cell: the console gives each cell the same width.
        return cast("types.Data", [[line] for line in lines])

    @command.command("promptcache.forget")
    def forget(self, session: str) -> None:
        """Evict a session's keys: its next request gets a new one. The id's beginning will do."""
        state = self.state
        found = state.sessions.ids(session) if session else []
        if len(found) == 1:
            session = found[0]
        names = {*state.keys.names(session), *state.sessions.mappings(session)}
        if not names:
            several = f"; {len(found)} sessions begin with it" if found else ""
            raise exceptions.CommandError(f"no key is known for session {text(session)}{several}")
        state.history.forget(session)
        try:
            state.store.forget(list(names), state.clock())
        except ValueError as e:
            raise exceptions.CommandError(str(e)) from None
        _answer(f"forgot {pairs(keys=len(names), session=session)}")

    @command.command("promptcache.explain")
    def explain(self, flow: Flow) -> None:
        """Explain a miss, or say whether the prompt continues the one before it."""
        if not (this := read(flow)):
            raise exceptions.CommandError("the flow shows no Claude Code session")
        before = list(islice(_before(flow, this), KEPT_EACH))
        if not before:
            raise exceptions.CommandError("no earlier request of this session, agent and model")
        accounting = Accounting()
        requests = [read(each, accounting) for each in (*reversed(before), flow)]
        *earlier, this = filter(None, requests)
        line, details = explain(earlier, this)
        _answer(f"explain: {line}; {pairs(session=this.session)}")
        if line not in flow.comment:
            flow.comment = "\n".join(filter(None, (flow.comment, line, details)))

    @command.command("promptcache.report")
    def report(self, path: types.Path) -> None:
        """Write the report of all flows at hand to a file, as a page."""
        flows = sorted(_all_flows(), key=lambda flow: flow.timestamp_created)
        target = Path(path).expanduser()
        try:
            target.write_text(
                page(report_of("mitmproxy", finished_in(flows), prices=load())), "utf-8"
            )
        except OSError as e:
            raise exceptions.CommandError(f"no report: {text(str(e))}") from None
        _answer(f"report of {len(flows)} flows in {text(str(target))}")


def _before(flow: Flow, this: FinishedRequest) -> Iterator[Flow]:
    """Yield the flows of a conversation before one of its flows, the latest first."""
    before = [each for each in _all_flows() if each.timestamp_created < flow.timestamp_created]
    for each in sorted(before, key=lambda each: -each.timestamp_created):
        if each.metadata.get("claude_session", this.session) == this.session:
            earlier = read(each)
            if earlier and earlier.conversation == this.conversation:
                yield each


def _all_flows() -> Sequence[Flow]:
    try:
        return cast("Sequence[Flow]", ctx.master.commands.call("view.flows.resolve", "@all"))
    except exceptions.CommandError:
        raise exceptions.CommandError("only mitmproxy and mitmweb keep flows") from None


def _answer(line: str) -> None:
    """Log the answer to a command; the console's status line shows alerts alone."""
    log(ALERT if is_console() else logging.INFO, line)
