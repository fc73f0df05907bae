import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import prompt_cache_key.report.page
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.report.chart import MAX_BARS
from prompt_cache_key.report.page import (
    FEW,
    MAX_AGENTS,
    MAX_MISSES,
    MAX_SESSIONS,
    can_render,
    page,
    period,
    plural,
)
from prompt_cache_key.stats.report import Report, report_of
from prompt_cache_key.usage.reader import Usage
from unit.requests_made import CHANGED, TIME, finished, miss

CSS = Path(prompt_cache_key.report.page.__file__).with_name("report.css").read_text("utf-8")
VOID = {"meta"}
HIT = Usage(10_000, 10_000, None, None)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def report(*requests: FinishedRequest, now: float = TIME, **more: Any) -> Report:
    return report_of("saved.flows", requests, now=now, **more)


class Reader(HTMLParser):
    """Reads a page: its start tags with their attributes, and its texts; each end tag must fit."""

    def __init__(self, made: Report, **more: Any) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.html = page(made, **more)
        self.feed(self.html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return re.sub(r" (?=[,;:.])", "", " ".join(" ".join(self.texts).split()))

    def all(self, tag: str, **attributes: str | None) -> list[dict[str, str | None]]:
        return [a for name, a in self.tags if name == tag and attributes.items() <= a.items()]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


# --- what comes from requests -------------------------------------------------------------------


def hostile(words: str) -> Report:
    """Return a report with these words in each place that can have them."""
    fields: dict[str, Any] = dict.fromkeys(
        ("session", "agent", "model", "endpoint", "key", "project"), words
    )
    hostile = miss(cause=words, path=words, before=words, after=words, remedy=words)
    return report_of(
        words, [finished(0, **fields), finished(1, miss=hostile, **fields)], warnings=[words]
    )


def skeleton(reader: Reader) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in reader.tags]


MARKUP = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'-alert(1)-'", "<!-- "]
OTHER_MARKS = ["</title></style></svg><h1>", "&lt;b&gt; &#60;", "]]><![CDATA[", "{} %s {{ 7*7 }}"]


@pytest.mark.parametrize("words", MARKUP + OTHER_MARKS)
def test_what_comes_from_requests_is_text(words: str) -> None:
    reader, harmless = Reader(hostile(words)), Reader(hostile("something harmless"))
    assert skeleton(reader) == skeleton(harmless)
    shown = " ".join(reader.texts).count(words)
    assert shown == " ".join(harmless.texts).count("something harmless") > 10


@given(st.text(min_size=1))
def test_no_text_changes_the_page(words: str) -> None:
    assert skeleton(Reader(hostile("x" + words))) == skeleton(Reader(hostile("something harmless")))


def test_texts_are_printable_and_cut() -> None:
    html = page(hostile("\u202e\x1b[31m" + "x" * 10**6))
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "\\u202e\\x1b[31mxxx" in html
    assert len(html) < 60_000


@pytest.mark.parametrize("is_live", [False, True])
def test_the_policy_allows_our_own_style_and_script_alone(is_live: bool) -> None:
    reader = Reader(hostile("something harmless"), is_live=is_live)
    names = {name for _, attributes in reader.tags for name in attributes}
    assert names.isdisjoint({"src", "style", "onload", "srcset", "data", "action"})
    assert not {tag for tag, _ in reader.tags} & {"link", "iframe", "object", "img", "form", "base"}
    assert "url(" not in reader.html
    assert "@import" not in reader.html
    [meta] = reader.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = str(meta["content"])
    assert policy.startswith("default-src 'none'; ")
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        found = re.findall(f"<{tag}>(.*?)</{tag}>", reader.html, re.DOTALL)
        hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in found]
        assert len(found) == (tag == "style" or is_live)
        assert re.findall(rf"{rule} '(.*?)'", policy) == [f"sha256-{each}" for each in hashes]
    assert ("connect-src 'self'" in policy) is is_live
    assert "unsafe" not in policy


# --- what the page says -------------------------------------------------------------------------

