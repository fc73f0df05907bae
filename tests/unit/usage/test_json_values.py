import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.usage.json_values import DONE, MAX_VALUES, TOO_MANY, values_in, work


@pytest.mark.parametrize(
    ("text", "values", "is_whole"),
    [
        ("", [], True),
        (" \n", [], True),
        ('{"a": 1}', [{"a": 1}], True),
        ("\ufeff [1]\r\n", [[1]], True),
        ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}], True),
        ('{}data: {"a": 1}data:[DONE]', [{}, {"a": 1}, DONE], True),
        ('data: {}\ndata: "x"', [{}, "x"], True),
        ("{}[DONE]", [{}, DONE], True),
        ('"a\nb\tc"', ["a\nb\tc"], True),
        ("1" * 5000, [TOO_MANY], True),
        # what is no JSON, or is cut off
        ("{} trailing", [{}], False),
        ('{}\n{"a": ', [{}], False),
        ("data", [], False),
        ("[" * 100_000, [], False),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_values_of_a_text(text: str, values: list[Any], is_whole: bool) -> None:
    assert values_in(text) == (values, is_whole)


def test_only_so_many_values_are_read() -> None:
    assert values_in("{}" * MAX_VALUES)[1]
    values, is_whole = values_in("{}" * (MAX_VALUES + 1))
    assert len(values) == MAX_VALUES
    assert not is_whole


def test_more_values_are_more_work() -> None:
    assert work(b"") < work(b"x" * 9) < work(b"[" * 9) == work(b"{" * 9) == work(b"," * 9)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    st.lists(st.dictionaries(st.text(), JSON)), st.sampled_from(["", "\n", " data: ", "\ndata:"])
)
def test_values_one_after_the_other(values: list[Any], between: str) -> None:
    assert values_in(between.join(map(json.dumps, values))) == (values, True)


@given(st.text(alphabet='{}[]",:0a\\\n dat'))
def test_any_text_is_taken(text: str) -> None:
    values, is_whole = values_in(text)
    assert is_whole or values == values_in(text + "}")[0][: len(values)]
