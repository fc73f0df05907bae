import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.rejections.wrappers import MAX_LAYERS, unwrapped


@pytest.mark.parametrize(
    ("message", "inside"),
    [
        ("[p/m] [400]: Error from provider: no (reset after 30s)", "no"),
        (" litellm.BadRequestError: OpenAIException - no ", "no"),
        ("no. Received Model Group=a\nAvailable Model Group Fallbacks=None", "no"),
        ("no Request id: 0217641", "no"),
        ("400 bad request: no", "no"),
        ("no", "no"),
        ("", ""),
        # words of somebody else
        ("Your input was flagged: no", "Your input was flagged: no"),
        ("Tool error: no", "Tool error: no"),
        ("GuardrailError: no", "GuardrailError: no"),
        ("litellm.BlockedInputException - no", "litellm.BlockedInputException - no"),
        ("MCPError: no", "MCPError: no"),
        ("no (said the user)", "no (said the user)"),
        ('"no"', '"no"'),
    ],
)
def test_what_is_left_of_a_message(message: str, inside: str) -> None:
    messages, value = unwrapped(message)
    assert messages[0] == message.strip()
    assert messages[-1] == inside
    assert value is None


VALUE = {"error": {"message": 'it\'s "no"\n\\é', "n": [None, True, False, 1.5], "x": {}}}
TEXT = json.dumps(VALUE, ensure_ascii=False)
CLOSED = "Error: %s\n. Original exception: XError"


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (json.dumps(VALUE), VALUE),
        (json.dumps(VALUE, indent=1), VALUE),
        (repr(VALUE), VALUE),
        (repr([VALUE, ("a", ("b",), ())]), [VALUE, ["a", ["b"], []]]),
        (repr(TEXT.encode()), TEXT),
        (repr(ValueError('it\'s \x01\t"no"')), 'it\'s \x01\t"no"'),
        ("b''", ""),
        ("BadRequestError('')", ""),
        (r"b'\u20ac \xe2\x82\xac'", "? €"),
    ],
)
def test_the_value_inside_a_message(message: str, value: Any) -> None:
    for before, after in [("", ""), ("400: ", ""), ("", " (request id: 2026)"), CLOSED.split("%s")]:
        assert unwrapped(f"{before}{message}{after}")[1] == value
    for before, after in [("flagged: ", ""), ("", " was flagged"), ('"', '"'), ("", message)]:
        assert unwrapped(f"{before}{message}{after}")[1] is None


@pytest.mark.parametrize("message", ["{'a': <b>}", "{'a'", "b'a", "XError('a'", "{'a': 'b", "[a]"])
def test_what_is_no_value(message: str) -> None:
    assert unwrapped(message)[1] is None


def test_the_layers_are_bounded() -> None:
    assert len(unwrapped("400: " * 1000 + "no")[0]) <= 2 * MAX_LAYERS
    assert len(unwrapped("no" + " (reset after 1s)" * 1000)[0]) <= 2 * MAX_LAYERS


PIECES = ["400: ", "Error: ", "[a] ", "b'", "{", "}", "'", '"', "\\", "(", ")", ", ", "None", "\n"]
PIECES += [" (reset x)", " request id 12345", "XError(", "Received Model Group=", "é", "{}"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))
def test_nothing_raises_and_each_layer_is_part_of_the_one_before(message: str) -> None:
    messages, _ = unwrapped(message)
    for inner, outer in zip(messages[1:], messages, strict=False):
        assert inner in outer
        assert len(inner) < len(outer)
