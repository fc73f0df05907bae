import json
from typing import Any

from lib.client import Client
from lib.server import Server
from lib.stand_in import ANSWER, TIME_HEADER, URL, Counts, StandIn
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import Usage, UsageReader

PROMPT = "text" * 2048
AROUND = len('{"content":[{"type":"text","text":""}]}\n')


def ask(client: Client, tokens: int, at: float = 0, url: str = URL, **members: str) -> Any:
    """Ask with a prompt of so many tokens."""
    prompt = PROMPT[: 4 * tokens - AROUND]
    body = json.dumps({"model": "gpt-5.4", "instructions": prompt, **members}).encode()
    return client.send("POST", url, [(TIME_HEADER, str(at))], body)


def usage(body: bytes) -> Usage | None:
    reader = UsageReader()
    reader.feed(body)
    return Accounting().settle(None, reader.finish())


def test_answers_count_by_the_rules_of_the_model() -> None:
    stand_in = StandIn()
    with Server(stand_in.respond) as server, Client(server.port) as client:
        ask(client, 1921)
        answer = ask(client, 2048)
        kept, dropped = (ask(client, 1030, at) for at in (1799, 3600))
        other = ask(client, 1030, prompt_cache_key="k")
    assert answer.status == 200
    assert ANSWER.encode() in answer.body
    assert usage(answer.body) == (2048, 1792, None, len(ANSWER) // 4, True)
    read = [found and found.cached for found in map(usage, (kept.body, dropped.body, other.body))]
    assert read == [1024, 0, 0]
    assert stand_in.counts == {"gpt-5.4": Counts(5, 1921 + 2048 + 3 * 1030, 1792 + 1024)}


def test_another_url_gets_404() -> None:
    stand_in = StandIn()
    with Server(stand_in.respond) as server, Client(server.port) as client:
        assert ask(client, 1, url="/v1/responses").status == 404
    assert not stand_in.counts
