"""Requests to upstreams that take no key: not a byte changes, and their misses are named."""

import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import demo
import pytest
from lib.client import Client
from lib.dialects import DIALECTS
from lib.messages import EVENTS, Headers, Reply, Request
from lib.mitmdump import Mitmdump
from lib.recordings import encoded, excerpt, records, restored
from lib.server import Server
from lib.stand_in import TIME_HEADER
from live.proxied import SESSION_HEADER, assert_sound, logged
from live.test_misses import CHANGES, PrefixCache, conversation

Body = dict[str, Any]

ANTHROPIC = ("api.anthropic.com", "/v1/messages?beta=true", "messages")
REJECTS = ("gateway.test", "/v1/chat/completions", "chat")
"""A host that is not known: it rejects the field when it first gets one."""
PLACES = [
    ANTHROPIC,
    ("bedrock-mantle.us-east-1.api.aws", "/anthropic/v1/messages", "messages"),
    ("api.groq.com", "/openai/v1/chat/completions", "chat"),
    REJECTS,
]
NATIVE = [
    ("bedrock-runtime.us-east-1.amazonaws.com", "/model/us.anthropic.claude-opus-5-5/invoke"),
    (
        "us-east5-aiplatform.googleapis.com",
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude-opus-5-5:streamRawPredict",
    ),
    ("generativelanguage.googleapis.com", "/v1beta/models/gemini-4-pro:streamGenerateContent"),
]
REJECTION = {"error": {"message": "Unsupported parameter: 'prompt_cache_key'", "code": 400}}

Place = tuple[str, str, str]


class Upstream(PrefixCache):
    """All hosts: each reads prompts from one cache, and rejects the field."""

    def __call__(self, request: Request) -> Reply:
        if request.key:
            return Reply(400, body=json.dumps(REJECTION).encode())
        path = DIALECTS["messages" if "/messages" in request.target else "chat"].path
        return super().__call__(replace(request, target=path))


@contextmanager
def running(
    respond: Any, *args: str, scripts: Iterable[Path] | None = None
) -> Iterator[tuple[Server, Mitmdump]]:
    """Run a regular proxy; a server stands for every host."""
    more = {} if scripts is None else {"scripts": scripts}
    with Server(respond) as server:
        all_hosts = ("--set", f"map_remote=|^http://[^/]+|{server.url}")
        with Mitmdump("regular", args=[*all_hosts, *args], **more) as proxy:  # type: ignore[arg-type]
            yield server, proxy
            assert server.broken == []
        assert_sound(proxy)


def ask(port: int, place: Place, session: str, body: Body, *headers: tuple[str, str]) -> bytes:
    """Send a request; return the bytes that were sent."""
    host, path, _ = place
    sent = encoded(body)
    with Client(port) as client:
        shown: Headers = [("Host", host), (SESSION_HEADER, session), *headers]
        assert client.send("POST", f"http://{host}{path}", shown, sent).status in (200, 400)
    return sent


@pytest.mark.parametrize("place", PLACES, ids=[host for host, *_ in PLACES])
def test_nothing_changes_and_each_miss_has_its_cause(place: Place) -> None:
    cache, expected, sessions = Upstream(), [], []
    with running(cache) as (server, proxy):
        if place == REJECTS:
            first = conversation("chat", 1)
            ask(proxy.port, place, str(uuid4()), first)
            assert server.take()[0].key
        for stream, (cause, change) in (
            (s, each) for s in (False, True) for each in CHANGES.items()
        ):
            session = str(uuid4())
            cache.prompts.clear()
            loaded = ["a1", "b1"] if cause.startswith("tool search") else []
            bodies = [conversation(place[2], 1), conversation(place[2], 2)]
            bodies.append(change(conversation(place[2], 3, loaded)))
            sent = [ask(proxy.port, place, session, body | {"stream": stream}) for body in bodies]
            taken = server.take()
            assert [request.body for request in taken] == sent
            for request in taken:
                names = sorted(name.lower() for name, _ in request.headers)
                assert names == ["content-length", "host", SESSION_HEADER.lower()]
            expected.append((session, cause))
            sessions.append(session)
    assert [(miss["session"], miss["cause"]) for miss in logged(proxy, "miss ")] == expected
    observed = [line for line in logged(proxy, "session=") if line.get("state") == "observed"]
    assert [line["session"] for line in observed] == [s for s in sessions for _ in range(3)]
    usage = [line for line in logged(proxy, "usage ") if line["session"] in sessions]
    assert len(usage) == len(observed)
    assert not any("key" in line for line in [*observed, *usage])


