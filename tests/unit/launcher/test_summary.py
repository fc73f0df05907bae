import pytest
from prompt_cache_key.launcher.summary import MAX_CAUSES, STABLE_KINDS, summary
from prompt_cache_key.stats.sums import CauseSum, Sums


def sums(causes: dict[str, int] | None = None) -> Sums:
    causes = causes or {}
    made = Sums(requests=14, measured=100_000, cached=87_990, missed=sum(causes.values()))
    made.causes = {name: CauseSum(1, tokens) for name, tokens in causes.items()}
    return made


def lines(
    of: Sums, *, skipped: int = 0, unreachable: str = "", is_stable: bool = False
) -> list[str]:
    return [*summary(of, skipped, unreachable=unreachable, is_stable=is_stable)]


def test_a_run_without_requests() -> None:
    assert lines(Sums())[0] == "no request came through this proxy"


def test_a_run_whose_requests_were_all_skipped() -> None:
    (line,) = lines(Sums(), skipped=1)
    assert line.startswith("1 request came through this proxy, all skipped")


def test_hit_rate_is_rounded_down() -> None:
    assert lines(sums()) == [
        "hit rate 87%, 87,990 of 100,000 prompt tokens; 14 requests",
        "missed tokens 0",
    ]


def test_no_cache_data() -> None:
    assert lines(Sums(requests=1)) == [
        "hit rate unknown: no response reported cached tokens; 1 request",
        "missed tokens 0",
    ]


def test_a_gateway_that_cannot_be_reached() -> None:
    where = "127.0.0.1:9: refused"
    assert lines(Sums(), unreachable=where) == [f'no connection to "{where}"']
    first, second, _ = lines(Sums(requests=2, without_usage=2), unreachable=where)
    assert first == f'no connection to "{where}"'
    assert second.startswith("hit rate unknown")


def test_a_connection_that_failed_while_others_did_not() -> None:
    assert lines(sums(), unreachable="127.0.0.1:9: refused") == lines(sums())


def test_money_where_it_is_known() -> None:
    priced = sums()
    priced.saved, priced.missed_cost = 1.5, 0.004
    assert lines(priced)[1] == "missed tokens 0; saved $1.50; misses cost $0.0040"


def test_no_line_is_over_80_columns() -> None:
    large = Sums(requests=1234, measured=999_999_999, cached=987_654_321, missed=9_000_000)
    large.saved, large.missed_cost = 12_345.67, 1_234.56
    assert all(len(line) <= 58 + len("claude-prompt-cache: ") for line in lines(large))


def test_missed_tokens_by_cause_the_worst_first() -> None:
    causes = {f"cause {n}": 1000 * n for n in range(1, MAX_CAUSES + 3)}
    _, _, *found, rest = lines(sums(causes))
    assert found[0] == '  7,000 in 1 request: "cause 7"'
    assert len(found) == MAX_CAUSES
    assert rest == "  3,000 for other causes"


@pytest.mark.parametrize("kind", STABLE_KINDS)
def test_stable_is_recommended_with_the_tokens_at_stake(kind: str) -> None:
    of = sums({kind: 9298, "expired": 1})
    assert lines(of)[-1] == "--stable avoids causes of 9,298 of these missed tokens"
    assert len(lines(of, is_stable=True)) == len(lines(of)) - 1


def test_stable_is_not_recommended_for_other_causes() -> None:
    assert not any("--stable" in line for line in lines(sums({"expired": 5000})))
