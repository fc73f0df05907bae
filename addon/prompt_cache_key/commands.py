"""The commands `promptcache.*`. mitmweb's command bar takes letters and dots only."""

import logging
from collections.abc import Iterator
from typing import cast

from mitmproxy import command, ctx, exceptions, types
from mitmproxy.log import ALERT

from prompt_cache_key.log import log, pairs, text
from prompt_cache_key.show.table import Row, table
from prompt_cache_key.state import State


class Commands:
    """Shows what the addon knows, forgets a session's keys, and explains a flow."""

    def __init__(self, state: State) -> None:
        self.state = state

    @command.command("promptcache.sessions")
    def sessions(self) -> types.Data:
        """Show the sessions: their keys, and what they got from the cache."""
        # A row of one cell: the console gives each cell the same width.
        return cast("types.Data", [[line] for line in table(rows(self.state))])

    @command.command("promptcache.forget")
    def forget(self, session: str) -> None:
        """End a session's mappings: its next request gets a new key."""
        state = self.state
        names = {*state.keys.names(session), *state.totals.names(session)}
        if not names:
            raise exceptions.CommandError(f"no key is known for session {text(session)}")
        try:
            state.store.forget(list(names), state.clock())
        except ValueError as e:
            raise exceptions.CommandError(str(e)) from None
        _answer(f"forgot {pairs(keys=len(names), session=session)}")


def rows(state: State) -> Iterator[Row]:
    """Yield what each session's agents had of each model, the newest session last."""
    for session, agent, model, row in state.totals.rows():
        used = (row.requests, row.input, row.hit, row.lost, row.main_cause)
        yield Row(session, agent, model, row.key, row.scope, *used)


def _answer(line: str) -> None:
    """Write a line where who gave the command sees it: the console's status line shows alerts."""
    is_console = "keymap" in vars(ctx.master)
    log(ALERT if is_console else logging.INFO, line)
