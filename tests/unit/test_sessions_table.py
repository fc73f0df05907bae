import pytest
from prompt_cache_key.screen_text import width
from prompt_cache_key.sessions_table import table
from prompt_cache_key.stats.money import GivenPrices
from prompt_cache_key.stats.sessions import Row
from unit.requests_made import finished, miss, usage

SESSION = "1a914783-6ad3-4c37-b136-b6aeb16b2f3f"
KEY = "5bff22e6-0de4-4ac0-9da5-7a1cf1d44cbe"
PRICES = GivenPrices(2.0, 0.2, 2.5, 0.0)


def row(
    agent: str = "main",
    model: str = "claude-opus-5-5",
    key: str = KEY,
    scope: str = "session",
    session: str = SESSION,
) -> Row:
    """Return a row of 12 requests with 96 % from the cache."""
    made = Row(session, agent, model, key, "reused", scope)
    for _ in range(12):
        made.sums.add(finished(usage=usage(25_000, 24_240)))
    return made


def lost(cause: str = "total_tokens countdown") -> Row:
    made = row()
    made.sums.add(finished(usage=usage(1_000_000, 0, 50_000), miss=miss(24_064, cause)))
    return made


def test_a_line_for_each_row() -> None:
    agent = row("a7f31e0b9d", "openai/gpt-5.4-2026-03-05")
    empty = Row(SESSION, "main", "claude-opus-5-5", "mine", "kept")
    assert table([row(), agent, lost(), empty], 94) == [
        "session  agent    model    key      reqs prompt hit missed writes main cause",
        "1a914783 main     opus-5-5 5bff22e6   12 300.0k 96%      0",
        "1a914783 a7f31e0b gpt-5.4  5bff22e6   12 300.0k 96%      0",
        "1a914783 main     opus-5-5 5bff22e6   13   1.3M 22%  24.1k  50.0k total_tokens countdown",
        "1a914783 main     opus-5-5 mine        0      0  ?%      0",
    ]


def test_dollars_have_columns_where_prices_are_known() -> None:
    heading, line = table([lost()], 120, PRICES)
    assert "writes saved miss cost main cause" in heading
    assert line.split()[-4:] == ["$0.50", "$0.06", "total_tokens", "countdown"]


def test_no_rows() -> None:
    assert table([]) == ["session agent model key reqs prompt hit missed main cause"]


@pytest.mark.parametrize("scope", ["agent", "user"])
def test_who_shares_a_key(scope: str) -> None:
    assert f" 5bff22e6 {scope} " in table([row(scope=scope)])[1]


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [
        (120, []),
        (94, []),  # the console's room on a screen of 120 columns
        (80, ["writes", "saved", "miss cost"]),
        (62, ["writes", "saved", "miss cost", "key"]),  # and of 80 columns
        (42, ["writes", "saved", "miss cost", "key", "agent", "model"]),
    ],
)
def test_on_a_narrow_screen_columns_are_left_out_and_no_line_wraps(
    columns: int, left_out: list[str]
) -> None:
    rows = [lost(), row(scope="user")]
    lines = table(rows, columns, PRICES)
    names = table(rows, 1000, PRICES)[0]
    for name in left_out:
        names = names.replace(name, "")
    assert lines[0].split() == names.split()
    assert all(width(line) <= columns for line in lines)
    assert "total_to" in lines[1]


def test_on_the_narrowest_screen_there_is_still_a_session() -> None:
    assert table([lost()], 10) == ["session  …", "1a914783 …"]


def test_whatever_the_words_are_it_is_one_line() -> None:
    evil = "\x1b[31m\u202e中\n</script>" * 50_000
    evil_row = row(evil, evil, evil, "user", evil)
    evil_row.sums.add(finished(usage=usage(10**9), miss=miss(10**9, evil)))
    lines = table([evil_row], 98)
    assert all(line.isprintable() and width(line) <= 98 for line in lines)
