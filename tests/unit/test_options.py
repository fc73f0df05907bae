import re
from dataclasses import fields
from typing import Any

import pytest
from mitmproxy import flowfilter
from mitmproxy.http import Request
from mitmproxy.test import tflow
from prompt_cache_key.options import PREFIX, Options, seconds, without
from prompt_cache_key.upstreams import DEFAULT_FILTER

NO_SPANS = (
    "|0|0h|-1|+1|1.5h|1 h| 1h|1h |1h\n|h|1H|1w|1ms|1h30m|1e3|inf|1_000|0x10|\u0661|1000000000"
)


@pytest.mark.parametrize(
    ("text", "span"),
    [("1", 1), ("90s", 90), ("30m", 1800), ("1h", 3600), ("2d", 172_800), ("007s", 7)],
)
def test_seconds(text: str, span: int) -> None:
    assert seconds(text) == span


@pytest.mark.parametrize("text", NO_SPANS.split("|"))
def test_no_seconds(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time span such as 90s, 30m, 1h or 2d$") as e:
        seconds(text)
    assert str(e.value).startswith(repr(text))


def test_each_option_has_a_help_text_of_sentences() -> None:
    for option in fields(Options):
        text = option.metadata["help"]
        assert text[0].isupper()
        assert text.endswith(".")
        assert "\n" not in text


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ttl": "90s", "sliding": False, "max_sessions": 1, "overwrite": True},
        {"scope": "user", "keys": "derived", "store": "redis://127.0.0.1", "page": False},
        {"headers": ["session-id", "X_1!#$%&'*+.^`|~"], "strip": ["attribution", "countdown"]},
        {"strip": ["session"]},
        {"strip": ["auto"], "headers": ["auto"]},
        {"headers": [""], "strip": [""], "annotate": False},
        {"headers": []},
    ],
)
def test_good_values_are_kept(values: dict[str, Any]) -> None:
    options = Options(**values)
    assert {name: getattr(options, name) for name in values} == values


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ttl", "soon", "'soon' is not a time span such as 90s, 30m, 1h or 2d"),
        ("ttl", "1h\n", r"'1h\n' is not a time span such as 90s, 30m, 1h or 2d"),
        ("max_sessions", 0, "0 is less than 1"),
        ("scope", "x", "'x' is not one of auto, session, agent, user"),
        ("keys", "Random\n", r"'Random\n' is not one of random, derived"),
        ("strip", ["all"], "'all' is not one of auto, attribution, countdown, session"),
        ("strip", ["auto", "countdown"], "auto stands alone"),
        ("headers", ["ok", "no good"], "'no good' is not a header name"),
        ("headers", ["x\n"], r"'x\n' is not a header name"),
        ("headers", ["ü"], "'ü' is not a header name"),
        ("headers", ["x" * 65], f"'{'x' * 65}' is not a header name"),
        ("headers", ["auto", "x"], "auto stands alone"),
        *(
            ("headers", [name], f"'{name}' has a meaning of its own and can't carry a key")
            for name in (
                *("content-length", "Content-Length", "Transfer-Encoding", "host", "te"),
                *("api-key", "X-Goog-Api-Key", "content-digest", "Set-Cookie", "x-amz-date"),
                *("X-Claude-Code-Session-Id", "anthropic-beta", "x-forwarded-for"),
            )
        ),
        ("ttl", 60, "another script has an option of this name, but of another type"),
        ("sliding", "yes", "another script has an option of this name, but of another type"),
        ("headers", "session-id", "another script has an option of this name, but of another type"),
    ],
)
def test_a_bad_value_is_one_clear_line(name: str, value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=r"^prompt_cache_") as e:
        Options(**{name: value})
    assert str(e.value) == f"{PREFIX}{name}: {why}"
    assert e.value.__suppress_context__ or not e.value.__context__


def test_a_bad_store() -> None:
    with pytest.raises(ValueError, match=r"^prompt_cache_store: it is neither memory nor a good "):
        Options(store="http://127.0.0.1")


# --- a filter without a URL ---------------------------------------------------------------------

URL = "https://gw.example:8443/v1/messages"


def matches(method: str, url: str, filter_: str) -> bool:
    origin, path = re.split(r"(?<=[^:/])(?=/)", url, maxsplit=1)
    request = Request.make(method, origin)
    request.path = path  # Request.make would normalise it
    return bool(flowfilter.parse(filter_)(tflow.tflow(req=request)))


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        (URL, False),
        (f"{URL}?beta=true", False),
        ("https://gw.example:8443/v1/responses", True),
        ("https://gw.example:8443/x/v1/messages", True),
        ("https://gw-example:8443/v1/messages", True),
        ("http://gw.example:8443/v1/messages", True),
        (f"https://other.example/messages?x={URL}", True),
        (f"{URL}/count_tokens", False),  # as before
        ("https://api.anthropic.com/v1/messages", False),
    ],
)
def test_filter_without_a_url(url: str, ours: bool) -> None:
    assert matches("POST", url, without(DEFAULT_FILTER, URL)) is ours


@pytest.mark.parametrize("before", ["~m GET | ~m POST", "~all", "~q | ~http", "!~s", '"gw"', "gw"])
def test_filter_without_a_url_keeps_its_meaning(before: str) -> None:
    filter_ = without(before, URL)
    assert not matches("POST", URL, filter_)
    assert matches("GET", f"{URL}/x", filter_)


@pytest.mark.parametrize("path", ["a.b+(c)", '"\\', "[x]^$", "a|b*", "{1}&!~", "<%20>=;,@'`"])
def test_filter_without_any_url(path: str) -> None:
    url = f"https://gw.example/{path}"
    filter_ = without(without("~m POST", "https://x/"), url)
    assert not matches("POST", url, filter_)
    assert not matches("POST", f"{url}?a=b", filter_)
    assert matches("POST", f"{url}x", filter_)
    assert matches("POST", f"https://x.example/{path}", filter_)