def test_streams_arrive_as_they_are_sent() -> None:
    arrived = threading.Event()

    def events() -> Iterator[bytes]:
        yield b'data: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n'
        assert arrived.wait(30)
        yield b'data: {"type":"message_stop"}\n\n'

    host, path, _ = ANTHROPIC
    with running(lambda _: Reply(headers=EVENTS, body=events())) as (_, proxy):
        headers = [("Host", host), (SESSION_HEADER, "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a")]
        body = encoded(conversation("messages", 1) | {"stream": True})
        with Client(proxy.port) as client:
            response = client.open("POST", f"http://{host}{path}", headers, body)
            assert b"message_start" in response.readline()
            arrived.set()
            assert b"message_stop" in response.read()
        assert proxy.find(r"usage .*input=7 ")


@pytest.mark.parametrize("place", NATIVE, ids=[host for host, _ in NATIVE])
def test_native_paths_are_not_even_observed(place: tuple[str, str]) -> None:
    with running(lambda _: Reply()) as (server, proxy):
        sent = ask(proxy.port, (*place, ""), str(uuid4()), conversation("messages", 1))
        assert server.take()[0].body == sent
        ask(proxy.port, ANTHROPIC, "last", conversation("messages", 1))
        proxy.find("session=last ")
    assert {line["session"] for line in logged(proxy, "session=")} == {"last"}


# --- Anthropic ------------------------------------------------------------------------------------

MINUTE = 60
FIVE, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


def idle(cache: PrefixCache, folder: Path, marked: Body, minutes: int) -> str:
    """Return the cause of a miss after a pause between two requests with that `cache_control`."""
    virtual = folder / "virtual.py"
    virtual.write_text(demo.SCRIPT + demo.WITH_ADDON)
    session, start = str(uuid4()), 1_790_000_000
    with running(cache, scripts=[virtual]) as (_, proxy):
        for turns, at in enumerate((0, minutes * MINUTE)):
            body = conversation("messages", 1 + turns)
            body["system"][0]["cache_control"] = marked
            cache.prompts.clear()
            ask(proxy.port, ANTHROPIC, session, body, (TIME_HEADER, str(start + at)))
    (miss,) = logged(proxy, "miss ")
    return miss["cause"]


@pytest.mark.parametrize(
    ("marked", "minutes", "cause"),
    [
        (FIVE, 4, "server-side: evicted or rerouted"),
        (FIVE, 40, "expired: idle for 40m"),
        (HOUR, 40, "server-side: evicted or rerouted"),
        (HOUR, 70, "expired: idle for 70m"),
    ],
)
def test_the_request_says_how_long_its_prompt_is_kept(
    tmp_path: Path, marked: Body, minutes: int, cause: str
) -> None:
    assert idle(Upstream(), tmp_path, marked, minutes) == cause


def test_cache_creation_is_cache_writes() -> None:
    created = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 400}
    usage = {"input_tokens": 5, "cache_read_input_tokens": 1000, "cache_creation": created}
    answer = Reply(
        body=json.dumps({"usage": usage | {"cache_creation_input_tokens": 430}}).encode()
    )
    with running(lambda _: answer) as (_, proxy):
        ask(proxy.port, ANTHROPIC, "s", conversation("messages", 1))
        proxy.find(r"usage hit=69% input=1435 cached=1000 written=430 session=s ")


def test_the_attribution_is_no_cause_there() -> None:
    causes = {}
    for place in (ANTHROPIC, PLACES[1]):
        cache = Upstream()
        with running(cache) as (_, proxy):
            for turns in (1, 2):
                line = (
                    f"x-anthropic-billing-header: cc_version=2.1.332.00{turns}; cc_entrypoint=cli;"
                )
                body = conversation("messages", turns)
                body["system"].insert(0, {"type": "text", "text": line})
                cache.prompts.clear()
                ask(proxy.port, place, "s", body)
        (miss,) = logged(proxy, "miss ")
        causes[place] = miss["cause"]
    assert [*causes.values()] == ["server-side: evicted or rerouted", "attribution block changed"]


# --- tool search, as recorded ---------------------------------------------------------------------


def test_a_recorded_tool_search_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live.test_misses.TOKENS", 4)
    cache = PrefixCache()
    # To a plain prefix cache, a mark that moves on and a list in place of a text are changes.
    marked = re.compile(r',"cache_control":\{[^}]*\}')
    bodies = [restored(marked.sub("", r["body"]), excerpt) for r in records("tool_search")]
    for message in (each for body in bodies for each in body["messages"]):
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    place = ("gateway.test", DIALECTS["messages"].path, "messages")
    with running(cache) as (_, proxy):
        for body in bodies:
            ask(proxy.port, place, "s", body)
    causes = [miss["cause"] for miss in logged(proxy, "miss ")]
    assert causes == [
        "tool search loaded: CronList, Monitor",
        "tool search loaded: WebFetch",
    ]
    assert not any(re.search("tools reordered", line) for line in proxy.lines)
