import asyncio
import json
import threading
from collections.abc import Callable

import pytest
from log_lines import fields
from mitmproxy import http
from prompt_cache_key.outcome import MAX_JUDGED, STEP
from prompt_cache_key.rejections.learned import Rejections
from unit.context import BODY, SESSION, Context, key, usage

Log = Callable[[], list[str]]

PYDANTIC = b'{"detail":[{"loc":["body","prompt_cache_key"],"type":"extra_forbidden","msg":"x"}]}'


def asked(context: Context, number: int) -> http.HTTPFlow:
    """Send a conversation of so many turns."""
    messages = [{"role": "user", "content": f"{n} {'x' * 5000}"} for n in range(number)]
    answered = [each for one in messages for each in (one, {"role": "assistant", "content": "y"})]
    body = {"model": "gpt", "tools": [], "messages": answered[:-1]}
    return context.send(json.dumps(body).encode())


def turn(context: Context, number: int, cached: int, later: int = 0) -> http.HTTPFlow:
    """Send a conversation of so many turns, some seconds later, and answer."""
    flow = asked(context, number)
    context.state.in_flight[flow].sent_at += later
    return context.answer(flow, usage(8000, cached))


def of_level(level: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(level)]


def test_usage_is_logged_and_annotated(context: Context, log: Log) -> None:
    flow = context.send()
    log()
    context.answer(flow, usage(2048, 1920))
    (line,) = log()
    assert line.startswith("INFO [prompt-cache] usage ")
    assert list(fields(line).items()) == [
        *(("hit", "93%"), ("input", "2048"), ("cached", "1920")),
        *(("session", SESSION), ("agent", "main"), ("model", "gpt-5.4"), ("key", key(flow))),
    ]
    assert flow.comment.startswith("93% 1920/2048 ")


def test_no_cached_tokens_are_zero_once_the_conversation_has_reported_some(
    context: Context, log: Log
) -> None:
    silent = b'{"usage":{"prompt_tokens":9}}'
    seen = []
    for content in (silent, usage(2048, 1920), silent):
        flow = context.answer(context.send(), content)
        seen.append((fields(log()[-1])["cached"], flow.comment.split()[:2]))
    assert seen == [("?", ["?%", "?/9"]), ("1920", ["93%", "1920/2048"]), ("0", ["0%", "0/9"])]


def test_cache_writes_are_logged_where_they_are_reported(context: Context, log: Log) -> None:
    words = {"input_tokens": 9, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 2000}
    context.answer(context.send(), json.dumps({"type": "message", "usage": words}).encode())
    assert fields(log()[-1])["written"] == "2000"


def test_others_go_on_while_a_large_response_is_read(context: Context, log: Log) -> None:
    turns: list[int] = []

    async def others() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def answer() -> None:
        task = asyncio.create_task(others())
        flow.response = http.Response.make(200, b" " * 4 * STEP + usage(2048, 1920))
        context.addon.responseheaders(flow)
        await context.addon.response(flow)
        task.cancel()

    flow = context.send()
    asyncio.run(answer())
    assert fields(log()[-1])["cached"] == "1920"
    assert len(turns) >= 4


def test_unread_coding_is_a_debug_line_once(context: Context, log: Log) -> None:
    for _ in range(2):
        context.answer(context.send(), b"?", content_encoding="x\x9b")
    (line,) = of_level("DEBUG", log())
    assert "usage is not read" in line
    assert line.isascii()


def test_comment_of_another_addon_stays(context: Context) -> None:
    flow = context.send()
    flow.comment = "mine now"
    assert context.answer(flow, usage(2048, 0)).comment == "mine now"


@pytest.mark.parametrize("annotate", [True, False])
def test_miss_is_logged_summed_and_annotated(context: Context, log: Log, annotate: bool) -> None:
    context.set(annotate=annotate)
    turn(context, 2, 0)
    log()
    flow = turn(context, 3, 1000, later=700)
    _, _, line = log()
    assert line.startswith("INFO [prompt-cache] miss ")
    assert list(fields(line).items()) == [
        *(("missed", "7000"), ("cause", "expired: idle for 11m")),
        *(("session", SESSION), ("agent", "main"), ("model", "gpt"), ("key", key(flow))),
    ]
    assert flow.metadata["prompt_cache_missed"] == 7000
    assert context.state.sessions.total.missed == 7000
    assert flow.marked == (":red_circle:" if annotate else "")
    assert flow.comment.startswith("missed 7.0k: expired: idle for 11m 12% 1000/8000 ") is annotate
    assert bool(flow.comment) is annotate


def cold_start(context: Context, session: str) -> http.HTTPFlow:
    """Send the first request of a session of one user and project, of which nothing is cached."""
    user = f"user_{'a' * 64}_account__session_{session}"
    system = f"Primary working directory: /home/me/shop\n{'Be brief. ' * 1000}"
    messages = [{"role": "user", "content": session}]
    body = {"model": "m", "system": system, "messages": messages, "metadata": {"user_id": user}}
    flow = context.send(json.dumps(body).encode(), {})
    return context.answer(flow, usage(12_000, 0))


def test_new_conversations_that_read_nothing_of_others_are_warned_of_once_a_cause(
    context: Context, log: Log
) -> None:
    for digit in "3456":
        cold_start(context, SESSION.replace("3", digit))
    (warning,) = of_level("WARNING", log())
    assert "prompt_cache_key changed" in warning
    assert "shop" not in warning
    assert context.state.sessions.total.missed == 0


