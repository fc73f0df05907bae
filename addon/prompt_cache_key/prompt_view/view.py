"""The content view "Prompt" of mitmproxy and mitmweb, for the APIs of mitmproxy 11 and 12."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from mitmproxy import contentviews, http

from prompt_cache_key.console import columns
from prompt_cache_key.prompt_view.outline import Facts, outline
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import UsageReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mitmproxy.addonmanager import Loader

    from prompt_cache_key.usage.reader import Usage

PRIORITY = 10
"""Above those of mitmproxy's own views, which end at 2: mitmproxy 11 cannot tell equals apart."""

MAX_RESPONSE = 1 << 20
"""Bytes of a response whose usage is read: up to 0.13 s, in which no request goes on."""

NO_RESPONSES = "This view is for requests: their response is in the views of mitmproxy."

_METADATA = (
    "claude_session",
    "claude_agent",
    "prompt_cache_missed",
    "prompt_cache_cause",
    "prompt_cache_path",
    "prompt_cache_before",
    "prompt_cache_after",
)

# Since mitmproxy 12 a registry has the views. There a view replaces that of the same name, which 11
# refuses unless the first was removed.
_api: Any = contentviews
_registry = getattr(_api, "registry", None)
_changed = _registry.on_change if _registry else _api.on_add
_remove = (lambda _: None) if _registry else _api.remove


class PromptView:
    """An addon that adds the view while it is loaded; a view of both APIs.

    It opens by itself for flows with a key. Nothing is read until someone looks.
    """

    name = "Prompt"
    syntax_highlight = "none"

    def __init__(self) -> None:
        self._unanswered: WeakSet[http.HTTPFlow] = WeakSet()

    def load(self, _loader: Loader | None) -> None:
        """Add the view."""
        _api.add(self)

    def done(self) -> None:
        """Remove the view, so that a reloaded script can add it again."""
        _remove(self)

    def response(self, flow: http.HTTPFlow) -> None:
        """Have an outline drawn again that was looked at before the usage was known.

        The console keeps what it has drawn for as long as the body is the same.
        """
        if flow in self._unanswered:
            self._unanswered.remove(flow)
            _changed.send(self)

    def prettify(self, data: bytes, metadata: Any) -> str:
        """Return the view of a message, as mitmproxy 12 wants it."""
        return "\n".join(self._lines(data, metadata.flow, metadata.http_message))

    def __call__(
        self, data: bytes, *, flow: Any = None, http_message: Any = None, **_: object
    ) -> tuple[str, Iterator[list[tuple[str, str]]]]:
        """Return the view of a message, as mitmproxy 11 wants it."""
        lines = self._lines(data, flow, http_message)
        return self.name, ([("text", line)] for line in lines)

    def render_priority(
        self,
        data: bytes,
        metadata: Any = None,
        *,
        flow: Any = None,
        http_message: Any = None,
        **_: object,
    ) -> float:
        """Return whether the view opens by itself: mitmproxy 12 gives `metadata`, 11 the rest."""
        if metadata:
            flow, http_message = metadata.flow, metadata.http_message
        is_keyed = data and flow and "prompt_cache_key" in flow.metadata
        return PRIORITY if is_keyed and isinstance(http_message, http.Request) else -1

    def _lines(self, data: bytes, flow: Any, message: Any) -> list[str]:
        if isinstance(message, http.Response):
            return [NO_RESPONSES]
        known = Facts()
        if isinstance(flow, http.HTTPFlow):
            known = facts(flow)
            if not flow.response:
                self._unanswered.add(flow)
        # mitmweb hides an empty line.
        return [line or " " for line in outline(data, known, columns())]


def facts(flow: http.HTTPFlow) -> Facts:
    """Return what a flow, live or saved, says of its prompt."""
    usage = _usage(flow.response) if flow.response else None
    session, agent, missed, *texts = (str(flow.metadata.get(name, "")) for name in _METADATA)
    return Facts(
        session,
        agent,
        usage.input if usage else None,
        usage.cached if usage else None,
        int(missed) if missed.isdecimal() and len(missed) < 16 else None,  # noqa: PLR2004
        *texts,
    )


def _usage(response: http.Response) -> Usage | None:
    """Return the usage in a response; the reader's decoder is bounded, mitmproxy's is not."""
    raw = response.raw_content or b""
    if len(raw) > MAX_RESPONSE:
        return None
    reader = UsageReader(response.headers.get("content-encoding", ""))
    reader.feed(raw)
    return Accounting().settle(None, reader.finish())
