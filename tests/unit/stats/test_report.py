import json

import pytest
from prompt_cache_key.stats.money import GivenPrices
from prompt_cache_key.stats.report import as_json, report_of
from prompt_cache_key.upstreams import Upstream
from unit.requests_made import OPENAI, TIME, finished, miss, usage

PRICES = GivenPrices(2.0, 0.2, 2.5, 10.0)
MISSED = finished(2, usage(3000, 500), miss(1000, "tools reordered", 500, "a remedy"), session="b")


def test_an_empty_report() -> None:
    made = report_of("flows", [], warnings=["w"], prices=PRICES, now=TIME)
    assert (made.title, made.warnings, made.sessions) == ("flows", ["w"], [])
    assert as_json(made)["sums"]["hit_rate"] is None


def test_most_missed_tokens_come_first_then_the_last_active() -> None:
    requests = [
        finished(5, None, session="a"),
        MISSED,
        finished(9, None, session="c"),
        finished(1, usage(9000), session="b", model="n"),
        finished(3, None, session="b", agent="a1"),
    ]
    made = report_of("flows", requests)
    assert [(each.id, each.last_active - TIME) for each in made.sessions] == [
        ("b", 3),
        ("c", 9),
        ("a", 5),
    ]
    session = made.sessions[0]
    assert [each.time - TIME for each in session.requests] == [1, 2, 3]
    assert [(each.agent, each.model, each.sums.requests) for each in session.agents] == [
        ("main", "gpt-5.4", 1),
        ("a1", "gpt-5.4", 1),
        ("main", "n", 1),
    ]
    assert (made.sums.requests, session.sums.requests, session.sums.missed) == (5, 3, 1000)


def test_a_session_is_live_as_long_as_its_upstream_keeps_the_prompt() -> None:
    requests = [finished(0, upstream=Upstream(retention=300))]
    for now, is_live in ((None, False), (TIME + 300, True), (TIME + 301, False)):
        assert report_of("live", requests, now=now).sessions[0].is_live == is_live


def test_the_project_is_the_last_one_known() -> None:
    requests = [finished(n, project=name) for n, name in enumerate(("old", "new", ""))]
    assert report_of("flows", requests).sessions[0].project == "new"
    assert report_of("flows", requests[2:]).sessions[0].project == ""


def test_dollars_of_all_sums() -> None:
    made = report_of("flows", [finished(0, usage(1_000_000, 500_000))] * 2, prices=PRICES)
    assert made.sums.saved == made.sessions[0].sums.saved == made.sessions[0].agents[0].sums.saved
    assert made.sums.saved == pytest.approx(1.8)


class NoPrices:
    def cost(self, *_: object) -> None:
        return None


def test_models_without_a_price_are_a_warning() -> None:
    made = report_of("flows", [finished(0, usage(1))], warnings=["w"], prices=NoPrices())
    assert made.warnings == ["w", "no price is known for gpt-5.4: 1 request."]


def test_as_json() -> None:
    first = finished(0, usage(2000, 0, 1, 2), session="b", is_first=True, body=b"{}", project="p")
    made = json.loads(json.dumps(as_json(report_of("flows", [first, MISSED], now=TIME))))
    counts = {"requests": 2, "without_usage": 0, "misses": 1, "input": 5000, "measured": 5000}
    counts |= {"cached": 500, "written": 1, "output": 2, "missed": 1000, "new": 3500, "first": 2000}
    cause = {"cause": "tools reordered", "requests": 1, "tokens": 1000, "remedy": "a remedy"}
    dollars = {"cost": None, "saved": None, "missed_cost": None}
    sums = {**counts, **dollars, "hit_rate": 10.0, "causes": [cause]}
    assert made == {
        "title": "flows",
        "warnings": [],
        "sums": sums,
        "sessions": [
            {
                "id": "b",
                "project": "p",
                "last_active": TIME + 2,
                "is_live": True,
                "sums": sums,
                "agents": [{"agent": "main", "model": "gpt-5.4", "endpoint": OPENAI, "sums": sums}],
                "requests": made["sessions"][0]["requests"],
            }
        ],
    }
    one, two = made["sessions"][0]["requests"]
    names = {"agent": "main", "model": "gpt-5.4", "endpoint": OPENAI, "key": "k"}
    usage_of_one = {"input": 2000, "cached": 0, "written": 1, "output": 2}
    assert one.pop("usage").items() >= usage_of_one.items()
    rest = {"time": TIME, "is_first": True, "missed": 0, "new": 2000, "miss": None}
    assert one == names | rest
    assert two["missed"] == two["miss"]["missed"] == 1000
    assert (two["miss"]["cause"], two["miss"]["kind"]) == ("tools reordered", "tools reordered")
