"""What is to become of a request: a model of the addon, for requests with a session or without."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lib.messages import Headers
from live.proxied import CHAT, SESSION_HEADER
from live.stepwise import EARLY, Exchange
from prompt_cache_key.upstreams import DEFAULT_FILTER

LIMIT = 10_000  # bytes from which mitmproxy streams
JSON = ("Content-Type", "application/json")
NOTHING, ALL = "~u nothing", "~m POST"
BY_SCRIPT = "/by-script/v1/messages"
GENERATIONS = [BY_SCRIPT, "/v1/messages", "/v1/responses", CHAT]
ATTRIBUTION = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.9a2; a=b;"}
SIGNED = ("Content-MD5", "Authorization")
OWN = {"": b"", "a key": b'"mine"', "no text": b"7", "blank": b'" "', "null": b"null"}
"""A client's own key, as it stands in the body."""
NO_OBJECTS = {
    "a form": b"a=1&b=2",
    "bytes": b"\xff" * 3 * LIMIT,
    "a list": b"[" + b"1," * LIMIT + b"1]",
    "lines": b'{"a":1}\n{"b":2}\n' * LIMIT,
    "cut off": b'{"a":',
}
BLANK = ("blank", "null")

Options = dict[str, Any]
Name = tuple[str, ...]
_numbers = itertools.count(1)


class Kind(NamedTuple):
    """What a request is: `size` is that of a part of its system prompt, `own` a client's own key.

    `no_object` names a body that is sent in place of a conversation.
    """

    path: str = "/v1/messages"
    size: int = 0
    is_shown_in: str = "header"
    agent: str = ""
    own: str = ""
    has_attribution: bool = False
    more: Headers = (JSON,)
    no_object: str = ""
    is_chunked: bool = False
    early: str = ""


def conversation(kind: Kind, session: str, model: str, text: str) -> dict[str, Any]:
    said = ["You are an agent.\nBe careful.", "x" * kind.size]
    blocks = [ATTRIBUTION] * kind.has_attribution + [{"type": "text", "text": s} for s in said]
    messages = [{"role": "user", "content": text}]
    body: dict[str, Any] = {"model": model, "system": blocks, "messages": messages}
    if kind.is_shown_in == "metadata":
        body["metadata"] = {"user_id": json.dumps({"session_id": session})}
    return body


class UnderWay(Exchange):
    """A request that is under way, and what is known of it.

    `fate` is `untouched`, `observed` or `keyed`, from `settle` on. `origin` is the request that it
    is made for, where it is a translator's call.
    """

    def __init__(
        self, kind: Kind, session: str, model: str, text: str, call: dict[str, Any] | None = None
    ) -> None:
        self.kind, self.model, self.text = kind, model, text
        self.session = session if kind.is_shown_in else ""
        said = conversation(kind, session, model, text)
        self.origin: UnderWay | None = None
        self.fate, self.state, self.key = "untouched", "", ""
        self.got, self.phase = said, "begun"
        self.is_held = self.is_answered = self.is_known = False
        self.calls = self.since = 0
        self.is_passed_on = False
        body = NO_OBJECTS.get(kind.no_object) or json.dumps(call or said).encode()
        if kind.own and not kind.no_object:
            body = body[:-1] + b', "prompt_cache_key": ' + OWN[kind.own] + b"}"
        self.is_streamed = len(body) > LIMIT and not kind.is_chunked
        self.is_call = bool(call)
        headers = [*kind.more]
        headers += [(SESSION_HEADER, session)] * (kind.is_shown_in == "header")
        headers += [("x-claude-code-agent-id", kind.agent)] * bool(kind.agent)
        headers += [(EARLY, kind.early)] * (bool(kind.early) and self.is_streamed)
        super().__init__(next(_numbers), kind.path, headers, body, is_chunked=kind.is_chunked)

    @property
    def is_ended_by_script(self) -> bool:
        """Whether a script answers the request before the addon sees it."""
        return self.path == BY_SCRIPT and len(self.body) <= LIMIT

    @property
    def shown_session(self) -> str:
        """The session that log lines name."""
        return (self.origin or self).session

    @property
    def tokens(self) -> int:
        """The prompt tokens that the upstream reports; it has read all but one from its cache."""
        return 10_000 + self.number

    @property
    def usage(self) -> bytes:
        """The usage that the upstream reports, as a member."""
        details = b'"prompt_tokens_details":{"cached_tokens":%d}' % (self.tokens - 1)
        return b'"usage":{"prompt_tokens":%d,%b}' % (self.tokens, details)

    @property
    def place(self) -> Name:
        """Where a rejection is learned."""
        return self.path, self.model

    def name(self, scope: str) -> Name:
        """Return what identifies the mapping from this request to its key."""
        who = self.origin or self
        agent = who.kind.agent or "main"
        return (self.model, who.session, *[agent] * (scope == "agent"))

    def call(self) -> "UnderWay":
        """Return the call that a translator makes for this request, as the translator got it."""
        said = [("system", block["text"]) for block in self.got["system"] if block["text"]]
        messages = [{"role": r, "content": text} for r, text in [*said, ("user", self.text)]]
        model = f"call-{self.model}"
        return UnderWay(
            Kind(CHAT, is_shown_in="", more=()),
            "",
            model,
            self.text,
            {"model": model, "messages": messages},
        )


