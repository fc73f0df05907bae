import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzz
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib import ROOT
from prompt_cache_key.request import body, session
from prompt_cache_key.request.bridge import Bridge
from prompt_cache_key.request.stream import RequestKey

FUZZ = ROOT / "scripts" / "fuzz.py"


def number(*values: int) -> bytes:
    return b"".join(value.to_bytes(2) for value in values)


@pytest.mark.parametrize("how", [[], ["--without-atheris"]])
def test_nothing_is_found(how: list[str]) -> None:
    command = [sys.executable, str(FUZZ), "1", *how]
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


@pytest.mark.parametrize(
    ("check", "module", "name", "broken"),
    [
        ("check_body", body, "with_key", lambda raw, _found, _key: raw + b" "),
        ("check_body", body, "read", lambda _raw: 1 / 0),
        ("check_session", session, "from_user_id", lambda _value: "\n"),
        ("check_usage", fuzz, "UsageReader", lambda _kind, _coding: None),
        ("check_bridge", Bridge, "find", lambda _self, _body: ("c", None)),
        ("check_stream", RequestKey, "__call__", lambda _self, chunk: [chunk]),
        ("check_prefix", fuzz, "compare", lambda before, _after: before),
    ],
)
def test_what_is_broken_is_found(
    check: str, module: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)

    with pytest.raises(AssertionError, match=rf"{check}\(b'{{}}', \[0, 0\]\)"):
        fuzz.check(number(1))


def test_recorded_bodies_are_in_use() -> None:
    assert len(fuzz.REQUESTS) == 2 + sum(
        len(path.read_text("utf-8").rstrip("\n").split("\n"))
        for path in Path(ROOT, "tests", "data").glob("*.jsonl")
    )