WHOLE = report(
    finished(0, project="webshop", is_first=True),
    finished(1, miss=miss(**CHANGED), project="webshop"),
    finished(2, Usage(1_500_000, 0, None, 1000), agent="a1b2", model="mini", project="webshop"),
    finished(3, Usage(5000, None, None, None), project="webshop"),
    finished(4, None, project="webshop"),
    now=TIME + 10**6,
)


@pytest.mark.parametrize(
    "words",
    [
        "saved.flows: 2026-11-25 09:46 UTC",
        "Hit rate 0% 5,000 of 1,520,000 prompt tokens read from the cache",
        "Missed tokens 6,500 in 1 request Requests 5 in 1 session",
        "6,500 missed: should have been read from the cache",
        "1,508,500 new: no cache could have held it",
        "5,000 the upstream reports no cached tokens",
        "1 request without usage: the response failed or reported no tokens.",
        "Why tokens were missed tools reordered keep the order 6,500 tokens 1 request",
        "webshop 57f0d592 0% 6,500 1,525,000 5 tools reordered 11-25 09:46",
        "webshop 57f0d592 hit rate 0%, 5 requests, 1 miss",
        "tools reordered 6,500 tokens missed, request 2 at 09:46:41 tools[0].name, character 7",
        "before: old text after: new text keep the order",
        "main gpt-5.4 25% 6,500 25,000 4 https://api.openai.com/v1/responses",
        "a1b2 mini 0% 0 1,500,000 1 https://api.openai.com/v1/responses",
        "11-25 09:46:41 main gpt-5.4 10,000 2,500 6,500 25%",
        "09:46:41: 10,000 prompt tokens, 2,500 cached, 6,500 missed: tools reordered",
        "a request with missed tokens",
    ],
)
def test_what_the_page_says(words: str) -> None:
    assert words in Reader(WHOLE).text


def test_what_does_not_occur_is_not_explained() -> None:
    text = Reader(report(finished(usage=HIT), finished(1, HIT))).text
    assert "Hit rate 100% 20,000 of 20,000 prompt tokens read from the cache" in text
    assert "no misses" in text
    for words in (
        "should have",
        "no cache could",
        "reports no cached",
        "Why tokens",
        "without usage",
    ):
        assert words not in text
    assert "a request with missed tokens" not in text


def test_without_cache_data_the_hit_rate_is_unknown() -> None:
    reader = Reader(report(finished(usage=Usage(5000, None, None, None))))
    assert "Hit rate \N{EN DASH} no upstream has reported cached tokens" in reader.text
    assert "<title>Prompt cache</title>" in reader.html


def test_money_is_shown_where_prices_are_known() -> None:
    made = report(finished(), finished(1))
    assert "Saved" not in Reader(made).text
    sums = replace(made.sums, saved=12.3, missed_cost=0.5)
    session = made.sessions[0]
    known = replace(session.sums, saved=12.3, missed_cost=None)
    made = replace(made, sums=sums, sessions=[replace(session, sums=known)])
    text = Reader(made).text
    assert "Saved $12.30 by the cache Misses cost $0.50 paid for again" in text
    assert "20,000 2 $12.30 ? " in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ([], ""),
        ([0, 8], "2026-11-25 09:46 UTC"),
        ([0, 60], "2026-11-25 09:46 to 09:47 UTC"),
        ([0, 86_400], "2026-11-25 09:46 to 2026-11-26 09:46 UTC"),
    ],
)
def test_period(seconds: list[int], words: str) -> None:
    assert period([finished(second) for second in seconds]) == words


def test_plural() -> None:
    assert [plural(number, "request") for number in (0, 1)] == ["0 requests", "1 request"]
    assert plural(2000, "miss", "misses") == "2,000 misses"


def test_warnings() -> None:
    reader = Reader(report(finished(), warnings=["one", "two"]))
    assert len(reader.all("p", **{"class": "warn"})) == 2
    assert "one two" in reader.text
    assert not Reader(report(finished())).all("p", **{"class": "warn"})