@dataclass
class World:
    """What the addon knows at one time: options, keys, rejections, and who waits for an answer."""

    options: Options
    keys: dict[Name, str] = field(default_factory=dict)
    rejected: set[Name] = field(default_factory=set)
    known: list[UnderWay] = field(default_factory=list)

    def is_selected(self, path: str) -> bool:
        """Return whether the filter selects a path to get a key."""
        return self.options["filter"] == ALL or self.is_observed(path)

    def is_observed(self, path: str) -> bool:
        """Return whether a path is observed without a key."""
        return self.options["filter"] == DEFAULT_FILTER and path in GENERATIONS

    def begin(self, request: UnderWay) -> None:
        """Decide, by the headers alone, whether a streamed request is held back."""
        names = [name for name, _ in request.headers]
        request.is_held = (
            request.is_streamed
            and self.is_selected(request.path)
            and request.kind.is_shown_in == "header"
            and JSON in request.headers
            and not any(name in names for name in SIGNED)
        )

    def settle(self, request: UnderWay) -> None:
        """Decide what becomes of a request, now that the last byte of its body has come."""
        request.fate = self._fate(request)
        request.is_known = request.fate != "untouched" and not (
            request.kind.no_object or (request.kind.is_chunked and len(request.body) > LIMIT)
        )
        if request.fate != "untouched" and not request.origin:
            self.known.append(request)

    def _fate(self, request: UnderWay) -> str:
        kind, is_selected = request.kind, self.is_selected(request.path)
        if request.is_answered:
            return "untouched"
        if not request.is_held:
            if not is_selected or (request.path == BY_SCRIPT):
                return "untouched"
            if len(request.body) > LIMIT:  # it has gone on as it came
                return "observed" if kind.is_shown_in == "header" else "untouched"
        if kind.no_object:
            return "untouched"
        if not kind.is_shown_in and not (request.is_call and self._find_origin(request)):
            return "untouched"
        is_signed = any(name in SIGNED for name, _ in kind.more)
        return "observed" if is_signed or request.place in self.rejected else "keyed"

    def _find_origin(self, call: UnderWay) -> bool:
        """Find the request that a translator's call is made for."""
        alike = [each for each in self.known if each.is_known and each.text == call.text]
        waiting = [each for each in alike if each.phase != "ended"]
        if not self.options["bridge"] or len({each.session for each in alike}) != 1 or not waiting:
            return False
        call.origin = min(reversed(waiting), key=lambda each: each.calls)
        call.origin.calls += 1
        return True

    def end(self, request: UnderWay, *, is_answered: bool) -> None:
        """Note that a request has ended."""
        request.phase = "ended"
        if is_answered and request.calls and request in self.known:
            self.known.remove(request)

    def expected(self, request: UnderWay) -> tuple[bytes, bytes]:
        """Return what of the body is to arrive before a new key and behind it.

        The second is empty if there is no new key.
        """
        body, own = request.body, OWN[request.kind.own]
        if request.fate != "keyed":
            return body, b""
        if self.options["strip"] == ["attribution"]:
            message = {"role": "system", "content": ATTRIBUTION["text"]}
            part = json.dumps(message if request.is_call else ATTRIBUTION)
            body = body.replace(part.encode() + b", ", b"", 1)
        if not own:
            return b'{"prompt_cache_key":"', b'",' + body[1:]
        if request.kind.own not in BLANK and not self.options["overwrite"]:
            return body, b""
        before, after = body.split(b'"prompt_cache_key": ' + own)
        return before + b'"prompt_cache_key": "', b'"' + after
