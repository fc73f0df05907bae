"""Recorded requests and chains of Claude Codes and translators."""

import json
import lzma
import re
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from lib import ROOT
from lib.recordings import records
from prompt_cache_key.bridge.waiting import (
    WaitingRequests,
)
from unit.bridge.bridges import Clock, add, find, origins, waiting
from unit.bridge.translators import (
    TRANSLATORS,
    Json,
    chat,
    encoded,
    text,
)

RECORDED = {
    f"{record['client']} {record['scenario']} {record['seq']}": json.loads(record["body"])
    for record in records("claude_code")
    if record["path"].startswith("/v1/messages?")
}


def conversation(body: Json) -> list[Any]:
    """Return what is said, by blocks."""
    said = [(each["role"], each["content"]) for each in body["messages"]]
    return [
        (role, block)
        for role, content in said
        if role != "system"
        for block in (text(content) if isinstance(content, str) else content)
    ]


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_recorded_requests(translator: str) -> None:
    assert len(RECORDED) > 40
    for name, body in RECORDED.items():
        call = TRANSLATORS[translator](body)
        found = find(waiting(RECORDED), call)
        assert found is None or conversation(RECORDED[found]) == conversation(body)
        alone = find(waiting({name: body}), call)
        # Words alone are not enough, where a translator strips the system prompt, too.
        strips = ("strips system", "says something first", "one text for all")
        assert alone or (translator in strips and not body.get("tools"))


def test_recorded_calls_find_no_stranger() -> None:
    calls = [record["body"].encode() for record in records("translators")]
    assert not any(origins(waiting(RECORDED), calls))


# --- nine recorded chains of real Claude Codes and translators ------------------------------------


@cache
def chains() -> list[Any]:
    with lzma.open(ROOT / "tests" / "data" / "chains.jsonl.xz", "rt", encoding="utf-8") as lines:
        return list(map(json.loads, lines))


def replayed(
    change: Callable[[Json], Json] = dict,
    translate: Callable[[Json], Json] | None = None,
    *,
    is_user_scope: bool = False,
) -> Counter[str]:
    """Return how many calls of the recorded chains were right, wrong, of a user, or not found.

    `change` changes the body of each request and of each call; `translate` makes calls from the
    recorded requests, in place of those that the recorded translator made.
    """
    records, order = chains(), ["end", "client", "upstream"]  # of what happens at the same time
    events = [(each["start"], order.index(each["side"]), n) for n, each in enumerate(records)]
    events += [(each["end"], 0, n) for n, each in enumerate(records) if each["side"] == "client"]
    bridges: dict[str, WaitingRequests] = {}
    without_call: dict[str, list[int]] = {}
    found = Counter[str]()
    for _, event, number in sorted(events):
        record = records[number]
        session, body = record["session"], record["body"]
        bridge = bridges.setdefault(record["chain"], WaitingRequests(Clock()))
        uncalled = without_call.setdefault(record["chain"] + session, [])
        if order[event] == "client":
            add(bridge, number, change(body), session, ("account", "device"))
            uncalled.append(number)
        elif order[event] == "end":
            bridge.remove(number, is_answered=True)
        else:
            if translate:
                body = translate(records[uncalled.pop(0)]["body"])
            call = encoded(change(body))
            (origin,) = origins(bridge, [call], is_user_scope=is_user_scope)
            its = origin and origin.identity.session
            found[{session: "right", None: "none", "?": "user"}.get(its, "wrong")] += 1
    return found


@pytest.mark.parametrize("is_user_scope", [False, True])
def test_recorded_chains(is_user_scope: bool) -> None:
    assert replayed(is_user_scope=is_user_scope) == {"right": 293}


def numbered(form: bytes, body: Json) -> Json:
    """Number the ids of tool calls in each conversation, as Kimi K2 does."""
    raw = encoded(body)
    for n, each in enumerate(dict.fromkeys(re.findall(rb"call_[0-9a-f]{16,}", raw))):
        raw = raw.replace(each, form % n)
    renumbered: Json = json.loads(raw)
    return renumbered


@pytest.mark.parametrize("form", [b"functions.Bash:%d", b"call_%d"])
def test_recorded_chains_with_ids_that_are_numbered(form: bytes) -> None:
    # Not found are the calls whose tool results 9router has rewritten: neither words nor ids agree.
    assert replayed(partial(numbered, form)) == {"right": 265, "none": 28}


@pytest.mark.parametrize(
    "translate",
    [
        partial(chat, middle="assistant"),
        partial(chat, middle="assistant", join="\n\n"),
        partial(numbered, b"functions.Bash:%d"),
    ],
)
def test_recorded_requests_as_other_translators_send_them(translate: Any) -> None:
    """OmniRoute 3.7.9 has the assistant say system messages; others write ids of their own."""
    assert replayed(translate=translate) == {"right": 293}
