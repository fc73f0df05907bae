"""What mitmdump prints of a body with `flow_detail=3` is what the content view Prompt shows."""

import json

from lib.client import Client, request_body
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server

SESSION = "7d0c3b6e-9a43-4c1c-8a55-0f6f4b1f2f11"


def answer(_: Request) -> Reply:
    usage = {"input_tokens": 1000, "cache_read_input_tokens": 24_000}
    body = {"content": [{"type": "text", "text": "Hello\x1b[31m"}], "usage": usage}
    return Reply(body=json.dumps(body).encode())


def test_prompt_and_answer() -> None:
    with (
        Server(answer) as server,
        Mitmdump(f"reverse:{server.url}", flow_detail="3") as mitmdump,
        Client(mitmdump.port) as client,
    ):
        body = request_body(SESSION, tools=[{"name": "Bash"}, {"name": "\u202eRead"}])
        client.send("POST", "/v1/messages", [("content-type", "application/json")], body)
        mitmdump.find(r"^ +Hello\\x1b\[31m$")
        mitmdump.find(r"^ +usage input=25000 cached=24000 hit=96%$")
        mitmdump.find(rf"^ +session  {SESSION}$")
        mitmdump.find(r"^ +[\d,]+ +34  tools: 2 +Bash, \\u202eRead$")
        mitmdump.find(r"^ +──── read from the cache up to here: 24,000 of 25,000 ────$")
