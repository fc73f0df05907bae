import gzip

import pytest
from mitmproxy import http
from mitmproxy.test import tflow
from prompt_cache_key.message_body import content, replace, sent_content
from prompt_cache_key.streaming.held_request import HeldRequest

BODY = b'{"model":"gpt-5.4"}'


def request(headers: dict[str, str], body: bytes | None = BODY) -> http.Request:
    made = http.Request.make("POST", "https://gw.example/v1/messages", b"")
    made.raw_content = body
    made.headers = http.Headers(())
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def sent(of: http.Request) -> bytes:
    return sent_content(tflow.tflow(req=of))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, {}),
        (BODY, {"content_encoding": "identity"}),
        (gzip.compress(BODY, mtime=0), {"Content_Encoding": "gzip"}),
    ],
)
def test_content(body: bytes, headers: dict[str, str]) -> None:
    assert content(request(headers, body)) == sent(request(headers, body)) == BODY


def test_held_request_shows_its_content_when_it_is_whole() -> None:
    held = HeldRequest(bytes, len(BODY))
    of = request({}, None)
    of.stream = held
    held(BODY[:5])
    assert sent(of) == b""
    held(BODY[5:])
    assert sent(of) == BODY


def test_streamed_body_that_is_kept_was_sent_too() -> None:
    of = request({"content_encoding": "gzip"}, gzip.compress(BODY))
    of.stream = True
    assert sent(of) == BODY


def test_without_content() -> None:
    assert content(request({}, b"")) == sent(request({}, b"")) == sent(request({}, None)) == b""
    assert content(request({"content_encoding": "gzip"}, b"")) == b""


@pytest.mark.parametrize(
    ("body", "headers", "why"),
    [
        (None, {}, "streamed"),
        (BODY, {"content_encoding": "gzip"}, "corrupt"),
        (BODY, {"content_encoding": "x"}, "unknown"),
        (BODY, {"content_encoding": "rot13"}, "unknown"),
    ],
)
def test_no_content_to_work_on(body: bytes | None, headers: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        content(request(headers, body))
    assert sent(request(headers, body)) == (body or b"")


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
    replace(ours, body)
    theirs.content = body
    assert ours.headers == theirs.headers
    assert content(ours) == content(theirs) == body


def test_replace_with_several_lengths() -> None:
    ours = request({})
    ours.headers.set_all("content-length", ["19", "19"])
    replace(ours, BODY)
    assert ours.headers.get_all("content-length") == ["19"]
