"""A request's body without its content-coding: taken, replaced, and as it was sent.

mitmproxy looks through all headers for each question, which takes longer than all else about a
body that has no coding, as Claude Code's have none.
"""

from mitmproxy import http

from prompt_cache_key.streaming.held_request import HeldRequest


def content(request: http.Request) -> bytes:
    """Return the decoded body; ValueError if there is none to work on."""
    if request.stream or request.raw_content is None:
        raise ValueError("it is streamed (stream_large_bodies) in a way that has no room for a key")
    return _decoded(request)


def replace(request: http.Request, body: bytes) -> None:
    """Give a request another body, in the same coding."""
    names = _names(request)
    is_coded = b"content-encoding" in names or b"transfer-encoding" in names
    if is_coded or names.count(b"content-length") != 1:
        request.content = body
        return
    request.raw_content = body
    fields = list(request.headers.fields)
    at = names.index(b"content-length")
    fields[at] = (fields[at][0], str(len(body)).encode())
    request.headers.fields = tuple(fields)


def sent_content(flow: http.HTTPFlow) -> bytes:
    """Return the body of a request that was sent, decoded if it can be.

    b"" if it is not known, or not yet.
    """
    held = flow.request.stream
    if isinstance(held, HeldRequest):
        return held.content
    try:
        return _decoded(flow.request)
    except ValueError:
        return flow.request.raw_content or b""


def _decoded(request: http.Request) -> bytes:
    if b"content-encoding" not in _names(request):
        return request.raw_content or b""
    try:
        return request.get_content() or b""
    except (ValueError, TypeError):  # TypeError: Python's codecs of text, such as rot13
        raise ValueError("its content-encoding is unknown, or the body is corrupt") from None


def _names(request: http.Request) -> list[bytes]:
    return [name.lower() for name, _ in request.headers.fields]
