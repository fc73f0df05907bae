"""Read token usage from a response that passes by in chunks.

Anthropic Messages, OpenAI Chat Completions and OpenAI Responses are read, as JSON (one object, or
one a line) or as server-sent events, plain or coded. The first bytes decide which of the two a body
is: the ChatGPT Codex backend sends events without a Content-Type, others call them `text/plain` or
`application/json`.

The result is a `Report`: the counts as the response names them. What its prompt count includes is
for `accounting` to decide.

Nothing that is fed raises, and all work is bounded: 64 kB on the wire, which is what mitmproxy
hands over at a time, take at most 100 ms, whatever is in them. If they decode to more than
`MAX_DECODED` bytes, or the body to more than `MAX_BODY`, the rest of the body is `unread`. A JSON
text is not parsed if it is larger than `MAX_SIZE`, or if it would take longer than is left of
`MAX_WORK`: an event is skipped then, a JSON body `unread`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prompt_cache_key.codings import decoder
from prompt_cache_key.usage.events import EventStream
from prompt_cache_key.usage.json_values import DONE, TOO_MANY, VALUE_WORK, values_in, work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prompt_cache_key.codings import Decoder

MAX_SIZE: Final = 4 << 20
"""Bytes of one JSON text. The largest event of interest, response.completed, repeats instructions,
tools and the whole output: hundreds of kilobytes in a Claude Code session."""

MAX_BODY: Final = 64 << 20
"""Bytes that one coded body may decode to: the events of a long answer are 50 MB."""

MAX_DECODED: Final = 5 << 20
"""Bytes that 64 kB on the wire may decode to; events of real answers become 1.5 MB."""

MAX_WORK: Final = 50_000_000
"""Estimated nanoseconds that the JSON of 64 kB on the wire may take to parse."""

_STEP = 1 << 16  # bytes on the wire; the chunks of mitmproxy are no larger
_MAX_ID = 256  # characters; OpenAI's are 50, gateways' that hold another one under 200

_SPACE_AND_BOM = b" \t\r\n\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b":", b"id:", b"retry:")

_READ = (
    "cached_tokens",  # OpenAI, in the details; Kimi, in both of its dialects
    "cache_read_input_tokens",  # Anthropic
    "prompt_cache_hit_tokens",  # DeepSeek: https://api-docs.deepseek.com/guides/kv_cache
    "num_cached_tokens",  # Mistral
    "cache_n",  # llama.cpp, in the `timings` beside the usage; older ones say it only there
)
_WRITTEN = (
    "cache_write_tokens",  # OpenAI since GPT-5.6, and OpenRouter, in the details
    "cache_creation_input_tokens",  # Anthropic
    "cache_creation_tokens",  # LiteLLM, in the details
    "cached_creation_tokens",  # new-api, in the details
    "prompt_cache_write_tokens",  # Tencent's CodeBuddy
)
_ANTHROPIC = ("cache_read_input_tokens", "cache_creation_input_tokens")
_PROMPT = ("prompt_tokens", "input_tokens", *_READ, *_WRITTEN)
_OUTPUT = ("completion_tokens", "output_tokens")
_UNCACHED = ("prompt_cache_miss_tokens", "prompt_n")  # DeepSeek, llama.cpp
_BESIDE = (*_OUTPUT, *_UNCACHED, "total_tokens")
_COUNTED = frozenset((*_PROMPT, *_BESIDE))
_DETAILS = ("prompt_tokens_details", "prompt_token_details", "input_tokens_details")
_WRITTEN_BY_TTL = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")

# Chat Completions puts "usage": null into every chunk; without `include_usage` llama.cpp sends its
# counts in the last chunk's `timings` alone.
_NAMES = (b'"usage"', b'"timings"', b"message_stop", b"[DONE]")
_USEFUL = re.compile(rb'"(?:usage|timings)"\s*:\s*\{|message_stop|\[DONE\]')
_LAST_RESPONSES = ("completed", "incomplete", "failed", "done")  # done: as some call completed
_LAST_EVENTS = frozenset(("message_stop", *(f"response.{end}" for end in _LAST_RESPONSES)))
_REASON = re.compile("[a-z][a-z_]{0,63}")
# Of Anthropic's reasons those that are none.
_NOT_COMPARED = ("previous_message_not_found", "unavailable")


class Usage(NamedTuple):
    """Tokens of one response, counted alike in all dialects."""

    input: int
    """The whole prompt."""
    cached: int | None
    """The part of the prompt that was read from the cache; None if that was not reported."""
    written: int | None
    """The part of the prompt that was written to the cache; None if that was not reported."""
    output: int | None
    """What was generated; None if that was not reported."""
    is_certain: bool = True
    """Whether it is decided what the prompt count includes; if not, no miss can be judged."""

    @property
    def hit(self) -> float | None:
        """Percent of the prompt that was read from the cache; None if that was not reported."""
        if self.cached is None:
            return None
        return 100 * self.cached / self.input if self.input else 0.0


class Report(NamedTuple):
    """The token counts of one response as it names them; None where it does not."""

    prompt: int
    """The prompt count: the whole prompt, or without what was read from or written to the cache."""
    cached: int | None
    written: int | None
    output: int | None
    total: int | None
    uncached: int | None
    """The part of the prompt that the upstream says was not read from the cache."""
    excludes_cache: bool
    """Whether the names are those by which Anthropic counts the prompt without reads and writes."""
    is_complete: bool
    """Whether the response has ended, so that a count that is absent stays absent."""


class UsageReader:
    """The usage of one response that passes by, given its Content-Encoding.

    `unread` is the reason why the rest of the body is not read, one bounded line, and empty while
    it is read. `diagnosis` is the upstream's own reason for a cache miss in words (`tools
    changed`), `response_id` the id of an OpenAI Responses response, printable ASCII; both are
    complete after `finish`, and empty where there is none.
    """

    def __init__(self, content_encoding: str = "") -> None:
        self.unread = ""
        self.diagnosis = ""
        self.response_id = ""
        self._is_stream: bool | None = None  # None: too few bytes have come to decide
        self._body = bytearray()  # of JSON; its first bytes while that is undecided
        self._events = EventStream(_NAMES, MAX_SIZE)
        self._seen: dict[str, int] = {}
        self._has_ended = False
        self._work = 0
        self._decoder: Decoder | None = None
        try:
            self._decoder = decoder(content_encoding, MAX_BODY)
        except ValueError as e:
            self.unread = str(e)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, as they were on the wire."""
        for start in range(0, len(chunk), _STEP):
            if not self.unread and self._decoder:
                self._work = 0
                self._take(self._decode(self._decoder, chunk[start : start + _STEP]))

    def finish(self) -> Report | None:
        """Return the counts reported so far; None if no prompt tokens were reported.

        May be called at any time, also after a response that broke off, and more than once.
        """
        self._work = 0
        if self._is_stream:
            for lines in self._events.rest():
                self._look(lines)
        elif self._is_stream is False and self._parse(bytes(self._body)):
            self._has_ended = True
        return _report(self._seen, is_complete=self._has_ended)

    def _decode(self, undo: Decoder, coded: bytes) -> bytes:
        """Return what one step of coded bytes decodes to; what comes before an error counts."""
        pieces: list[bytes] = []
        room = MAX_DECODED
        try:
            for piece in undo.decode(coded):
                room -= len(piece)
                if room < 0:
                    self.unread = f"{undo.name} of over {MAX_DECODED} bytes at once"
                    return b""
                pieces.append(piece)
        except ValueError as e:
            self.unread = str(e)
        return b"".join(pieces)

    def _take(self, data: bytes) -> None:
        if self._is_stream is None:
            data = self._begin(data)
        if self._is_stream:
            for lines in self._events.feed(data):
                self._look(lines)
            return
        self._body += data
        if len(self._body) > MAX_SIZE:
            self._body.clear()
            self.unread = f"JSON body over {MAX_SIZE} bytes"

    def _begin(self, data: bytes) -> bytes:
        """Decide by the first bytes whether the body is JSON; return those that are not taken."""
        head = (bytes(self._body) + data).lstrip(_SPACE_AND_BOM)
        self._body.clear()
        if head.startswith((b"{", b"[")):
            self._is_stream = False
        elif head.startswith(_FIELDS):
            self._is_stream = True
        elif not any(field.startswith(head) for field in _FIELDS):
            self.unread = "the body is neither JSON nor server-sent events"
        return head

    def _look(self, lines: list[bytes]) -> None:
        """Read one event: its data if that is JSON, else each of its lines alone."""
        if not self._parse(b"\n".join(lines)) and len(lines) > 1:
            for line in lines:
                self._parse(line)

    def _parse(self, data: bytes) -> bool:
        """Read the usage in a text; return whether the text is JSON, or not worth parsing."""
        if not _USEFUL.search(data):
            return True
        needed = work(data)
        if self._work + needed > MAX_WORK:
            if not self._is_stream:
                self.unread = "the JSON body has too many values"
            return True
        messages, is_whole = values_in(data.decode(errors="replace"))
        self._work += needed + VALUE_WORK * len(messages)
        for message in messages:
            self._read(message)
        return is_whole

    def _read(self, message: Any) -> None:
        if message == DONE or _is_last(message):
            self._has_ended = True
        for holder in _holders(message):
            self._count(_counts(holder))
            self.diagnosis = _diagnosis(holder) or self.diagnosis
            if holder is message.get("response") or holder.get("object") == "response":
                self.response_id = _id(holder.get("id")) or self.response_id

    def _count(self, counts: dict[str, int]) -> None:
        # No prompt has 0 tokens: a translator that does not know yet writes zeros into
        # message_start, a gateway that does not repeat itself into message_delta. Zeros beside
        # them are no counts either.
        names = _PROMPT + _BESIDE if any(map(counts.get, _PROMPT)) else _OUTPUT
        self._seen |= {name: counts[name] for name in names if name in counts}


def _is_last(message: Any) -> bool:
    """Return whether an event is one after which no prompt count changes."""
    message = _object(message)
    if message.get("type") in _LAST_EVENTS or _object(message.get("delta")).get("stop_reason"):
        return True
    choices = message.get("choices")
    if not isinstance(choices, list):
        return False
    if not choices:
        return isinstance(message.get("usage"), dict)
    return any(_object(choice).get("finish_reason") for choice in choices)


def _holders(message: object) -> Iterator[dict[str, Any]]:
    """Yield the parts of an event or a body that can hold usage, the most authoritative last.

    Kimi streams it in the choice, Groq in x_groq (without `include_usage` only there), Anthropic
    begins with it in the message of message_start, OpenAI Responses ends with it in the response;
    all else has it at the top.
    """
    if not isinstance(message, dict):
        return
    choices = message.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    for holder in (choice, *map(message.get, ("x_groq", "message", "response")), message):
        if isinstance(holder, dict):
            yield holder


def _counts(holder: dict[str, Any]) -> dict[str, int]:
    """Return the known fields of one usage object and its details that are token counts.

    A field found in both (Kimi's cached_tokens) counts once: the larger of the two.
    """
    counts: dict[str, int] = {}
    usage = _object(holder.get("usage"))
    for part in (usage, *map(usage.get, _DETAILS), holder.get("timings")):
        for name, count in _object(part).items():
            if name in _COUNTED and _is_count(count):
                counts[name] = max(count, counts.get(name, 0))
    by_ttl = _object(usage.get("cache_creation"))
    if written := [by_ttl[name] for name in _WRITTEN_BY_TTL if _is_count(by_ttl.get(name))]:
        name = "cache_creation_input_tokens"
        counts[name] = max(sum(written), counts.get(name, 0))
    return counts


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < TOO_MANY


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _report(seen: dict[str, int], *, is_complete: bool) -> Report | None:
    """Return what the fields of any dialect say, or None without a prompt."""
    cached, written, uncached = (_most(seen, names) for names in (_READ, _WRITTEN, _UNCACHED))
    prompt = seen.get("prompt_tokens") or seen.get("input_tokens", 0)
    if not prompt and uncached:
        prompt = uncached + (cached or 0)
    if not (prompt or cached or written):
        return None
    # In Anthropic's dialect Kimi includes the cached tokens, and names them as OpenAI does.
    included = ("prompt_tokens", *_READ, *_WRITTEN)
    return Report(
        prompt,
        cached,
        written,
        _most(seen, _OUTPUT),
        seen.get("total_tokens"),
        uncached,
        excludes_cache=not any(seen.get(name) for name in included if name not in _ANTHROPIC),
        is_complete=is_complete,
    )


def _most(seen: dict[str, int], names: tuple[str, ...]) -> int | None:
    """Return the largest of the counts by these names: a gateway may fill one and zero another."""
    return max([seen[name] for name in names if name in seen], default=None)


def _diagnosis(holder: dict[str, Any]) -> str:
    """Return why the prompt was not read from the cache, in words made of known letters only.

    OpenAI: https://developers.openai.com/api/docs/guides/prompt-caching/diagnostics
    Anthropic: https://platform.claude.com/docs/en/build-with-claude/cache-diagnostics
    """
    reason: Any = None
    openai, anthropic = holder.get("prompt_cache_diagnostics"), holder.get("diagnostics")
    if isinstance(openai, dict) and openai.get("type") == "cache_miss":
        reason = openai.get("reason")
    elif isinstance(anthropic, dict):
        reason = anthropic.get("cache_miss_reason")
        reason = reason.get("type") if isinstance(reason, dict) else reason
    if not isinstance(reason, str) or reason in _NOT_COMPARED or not _REASON.fullmatch(reason):
        return ""
    return reason.replace("_", " ").strip()


def _id(value: object) -> str:
    """Return a response's id if it can be sent and logged as it is, else nothing."""
    if isinstance(value, str) and len(value) <= _MAX_ID and value.isascii() and value.isprintable():
        return value
    return ""
