"""A streamed request body that is held back until it is complete, then sent on with its key.

With `stream_large_bodies` mitmproxy sends a large request's headers on before its body, so the
length that they promise has to be right before anything of the body is known. The problem is that
only some bodies can have a key, and that a length cannot be taken back.

So a body is held back only if its headers show that it is ours to touch: they name a session, say
`application/json`, and give a length (`streaming/addon.py` decides). The promise is that length
plus the size of one member, `MEMBER_SIZE`; white space after the JSON fills what the edited body
does not use, which RFC 8259 allows.

Invariants: exactly as many bytes go out as were promised, whatever becomes of the body; nothing
goes out before the last byte has come in; an error in the edit sends the body as it came.

Not promised: that the upstream sees a byte before the client has sent its last. An upstream with a
short time limit for a body's first byte may answer 408.
"""

from collections.abc import Callable

from prompt_cache_key.body import MEMBER_SIZE

MAX_HELD = 16 << 20
"""Bytes of a body that is held back."""


class HeldRequest:
    """Holds a body of `length` bytes back, and sends on what `edit` makes of the whole of it.

    `edit` raises ValueError if the body cannot have a key; `problem` then says why, and is empty
    otherwise. Its result has at most `MEMBER_SIZE` bytes more than the body.
    """

    def __init__(self, length: int, edit: Callable[[bytes], bytes]) -> None:
        self.problem = ""
        self._edit = edit
        self._left = length
        self._chunks: list[bytes] = []

    def __call__(self, chunk: bytes) -> list[bytes]:
        """Take a chunk, or b"" at the end; return the chunks to be sent on."""
        if self._left <= 0:
            return [chunk] if chunk else []
        self._left -= len(chunk)
        self._chunks.append(chunk)
        # b"" is no sure sign of the end: mitmproxy passes on an empty frame of HTTP/2 as well.
        if self._left > 0:
            return []
        whole = edited = b"".join(self._chunks)
        self._chunks.clear()
        try:
            edited = self._edit(whole)
        except ValueError as e:
            self.problem = str(e)
        return [edited.ljust(len(whole) + MEMBER_SIZE)]
