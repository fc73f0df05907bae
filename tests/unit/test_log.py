import asyncio
import json
import logging
import re
import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.log import MitmFormatter
from prompt_cache_key.log import DELAY, log, pairs, start_waiting, stop_waiting, text


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


CLIENT = "127.0.0.1", 50123


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes by hand."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(3):  # turns: for what is due, and for what that sets off
            await asyncio.sleep(0)


def test_a_line_about_a_client_waits_for_others(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        start_waiting()
        before = time.time()
        log(logging.WARNING, "1", CLIENT)
        await loop.sleep(DELAY / 2)
        log(logging.WARNING, "2", CLIENT)
        after = time.time()
        assert not caplog.messages
        await loop.sleep(DELAY / 2)
        assert len(caplog.messages) == 2
        log(logging.DEBUG, "not shown", CLIENT)
        log(logging.WARNING, "3", CLIENT)
        log(logging.WARNING, "4")
        # It tells when it was logged, not when it was written.
        assert all(before <= record.created <= after for record in caplog.records[:2])
        assert [record.msecs // 1 for record in caplog.records] == [
            record.created % 1 * 1000 // 1 for record in caplog.records
        ]
        log(logging.WARNING, "5", CLIENT)
        stop_waiting()
        log(logging.WARNING, "6", CLIENT)

    caplog.set_level(logging.INFO, "prompt_cache_key")
    with closing(Loop()) as loop:
        loop.run_until_complete(work())
    assert caplog.messages == [f"[prompt-cache] {line}" for line in "123456"]


def test_a_handler_that_raises_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    raised: list[type] = []

    def fail(record: logging.LogRecord) -> bool:
        if "bad" in record.getMessage():
            raise ZeroDivisionError
        return True

    async def work() -> None:
        loop.set_exception_handler(lambda _, context: raised.append(type(context["exception"])))
        start_waiting()
        for line in ("1", "bad", "2", "bad", "3"):
            log(logging.WARNING, line, CLIENT)
        await loop.sleep(DELAY)
        await loop.sleep(0)
        stop_waiting()

    caplog.handler.addFilter(fail)
    try:
        with closing(Loop()) as loop:
            loop.run_until_complete(work())
    finally:
        caplog.handler.removeFilter(fail)
    assert caplog.messages == [f"[prompt-cache] {line}" for line in "123"]
    assert raised == [ZeroDivisionError] * 2
