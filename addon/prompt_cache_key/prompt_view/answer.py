"""What an upstream answered: its text, its thoughts and its calls, out of JSON or of events.

For Anthropic Messages, OpenAI Chat Completions and OpenAI Responses. What a body says gets into
the lines escaped and bounded.
"""

from __future__ import annotations

import re
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prompt_cache_key.log import pairs
from prompt_cache_key.prompt_view.blocks import encode, read
from prompt_cache_key.screen_text import COLUMNS, cut, printable
from prompt_cache_key.stats.totals import percent
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import UsageReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prompt_cache_key.usage.reader import Usage

MAX_SHOWN: Final = 200_000
"""Characters of an answer that are shown."""

_DATA = re.compile(rb"^data: ?(.*)", re.MULTILINE)
_PLAIN = ("text", "message", "output_text")
_TEXTS = ("text", "thinking", "partial_json", "arguments", "input", "content", "summary")
_CHAT = {"reasoning_content": "thinking", "content": "text", "refusal": "refusal"}


class Piece(NamedTuple):
    """Some text of a block: those of one block have the same `at`, and its first names it."""

    at: str
    name: str
    text: str


def answer(content: bytes, content_type: str) -> list[str]:
    """Return the lines for a decoded response body; of a broken one they say what is wrong."""
    reader = UsageReader()
    reader.feed(content)
    lines = [_usage(Accounting().settle(None, reader.finish())), ""]
    try:
        is_stream = content_type.startswith("text/event-stream")
        messages = _events(content) if is_stream else [read(content)]
        lines += _blocks(piece for message in messages for piece in _pieces(message))
    except ValueError as e:
        lines += f"The body is {e}".split("\n")
    except RecursionError:
        lines.append("The body is nested too deep to be read.")
    return lines


def _usage(usage: Usage | None) -> str:
    if not usage:
        return "usage: none was reported"
    cached = "?" if usage.cached is None else usage.cached
    return f"usage {pairs(input=usage.input, cached=cached, hit=percent(usage.hit))}"


def _events(content: bytes) -> Iterator[dict[str, Any]]:
    # https://html.spec.whatwg.org/#parsing-an-event-stream
    text = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for event in text.split(b"\n\n"):
        data = b"\n".join(_DATA.findall(event))
        if data and data != b"[DONE]":  # which ends a stream of Chat Completions
            try:
                yield read(data)
            except ValueError as e:
                yield {"error": f"an event is {e}\n"}


def _blocks(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield the lines of all blocks; the name of one stands before it, but for plain text."""
    names: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    for at, name, text in pieces:
        names.setdefault(at, name)
        texts.setdefault(at, []).append(text)
    if not names:
        yield "No answer was found in the body."
    room = MAX_SHOWN
    for at, name in names.items():
        text = "".join(texts[at])
        if name != "text":
            yield f"[{cut(name, COLUMNS - 2)}]"
        for line in text[:room].expandtabs(4).split("\n"):
            yield from wrap(printable(line), COLUMNS) or [""]
        room -= len(text)
        if room < 0:
            yield f"… and {-room:,} more characters"
            return
        yield ""


def _pieces(message: dict[str, Any]) -> Iterator[Piece]:
    """Yield what a whole body, or an event, has of the answer."""
    type_ = message.get("type")
    if type_ == "content_block_start":  # Anthropic
        yield _piece(message.get("index"), message.get("content_block"))
    elif type_ == "content_block_delta":
        yield _piece(message.get("index"), message.get("delta"))
    elif type_ == "response.output_item.added":  # OpenAI Responses
        yield _piece(message.get("output_index"), message.get("item"))
    elif isinstance(delta := message.get("delta"), str):
        yield Piece(str(message.get("output_index")), "text", delta)
    for name in ("content", "output"):
        for at, block in enumerate(_list(message.get(name))):
            yield _piece(at, block)
    for at, choice in enumerate(_list(message.get("choices"))):
        yield from _chat(at, choice)
    if error := message.get("error") or _dict(message.get("response")).get("error"):
        yield Piece("error", "error", error if isinstance(error, str) else encode(error))


def _chat(at: int, choice: Any) -> Iterator[Piece]:
    choice = _dict(choice)
    message = _dict(choice.get("message") or choice.get("delta"))
    at = choice.get("index", at)
    for member, name in _CHAT.items():
        if text := _text(message.get(member)):
            yield Piece(f"{at} {name}", name, text)
    for place, call in enumerate(_list(message.get("tool_calls"))):
        function = _dict(_dict(call).get("function"))
        where = f"{at} call {_dict(call).get('index', place)}"
        yield Piece(where, f"tool_call {function.get('name')}", _text(function.get("arguments")))


def _piece(at: object, block: Any) -> Piece:
    block = _dict(block)
    type_ = block.get("type")
    name = "text" if type_ in _PLAIN else f"{type_} {block.get('name', '')}".rstrip()
    return Piece(str(at), name, next(filter(None, (_text(block.get(each)) for each in _TEXTS)), ""))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(_text(_dict(block).get("text")) for block in value)
    if isinstance(value, dict):
        return encode(value) if value else ""
    return value if isinstance(value, str) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
