"""What an upstream says it read from its prompt cache, taken from a response passing by.

Anthropic Messages, OpenAI Chat Completions and OpenAI Responses are read, as one JSON object or
as server-sent events, in chunks cut anywhere, plain or coded with gzip or deflate. Nothing that
is fed raises, and memory stays bounded: an event over `MAX_SIZE` is skipped, a JSON body over it
is given up.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zlib import _Decompress

# In bytes. The largest event of interest, response.completed, repeats the instructions, the tools
# and the whole output: hundreds of kilobytes in a Claude Code session.
MAX_SIZE = 8 << 20

_STEP = 1 << 20  # bytes decoded at a time, however much a chunk inflates to
_TOO_MANY = 1 << 53  # JSON numbers are exact below

_READ = (
    "cached_tokens",  # OpenAI, in the details; Kimi, in both of its dialects
    "cache_read_input_tokens",  # Anthropic
    "prompt_cache_hit_tokens",  # DeepSeek: https://api-docs.deepseek.com/guides/kv_cache
)
_WRITTEN = (
    "cache_write_tokens",  # OpenAI since GPT-5.6, and OpenRouter, in the details
    "cache_creation_input_tokens",  # Anthropic
)
_PROMPT = ("prompt_tokens", "input_tokens", *_READ, *_WRITTEN)
_OUTPUT = ("completion_tokens", "output_tokens")

_DATA = re.compile(rb"^(?:\xef\xbb\xbf)?data: ?(.*)", re.MULTILINE)
_USAGE = re.compile(rb'"usage"\s*:\s*\{')  # Chat Completions puts "usage": null into every chunk


class Usage(NamedTuple):
    """Tokens of one response, counted alike in all dialects.

    `input` is the whole prompt, `cached` the part of it read from the cache, `written` the part
    written to the cache, and `output` what was generated; None where it was not reported.
    """

    input: int
    cached: int
    written: int | None
    output: int | None

    @property
    def hit(self) -> float:
        """Percent of the prompt that was read from the cache."""
        return 100 * self.cached / self.input if self.input else 0.0


class UsageReader:
    """Reads the usage of one response, given its Content-Type and Content-Encoding.

    `is_stream` says that the body is server-sent events. `unread` says why the rest of it is not
    looked at, and is empty while it is.
    """

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        self.unread = ""
        self.is_stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        coding = content_encoding.strip().lower()
        self._coding = "" if coding == "identity" else coding
        self._member: _Decompress | None = None
        self._buffer = bytearray()  # the JSON body so far, or the event that is still incomplete
        self._after_cr = False
        self._skipping = False
        self._seen: dict[str, int] = {}
        if self._coding not in ("", "gzip", "x-gzip", "deflate"):
            self.unread = f"content-encoding {self._coding}"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, as they were on the wire."""
        if self.unread:
            return
        if self._coding:
            self._inflate(chunk)
        else:
            self._read(chunk)

    def finish(self) -> Usage | None:
        """Return the usage seen so far; None if no prompt tokens were reported.

        May be called at any time, also after a response that broke off, and more than once.
        """
        if not self._skipping:
            self._look(bytes(self._buffer))
        return _usage(self._seen)

    def _inflate(self, chunk: bytes) -> None:
        full = False
        try:
            while (chunk or full) and not self.unread:
                if not self._member:
                    self._member = zlib.decompressobj(_window_bits(self._coding, chunk[0]))
                data = self._member.decompress(chunk, _STEP)
                chunk, full = self._member.unconsumed_tail, len(data) == _STEP
                if self._member.eof:  # gzip may go on with another member
                    chunk, full = self._member.unused_data, False
                    self._member = None
                self._read(data)
        except zlib.error:
            self.unread = f"corrupt content-encoding {self._coding}"

    def _read(self, chunk: bytes) -> None:
        if self.is_stream:
            self._read_events(chunk)
            return
        self._buffer += chunk
        if len(self._buffer) > MAX_SIZE:
            self._buffer.clear()
            self.unread = f"JSON body over {MAX_SIZE} bytes"

    def _read_events(self, chunk: bytes) -> None:
        # Lines end in CRLF, LF or CR: https://html.spec.whatwg.org/#parsing-an-event-stream
        if not chunk:
            return
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        buffer = self._buffer
        searched = len(buffer) - 1 if buffer else 0
        buffer += chunk
        end = buffer.rfind(b"\n\n", searched)
        if end >= 0:
            if buffer.find(b'"usage"', 0, end) >= 0:
                for event in bytes(buffer[:end]).split(b"\n\n")[self._skipping :]:
                    self._look(event)
            del buffer[: end + 2]
            self._skipping = False
        if len(buffer) > MAX_SIZE + 1:
            del buffer[:-1]  # the last byte may be the first of a blank line
            self._skipping = True

    def _look(self, text: bytes) -> None:
        if len(text) > MAX_SIZE:
            return
        data = b"\n".join(_DATA.findall(text)) if self.is_stream else text
        if not _USAGE.search(data):
            return
        try:
            message = json.loads(data.decode("utf-8-sig", "replace"))
        except (ValueError, RecursionError):
            return
        for report in _reports(message):
            counts = _counts(report)
            # No prompt has 0 tokens: a translator that does not know yet writes zeros into
            # message_start, a gateway that does not repeat itself into message_delta.
            known = any(counts.get(name) for name in _PROMPT)
            names = _PROMPT + _OUTPUT if known else _OUTPUT
            self._seen.update((name, counts[name]) for name in names if name in counts)


