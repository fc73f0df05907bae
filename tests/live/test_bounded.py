"""Hostile requests and responses pass as they were sent, in bounded memory.

How long others wait meanwhile is measured by `scripts/bench --stalls`, not here.
"""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from lib.client import MESSAGES, Client
from lib.hostile import MB, SHOWN, Hostile, cases
from lib.messages import Reply
from lib.stalls import MAX_MEMORY, Rig
from live.proxied import assert_sound

SIZE = 2 * MB
OWN_KEY = re.compile(rb'"prompt_cache_key":"[^"]*",?')

CASES = dict(cases(SIZE))
del CASES["page of long names"]  # a thousand requests, and nothing that others do not have


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(has_addon=True) as rig:
        yield rig
    assert_sound(rig.proxy)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_hostile_input_passes_in_bounded_memory(rig: Rig, make: Callable[[], Hostile]) -> None:
    case = make()
    requests, answers = rig.send(case)
    arrived = sorted(OWN_KEY.sub(b"", each.body) for each in requests if each.target == MESSAGES)
    is_unchanged = arrived == sorted(OWN_KEY.sub(b"", body) for body in case.bodies)
    assert is_unchanged
    for answer in answers:
        assert answer
        assert answer.body in [reply.body for reply in case.replies]
    assert rig.peak() < MAX_MEMORY


def send(rig: Rig, body: bytes, target: str = MESSAGES) -> None:
    with Client(rig.proxy.port) as client:
        client.send("POST", target, [SHOWN], body)


def test_own_keys_are_not_remembered(rig: Rig) -> None:
    rig.server.respond = lambda _: Reply()
    before = rig.collect()
    for number in range(40):
        key = f"{number} {'k' * 4_000_000}"
        send(rig, json.dumps({"model": "m", "prompt_cache_key": key}).encode())
    rig.server.take()
    assert rig.collect() < before + 80


def test_models_and_paths_that_are_rejected_are_remembered_up_to_a_number(rig: Rig) -> None:
    words = {"error": {"message": "Unknown parameter: 'prompt_cache_key'"}}
    rejection = Reply(400, body=json.dumps(words).encode())
    rig.server.respond = lambda request: rejection if request.key else Reply()
    since = len(rig.proxy.lines)
    for number in range(120):
        model = f"{number} {'m' * 10_000}"
        send(rig, json.dumps({"model": model}).encode(), "/many-models/messages")
        send(rig, b'{"model":"m"}', f"/{number}/messages")
    rig.server.take()
    rig.server.respond = lambda _: Reply()
    send(rig, b'{"model":"m"}', "/119/messages")
    assert rig.server.take()[0].key is None
    warnings = [line for line in rig.proxy.lines[since:] if "WARN" in line]
    assert sum("/many-models/messages rejects" in line for line in warnings) == 1
    assert len(warnings) <= 100
    assert max(map(len, warnings)) < 1000
    assert rig.peak() < MAX_MEMORY
