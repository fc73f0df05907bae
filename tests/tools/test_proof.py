"""`scripts/proof`, without engines; test_proof_engines.py has some."""

import json
import re
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import islice, pairwise
from typing import Any

import proof
import pytest
from lib import ROOT
from lib.dialects import DIALECTS, Usage, usage
from lib.engine import Counts
from lib.playthrough import Answer, Outcome, Way
from lib.recordings import encoded
from lib.router import ROUTERS, Routed, RouterError, configuration, find_haproxy
from lib.sessions import turns
from proof import HEADER, ProofError

WAY = Way(DIALECTS["messages"], "header", HEADER)
RESTART = Way(DIALECTS["messages"], "header", HEADER, restart=True)
GOOD = Answer("a", 200, Usage(5000, 4000), is_whole=True)
ROUTED = Routed("replica1", 200, is_whole=True)
TOTAL = "[12:00] INFO [prompt-cache] total sessions=1 requests=2 input=10000 cached=8000 hit=80%"
COUNTS = Counts(10_000, 8000, 1.5)


def outcome(
    answers: Iterable[Answer] = (GOOD, GOOD),
    routed: Iterable[Routed] = (ROUTED, ROUTED),
    counts: Counts = COUNTS,
    log: Iterable[str] = (TOTAL,),
) -> Outcome:
    return Outcome({"replica1": counts}, [*routed], [*answers], [*log])


# --- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialect_carries_the_texts_and_shows_the_session(name: str) -> None:
    for _, agent, said in islice(turns(1), 40):
        sent = proof.request(agent, said, DIALECTS[name])
        text = sent.body.decode()
        assert said.session in text
        headers = said.headers if name == "messages" else []
        assert [*sent.headers.items()] == [("content-type", "application/json"), *headers]
        for message in proof.shortened(said.body["messages"]):
            for part in texts(message["content"]):
                assert encoded(part).decode()[1:-1] in text
        assert re.search(r'"max_(output_)?tokens":2\b', text)


def texts(content: Any) -> Iterable[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            yield from texts(block.get("text") or block.get("content"))


def test_what_is_cut_begins_like_the_turn_before() -> None:
    bodies = [
        proof.shortened(said.body["messages"])
        for _, agent, said in islice(turns(1), 99)
        if not agent
    ]
    assert len(bodies) > 5
    for before, after in pairwise(bodies):
        assert after[: len(before)] == before


# Answers of llama.cpp's server, without what has no numbers.
DELTA = {"type": "message_delta", "usage": {"output_tokens": 3}}
CACHED = {"cache_read_input_tokens": 42, "input_tokens": 1, "output_tokens": 0}
CHAT = {"prompt_tokens": 43, "total_tokens": 46, "prompt_tokens_details": {"cached_tokens": 42}}
RESPONSE = {"input_tokens": 43, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 42}}


def events(*data: object) -> str:
    return "".join(f"event: any\ndata: {json.dumps(each)}\n\n" for each in data)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (events({"type": "message_start", "message": {"usage": CACHED}}, DELTA), Usage(43, 42)),
        (events(DELTA), None),
        (events({"choices": [], "usage": CHAT}) + "data: [DONE]\n\n", Usage(43, 42)),
        (events({"type": "response.completed", "response": {"usage": RESPONSE}}), Usage(43, 42)),
        ('data: {"type":"message_start","message":{"usage":{"cache_read', None),
        ('{"error":{"code":503,"message":"Loading model"}}', None),
    ],
)
def test_usage_is_what_the_engine_says_of_the_prompt(answer: str, found: Usage | None) -> None:
    assert usage(answer) == found


# --- what is judged -----------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_engine_and_one_for_all() -> None:
    assert list(proof.table("with the addon", outcome())) == [
        "with the addon                   requests  prompt tokens      cached   share  seconds",
        "  replica1                              2         10,000       8,000  80.0 %      1.5",
        "  all                                   2         10,000       8,000  80.0 %      1.5",
    ]


BROKEN = Answer("a", 200, None, is_whole=False)
GATEWAY = Answer("a", 502, None, is_whole=False)
IN_PART = ROUTED._replace(is_whole=False)
ELSEWHERE = Routed("replica2", 502, is_whole=True)