def test_requests_that_wait_for_a_judgement_count_at_the_end(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def judge(_: object) -> None:
        is_over.wait(10)

    async def end_while_judging(flows: list[http.HTTPFlow]) -> None:
        ends = [asyncio.create_task(context.addon.response(flow)) for flow in flows]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        context.addon.outcome.close()
        is_over.set()
        await asyncio.gather(*ends)

    turn(context, 2, 7900)
    flows = [asked(context, number) for number in range(3, 6)]
    for flow in flows:
        context.begin(flow).raw_content = usage(8000, 0)
    monkeypatch.setattr(context.state.history, "judge", judge)
    asyncio.run(end_while_judging(flows))
    assert context.state.sessions.total.requests == 4


def test_requests_beyond_those_that_can_wait_for_a_judgement_count_without_one(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def judge(_: object) -> None:
        is_over.wait(10)

    async def end(flows: list[http.HTTPFlow]) -> int:
        ends = [asyncio.create_task(context.addon.response(flow)) for flow in flows]
        for _ in range(3):
            await asyncio.sleep(0)
        counted = context.state.sessions.total.requests
        is_over.set()
        await asyncio.gather(*ends)
        return counted

    turn(context, 2, 7900)
    flows = [asked(context, 3) for _ in range(MAX_JUDGED + 2)]
    for flow in flows:
        context.begin(flow).raw_content = usage(8000, 0)
    monkeypatch.setattr(context.state.history, "judge", judge)
    assert asyncio.run(end(flows)) == 1 + 2
    assert context.state.sessions.total.requests == 1 + len(flows)


def test_requests_in_flight_at_the_end_count(context: Context) -> None:
    context.send()
    context.addon.outcome.close()
    assert context.state.sessions.total.requests == 1


def test_mark_of_another_addon_stays(context: Context) -> None:
    turn(context, 2, 0)
    flow = context.send(b'{"model":"gpt","messages":[{"role":"user"},{"role":"assistant"}]}')
    flow.marked = ":rocket:"
    assert context.answer(flow, usage(8000, 0)).marked == ":rocket:"


def test_a_session_that_reads_nothing_is_warned_of_once(context: Context, log: Log) -> None:
    for number in range(2, 9):
        turn(context, number, 0)
    (warning,) = of_level("WARNING", log())
    assert fields(warning)["session"] == SESSION + ";"
    assert "nothing was cached" in warning
    assert "0/8000" in warning


def test_a_hit_rate_that_collapses_is_warned_of_with_cause_and_remedy(
    context: Context, log: Log
) -> None:
    for number in range(2, 6):
        turn(context, number, 7900)
    for number in range(6, 12):
        context.state.store.forget([("gpt", SESSION)], 0)
        turn(context, number, 0)
    (warning,) = of_level("WARNING", log())
    assert "collapsed" in warning
    assert "prompt_cache_key changed" in warning
    assert "prompt_cache_ttl" in warning


# Rejections


@pytest.mark.parametrize("status", [400, 422])
def test_a_rejection_is_learned_for_host_path_and_model(
    context: Context, log: Log, status: int
) -> None:
    url = "https://api.example.com:8443/v1/messages"
    first = context.answer(context.send(url=url + "?beta=true"), PYDANTIC, status)
    assert key(first)
    (line,) = of_level("WARNING", log())
    assert line.startswith(
        f"WARNING [prompt-cache] {url} rejects prompt_cache_key for model=gpt-5.4 "
        f"({status}: extra inputs are not permitted) and gets it no more until a restart"
    )
    assert context.send(url=url).request.content == BODY
    assert context.stream(context.flow(url=url))[1].rstrip() == BODY
    assert key(context.send(b'{"model":"other"}', url=url))
    other = "https://api.example.com:8443/other/v1/messages"
    assert key(context.send(url=other))
    assert key(context.send(url=url.replace("8443", "8444")))
    # The filter that the line names does the same after a restart.
    named = line.partition("--set 'prompt_cache_filter=")[2].removesuffix("'")
    context.state.rejections = Rejections()
    context.set(filter=named)
    assert context.send(url=url + "?beta=true").request.content == BODY
    assert key(context.send(url=other))


@pytest.mark.parametrize("path", ["\x9b31m", "x" * 30_000])
def test_a_rejection_at_a_url_that_is_not_plain_names_no_filter(
    context: Context, log: Log, path: str
) -> None:
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
def test_other_responses_are_no_rejection(
    context: Context, status: int, content: bytes, words: bytes
) -> None:
    context.answer(context.send(content), words, status)
    assert key(context.send())


def test_a_rejected_question_is_asked_no_more(context: Context, log: Log) -> None:
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


def test_three_bad_requests_in_a_row_are_warned_of_once(context: Context, log: Log) -> None:
    for _ in range(7):
        context.answer(context.send(), b'{"error":"bad request"}', 400)
    (warning,) = of_level("WARNING", log())
    assert "prompt_cache_filter=" in warning


@pytest.mark.parametrize("content", [b"{}", b'{"usage":{"input_tokens":9}}', b"data: [DONE]\n\n"])
def test_bad_requests_where_a_key_was_accepted_are_not_warned_of(
    context: Context, log: Log, content: bytes
) -> None:
    context.answer(context.send(), content)
    for _ in range(7):
        context.answer(context.send(), b'{"error":"bad request"}', 400)
    assert not of_level("WARNING", log())


@pytest.mark.parametrize(
    ("content", "encoding"), [(b"", ""), (b"x" * 70_000, ""), (b"not gzip", "gzip")]
)
def test_an_error_that_cannot_be_read_teaches_nothing(
    context: Context, content: bytes, encoding: str
) -> None:
    context.answer(context.send(), content, 400, content_encoding=encoding)
    assert key(context.send())
