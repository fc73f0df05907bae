import json

import pytest
from lib.load import conversation, post, session
from lib.recordings import encoded


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_a_conversation(size: int) -> None:
    raw = conversation(size)
    assert abs(len(raw) - size) < 1500
    assert raw == conversation(size) != conversation(size, 1)
    text = raw.decode()
    assert encoded(json.loads(text)) == raw
    assert 300 < len(text) / sum(not character.isascii() for character in text) < 700


def test_a_request_of_another_session() -> None:
    content = conversation(10_000)
    head, _, sent = post(content, 7, "wait=1").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/messages?wait=1 HTTP/1.1\r\n")
    assert f"X-Claude-Code-Session-Id: {session(7)}".encode() in head
    assert f"Content-Length: {len(sent)}".encode() in head
    user_id = json.loads(json.loads(sent)["metadata"]["user_id"])
    assert user_id["session_id"] == session(7)
