"""Recorded Claude Code sessions that go on turn by turn, also as a translator sends them on."""

import heapq
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, uuid5

from lib.messages import header
from lib.recordings import encoded, excerpt, records, restored, tool_turn

# The scenarios of each recorded client: eleven sessions of five users, one with a subagent. The
# first three clients send no session header, the first two ask a small model too.
PLAYED = {
    "claude-code 1.0.128": {"bash"},
    "claude-code 2.0.76": {"agent"},
    "claude-code 2.1.90": {"noattr"},
    "claude-code 2.1.330": {"simple", "bash", "agent", "noattr", "custom-headers"}
    | {"tui-6compact", "tui-9after-clear"},
}
UNLUCKY = {"claude-code 2.1.330": {"fork"}}
OUTPUT_SIZES = [500, 6_000, 1_500, 4_000, 1_000]  # characters that turns add, over and over
TURNS = 14  # after which a session is cleared, and begins anew under another id
PAUSE = 2400.0
"""Seconds of a pause after which nothing is cached any more."""

_MODEL = b'"model":"any"'


class Call(NamedTuple):
    """One request of an agent: when it comes, in seconds, and what it is."""

    at: float
    user: str
    session: str
    headers: list[tuple[str, str]]
    body: bytes
    is_for_small_model: bool = False
    finds_cache_lost: bool = False

    def body_for(self, model: str) -> bytes:
        """Return the body with that model in it."""
        return self.body.replace(_MODEL, b'"model":"%b"' % model.encode(), 1)


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


def turns() -> Iterator[tuple[float, int, Conversation]]:
    """Yield who speaks when, in seconds, and says what, in the order of time and without end.

    Agents are numbers. They join a second apart, then each speaks every 9 to 16 seconds.
    """
    agents = (_turns(*agent) for agent in enumerate(_conversations(PLAYED)))
    return heapq.merge(*agents, key=itemgetter(0))


def _turns(agent: int, begun: Conversation) -> Iterator[tuple[float, int, Conversation]]:
    for turn, said in enumerate(_cleared(begun)):
        yield agent + turn * (9 + agent / 2), agent, said


def unlucky_calls() -> list[Call]:
    """Return the calls of one session that misses the cache four times, each for its own reason.

    Its tools change their order, a client's own key comes in between, it pauses, and at last the
    upstream has lost what it kept.
    """
    (conversation,) = _conversations(UNLUCKY)
    found = []
    for turn, said in enumerate(itertools.islice(_grown(conversation), 16)):
        if turn >= 4:  # noqa: PLR2004
            said.body["tools"].reverse()
        if turn == 7:  # noqa: PLR2004
            said.body["prompt_cache_key"] = "a-key-of-the-clients-own"
        pause = PAUSE if turn >= 10 else 0  # noqa: PLR2004
        call = _call(20 * turn + pause, said)
        found.append(call._replace(finds_cache_lost=turn == 13))  # noqa: PLR2004
    return found


def _conversations(played: dict[str, set[str]]) -> Iterable[Conversation]:
    """Read how each agent's conversation with each model began."""
    found: dict[tuple[str, str, str], Conversation] = {}
    for record in records("claude_code"):
        is_played = record["scenario"] in played.get(record["client"], ())
        if not is_played or not record["path"].startswith("/v1/messages?"):
            continue
        body = restored(record["body"], excerpt)
        # A user id ends with the session's, in all of its forms.
        user, session = re.findall(r"(.*)([0-9a-f-]{36})", body["metadata"]["user_id"])[0]
        names = "x-claude-code-session-id", "x-claude-code-agent-id"
        headers = [(name, value) for name in names if (value := header(record["headers"], name))]
        name = (session, body["model"], str(headers))
        found.setdefault(name, Conversation(user, session, headers, body))
    return found.values()


def _cleared(conversation: Conversation) -> Iterator[Conversation]:
    """Yield a conversation turn by turn; every so often it begins anew in a new session."""
    text = json.dumps(conversation.body)
    for number in itertools.count():
        session = conversation.session
        if number:
            session = str(uuid5(NAMESPACE_OID, f"{session} {number}"))
        body = json.loads(text.replace(conversation.session, session))
        headers = [
            (name, value.replace(conversation.session, session))
            for name, value in conversation.headers
        ]
        again = Conversation(conversation.user, session, headers, body)
        yield from itertools.islice(_grown(again), TURNS)


def _grown(conversation: Conversation) -> Iterator[Conversation]:
    """Yield a conversation turn by turn; a helper's, which has no tools, does not grow."""
    for turn, size in enumerate(itertools.cycle(OUTPUT_SIZES)):
        body = deepcopy(conversation.body)
        yield conversation._replace(body=body)
        if body.get("tools"):
            conversation.body["messages"] += tool_turn(
                turn, excerpt(f"{conversation.session} {turn}", size)
            )


def _call(at: float, conversation: Conversation) -> Call:
    user, session, headers, body = conversation
    is_small = "haiku" in body["model"]
    return Call(at, user, session, headers, encoded(translated(body)), is_small)


def translated(body: dict[str, Any]) -> dict[str, Any]:
    """Translate a body to OpenAI's Responses; a model is still to be put in."""
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
        "model": "any",
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
