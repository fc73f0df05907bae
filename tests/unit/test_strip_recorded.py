"""Recorded requests of all three dialects, compared byte by byte."""

import json
import lzma
import re
from collections import Counter
from typing import Any

import pytest
from lib.recordings import DATA, encoded, records
from prompt_cache_key.strip import strip
from prompt_cache_key.upstreams import UPSTREAMS
from unit.test_strip import LINE, stripped


def without(body: dict[str, Any]) -> dict[str, Any]:
    """Do the same on a Messages body that was parsed, with texts of these kinds alone."""
    if isinstance(system := body.get("system"), list) and LINE[:30] in json.dumps(system[0]):
        body = body | {"system": system[1:]}
    kept = [each for each in body["messages"] if "<total_tokens>" not in json.dumps(each)]
    if user_id := body.get("metadata", {}).get("user_id"):
        user_id = re.sub(r',"session_id":"[^"]*"|_session_.*', "", user_id)
        body = body | {"metadata": {"user_id": user_id}}
    return body | {"messages": kept}


def compact(body: object) -> str:
    """Return compact JSON as JavaScript writes it, so that each byte can be compared."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    ("name", "attributions", "countdowns", "sessions"),
    [("claude_code", 22, 0, 47), ("countdown", 5, 10, 5), ("conversations", 22, 0, 22)],
)
def test_recorded_bodies(name: str, attributions: int, countdowns: int, sessions: int) -> None:
    found = [0, 0, 0]
    for record in conversations() if name == "conversations" else records(name):
        if text := record["body"]:
            assert stripped(text) == compact(without(json.loads(text)))
            found[0] += '"x-anthropic-billing-header' in text
            found[1] += text.count("<total_tokens>")
            found[2] += text != strip(text.encode(), ["session"]).decode()
    assert found == [attributions, countdowns, sessions]


def lines_of(name: str) -> list[Any]:
    with lzma.open(DATA / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def conversations() -> list[Any]:
    return lines_of("conversations")


def test_recorded_calls_of_translators() -> None:
    counts: Counter[tuple[str, int]] = Counter()
    for call in lines_of("chains"):
        if call["side"] == "upstream":
            # Their words are pseudonyms, this one too.
            text = compact(call["body"]).replace(
                "x-hanbuhjf-npxvvzj-pfukqw", LINE.partition(":")[0]
            )
            line = r'x-anthropic-billing-header: [^"\\]*;'
            expected = re.sub(rf'{{"type":"text","text":"{line}"}},|(?<="){line}\\n', "", text)
            assert stripped(text) == expected
            assert "anthropic-billing" not in expected
            counts[call["chain"], len(text) - len(expected) > 0] += 1
    assert counts == {
        ("ccr1", True): 21,
        ("ccr2+tooluse", True): 29,
        ("ccr2-hard", True): 115,
        ("ccp", True): 21,
        ("litellm-1.98.1-compat", True): 21,
        ("9router", False): 21,
        ("9router-cmds", False): 22,
        ("9router-cmdstext", False): 22,
        ("claudish-chat", False): 21,
    }


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return a Messages body as LiteLLM and claude-code-router send it on."""
    functions = [{"type": "function", "function": tool} for tool in body["tools"]]
    system = {"role": "system", "content": body["system"]}
    return {"model": "m", "messages": [system, *body["messages"]], "tools": functions}


def as_responses(body: dict[str, Any]) -> dict[str, Any]:
    """Return a Messages body as LiteLLM sends it on: the system prompt is one text."""
    text = "\n".join(block["text"] for block in body["system"])
    return {"input": body["messages"], "instructions": text, "tools": body["tools"]}


KEYED = [row for row in UPSTREAMS if not row.rejects]


@pytest.mark.parametrize("row", KEYED, ids=[row.name for row in KEYED])
def test_conversations_of_one_project_begin_with_the_same_bytes(row: Any) -> None:
    """Two projects and their subagents: three beginnings in place of one for each conversation."""
    for form, name in ((dict, "system"), (as_chat, "messages"), (as_responses, "instructions")):
        before: set[str] = set()
        after: set[str] = set()
        for record in conversations():
            body = form(json.loads(record["body"]))
            once = json.loads(strip(encoded(body), row.strip))
            assert once["tools"] == body["tools"]
            for each, beginnings in ((body, before), (once, after)):
                prompt = each[name][0] if name == "messages" else each[name]
                beginnings.add(compact([each["tools"], prompt]))
        assert (len(before), len(after)) == (12, 3)
