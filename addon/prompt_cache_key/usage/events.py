"""Read server-sent events from a stream that arrives in chunks, cut anywhere.

By the standard a blank line ends an event, and an event's data is the text of all its `data:`
lines: https://html.spec.whatwg.org/#parsing-an-event-stream. Upstreams also send one newline
between events, or `data: [DONE]` right behind the last one. The data of all events here is JSON, in
which no object follows another one's closing brace, so a line that begins one ends the event before
(`_BEGINNINGS`). Where this does not show, an event has several lines: it is given as the list of
them, for its data is all of them or, if that is no JSON, each of them alone.

Only events that contain one of a few names are given. Any other costs a search for each name and no
step in Python, so a stream of millions of tiny events is read as fast as one of a few large ones.
If one chunk completes more than `MAX_EVENTS`, those in its last 32 kB are given and no others: an
upstream that reports usage in each event repeats all of it.

Memory is bounded: of an event larger than `max_size` each line is given alone as soon as it is
complete, and a line larger than that is skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINES: Final = 10_000
"""Data lines that may be one event; of an event with more each is given alone."""

MAX_EVENTS: Final = 250
"""Events that are given from the beginning of one chunk."""

_DATA: Final = b"data:"
_TAIL = 1 << 15
_BEGINNINGS: Final = (b"data: {", b"data:{", b"data: [DONE]", b"data:[DONE]", b"event:")
_LONGEST = max(map(len, _BEGINNINGS)) + len(b"}\n")


class EventStream:
    """A stream of server-sent events, of which those with one of `names` are given."""

    def __init__(self, names: tuple[bytes, ...], max_size: int) -> None:
        self._names = names
        self._max_size = max_size
        self._buffer = bytearray()  # the event that is still incomplete; lines end in LF
        self._after_cr = False
        self._by_line = False  # the event is too large: the buffer has its last line only

    def feed(self, chunk: bytes) -> Iterator[list[bytes]]:
        """Take the next bytes; yield the data lines of each event that they complete."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        buffer = self._buffer
        new = max(len(buffer) - _LONGEST, 0)
        buffer += chunk
        _part_events(buffer, new)
        end = buffer.rfind(b"\n\n", new)
        if end >= 0:
            yield from self._events(end)
            del buffer[: end + 2]
            self._by_line = False
        limit = self._max_size + _LONGEST  # an event is known to have ended a little later
        if self._by_line or len(buffer) > limit:
            stop = buffer.rfind(b"\n", new if self._by_line else 0)
            self._by_line = True
            if stop > 0:
                yield from self._lines(buffer, 0, stop)
                del buffer[: stop - 1]  # a closing brace stays for `_part_events`
            if len(buffer) > limit:
                buffer[:] = b"-"  # the rest of the line is none of a field's

    def rest(self) -> Iterator[list[bytes]]:
        """Yield the data lines of the last event, which a stream that broke off leaves incomplete.

        Nothing is taken out of the stream: this may be called at any time.
        """
        yield from self._events(len(self._buffer))

    def _events(self, end: int) -> Iterator[list[bytes]]:
        """Yield the events of the buffer's first `end` bytes."""
        start = 0
        if self._by_line:
            start = self._buffer.find(b"\n\n", 0, end)
            start = end if start < 0 else start
            yield from self._lines(self._buffer, 0, start)
        for event in self._parts(self._buffer, b"\n\n", start, end):
            lines = (b"\n" + event).split(b"\n" + _DATA, MAX_LINES + 1)[1:]
            if len(event) > self._max_size or len(lines) > MAX_LINES:
                yield from self._lines(event, 0, len(event))
            elif lines:
                yield [line.partition(b"\n")[0].removeprefix(b" ") for line in lines]

    def _lines(self, data: bytes | bytearray, start: int, end: int) -> Iterator[list[bytes]]:
        """Yield each data line alone."""
        for line in self._parts(data, b"\n", start, end):
            if line.startswith(_DATA) and len(line) <= self._max_size:
                yield [line.removeprefix(_DATA).removeprefix(b" ")]

    def _parts(
        self, data: bytes | bytearray, separator: bytes, start: int, end: int
    ) -> Iterator[bytes]:
        """Yield those of the parts between separators that contain a name."""
        found = {name: data.find(name, start, end) for name in self._names}
        count = 0
        while places := [place for place in found.values() if place >= 0]:
            count += 1
            if count > MAX_EVENTS and end - _TAIL > start:
                start = max(start, data.rfind(separator, start, end - _TAIL))
                found = {name: data.find(name, start, end) for name in self._names}
                count = -_TAIL
                continue
            place = min(places)
            before = data.rfind(separator, start, place)
            first = start if before < 0 else before + len(separator)
            last = data.find(separator, place, end)
            start = end if last < 0 else last
            yield bytes(data[first:start])
            for name, at in found.items():
                if 0 <= at < start:
                    found[name] = data.find(name, start, end)


def _part_events(buffer: bytearray, start: int) -> None:
    """Put the missing blank line before each event that begins behind `start`."""
    new = bytes(buffer[start:])
    if b"}\ndata:" not in new and b"}\nevent:" not in new:
        return
    for beginning in _BEGINNINGS:
        new = new.replace(b"}\n" + beginning, b"}\n\n" + beginning)
    buffer[start:] = new
