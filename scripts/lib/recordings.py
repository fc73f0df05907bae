"""The recorded traffic in tests/data."""

import json
import re
from collections.abc import Callable
from typing import Any

from lib import ROOT

DATA = ROOT / "tests" / "data"

# Long texts are left out of the recordings; this stands in their place.
_LEFT_OUT = re.compile(r"(\d+) characters of text – ✓")  # noqa: RUF001


def records(name: str) -> list[Any]:
    """Return the records of tests/data/<name>.jsonl, as JSON has them."""
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def restored(body: str, text: Callable[[str, int], str]) -> str:
    """Put a text in place of each that was left out of a recorded body, of about its length.

    `text` gets what stands there and the length in characters. What it returns must not need
    escaping in JSON.
    """
    return _LEFT_OUT.sub(lambda match: text(match[0], int(match[1])), body)
