"""Other addons in the same mitmdump keep what they decide about a session's request."""

from pathlib import Path

import pytest
from lib import ADDON
from lib.client import MESSAGES, Client, request_body
from live.proxied import proxied, script

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"

ANSWERS = """
from mitmproxy import http

def request(flow):
    flow.response = http.Response.make(418, b"made here", {"content-type": "text/plain"})
"""


@pytest.mark.parametrize("is_first", [True, False])
def test_response_that_another_addon_makes_reaches_the_client(
    tmp_path: Path, is_first: bool
) -> None:
    answers = script(tmp_path, "answers", ANSWERS)
    scripts = [answers, ADDON] if is_first else [ADDON, answers]
    body = request_body(SESSION, stream=True)
    with proxied(scripts=scripts) as (upstream, proxy), Client(proxy.port) as client:
        reply = client.send("POST", MESSAGES, body=body)
        assert (reply.status, reply.body) == (418, b"made here")
        assert upstream.take() == []
