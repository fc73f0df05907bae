import json
from typing import Any

from lib.client import Client
from lib.server import Server
from lib.stand_in import ANSWER, TIME_HEADER, URL, Counts, StandIn
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import Usage, UsageReader

# One item of conversation is one line of JSON: two quotes and a line feed besides the text.
PROMPT = "text" * 2048


def ask(client: Client, prompt: str, at: float = 0, url: str = URL, **members: str) -> Any:
    body = json.dumps({"model": "gpt-5.4", "input": [prompt], **members}).encode()
    return client.send("POST", url, [(TIME_HEADER, str(at))], body)


def usage(body: bytes) -> Usage | None:
    reader = UsageReader()
    reader.feed(body)
    return Accounting().settle(None, reader.finish())


def test_answers_count_by_the_rules_of_the_model() -> None:
    stand_in = StandIn()
    with Server(stand_in.respond) as server, Client(server.port) as client:
        ask(client, PROMPT[: 4 * 1920 - 1] + "!")
        answer = ask(client, PROMPT[: 4 * 2048 - 3])
        kept, dropped = (ask(client, PROMPT[: 4 * 1024], at) for at in (1799, 3600))
        other = ask(client, PROMPT[: 4 * 1024], prompt_cache_key="k")
    assert answer.status == 200
    assert ANSWER.encode() in answer.body
    assert usage(answer.body) == (2048, 1920, None, len(ANSWER) // 4, True)
    read = [found and found.cached for found in map(usage, (kept.body, dropped.body, other.body))]
    assert read == [1024, 0, 0]
    assert stand_in.counts == {"gpt-5.4": Counts(5, 1920 + 2048 + 3 * 1024, 1920 + 1024)}


def test_another_url_gets_404() -> None:
    stand_in = StandIn()
    with Server(stand_in.respond) as server, Client(server.port) as client:
        assert ask(client, PROMPT, url="/v1/responses").status == 404
    assert not stand_in.counts
