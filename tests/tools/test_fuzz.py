import subprocess
import sys
from typing import Any

import fuzz
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib import ROOT
from lib.recordings import DATA
from prompt_cache_key.body import Body
from prompt_cache_key.bridge.bridge import Bridge
from prompt_cache_key.identity import Identity
from prompt_cache_key.streaming.held_request import HeldRequest


def number(*values: int) -> bytes:
    return b"".join(value.to_bytes(2) for value in values)


def test_nothing_is_found() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "fuzz.py"), "1"]
    env = {"PYTHONPATH": str(ROOT / "addon")}
    subprocess.run(command, check=True, capture_output=True, env=env)


@given(st.binary(max_size=64))
def test_any_plan_leads_to_a_body_and_places_in_it(plan: bytes) -> None:
    raw, (first, second) = fuzz.broken(plan)
    assert 0 <= first <= second <= len(raw)
    assert plan or raw == fuzz.RESPONSES[0]


def test_a_plan_changes_a_body() -> None:
    empty, put_in = 1, fuzz.PIECES.index(b"null")
    nothing, two = fuzz.PIECES.index(b""), 3
    assert fuzz.broken(number(empty))[0] == b"{}"
    assert fuzz.broken(number(empty, 3, 1, 1, 0, put_in)) == (b"{null}", [1, 3])
    assert fuzz.broken(number(empty, 0, 0, 0, two, nothing)) == (b"", [0, 0])


class BrokenBody(Body):
    """Reads the first member wrong, and puts a space too many in."""

    @property
    def model(self) -> str:
        return "other"

    def with_key(self, key: str, **more: Any) -> bytes:
        return super().with_key(key, **more) + b" "


class BrokenBridge(Bridge):
    async def find(self, *_: Any) -> Any:
        return 3, Identity("c", "main", "header")


class BrokenRequest(HeldRequest):
    def __call__(self, chunk: bytes) -> list[bytes]:
        return [chunk]


@pytest.mark.parametrize(
    ("check", "name", "broken"),
    [
        ("check_body", "Body", BrokenBody),
        ("check_key", "Body", BrokenBody),
        ("check_strip", "strip", lambda _raw, _names: b"{}"),
        ("check_speaker", "find", lambda _headers, _body: Identity("\n", "main", "header")),
        ("check_stream", "HeldRequest", BrokenRequest),
        ("check_bridge", "Bridge", BrokenBridge),
        ("check_usage", "UsageReader", lambda _coding: None),
        ("check_refusal", "refusal", lambda _status, _content: "\n"),
        ("check_prefix", "compare", lambda _before, _after: 1 / 0),
    ],
)
def test_what_is_broken_is_found(
    check: str, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, name, broken)
    monkeypatch.setattr(fuzz, "CHECKS", [getattr(fuzz, check)])
    with pytest.raises(AssertionError, match=rf"{check}\(b'\{{\"model"):
        fuzz.check(number(5))


def test_recorded_bodies_are_in_use() -> None:
    assert len(fuzz.REQUESTS) == 2 + sum(
        len(path.read_text("utf-8").rstrip("\n").split("\n")) for path in DATA.glob("*.jsonl")
    )
