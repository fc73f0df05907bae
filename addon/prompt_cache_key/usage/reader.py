"""What an upstream says it read from its prompt cache, taken from a response passing by.

Anthropic Messages, OpenAI Chat Completions and OpenAI Responses are read, as one JSON object or
as server-sent events, in chunks cut anywhere, plain or coded. Nothing that is fed raises, and
memory stays bounded: an event over `MAX_SIZE` is skipped, a JSON body over it is given up.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from prompt_cache_key.codings import decoder
from prompt_cache_key.log import text
from prompt_cache_key.usage.events import EventStream

if TYPE_CHECKING:
    from collections.abc import Iterator

# In bytes. The largest event of interest, response.completed, repeats the instructions, the tools
# and the whole output: hundreds of kilobytes in a Claude Code session.
MAX_SIZE = 8 << 20

_MAX_ID = 256  # characters; OpenAI's are 50, gateways' that hold another one under 200
_TOO_MANY = 1 << 53  # JSON numbers are exact below

_READ = (
    "cached_tokens",  # OpenAI, in the details; Kimi, in both of its dialects
    "cache_read_input_tokens",  # Anthropic
    "prompt_cache_hit_tokens",  # DeepSeek: https://api-docs.deepseek.com/guides/kv_cache
    "cache_n",  # llama.cpp, in the `timings` beside the usage; older ones say it only there
)
_WRITTEN = (
    "cache_write_tokens",  # OpenAI since GPT-5.6, and OpenRouter, in the details
    "cache_creation_input_tokens",  # Anthropic
)
_PROMPT = ("prompt_tokens", "input_tokens", *_READ, *_WRITTEN)
_OUTPUT = ("completion_tokens", "output_tokens")
_COUNTED = frozenset((*_PROMPT, *_OUTPUT, "prompt_n"))

# Chat Completions puts "usage": null into every chunk; without `include_usage` llama.cpp tells its
# counts in the last chunk's `timings` alone.
_USAGE = re.compile(rb'"(?:usage|timings)"\s*:\s*\{')
_REASON = re.compile("[a-z][a-z_]{0,63}")
# Of Anthropic's reasons those that are none.
_NOT_COMPARED = ("previous_message_not_found", "unavailable")


class Usage(NamedTuple):
    """Tokens of one response, counted alike in all dialects.

    `input` is the whole prompt, `cached` the part of it read from the cache, `written` the part
    written to the cache, and `output` what was generated; None where it was not reported.
    """

    input: int
    cached: int | None
    written: int | None
    output: int | None
    is_certain: bool = True
    """Whether the prompt count is decided; if not, no miss is judged."""

    @property
    def hit(self) -> float | None:
        """Percent of the prompt that was read from the cache; None if that was not reported."""
        if self.cached is None:
            return None
        return 100 * self.cached / self.input if self.input else 0.0


class UsageReader:
    """Reads the usage of one response, given its Content-Type and Content-Encoding.

    `is_stream` says that the body is server-sent events. `unread` says why the rest of it is not
    looked at, and is empty while it is. What else there is to know stands beside the usage, is
    complete after `finish`, and empty where there is none: `diagnosis` is the upstream's own reason
    for a cache miss in words (`tools changed`), `response_id` the id of an OpenAI Responses
    response, printable ASCII.
    """

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        self.unread = ""
        self.diagnosis = ""
        self.response_id = ""
        self.is_stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._events = EventStream((b'"usage"', b'"timings"'), MAX_SIZE)
        self._body = bytearray()  # of JSON
        self._seen: dict[str, int] = {}
        coding = content_encoding.strip().lower()
        self._decoder = decoder(coding)
        if not self._decoder and coding not in ("", "identity"):
            self.unread = f"content-encoding {text(coding)}"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, as they were on the wire."""
        if self.unread:
            return
        if not self._decoder:
            self._read(chunk)
            return
        try:
            for data in self._decoder.decode(chunk):
                self._read(data)
                if self.unread:
                    return
        except ValueError as e:
            self.unread = str(e)

    def finish(self) -> Usage | None:
        """Return the usage seen so far; None if no prompt tokens were reported.

        May be called at any time, also after a response that broke off, and more than once.
        """
        for data in self._events.rest() if self.is_stream else [bytes(self._body)]:
            self._look(data)
        return _usage(self._seen)

    def _read(self, data: bytes) -> None:
        if self.is_stream:
            for event in self._events.feed(data):
                self._look(event)
            return
        self._body += data
        if len(self._body) > MAX_SIZE:
            self._body.clear()
            self.unread = f"JSON body over {MAX_SIZE} bytes"

    def _look(self, data: bytes) -> None:
        if not _USAGE.search(data):
            return
        try:
            message = json.loads(data.decode(errors="replace").removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            return
        for holder in _holders(message):
            self._count(_counts(holder))
            self.diagnosis = _diagnosis(holder) or self.diagnosis
            if holder is message.get("response") or holder.get("object") == "response":
                self.response_id = _id(holder.get("id")) or self.response_id

    def _count(self, counts: dict[str, int]) -> None:
        # No prompt has 0 tokens: a translator that does not know yet writes zeros into
        # message_start, a gateway that does not repeat itself into message_delta.
        names = _PROMPT + _OUTPUT if any(map(counts.get, _PROMPT)) else _OUTPUT
        self._seen |= {name: counts[name] for name in names if name in counts}
        for name in _READ:  # a zero still tells that cached tokens are reported
            if name in counts:
                self._seen.setdefault(name, 0)


def _holders(message: object) -> Iterator[dict[str, Any]]:
    """Yield the parts of an event or a body that can hold usage, the most authoritative last.

    Kimi streams it in the choice, Anthropic begins with it in the message of message_start,
    OpenAI Responses ends with it in the response; all else has it at the top.
    """
    if not isinstance(message, dict):
        return
    choices = message.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    for holder in (choice, message.get("message"), message.get("response"), message):
        if isinstance(holder, dict):
            yield holder


def _counts(holder: dict[str, Any]) -> dict[str, int]:
    """Return the known fields of one usage object and its details that are token counts.

    A field found in both (Kimi's cached_tokens) counts once: the larger of the two.
    """
    counts: dict[str, int] = {}
    report = _object(holder.get("usage"))
    details = report.get("prompt_tokens_details"), report.get("input_tokens_details")
    for part in (report, *details, holder.get("timings")):
        for name, count in _object(part).items():
            if name in _COUNTED and type(count) is int and 0 <= count < _TOO_MANY:
                counts[name] = max(count, counts.get(name, 0))
    computed = counts.pop("prompt_n", 0)
    if not report and computed:
        counts["prompt_tokens"] = computed + counts.get("cache_n", 0)
    return counts


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _usage(seen: dict[str, int]) -> Usage | None:
    """Return what the fields of any dialect mean, or None without a prompt."""
    prompt = seen.get("prompt_tokens") or seen.get("input_tokens", 0)
    cached = _most(seen, _READ)
    if not (seen.get("prompt_tokens") or seen.get("cached_tokens")):
        # Anthropic counts apart what input_tokens includes elsewhere; in its dialect Kimi includes
        # it too, and names it cached_tokens.
        prompt += seen.get("cache_read_input_tokens", 0)
        prompt += seen.get("cache_creation_input_tokens", 0)
    if cached and cached > prompt:
        # Some gateways leave it out: https://github.com/earendil-works/pi/issues/2048
        prompt += cached
    if not prompt:
        return None
    return Usage(prompt, cached, _most(seen, _WRITTEN), _most(seen, _OUTPUT))


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
