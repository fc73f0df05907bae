import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.misses.miss import Miss
from prompt_cache_key.report.page import FEW, MAX_MISSES, MAX_SESSIONS, page, percent
from prompt_cache_key.stats.facts import Prices, Report, RequestFacts, report_of
from prompt_cache_key.usage.reader import Usage
from unit.report.saved import TIME, facts

USAGE = Usage(10_000, 2500, None, 20)
BROKE = Miss(
    9000,
    2500,
    "tools reordered",
    "tools reordered",
    "tools[0].name",
    7,
    "old text",
    "new text",
    "keep the order",
)
PRICES = Prices(1.25, 0.125, 1.25, 10.0)
VOID = {"meta", "path"}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def request(after: float = 0, usage: Usage | None = USAGE, **more: Any) -> RequestFacts:
    return facts(after, usage, **more)


def report(*requests: RequestFacts, prices: Prices | None = None) -> Report:
    return report_of("saved.flows", {"57f0d592": requests}, prices=prices)


class Reader(HTMLParser):
    """Reads a page: its start tags with their attributes, and its texts; each end tag must fit."""

    def __init__(self, made: Report, refresh: int = 0) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.html = page(made, refresh)
        self.feed(self.html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, **attributes: str | None) -> int:
        return Counter(self.tags)[tag, tuple(attributes.items())]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


# What comes from the flows


def hostile(words: str) -> Report:
    """Return a report with these words in each place that can have them."""
    miss = Miss(9000, 2500, words, words, words, 1, words, words, words)
    requests = [
        RequestFacts(TIME, words, words, words, words, USAGE, is_first=True),
        RequestFacts(TIME, words, words, words, words, USAGE, miss=miss),
        RequestFacts(TIME, words, words, words, words, None),
    ]
    return report_of(words, {words: requests}, warnings=[words])


MARKUP = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'-alert(1)-'", "<!-- "]
OTHER_MARKS = ["</title></style></svg><h1>", "&lt;b&gt; &#60;", "]]><![CDATA[", "{} %s \\"]


@pytest.mark.parametrize("words", MARKUP + OTHER_MARKS)
def test_what_comes_from_the_flows_is_text(words: str) -> None:
    reader, harmless = Reader(hostile(words)), Reader(hostile("harmless"))
    assert reader.tags == harmless.tags
    assert reader.text.count(" ".join(words.split())) == harmless.text.count("harmless") > 20


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_no_text_changes_the_page(words: str) -> None:
    assert Reader(hostile("x" + words)).tags == Reader(hostile("harmless")).tags


def test_the_page_loads_and_runs_nothing() -> None:
    reader = Reader(hostile("harmless"))
    names = {name for _, attributes in reader.tags for name, _ in attributes}
    assert names.isdisjoint({"src", "href", "onload", "srcset", "data"})
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "iframe", "object", "img"})
    assert "url(" not in reader.html
    assert "@import" not in reader.html
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert reader.count("meta", **{"http-equiv": "Content-Security-Policy", "content": policy}) == 1


def test_the_page_fits_a_phone_and_both_schemes() -> None:
    reader = Reader(report(request()))
    width = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert reader.count("meta", **width) == 1
    assert "prefers-color-scheme: dark" in reader.html
    assert "max-width: 640px" in reader.html


def test_a_browser_can_be_told_to_get_it_anew() -> None:
    for refresh, count in ((0, 0), (5, 1)):
        reader = Reader(report(request()), refresh)
        assert reader.count("meta", **{"http-equiv": "refresh", "content": "5"}) == count


# Numbers


WHOLE = report(
    request(),
    request(1, miss=BROKE),
    request(2, Usage(1_500_000, 0, None, 1000)),
    request(3, Usage(5000, None, None, None), model="mini"),
    request(4, None),
    prices=PRICES,
)


@pytest.mark.parametrize(
    "words",
    [
        "saved.flows: 2026-11-25 09:46:40 to 2026-11-25 09:46:44 UTC",
        "Responses without usage, whose tokens count nowhere: 1.",
        "Prompt tokens of upstreams that report no cached tokens: 5,000.",
        "5 requests sessions 1 1,525,000 prompt tokens output tokens 1,040",
        "5,000 from the cache hit rate 0.3 %",
        "6,500 lost requests that should have hit 1 1,508,500 new",
        "1.91 cost without a cache 1.92; per million: input 1.25, cached 0.125,",
        "tools reordered keep the order 6,500 tokens requests 1",
        "new text 1,508,500 tokens requests 3",
        "57f0d592 2026-11-25 09:46:40: requests 5, prompt tokens 1,525,000, hit rate 0.3 %, "
        "lost 6,500, cost 1.91",
        "main m https://gateway.test 4 1,520,000 5,000 6,500 0.3 %",
        "main mini https://gateway.test 1 5,000 0 0 no cache data",
        "#2 09:46:41 main m: 2,500 of 10,000 prompt tokens cached, lost 6,500: tools "
        "reordered tools[0].name, character 7: old text new text What helps: keep the order",
        "#4 09:46:43 main mini: ? of 5,000 prompt tokens cached",
        "#5 09:46:44 main m: no usage",
    ],
)
def test_what_the_page_says(words: str) -> None:
    assert words in Reader(WHOLE).text


def test_costs_are_shown_with_prices_only() -> None:
    assert "cost" not in Reader(report(request())).text


@pytest.mark.parametrize(
    ("share", "words"), [(None, "no cache data"), (0.0, "0.0 %"), (87.55, "87.5 %")]
)
def test_percent(share: float | None, words: str) -> None:
    assert percent(share) == words


@pytest.mark.parametrize(
    ("made", "warnings"),
    [
        (report(request(), request()), []),
        (report_of("f", {"a": [request()]}, warnings=["one", "two"]), ["one", "two"]),
        (report_of("f", {}), ["No request of a Claude Code session has been answered yet."]),
    ],
)
def test_warnings(made: Report, warnings: list[str]) -> None:
    reader = Reader(made)
    assert reader.count("p", **{"class": "warn"}) == len(warnings)
    assert all(warning in reader.text for warning in warnings)


def test_only_so_many_sessions_are_shown() -> None:
    sessions = {f"session {number}": [request()] for number in range(MAX_SESSIONS + 1)}
    reader = Reader(report_of("flows", sessions))
    assert reader.html.count('class="chart"') == MAX_SESSIONS
    assert "Sessions that only the JSON has: 1." in reader.text


# Misses


def test_a_miss_says_where_and_what_helps() -> None:
    own = BROKE._replace(cause="server-side: evicted or rerouted", path="", remedy="")
    for miss, count in ((BROKE, 1), (own, 0)):
        reader = Reader(report(request(miss=miss)))
        assert (reader.count("del"), reader.count("ins")) == (count, count)
        assert reader.text.count("What helps") == count
        assert "more misses" not in reader.text


def test_the_worst_of_each_cause_is_shown_without_a_click() -> None:
    causes = [f"cause {number}" for number in range(FEW + 1)]
    requests = [
        request(number, miss=BROKE._replace(cause=cause, kind=cause, expected=9000 - number))
        for number, cause in enumerate(causes * 2)
    ]
    shown, more = Reader(report(*requests)).html.split("<summary>more misses: ")
    first = [cause for cause in causes if f"{cause}</p>" in shown]
    assert first == causes[:FEW]
    assert more.startswith(f"{FEW + 2}<")
    assert more.count("<li>") == FEW + 2


def test_only_so_many_misses_are_shown() -> None:
    html = page(report(*(request(number, miss=BROKE) for number in range(MAX_MISSES + 9))))
    assert html.count("<del>") == MAX_MISSES
