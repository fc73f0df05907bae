"""The recorded traffic in tests/data, and long conversations made of it."""

import itertools
import json
import lzma
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from lib import ROOT

DATA = ROOT / "tests" / "data"

# Long texts are left out of the recordings; this stands in their place.
_LEFT_OUT = re.compile(r"(\d+) characters of text – ✓")  # noqa: RUF001


def records(name: str) -> list[Any]:
    """Return the records of tests/data/<name>.jsonl, as JSON has them."""
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def restored(body: str, text: Callable[[str, int], str]) -> Any:
    """Return a recorded body, parsed, with a text in place of each that was left out of it.

    `text` gets what stands there and how many characters there were.
    """
    filled = _LEFT_OUT.sub(lambda cut: json.dumps(text(cut[0], int(cut[1])))[1:-1], body)
    return json.loads(filled)


def encoded(value: object) -> bytes:
    """Return JSON as Claude Code writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@cache
def conversations() -> list[Any]:
    """Return 22 requests of conversations and subagents of one user: headers and parsed body."""
    with lzma.open(DATA / "conversations.jsonl.xz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [{**record, "body": json.loads(record["body"])} for record in found]


@cache
def _prose() -> str:
    """Return 700 kB of words of recorded traffic; one character in 400 is not ASCII."""
    words = sorted(set(re.findall(r"[A-Za-z]{2,}", json.dumps(conversations()))))
    plain = " ".join(random.Random(0).choices(words, k=100_000))  # noqa: S311
    ends = itertools.cycle("\n\n\n\N{EM DASH}\n\n\n\N{CHECK MARK}")
    return "".join(plain[at : at + 99] + next(ends) for at in range(0, len(plain), 99))


def excerpt(seed: str, length: int) -> str:
    """Return so many characters of text, the same for the same seed."""
    start = random.Random(seed).randrange(len(_prose()) - length)  # noqa: S311
    return _prose()[start : start + length]


def tool_turn(number: int, output: str, **arguments: str) -> list[dict[str, Any]]:
    """Return two messages, a call of Edit (without arguments of Read) and its result."""
    name = "Edit" if arguments else "Read"
    call = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": output}
    return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