def _window_bits(coding: str, first: int) -> int:
    """Return zlib's `wbits`: what is called deflate comes with zlib's header (RFC 9110) or bare."""
    if coding == "deflate" and first & 0x0F != zlib.DEFLATED:
        return -zlib.MAX_WBITS
    return zlib.MAX_WBITS | 32  # detects the header of gzip and of zlib


def _reports(message: object) -> Iterator[dict[str, Any]]:
    """Yield every usage object of an event or a body, the most authoritative last.

    Kimi streams it in the choice, Anthropic begins with it in the message of message_start,
    OpenAI Responses ends with it in the response; all else has it at the top.
    """
    if not isinstance(message, dict):
        return
    choices = message.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    for holder in (choice, message.get("message"), message.get("response"), message):
        if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
            yield holder["usage"]


def _counts(report: dict[str, Any]) -> dict[str, int]:
    """Return the known fields of one usage object and its details that are token counts.

    A field found in both (Kimi's cached_tokens) counts once: the larger of the two.
    """
    counts: dict[str, int] = {}
    for part in (report, report.get("prompt_tokens_details"), report.get("input_tokens_details")):
        if not isinstance(part, dict):
            continue
        for name in _PROMPT + _OUTPUT:
            count = part.get(name)
            if type(count) is int and 0 <= count < _TOO_MANY:
                counts[name] = max(count, counts.get(name, 0))
    return counts


def _usage(seen: dict[str, int]) -> Usage | None:
    """Return what the fields of any dialect mean, or None without a prompt."""
    prompt = seen.get("prompt_tokens") or seen.get("input_tokens", 0)
    cached = _most(seen, _READ) or 0
    if not (seen.get("prompt_tokens") or seen.get("cached_tokens")):
        # Anthropic counts apart what input_tokens includes elsewhere; in its dialect Kimi includes
        # it too, and names it cached_tokens.
        prompt += seen.get("cache_read_input_tokens", 0)
        prompt += seen.get("cache_creation_input_tokens", 0)
    if cached > prompt:
        # Some gateways leave it out: https://github.com/earendil-works/pi/issues/2048
        prompt += cached
    if not prompt:
        return None
    return Usage(prompt, cached, _most(seen, _WRITTEN), _most(seen, _OUTPUT))


def _most(seen: dict[str, int], names: tuple[str, ...]) -> int | None:
    """Return the largest of the counts by these names: a gateway may fill one and zero another."""
    return max((seen[name] for name in names if name in seen), default=None)
