import re
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.judge.prefix import Break
from prompt_cache_key.response.usage import Usage
from prompt_cache_key.show import page as report_page
from prompt_cache_key.show.page import page
from prompt_cache_key.show.report import Prices, Report, Row, Session, sums, sums_by

TIME = 1_795_600_000.0
USAGE = Usage(10_000, 7_500, None, 20)
BROKE = Break("system[0].text", 79, "cch=744e2;", "cch=6284d;", 5000, "attribution block changed")
PRICES = Prices(1.25, 0.125, 1.25, 10.0)
VOID = {"meta", "path"}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def row(after: float = 0, usage: Usage | None = USAGE, model: str = "gpt-5.4") -> Row:
    return Row(TIME + after, "main", model, "https://gateway.test", "k", usage, None)


def report(
    *sessions: list[Row],
    name: str = "57f0d592",
    file: str = "saved.flows",
    problem: str = "",
    prices: Prices | None = None,
) -> Report:
    all_ = [row for rows in sessions for row in rows]
    return Report(
        file=file,
        problem=problem,
        keep=600,
        prices=prices,
        sums=sums(all_, prices),
        causes=sums_by("why", all_, prices),
        sessions=[
            Session(name, sums(rows, prices), sums_by("speaker", rows, prices), rows)
            for rows in sessions
        ],
    )


class Reader(HTMLParser):
    """Reads a page: its start tags with their attributes, and its texts; each end tag must fit."""

    def __init__(self, made: Report) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.html = "".join(page(made))
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


def marks(reader: Reader, shape: str) -> int:
    """Count the marks of a kind in charts and lists; the legend has one."""
    return sum(tag == "path" and ("class", shape) in attributes for tag, attributes in reader.tags)


# What comes from the flows


def hostile(words: str) -> Report:
    """Return a report with these words in each place that can have them."""
    broke = Break(words, 1, words, words, 4, words)
    rows = [
        Row(TIME, words, words, words, words, USAGE, broke, old_key=words, pause=700),
        Row(TIME, words, words, words, words, None, None, is_first=True),
    ]
    return report(rows, name=words, file=words, problem=words)


@pytest.mark.parametrize(
    "words",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'-alert(1)-'",
        "</title></style></svg><h1>",
        "<!-- ",
        "&lt;b&gt; &#60;",
        "]]><![CDATA[",
        "{} %s \\",
    ],
)
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
    assert names.isdisjoint({"src", "href", "style", "onload", "srcset", "data"})
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "iframe", "object", "img"})
    assert "url(" not in reader.html
    assert "@import" not in reader.html
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert reader.count("meta", **{"http-equiv": "Content-Security-Policy", "content": policy}) == 1


def test_the_page_fits_a_phone_and_both_schemes() -> None:
    reader = Reader(report([row()]))
    width = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert reader.count("meta", **width) == 1
    assert "prefers-color-scheme: dark" in reader.html
    # What may be wider than a phone scrolls by itself.
    inside = re.findall(r'<div class="scroll">(?=<svg class="chart"|<table)', reader.html)
    assert len(inside) == reader.html.count("<table") + reader.html.count('<svg class="chart"') == 3


# Numbers


def test_tiles() -> None:
    made = report([row(), row(1, Usage(1_500_000, 0, None, 1000))], [row(2)])
    text = Reader(made).text
    assert "saved.flows: 2026-11-25 09:46:40 to 2026-11-25 09:46:42 UTC" in text
    assert "3 requests sessions 2" in text
    assert "1,520,000 prompt tokens output tokens 1,040" in text
    assert "15,000 from the cache not from it 1,505,000" in text
    assert "1.0 % hit rate" in text
    assert "0 prefix breaks long pauses 0 0 key changes" in text
    assert "cost" not in text


def test_costs_are_shown_with_prices_only() -> None:
    usage = Usage(2_000_000, 1_000_000, None, 100_000)
    text = Reader(report([row(usage=usage)], prices=PRICES)).text
    assert "2.38 cost without a cache 3.50; per million: input 1.25, cached 0.125," in text
    assert "hit rate 50.0 %, cost 2.38" in text


def test_causes() -> None:
    rows = [
        row()._replace(is_first=True),
        row(1)._replace(broke=BROKE),
        row(2)._replace(broke=BROKE),
    ]
    text = Reader(report(rows)).text
    assert "the prefix broke: attribution block changed 2 5,000" in text
    assert "an agent's first request to a model 1 2,500" in text


def test_a_session_and_its_speakers() -> None:
    text = Reader(report([row(), row(60, model="gpt-5.4-mini"), row(120)])).text
    assert "57f0d592 2026-11-25 09:46:40: requests 3, prompt tokens 30,000, not from the" in text
    assert "main gpt-5.4 https://gateway.test 2 20,000 15,000 75.0 %" in text
    assert "main gpt-5.4-mini https://gateway.test 1 10,000 7,500 75.0 %" in text


