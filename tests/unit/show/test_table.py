from prompt_cache_key.judge.totals import Totals
from prompt_cache_key.request.keys import Keys
from prompt_cache_key.show.table import COLUMNS, table


def test_rows() -> None:
    keys, totals = Keys(ttl=3600), Totals()
    key, _ = keys.get(("m", "s"), 0)
    totals.request("s", "main", "m", key, "new").add(2048, 1920)
    totals.request("s", "a1", "m", key, "reused")
    totals.request("other", "main", "m", "mine", "kept")
    assert table(totals, keys, "session", 61.5) == [
        COLUMNS,
        ["s", "main", "m", key, "new", "0:01:01", "0:58:58", "1", "2048", "1920", "94"],
        ["s", "a1", "m", key, "reused", "0:01:01", "0:58:58", "1", "0", "0", "0"],
        ["other", "main", "m", "mine", "kept", "-", "-", "1", "0", "0", "0"],
    ]


def test_key_that_has_ended() -> None:
    keys, totals = Keys(ttl=10), Totals()
    key, _ = keys.get(("m", "s"), 0)
    totals.request("s", "main", "m", key, "new")
    assert table(totals, keys, "session", 9.5)[1][5:7] == ["0:00:09", "0:00:00"]
    assert table(totals, keys, "session", 10)[1][5:7] == ["-", "-"]


def test_keys_of_agents() -> None:
    keys, totals = Keys(ttl=10), Totals()
    keys.get(("m", "s", "a1"), 0)
    for agent in ("main", "a1"):
        totals.request("s", agent, "m", "key", "new")
    assert [row[5] for row in table(totals, keys, "agent", 1)[1:]] == ["-", "0:00:01"]
