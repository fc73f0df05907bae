import json
import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.log import MitmFormatter
from prompt_cache_key.log import log, pairs, text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("gpt-5.4", "gpt-5.4"),
        ("3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a", "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"),
        ("!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("", '""'),
        (" ", '" "'),
        ("a b", '"a b"'),
        ('a"b', r'"a\"b"'),
        ('a "\\', r'"a \"\\"'),
        ("a\nb\r\t\0", r'"a\nb\r\t\u0000"'),
        ("\x1b[31m\x7f\x9b", r'"\u001b[31m\u007f\u009b"'),
        ("ü✓\u2028\u202e", r'"\u00fc\u2713\u2028\u202e"'),
        ("😀\ud800", r'"\ud83d\ude00\ud800"'),
        ("a" * 256, "a" * 256),
        ("a" * 257, '"' + "a" * 255 + r'\u2026"'),
        ("\n" * 100_000, '"' + r"\n" * 255 + r'\u2026"'),
    ],
)
def test_text(value: str, written: str) -> None:
    assert text(value) == written


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, ""),
        ({"key": "k"}, "key=k"),
        ({"b": "x y", "a": ""}, 'b="x y" a=""'),
        ({"on": True, "off": False}, "on=true off=false"),
        ({"n": 0, "f": 1.5, "none": None}, "n=0 f=1.5 none=None"),
        ({"seq": ("a", "b")}, "seq=\"('a', 'b')\""),
        ({"a": "b=c"}, "a=b=c"),
    ],
)
def test_pairs(values: dict[str, object], line: str) -> None:
    assert pairs(**values) == line


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["key", "session", "agent", "model"]),
        st.text(st.characters(), max_size=300),
    )
)
def test_a_machine_can_read_what_is_written(values: dict[str, str]) -> None:
    line = pairs(**values)
    assert re.fullmatch("[ -~]*", line)
    read = {
        name: json.loads(value) if value[0] == '"' else value
        for name, value in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line)
    }
    cut = {n: v if len(v) <= 256 else v[:255] + "…" for n, v in values.items()}
    assert json.dumps(read) == json.dumps(cut)
    assert line.count(" ") >= len(values) - 1


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize(
    ("client", "address"), [(None, ""), (("127.0.0.1", 50123), "[127.0.0.1:50123]")]
)
def test_log(
    caplog: pytest.LogCaptureFixture, level: int, client: tuple[str, int] | None, address: str
) -> None:
    caplog.set_level(logging.INFO, "prompt_cache_key")
    log(level, "100% %s", client)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("prompt_cache_key", level)
    line = MitmFormatter(colorize=False).format(record)
    assert line.partition("]")[2] == f"{address} [prompt-cache] 100% %s"


def test_a_handler_that_raises_costs_neither_the_request_nor_the_next_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        if "bad" in record.getMessage():
            raise ZeroDivisionError
        return True

    caplog.handler.addFilter(fail)
    try:
        for line in ("1", "bad", "2"):
            log(logging.WARNING, line)
    finally:
        caplog.handler.removeFilter(fail)
    assert caplog.messages == ["[prompt-cache] 1", "[prompt-cache] 2"]
