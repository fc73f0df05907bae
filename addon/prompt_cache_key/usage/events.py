"""Server-sent events, cut out of a stream that arrives in chunks cut anywhere."""

from __future__ import annotations

import re

_DATA = re.compile(rb"^(?:\xef\xbb\xbf)?data: ?(.*)", re.MULTILINE)


class EventStream:
    """Gives the data of those events that contain one of `names`; all else costs a search for each.

    An event of more than `max_size` bytes is skipped.
    """

    def __init__(self, names: tuple[bytes, ...], max_size: int) -> None:
        self.names = names
        self.max_size = max_size
        self._buffer = bytearray()  # the event that is still incomplete
        self._after_cr = False
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of the events that they complete.

        Lines end in CRLF, LF or CR: https://html.spec.whatwg.org/#parsing-an-event-stream
        """
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        found: list[bytes] = []
        buffer = self._buffer
        searched = len(buffer) - 1 if buffer else 0
        buffer += chunk
        end = buffer.rfind(b"\n\n", searched)
        if end >= 0:
            if any(buffer.find(name, 0, end) >= 0 for name in self.names):
                events = bytes(buffer[:end]).split(b"\n\n")[self._skipping :]
                found = [data for event in events for data in self._data(event)]
            del buffer[: end + 2]
            self._skipping = False
        if len(buffer) > self.max_size + 1:
            del buffer[:-1]  # the last byte may be the first of a blank line
            self._skipping = True
        return found

    def rest(self) -> list[bytes]:
        """Return the data of the last event, which a broken stream leaves incomplete."""
        return [] if self._skipping else self._data(bytes(self._buffer))

    def _data(self, event: bytes) -> list[bytes]:
        if len(event) > self.max_size or not any(name in event for name in self.names):
            return []
        return [b"\n".join(_DATA.findall(event))]