def test_the_empty_page_says_what_to_do() -> None:
    command = "ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude"
    assert command in Reader(report(), is_live=True, command=command).text
    assert "listening at …" in Reader(report(), is_live=True).text
    assert "nothing to report" in Reader(report()).text


# --- sessions -----------------------------------------------------------------------------------


def rows(reader: Reader) -> list[str]:
    """Return the ids of the sessions in the table of sessions, in their order."""
    return re.findall(r'<a id="to-s-\w+" href="#s-\w+"><code>(.*?)</code>', reader.html)


def two(session: str, project: str, after: float) -> list[FinishedRequest]:
    return [finished(after + each, session=session, project=project) for each in (0, 1)]


def test_sessions_stand_by_project_with_the_last_active_first() -> None:
    made = report(*two("a", "x", 0), *two("b", "y", 10), *two("c", "x", 20), *two("d", "y", 5))
    assert rows(Reader(made)) == ["c", "a", "b", "d"]


def test_a_live_session_is_marked() -> None:
    made = report(*two("old", "x", -(10**6)), *two("new", "x", 0), now=TIME + 1)
    table = Reader(made).text.partition("Last active")[2]
    assert re.findall(r"x (\w+) 25% 0 20,000 2 . (live|11-13 20:00)", table) == [
        ("new", "live"),
        ("old", "11-13 20:00"),
    ]


def test_sessions_of_one_request_are_grouped() -> None:
    ones = [finished(each, HIT, session=f"one {each}") for each in range(3)]
    reader = Reader(report(*two("a", "x", 0), *ones))
    assert rows(reader) == ["a"]
    assert "3 sessions of one request, hit rate 100%" in reader.text
    assert len(reader.all("details", **{"class": "session"})) == 1


def test_one_session_of_one_request_is_no_group() -> None:
    reader = Reader(report(*two("a", "x", 0), finished(session="b")))
    assert sorted(rows(reader)) == ["a", "b"]
    assert "of one request" not in reader.text


def test_only_sessions_of_one_request() -> None:
    reader = Reader(report(finished(session="a"), finished(session="b")))
    assert rows(reader) == []
    assert "2 sessions of one request" in reader.text


def test_the_only_session_is_open() -> None:
    one, many = report(*two("a", "x", 0)), report(*two("a", "x", 0), *two("b", "x", 0))
    assert ["open" in each for each in Reader(one).all("details", **{"class": "session"})] == [True]
    assert not any("open" in each for each in Reader(many).all("details"))


def test_a_session_leads_to_its_part_of_the_page() -> None:
    reader = Reader(report(*two("a", "x", 0), *two("b", "x", 0)))
    links = {str(each["href"]).removeprefix("#") for each in reader.all("a")}
    assert len(links) == 2
    assert links <= {each.get("id") for _, each in reader.tags}


def test_only_so_many_sessions_are_shown() -> None:
    requests = [
        each for number in range(MAX_SESSIONS + 1) for each in two(f"s{number}", "x", number)
    ]
    reader = Reader(report(*requests))
    assert len(rows(reader)) == MAX_SESSIONS
    assert "s0" not in rows(reader)
    assert "1 earlier session is only in the JSON." in reader.text
    more = [each for number in range(2, 4) for each in two(f"t{number}", "x", -number)]
    assert "3 earlier sessions are only in the JSON." in Reader(report(*requests, *more)).text


def test_only_so_many_agents_and_requests_are_shown() -> None:
    requests = [finished(number, agent=f"a{number}") for number in range(MAX_BARS + 1)]
    text = Reader(report(*requests)).text
    assert f"{MAX_BARS + 1 - MAX_AGENTS} more agents are only in the JSON." in text
    assert f"the chart has the last {MAX_BARS} requests" in text
    assert "1 more agent is only" in Reader(report(*requests[: MAX_AGENTS + 1])).text


# --- misses and causes --------------------------------------------------------------------------


