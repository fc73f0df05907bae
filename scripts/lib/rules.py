"""What OpenAI's documentation says of how its models read prompts from cache, as plain functions.

Source: https://developers.openai.com/api/docs/guides/prompt-caching as it stood in autumn 2026. It
does not say where a request really goes; what is assumed here is the mildest reading.
"""

import json
import math
import re
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

CHARACTERS_PER_TOKEN = 4
MINIMUM_TOKENS = 1024
BLOCK_TOKENS = 128
RETENTION = 1800.0
ROUTING_TOKENS = 256
REQUESTS_PER_MINUTE = 15
LOOKUPS = 20

Body = dict[str, Any]


class Rules(NamedTuple):
    """In what the two families of models differ."""

    routing_tokens: int
    """How much of a prompt's beginning decides, beside the key, which machine it goes to."""
    requests_per_minute: float
    """How many a machine takes of one route; what is more goes to the next."""
    lookups: int
    """At how many endings of earlier messages a prefix is looked for, beside the end of the prompt
    and that of its leading developer block; 0: at every 128th token."""


BEFORE_GPT_5_6 = Rules(ROUTING_TOKENS, REQUESTS_PER_MINUTE, 0)
SINCE_GPT_5_6 = Rules(0, math.inf, LOOKUPS)
"""Routing is automatic; a key separates what is cached and does no more."""


def rules_of(model: str) -> Rules:
    """Return the rules for a model of OpenAI's, such as `gpt-5.4` or `gpt-6-mini`."""
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?(?![.\d])", model)
    is_new = version and (int(version[1]), int(version[2] or 0)) >= (5, 6)
    return SINCE_GPT_5_6 if is_new else BEFORE_GPT_5_6


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text: one for every four characters, as is usual for English."""
    return len(text) // CHARACTERS_PER_TOKEN


def pieces_of(body: Body) -> list[str]:
    """Return the prompt of a request in pieces: the leading developer block, then each message.

    The block is the tools, the system prompt, and messages of the system in front of all others. A
    prompt in which a string stands for a list of one text is the same prompt.
    """
    items = body.get("messages") or body.get("input") or []
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    items = [_plain(item) for item in items]
    leading = [*takewhile(lambda item: item.get("role") in ("system", "developer"), items)]
    rest = items[len(leading) :]
    system = body.get("system") or body.get("instructions")
    leading = [_plain({"content": system})] * bool(system) + leading
    head = [*map(_plain, body.get("tools") or []), *leading]
    return ["".join(map(_line, head)), *map(_line, rest)]


def _plain(item: Body) -> Body:
    """Return a message or a tool without what an upstream does not see as part of the prompt."""
    item = {name: value for name, value in item.items() if name != "cache_control"}
    if isinstance(content := item.get("content"), str):
        item["content"] = [{"type": "text", "text": content}]
    elif content:
        item["content"] = [_plain(block) for block in content]
    return item


def _line(item: Body) -> str:
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")) + "\n"


@dataclass
class _Machine:
    recent: deque[float] = field(default_factory=deque)  # when its last minute's requests came
    used: dict[int, float] = field(default_factory=dict)  # hash of a prefix -> its last use


class PromptCache:
    """Which part of a prompt a model reads from cache.

    A route, which is the key and where the rules say so the prompt's beginning, has machines of
    its own. A machine knows the prefixes it has seen, from 1,024 tokens on, and forgets those not
    used for 30 minutes.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._routes: defaultdict[tuple[str, str | None], list[_Machine]] = defaultdict(list)

    def read(self, pieces: list[str], key: str | None, now: float) -> int:
        """Return how many characters of a prompt come from cache; all of it is cached afterwards.

        `now` is in seconds on any scale that does not go back.
        """
        prompt = "".join(pieces)
        beginning = prompt[: self._rules.routing_tokens * CHARACTERS_PER_TOKEN]
        used = self._machine(self._routes[beginning, key], now).used
        ends = [*self._ends(pieces, len(prompt))]
        looked_at = {*ends[:1], *ends[-1 - self._rules.lookups :]} if self._rules.lookups else ends
        cached = start = prefix = 0
        for end in ends:
            prefix = hash((prefix, prompt[start:end]))
            is_cached = now - used.get(prefix, -math.inf) < RETENTION
            if is_cached and end in looked_at and end >= MINIMUM_TOKENS * CHARACTERS_PER_TOKEN:
                cached = end
            used[prefix], start = now, end
        return cached

    def clear(self) -> None:
        """Forget all, as when machines are replaced."""
        self._routes.clear()

    def _ends(self, pieces: list[str], length: int) -> Iterator[int]:
        """Yield where prefixes end that are cached."""
        if not self._rules.lookups:
            step = BLOCK_TOKENS * CHARACTERS_PER_TOKEN
            yield from range(step, length + 1, step)
            return
        end = 0
        for piece in pieces:
            end += len(piece)
            yield end

    def _machine(self, machines: list[_Machine], now: float) -> _Machine:
        for machine in machines:
            while machine.recent and now - machine.recent[0] >= 60:  # noqa: PLR2004
                machine.recent.popleft()
            if len(machine.recent) < self._rules.requests_per_minute:
                break
        else:
            machine = _Machine()
            machines.append(machine)
        machine.recent.append(now)
        return machine
