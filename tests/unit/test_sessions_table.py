import pytest
from prompt_cache_key.screen_text import width
from prompt_cache_key.sessions_table import Row, table

SESSION = "1a914783-6ad3-4c37-b136-b6aeb16b2f3f"
KEY = "5bff22e6-0de4-4ac0-9da5-7a1cf1d44cbe"
MAIN = Row(SESSION, "main", "claude-opus-5-5", KEY, "session", 12, 300_211, 96.4, 0, "")


def test_a_line_for_each_row() -> None:
    agent = MAIN._replace(agent="a7f31e0b9d", model="openai/gpt-5.4-2026-03-05", requests=1)
    lost = MAIN._replace(prompt=1_300_211, hit=4.9, lost=24_064, cause="total_tokens countdown")
    own = MAIN._replace(key="mine", scope="", prompt=0, hit=None)
    assert table([MAIN, agent, lost, own]) == [
        "session  agent    model    key      reqs    prompt hit   lost main cause",
        "1a914783 main     opus-5-5 5bff22e6   12   300,211 96%      0",
        "1a914783 a7f31e0b gpt-5.4  5bff22e6    1   300,211 96%      0",
        "1a914783 main     opus-5-5 5bff22e6   12 1,300,211  5% 24,064 total_tokens co…",
        "1a914783 main     opus-5-5 mine       12         0   ?      0",
    ]


def test_no_rows() -> None:
    assert table([]) == ["session agent model key reqs prompt hit lost main cause"]


@pytest.mark.parametrize("scope", ["agent", "user"])
def test_who_shares_a_key(scope: str) -> None:
    line = table([MAIN._replace(scope=scope)])[1]
    assert f" 5bff22e6 {scope} " in line


def test_the_cause_gets_the_room_there_is() -> None:
    lost = MAIN._replace(lost=24_064, cause="tool removed: mcp__files__read_everything")
    assert [width(table([lost], columns)[1]) for columns in (60, 78, 98)] == [67, 78, 98]


def test_whatever_the_words_are_it_is_one_line() -> None:
    evil = "\x1b[31m\u202e中\n</script>" * 50_000
    rows = [Row(evil, evil, evil, evil, "user", 10**6, 10**9, 100.0, 10**9, evil)]
    lines = table(rows, 98)
    assert all(line.isprintable() and width(line) <= 98 for line in lines)