@pytest.mark.parametrize(
    ("way", "played", "line"),
    [
        (WAY, outcome(), "2 with 200"),
        (WAY, outcome(counts=Counts(10_000, 7999)), None),
        (WAY, outcome([GOOD, GATEWAY], [ROUTED]), None),
        (RESTART, outcome(counts=Counts()), "2 with 200"),
        (RESTART, outcome([GOOD, BROKEN], [ROUTED, IN_PART]), "1 in part"),
        (RESTART, outcome([GOOD, GATEWAY], [ROUTED]), "1 not at all"),
        (RESTART, outcome([GOOD, GATEWAY], [ROUTED, ELSEWHERE]), "1 with 502"),
        (RESTART, outcome([GOOD, BROKEN]), None),
        (RESTART, outcome([GOOD]), None),
        (RESTART, outcome([GOOD, GOOD], [ROUTED]), None),
        (RESTART, outcome([GOOD, BROKEN], [ROUTED, Routed("replica1", 503, is_whole=True)]), None),
    ],
)
def test_answers_are_told_in_words_and_a_lost_one_or_token_fails(
    way: Way, played: Outcome, line: str | None
) -> None:
    with nullcontext() if line else pytest.raises(ProofError):
        assert proof.check_answers(played, way).endswith(line or "")


def test_totals_are_those_of_the_engines_or_of_the_answers_if_one_was_killed() -> None:
    assert proof.check_totals(outcome(), WAY) == "requests=2 input=10000 cached=8000"
    assert proof.check_totals(outcome(counts=Counts(9000)), RESTART)
    for bad in (outcome(counts=Counts(9000)), outcome(log=[]), outcome(log=["total", "x"])):
        with pytest.raises(ProofError):
            proof.check_totals(bad, WAY)


MISS = 'INFO [prompt-cache] miss missed={} cause="{}" session=s agent=main model=m key=k'
AGAIN = [
    Answer("a", 200, Usage(5000, 0), is_whole=True),
    Answer("b", 200, Usage(9000, 0), is_whole=True),
    Answer("a", 200, Usage(6000, 2951), is_whole=True),
    GATEWAY._replace(identity="b"),
    Answer("a", 200, Usage(5500, 5000), is_whole=True),
    Answer("b", 200, Usage(9000, 6000), is_whole=True),
]


def test_misses_are_those_of_the_engines() -> None:
    lines = [
        MISS.format(2049, "server-side: evicted or rerouted"),
        "else",
        MISS.format(3000, "tools reordered"),
    ]
    assert proof.check_misses(outcome()) == "none"
    assert proof.check_misses(outcome(AGAIN, log=lines)) == (
        "2,049 in 1 requests: server-side: evicted or rerouted; "
        "3,000 in 1 requests: tools reordered"
    )
    with pytest.raises(ProofError, match="3000"):
        proof.check_misses(outcome(AGAIN, log=lines[:1]))


def test_the_share_has_to_rise(capsys: pytest.CaptureFixture[str]) -> None:
    without, enough, little = (Counts(1000, cached) for cached in (500, 700, 690))
    proof.compare(WAY, without, enough)
    assert capsys.readouterr().out.startswith("Cached share: 50.0 % -> ")
    for way in (RESTART, Way(DIALECTS["chat"], "key", HEADER, replicas=2)):
        proof.compare(way, without, little)
    with pytest.raises(ProofError, match=r"19\.0 points"):
        proof.compare(WAY, without, little)


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_documented_configurations_are_those_that_are_run(kind: str) -> None:
    page = (ROOT / "docs" / "self-hosted.md").read_text("utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    blocks = [block for block in fenced if block.startswith(("global", "backend"))]
    servers = re.findall(r"server (\S+ \S+:\d+)$", blocks[0], re.MULTILINE)
    run = configuration(kind, HEADER, servers, "127.0.0.1:8000")
    assert any(run.endswith(block) for block in blocks)


def test_a_missing_haproxy_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(RouterError, match=r"^HAProxy is not installed; .*$"):
        find_haproxy()
