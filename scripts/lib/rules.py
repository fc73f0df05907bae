"""What OpenAI's documentation says of how its models read prompts from cache, as plain functions.

Source: https://developers.openai.com/api/docs/guides/prompt-caching as it stood in autumn 2026. It
does not say where a request really goes; what is assumed here is the mildest reading.
"""

import json
import math
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CHARACTERS_PER_TOKEN = 4
MINIMUM_TOKENS = 1024
BLOCK_TOKENS = 128
KEEP_SECONDS = 1800.0
ROUTING_TOKENS = 256
REQUESTS_PER_MINUTE = 15


class Rules(NamedTuple):
    """In what the two families of models differ."""

    routing_tokens: int
    """How much of a prompt's beginning decides, beside the key, which machine it goes to."""
    requests_per_minute: float
    """How many a machine takes of one route; what is more goes to the next."""


BEFORE_GPT_5_6 = Rules(ROUTING_TOKENS, REQUESTS_PER_MINUTE)
SINCE_GPT_5_6 = Rules(0, math.inf)
"""Routing is automatic; a key separates what is cached and does no more."""


def rules_of(model: str) -> Rules:
    """Return the rules for a model of OpenAI's, such as `gpt-5.4` or `gpt-6-mini`."""
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?(?![.\d])", model)
    is_new = version and (int(version[1]), int(version[2] or 0)) >= (5, 6)
    return SINCE_GPT_5_6 if is_new else BEFORE_GPT_5_6


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text: one for every four characters, as is usual for English."""
    return len(text) // CHARACTERS_PER_TOKEN


def prompt_text(body: dict[str, Any]) -> str:
    """Put the prompt of a parsed request together: tools, then instructions, then conversation.

    Each item is one line of JSON, so a conversation that grew starts with its former prompt.
    """
    items: list[Any] = []
    for name in ("tools", "instructions", "input"):
        value = body.get(name, [])
        items += value if isinstance(value, list) else [value]
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


@dataclass
class _Machine:
    recent: deque[float] = field(default_factory=deque)  # when its last minute's requests came
    used: dict[int, float] = field(default_factory=dict)  # hash of a prefix -> its last use


class PromptCache:
    """Which part of a prompt a model reads from cache.

    A route, which is the key and where the rules say so the prompt's beginning, has machines of
    its own. A machine knows the prefixes it has seen, in steps of 128 tokens from 1,024 on, and
    forgets those not used for 30 minutes.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._routes: defaultdict[tuple[str, str | None], list[_Machine]] = defaultdict(list)

    def read(self, prompt: str, key: str | None, now: float) -> int:
        """Return how many of the prompt's tokens come from cache; all of it is cached afterwards.

        `now` is in seconds on any scale that does not go back.
        """
        beginning = prompt[: self._rules.routing_tokens * CHARACTERS_PER_TOKEN]
        used = self._machine(self._routes[beginning, key], now).used
        cached, prefix, matches = 0, 0, True
        step = BLOCK_TOKENS * CHARACTERS_PER_TOKEN
        for end in range(step, len(prompt) + 1, step):
            prefix = hash((prefix, prompt[end - step : end]))
            matches = matches and now - used.get(prefix, -math.inf) < KEEP_SECONDS
            cached += BLOCK_TOKENS * matches
            used[prefix] = now
        return cached if cached >= MINIMUM_TOKENS else 0

    def clear(self) -> None:
        """Forget all, as when machines are replaced."""
        self._routes.clear()

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