@pytest.mark.parametrize(
    ("made", "warning"),
    [
        (report([row()], problem="the file is broken"), "the file is broken"),
        (report([row(), row(1, None)]), "reported no usage, so that no tokens count: 1."),
        (report([row(), row()._replace(endpoint="http://127.0.0.1")]), "choose a side"),
        (report([row()], [row()._replace(endpoint="http://127.0.0.1")]), "choose a side"),
    ],
)
def test_warnings(made: Report, warning: str) -> None:
    reader = Reader(made)
    assert reader.count("p", **{"class": "warn"}) == 1
    assert warning in reader.text


def test_no_warning_without_need() -> None:
    assert Reader(report([row()], [row()])).count("p", **{"class": "warn"}) == 0


def test_only_so_many_sessions_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "MAX_SESSIONS", 2)
    assert "only --json" not in Reader(report([row()], [row()])).text
    reader = Reader(report([row()], [row()], [row()]))
    assert reader.count("svg", **{"class": "chart"}) == 0
    assert reader.html.count('<svg class="chart"') == 2
    assert "Sessions that only --json has: 1." in reader.text


# Marks


def test_marks_and_what_they_mean() -> None:
    rows = [
        row(),
        row(1)._replace(broke=BROKE),
        row(2)._replace(old_key="j"),
        row(3)._replace(old_key="k", key=""),
        row(4)._replace(old_key=""),
        row(1405)._replace(pause=1401.4),
        row(1406)._replace(broke=BROKE, old_key="l", pause=700),
    ]
    reader = Reader(report(rows))
    assert [marks(reader, shape) for shape in ("broke", "key", "pause")] == [5, 9, 5]
    assert "prefix breaks 2, key changes 4, long pauses 2" in reader.text
    assert (
        "#2 09:46:41 main gpt-5.4: 7,500 of 10,000 prompt tokens cached the prefix broke at "
        "system[0].text, character 79: attribution block changed; estimated tokens before that: "
        "1,250 cch=744e2; cch=6284d;"
    ) in reader.text
    assert "the key changed from j to k" in reader.text
    assert "the key changed from k to none" in reader.text
    assert "the key changed from none to k" in reader.text
    assert "0:23:21 after the request before" in reader.text


@pytest.mark.parametrize(
    ("count", "is_open"), [(report_page.FEW, True), (report_page.FEW + 1, False)]
)
def test_few_marks_are_shown_without_a_click(count: int, is_open: bool) -> None:
    reader = Reader(report([row()] + [row(n)._replace(broke=BROKE) for n in range(count)]))
    assert reader.count("details", open=None) == is_open


def test_no_list_without_marks() -> None:
    assert Reader(report([row()])).count("ul", **{"class": "marks"}) == 0


# Charts


def bars(made: Report) -> list[tuple[float, float, float]]:
    """Return where each bar begins, and how high its two parts are."""
    pattern = (
        r'translate\(([\d.]+) 34\)"><title>[^<]*</title><path class="hit"[^>]*>'
        r'<path class="rest" d="M0 ([\d.]+)h[\d.]+v([\d.]+)H0z"/>'
        r'<path class="cached" d="M0 ([\d.]+)h[\d.]+V140H0z"/>'
    )
    html = "".join(page(made))
    found = [tuple(map(float, numbers)) for numbers in re.findall(pattern, html)]
    for _, top, rest, middle in found:
        assert top + rest == pytest.approx(middle, abs=0.11)
    return [(x, rest, 140 - middle) for x, _, rest, middle in found]


def test_bars() -> None:
    rows = [row(), row(1, Usage(20_000, 0, None, None)), row(2, None), row(3)._replace(pause=700)]
    assert bars(report(rows)) == [
        (44.0, 17.5, 52.5),
        (66.0, 140.0, 0.0),
        (88.0, 0.0, 0.0),
        (124.0, 17.5, 52.5),
    ]


@pytest.mark.parametrize(("count", "width"), [(1, 100), (10, 264), (100, 1044), (500, 1044)])
def test_width_of_a_chart(count: int, width: int) -> None:
    made = report([row(n) for n in range(count)])
    reader = Reader(made)
    assert f'<svg class="chart" width="{width}"' in reader.html
    labels = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="189">', reader.html)]
    assert labels[0] == 44
    assert labels[-1] + 50 <= width
    assert all(b - a >= 80 for a, b in pairwise(labels))
    assert len(bars(made)) == count


def test_a_chart_without_any_usage() -> None:
    assert bars(report([row(usage=None)])) == [(44.0, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        (7, ["7", "3.5", "0"]),
        (2_000, ["2.0k", "1.0k", "0"]),
        (184_213, ["184.2k", "92.1k", "0"]),
        (1_500_000, ["1.5M", "750.0k", "0"]),
    ],
)
def test_numbers_beside_a_chart(tokens: int, labels: list[str]) -> None:
    html = Reader(report([row(usage=Usage(tokens, 0, None, None))])).html
    assert re.findall(r'text-anchor="end">([^<]*)<', html) == labels
