"""The body of a mitmproxy request without its content coding: read and replaced.

mitmproxy looks through all headers for each question, which takes longer than all else about a
body without a coding, as Claude Code's are by default.
"""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

from mitmproxy import http

from prompt_cache_key.codings import decode, encode

MAX_DECODED = 16 << 20
"""Bytes that a coded request may decode to."""

# As some bytes decode to many. Not the threads of asyncio, in which names of hosts are looked up.
_threads = ThreadPoolExecutor(2, "prompt_cache_key_codings")

# Digests of the body: RFC 9530 and 3230 (Content-Digest, Repr-Digest, Digest), RFC 1864
# (Content-MD5), Amazon's x-amz-content-sha256 and what others have made of it.
_DIGESTS = re.compile(
    rb"(?:content-|repr-)?digest|content-md5|x-[a-z0-9-]{1,32}-content-(?:sha|md5)[0-9]*"
)
# Schemes of the Authorization header whose signature covers the body: SigV4 and its relatives.
_SIGNATURES = (b"aws4-", b"tc3-hmac-", b"acs3-hmac-", b"hmac-sha", b"sdk-hmac-")


async def read_body(request: http.Request) -> bytes:
    """Return the decoded body of a request; ValueError if there is none to work on."""
    raw = request.raw_content
    if raw is None:
        raise ValueError("the request has no body")
    if b"content-encoding" not in header_names(request):
        return raw
    coding = request.headers.get("content-encoding", "")
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, decode, raw, coding, MAX_DECODED)


async def replace_body(request: http.Request, body: bytes) -> None:
    """Replace the body of a request, in the same coding, and correct its Content-Length."""
    names = header_names(request)
    if b"content-encoding" in names:
        coding = request.headers.get("content-encoding", "")
        body = await asyncio.get_running_loop().run_in_executor(_threads, encode, body, coding)
    request.raw_content = body
    if b"transfer-encoding" in names:
        return
    fields = list(request.headers.fields)
    at = names.index(b"content-length") if names.count(b"content-length") == 1 else -1
    if at < 0:
        request.headers["content-length"] = str(len(body))
        return
    fields[at] = (fields[at][0], str(len(body)).encode())
    request.headers.fields = tuple(fields)


def is_signed(request: http.Request) -> bool:
    """Return whether the headers hold a signature or checksum of the body."""
    for name, value in request.headers.fields:
        lower = name.lower()
        if _DIGESTS.fullmatch(lower):
            return True
        if lower == b"authorization" and value.strip().lower().startswith(_SIGNATURES):
            return True
    return "X-Amz-Signature=" in request.path


def header_names(request: http.Request) -> list[bytes]:
    """Return the names of all header fields in lower case."""
    return [name.lower() for name, _ in request.headers.fields]
