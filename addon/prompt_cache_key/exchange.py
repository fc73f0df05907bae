"""A request that has a key, and what its response brings."""

from dataclasses import dataclass
from typing import NamedTuple

from prompt_cache_key.judge.totals import Entry
from prompt_cache_key.log import text
from prompt_cache_key.request.stream import ResponseTap
from prompt_cache_key.response.usage import Usage, UsageReader


class Speaker(NamedTuple):
    """Who asks whom: an agent (`main`, a subagent's id, `unknown`) of a session asks a model."""

    session: str
    agent: str
    model: str


@dataclass
class Exchange:
    """What is known of a keyed request until it is answered.

    `usage` and `tap` look at the response, `comment` is the one that was given to the flow. `cause`
    is the exchange that a translator's call was made for.
    """

    speaker: Speaker
    key: str
    state: str
    total: Entry
    comment: str = ""
    usage: UsageReader | None = None
    tap: ResponseTap | None = None
    cause: "Exchange | None" = None
    is_replaced: bool = False

    def replace_cause(self) -> None:
        """Count in place of the cause: both carry the same prompt."""
        if self.cause and not self.cause.is_replaced:
            self.cause.is_replaced = True
            self.cause.total.withdraw()

    def summary(self, usage: Usage | None = None) -> str:
        """Return a short line for the screen."""
        session, agent, model = self.speaker
        tokens = f" {usage.cached}/{usage.input} {usage.hit:.0f}%" if usage else ""
        return f"{session[:8]} {text(agent)} {text(model)} key={text(self.key[:8])}{tokens}"