def test_a_miss_without_a_place_or_remedy() -> None:
    unchanged = miss(cause="server-side: evicted or rerouted")
    reader = Reader(report(finished(), finished(1, miss=unchanged, agent="a1")))
    assert (len(reader.all("del")), len(reader.all("ins"))) == (0, 0)
    assert not reader.all("p", **{"class": "remedy"})
    assert "6,500 tokens missed, request 2 at 09:46:41, agent a1" in reader.text


def test_the_worst_misses_are_shown_and_the_others_folded() -> None:
    requests = [
        finished(number, miss=miss(2500 + number, **CHANGED)) for number in range(MAX_MISSES + 3)
    ]
    reader = Reader(report(*requests))
    shown, folded = re.split(r"<summary [^>]*-misses-summary", reader.html)
    assert shown.count("<del>") == FEW
    assert folded.count("<del>") == MAX_MISSES - FEW
    assert f"{MAX_MISSES - FEW} more of {MAX_MISSES + 3 - FEW}" in reader.text
    assert f"request {MAX_MISSES + 3} at" in shown


def test_causes_are_those_of_the_log_with_most_tokens_first() -> None:
    causes = [f"cause {number}" for number in range(FEW + 2)]
    requests = [
        finished(number, miss=miss(2500 - number, cause)) for number, cause in enumerate(causes)
    ]
    reader = Reader(report(*requests))
    section = reader.html.partition('id="causes"')[2].partition("</section>")[0]
    assert re.findall(r"<b>(cause \d)</b>", section) == causes
    assert "2 more causes" in reader.text


# --- to be read by all --------------------------------------------------------------------------


def test_it_can_be_read_aloud_and_used_with_the_keyboard() -> None:
    reader = Reader(WHOLE)
    assert len(reader.all("main")) == len(reader.all("h1")) == 1
    assert all(each.get("scope") in {"col", "row"} for each in reader.all("th"))
    assert all(each.get("aria-label") for each in reader.all("svg", role="img"))
    others = [each for each in reader.all("svg") if each.get("role") != "img"]
    assert all(each.get("aria-hidden") == "true" for each in others)
    scrolled = reader.all("div", **{"class": "scroll"})
    assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in scrolled)
    ids = [each["id"] for _, each in reader.tags if "id" in each]
    assert len(ids) == len(set(ids))
    assert all(each.get("id") for each in reader.all("details") + reader.all("summary"))


def test_it_fits_a_phone() -> None:
    [meta] = Reader(WHOLE).all("meta", name="viewport")
    assert meta["content"] == "width=device-width, initial-scale=1"
    assert "max-width: 700px" in CSS


LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in CSS.split("@media")[:2]
)


def contrast(one: str, other: str) -> float:
    """Return https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

    def luminance(color: str) -> float:
        parts = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK])
def test_contrast(colors: dict[str, str]) -> None:
    for name in ("cached", "missed", "new", "unknown"):
        assert contrast(colors[name], colors["card"]) >= 3, name
    for name in ("text", "soft", "link", "live"):
        for background in ("card", "page"):
            assert contrast(colors[name], colors[background]) >= 4.5, name
    for background in ("before", "after"):
        assert contrast(colors["text"], colors[background]) >= 4.5


# --- the live page ------------------------------------------------------------------------------


def test_without_scripts_there_is_a_link_to_reload() -> None:
    assert '<p id="status" class="soft" role="status"><a href="">Reload</a></p>' in page(
        WHOLE, is_live=True
    )
    assert "Reload" not in page(WHOLE)


def test_the_same_report_makes_the_same_page() -> None:
    assert page(WHOLE, is_live=True) == page(WHOLE, is_live=True)


def test_jinja_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_render()
    monkeypatch.setattr("prompt_cache_key.report.page.find_spec", lambda _: None)
    assert not can_render()


def test_no_part_occurs_twice() -> None:
    reader = Reader(WHOLE)
    assert max(Counter(str(each.get("id")) for each in reader.all("section")).values()) == 1
