"""A request that mitmproxy streams: held back until it is whole, then sent on with its key."""

import math
from collections.abc import Callable

from prompt_cache_key.body import MEMBER_SIZE, Body

MAX_HELD = 16 << 20
"""Bytes of a body that are held back. Whether a body has a key of its own shows at its end."""


class HeldRequest:
    """Takes a body that comes in chunks, and sends on what `edit` makes of the whole of it.

    `edit` raises ValueError if it can't be done, and then the body goes on as it came. With a
    `length`, that of what goes in, what comes out is always `MEMBER_SIZE` bytes longer, as the
    headers have promised: there is white space after the end, which JSON allows. Without one a
    body larger than `MAX_HELD` goes on as it comes.

    `content` is the body as it came, b"" as long as that is not known; `problem` says why there
    is no key, and is empty while there may be one.
    """

    def __init__(self, edit: Callable[[bytes], bytes], length: int | None) -> None:
        self._edit = edit
        self._is_sized = length is not None
        self._left = math.inf if length is None else length
        self._held: list[bytes] | None = []
        self._size = 0
        self.content = b""
        self.problem = ""

    def __call__(self, chunk: bytes) -> list[bytes]:
        """Take a chunk, or b"" at the end; return the chunks to be sent on."""
        self._left -= len(chunk)
        if self._held is None:
            return [chunk] if chunk else []
        self._held.append(chunk)
        self._size += len(chunk)
        # b"" is no sure sign of the end: mitmproxy passes on an empty frame of HTTP/2 as well.
        is_last = self._left <= 0 if self._is_sized else self._size > 0 and not chunk
        if not is_last and (self._is_sized or self._size <= MAX_HELD):
            return []
        whole, self._held = b"".join(self._held), None
        if is_last:
            whole = self._edited(whole)
        else:
            self.problem = f"it is streamed, and larger than {MAX_HELD >> 20} MB"
        return [whole] if whole else []  # an empty one would end a chunked request

    def _edited(self, whole: bytes) -> bytes:
        self.content = sent = whole
        try:
            # Read whole where the length is not known, for what looks like the end may be none.
            if self._is_sized or Body(whole).whole:
                sent = self._edit(whole)
            if self._is_sized and len(sent) > len(whole) + MEMBER_SIZE:
                sent, self.problem = whole, "it is streamed, and would grow too much"
        except ValueError as e:
            self.problem = str(e)
        return sent.ljust(len(whole) + MEMBER_SIZE) if self._is_sized else sent
