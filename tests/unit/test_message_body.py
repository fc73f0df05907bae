import asyncio
import gzip

import pytest
from mitmproxy import http
from prompt_cache_key.message_body import is_signed, read_body, replace_body

BODY = b'{"model":"gpt-5.4"}'


def request(
    headers: dict[str, str], body: bytes | None = BODY, path: str = "/v1/messages"
) -> http.Request:
    made = http.Request.make("POST", f"https://gw.example{path}", b"")
    made.raw_content = body
    made.headers = http.Headers(())
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def read(of: http.Request) -> bytes:
    return asyncio.run(read_body(of))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, {}),
        (BODY, {"content_encoding": "identity"}),
        (gzip.compress(BODY, mtime=0), {"Content_Encoding": "gzip"}),
        (b"", {}),
    ],
)
def test_read_body(body: bytes, headers: dict[str, str]) -> None:
    assert read(request(headers, body)) == (body and BODY)


def test_request_without_a_body_is_not_read() -> None:
    with pytest.raises(ValueError, match="no body"):
        read(request({}, None))


@pytest.mark.parametrize("coding", ["gzip", "x", "rot13", "utf8"])
def test_body_that_cannot_be_decoded(coding: str) -> None:
    with pytest.raises(ValueError, match="content-encoding"):
        read(request({"content_encoding": coding}))


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "19", "x": "y"},
        {"content_length": "19", "Content_Encoding": "gzip"},
        {"transfer_encoding": "chunked"},
        {"content_length": "19", "transfer_encoding": "chunked"},
        {},
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", BODY * 10])
def test_replace_does_what_mitmproxy_does(headers: dict[str, str], body: bytes) -> None:
    ours, theirs = request(headers), request(headers)
    asyncio.run(replace_body(ours, body))
    theirs.content = body
    assert ours.headers == theirs.headers
    assert ours.content == theirs.content == body


def test_replace_with_several_lengths() -> None:
    ours = request({})
    ours.headers.set_all("content-length", ["19", "19"])
    asyncio.run(replace_body(ours, BODY * 2))
    assert ours.headers.get_all("content-length") == ["38"]


@pytest.mark.parametrize(
    "header",
    [
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("Authorization", "AWS4-HMAC-SHA256 Credential=x"),
        ("authorization", " aws4-ecdsa-p256-sha256 Credential=x"),
        ("Authorization", "TC3-HMAC-SHA256 Credential=x"),
        ("Content-MD5", "x"),
        ("Digest", "sha-256=x"),
        ("content-digest", "sha-256=:x:"),
        ("Repr-Digest", "sha-256=:x:"),
        ("x-ms-content-sha256", "x"),
    ],
)
def test_headers_that_vouch_for_the_body(header: tuple[str, str]) -> None:
    assert is_signed(request(dict([header])))


def test_presigned_url_vouches_for_the_body() -> None:
    assert is_signed(request({}, path="/v1/messages?X-Amz-Signature=0"))


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer AWS4-x"),
        ("x-digest-of-mine", "x"),
        ("want-digest", "sha-256"),
        ("x-api-key", "x"),
    ],
)
def test_other_headers_do_not(header: tuple[str, str]) -> None:
    assert not is_signed(request(dict([header])))
