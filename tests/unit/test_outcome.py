import asyncio
import json
from collections.abc import Callable

import pytest
from mitmproxy import http
from unit.context import BODY, SESSION, Context, key, usage

Log = Callable[[], list[str]]

PYDANTIC = b'{"detail":[{"loc":["body","prompt_cache_key"],"type":"extra_forbidden","msg":"x"}]}'


def turn(context: Context, number: int, cached: int, input_: int = 8000) -> http.HTTPFlow:
    """Send a conversation of so many turns, and answer."""
    messages = [{"role": "user", "content": f"{n} {'x' * 5000}"} for n in range(number)]
    answered = [each for one in messages for each in (one, {"role": "assistant", "content": "y"})]
    body = {"model": "gpt", "tools": [], "messages": answered[:-1]}
    return context.answer(context.send(json.dumps(body).encode()), usage(input_, cached))


def of_level(level: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(level)]


def test_usage(context: Context, log: Log) -> None:
    flow = context.send()
    log()
    context.answer(flow, usage(2048, 1920))
    assert log() == [
        f"INFO [prompt-cache] usage key={key(flow)} session={SESSION} model=gpt-5.4 "
        "input=2048 cached=1920 hit=94%"
    ]
    context.answer(flow := context.send(), b'{"usage":{"prompt_tokens":9}}')
    assert "input=9 cached=0 hit=0%" in log()[-1]
    assert flow.comment.startswith("0% 0/9 ")


def test_usage_without_cached_tokens(context: Context, log: Log) -> None:
    context.answer(flow := context.send(), b'{"usage":{"prompt_tokens":9}}')
    assert "input=9 cached=? hit=?" in log()[-1]
    assert flow.comment.startswith("? ?/9 ")


def test_unread_coding_is_a_debug_line_once(context: Context, log: Log) -> None:
    for _ in range(2):
        context.answer(context.send(), b"?", content_encoding="x\x9b")
    assert of_level("DEBUG", log()) == [
        "DEBUG [prompt-cache] https://api.example.com/v1/messages, "
        'usage is not read: content-encoding "x\\u009b" is unknown'
    ]


def test_comment_of_someone_else_stays(context: Context) -> None:
    flow = context.send()
    flow.comment = "mine now"
    assert context.answer(flow, usage(2048, 0)).comment == "mine now"
    context.set(comment=False)
    assert context.answer(context.send(), usage(2048, 0)).comment == ""


@pytest.mark.parametrize("mark", [True, False])
def test_miss(context: Context, log: Log, mark: bool) -> None:
    context.set(mark=mark)
    turn(context, 2, 0)
    log()
    context.now = 700
    flow = turn(context, 3, 1000)
    _, _, line = log()
    assert line == (
        f"INFO [prompt-cache] miss key={key(flow)} session={SESSION} agent=main model=gpt "
        'lost=7000 cause="expired: idle for 11m"'
    )
    assert flow.comment.startswith("lost 7.0k: expired: idle for 11m 12% 1000/8000 ")
    assert flow.metadata["prompt_cache_lost"] == 7000
    assert flow.marked == (":red_circle:" if mark else "")
    assert context.state.totals.all.lost == 7000


def test_mark_of_someone_else_stays(context: Context) -> None:
    turn(context, 2, 0)
    flow = context.send(b'{"model":"gpt","messages":[{"role":"user"},{"role":"assistant"}]}')
    flow.marked = ":rocket:"
    assert context.answer(flow, usage(8000, 0)).marked == ":rocket:"


def test_nothing_cached(context: Context, log: Log) -> None:
    for number in range(2, 9):
        turn(context, number, 0)
    (warning,) = of_level("WARNING", log())
    assert "0/8000; mostly: server-side" in warning
    assert warning.startswith(f"WARNING [prompt-cache] nothing was cached in session={SESSION}")


def test_collapsed(context: Context, log: Log) -> None:
    for number in range(2, 6):
        turn(context, number, 7900)
    context.state.store.forget([("gpt", SESSION)], 0)
    for number in range(6, 12):
        turn(context, number, 0)
        context.state.store.forget([("gpt", SESSION)], 0)
    (warning,) = of_level("WARNING", log())
    assert warning.startswith(
        f"WARNING [prompt-cache] the cache hit rate has collapsed in session={SESSION}"
    )
    assert "mostly: prompt_cache_key changed; prompt_cache_keys=derived keeps" in warning


# Rejections


@pytest.mark.parametrize("status", [400, 422])
def test_refusal(context: Context, log: Log, status: int) -> None:
    url = "https://api.example.com:8443/v1/messages"
    first = context.answer(context.send(url=url + "?beta=true"), PYDANTIC, status)
    assert key(first)
    (line,) = of_level("WARNING", log())
    assert line.startswith(
        f"WARNING [prompt-cache] {url} rejects prompt_cache_key for model=gpt-5.4 "
        f"({status}: extra inputs are not permitted) and gets it no more until a restart"
    )
    assert context.send(url=url).request.content == BODY
    assert context.stream(context.flow(url=url))[1] == BODY + b" " * 58
    assert key(context.send(b'{"model":"other"}', url=url))
    other = "https://api.example.com:8443/other/v1/messages"
    assert key(context.send(url=other))
    assert key(context.send(url=url.replace("8443", "8444")))
    # The filter that the line names does the same after a restart.
    named = line.partition("--set 'prompt_cache_filter=")[2].removesuffix("'")
    context.state.refused.clear()
    context.set(filter=named)
    assert context.send(url=url + "?beta=true").request.content == BODY
    assert key(context.send(url=other))


@pytest.mark.parametrize("path", ["\x9b31m", "x" * 30_000])
def test_refusal_at_a_url_that_is_not_plain(context: Context, log: Log, path: str) -> None:
    flow = context.flow()
    flow.request.path = f"/{path}/v1/messages"
    asyncio.run(context.addon.request(flow))
    context.answer(flow, PYDANTIC, 400)
    (line,) = of_level("WARNING", log())
    assert line.isascii()
    assert len(line) < 500
    assert "filter" not in line


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (400, BODY, b"prompt is too long"),
        (200, BODY, PYDANTIC),
        (400, b'{"prompt_cache_key":"mine"}', PYDANTIC),
    ],
)
def test_no_refusal(context: Context, status: int, content: bytes, words: bytes) -> None:
    context.answer(context.send(content), words, status)
    assert key(context.send())


def test_refused_question_is_asked_no_more(context: Context, log: Log) -> None:
    context.set(diagnose=True)
    url, body = "https://api.openai.com/v1/responses", b'{"model":"gpt-6"}'
    context.answer(
        context.send(body, url=url), b'{"id":"r","object":"response","usage":{"input_tokens":9}}'
    )
    refusal = PYDANTIC.replace(b"cache_key", b"cache_options")
    context.answer(context.send(body, url=url), refusal, 400)
    assert "filter" not in of_level("WARNING", log())[0]
    again = context.send(body, url=url)
    assert key(again)
    assert b"prompt_cache_options" not in (again.request.content or b"")
