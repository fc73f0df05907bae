"""The commands `promptcache.*`. mitmweb's command bar takes letters and dots only."""

import logging

from mitmproxy import command, exceptions

from prompt_cache_key.log import log, pairs, text
from prompt_cache_key.state import State


class Commands:
    """Shows what the addon knows, forgets a session's keys, and explains a flow."""

    def __init__(self, state: State) -> None:
        self.state = state

    @command.command("promptcache.forget")
    def forget(self, session: str) -> None:
        """End a session's mappings: its next request gets a new key."""
        state = self.state
        names = set(state.keys.names(session)) | state.totals.names(session)
        if not names:
            raise exceptions.CommandError(f"no key is known for session {text(session)}")
        try:
            state.store.forget(list(names), state.clock())
        except ValueError as e:
            raise exceptions.CommandError(str(e)) from None
        log(logging.INFO, f"forgot {pairs(keys=len(names), session=session)}")
