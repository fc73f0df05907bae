"""Recorded Claude Code sessions that go on turn by turn, also as a translator sends them on.

How seven conversations in two projects and six subagents began is recorded. Each user begins them
with ids, attributions and projects of their own; what follows is made up.
"""

import heapq
import itertools
import re
from collections.abc import Iterator
from copy import deepcopy
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from lib.recordings import conversations, encoded, excerpt, tool_turn

USERS = 3
OUTPUT_SIZES = [500, 6_000, 1_500, 4_000, 1_000]  # characters that turns add, over and over
PAUSE = 2400.0
"""Seconds of a pause after which nothing is cached any more."""

_ANY = "any"


class Call(NamedTuple):
    """One request of an agent: when it comes, in seconds, and what it is."""

    at: float
    user: str
    session: str
    headers: list[tuple[str, str]]
    body: bytes
    finds_nothing_cached: bool = False

    def body_for(self, model: str) -> bytes:
        """Return the body with that model in it."""
        return self.body.replace(encoded({"model": _ANY})[1:-1], encoded({"model": model})[1:-1], 1)


class Conversation(NamedTuple):
    """What an agent says to a model in one session, up to one of its requests to Messages."""

    user: str
    session: str
    headers: list[tuple[str, str]]
    body: dict[str, Any]


def calls(seconds: float) -> list[Call]:
    """Return the calls of all sessions that are played, in the order of time."""
    earlier = itertools.takewhile(lambda turn: turn[0] < seconds, turns())
    return [_call(at, said) for at, _, said in earlier]


def turns(
    users: int = USERS, agents: int | None = None
) -> Iterator[tuple[float, int, Conversation]]:
    """Yield who speaks when, in seconds, and says what, in the order of time and without end.

    Agents are numbers. They join a second apart, then each speaks every 20 to 25 seconds.
    """
    begun = itertools.chain(*(_beginnings(f"user {number}") for number in range(users)))
    some = enumerate(itertools.islice(begun, agents))
    return heapq.merge(*itertools.starmap(_turns, some), key=itemgetter(0))


def _turns(agent: int, begun: Conversation) -> Iterator[tuple[float, int, Conversation]]:
    for turn, said in enumerate(_grown(begun)):
        yield agent + turn * (20 + agent / 8), agent, said


def unlucky_calls() -> list[Call]:
    """Return the calls of one session that misses the cache four times, each for its own reason.

    Its tools change their order, a client's own key comes in between, it pauses, and at last the
    upstream has evicted what it had cached.
    """
    found = []
    for turn, said in enumerate(itertools.islice(_grown(next(_beginnings("unlucky"))), 16)):
        if turn >= 4:  # noqa: PLR2004
            said.body["tools"].reverse()
        if turn == 7:  # noqa: PLR2004
            said.body["prompt_cache_key"] = "a-key-of-the-clients-own"
        pause = PAUSE if turn >= 10 else 0  # noqa: PLR2004
        call = _call(20 * turn + pause, said)
        found.append(call._replace(finds_nothing_cached=turn == 13))  # noqa: PLR2004
    return found


def _beginnings(user: str) -> Iterator[Conversation]:
    """Yield the first request of each conversation and subagent."""
    names = "x-claude-code-session-id", "x-claude-code-agent-id"
    ids = {"device_id": _id(user).hex * 2, "account_uuid": ""}
    for record in conversations():
        if len(record["body"]["messages"]) > 2:  # noqa: PLR2004
            continue
        shown = {name: record["headers"][name] for name in names if name in record["headers"]}
        session = str(_id(user + shown[names[0]]))
        attribution, *prompt = (block["text"] for block in record["body"]["system"])
        # Its suffix is a hash of the conversation's beginning.
        version = r"(cc_version=[0-9.]+\.)([0-9a-f]{3})"
        attribution = re.sub(version, lambda m: m[1] + _id(user + m[2]).hex[:3], attribution)
        texts = [attribution, *prompt, f"Projects of {user}"]
        body = deepcopy(record["body"]) | {
            "metadata": {"user_id": encoded(ids | {"session_id": session}).decode()},
            "system": [{"type": "text", "text": text} for text in texts],
        }
        yield Conversation(user, session, [*(shown | {names[0]: session}).items()], body)


def _id(name: str) -> UUID:
    return uuid5(NAMESPACE_OID, name)


def _grown(conversation: Conversation) -> Iterator[Conversation]:
    """Yield a conversation turn by turn."""
    for turn, size in enumerate(itertools.cycle(OUTPUT_SIZES)):
        yield conversation._replace(body=deepcopy(conversation.body))
        seed = f"{conversation.session} {conversation.headers} {turn}"
        conversation.body["messages"] += tool_turn(turn, excerpt(seed, size))


def _call(at: float, conversation: Conversation) -> Call:
    user, session, headers, body = conversation
    return Call(at, user, session, headers, encoded(translated(body | {"model": _ANY})))


def translated(body: dict[str, Any]) -> dict[str, Any]:
    """Translate a body to OpenAI's Responses."""
    items = (item for message in body["messages"] for item in _items(message))
    more: dict[str, Any] = {
        name: body[name] for name in ("metadata", "prompt_cache_key") if name in body
    }
    tools = [
        {
            "type": "function",
            "name": tool["name"],
            "description": tool["description"],
            "parameters": tool["input_schema"],
        }
        for tool in body.get("tools", [])
    ]
    instructions = "\n\n".join(block["text"] for block in body["system"])
    head: dict[str, Any] = {
        "model": body["model"],
        "instructions": instructions,
        "tools": tools,
        "stream": True,
    }
    return {**head, "input": [*items], **more}


def _items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message["content"]
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        match block["type"]:
            case "text":
                yield {"role": message["role"], "content": block["text"]}
            case "tool_use":
                arguments = encoded(block["input"]).decode()
                call = {"call_id": block["id"], "name": block["name"], "arguments": arguments}
                yield {"type": "function_call", **call}
            case "tool_result":
                output = {"call_id": block["tool_use_id"], "output": block["content"]}
                yield {"type": "function_call_output", **output}
