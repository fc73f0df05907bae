import pytest
from prompt_cache_key.identity import Identity
from prompt_cache_key.in_flight import Endpoint, RequestInFlight, thousands
from prompt_cache_key.upstreams import Upstream
from prompt_cache_key.usage.reader import Usage

SESSION = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
KEY = "9a5f01e2-aaaa-4bbb-8ccc-dddddddddddd"


def exchange(session: str = "s", agent: str = "main", model: str = "m") -> RequestInFlight:
    return RequestInFlight(
        Identity(session, agent, "header"), Endpoint("h", "/v1", model), "", Upstream(), 0, key=KEY
    )


@pytest.mark.parametrize(
    ("who", "usage", "lost", "summary"),
    [
        ((SESSION, "main", "gpt-5.4"), None, "", "3f6c1c1e main gpt-5.4 key=9a5f01e2"),
        (("s", "a1", "m"), (2048, 1920), "", "94% 1920/2048 s a1 m key=9a5f01e2"),
        (("s", "a1", "m"), (2048, None), "", "? ?/2048 s a1 m key=9a5f01e2"),
        (
            ("s", "a1", "m"),
            (2048, 0),
            "2.0k: a pause",
            "lost 2.0k: a pause 0% 0/2048 s a1 m key=9a5f01e2",
        ),
        (("s", "a\n", "gpt 5"), None, "", 's "a\\n" "gpt 5" key=9a5f01e2'),
    ],
)
def test_summary(
    who: tuple[str, str, str], usage: tuple[int, int | None] | None, lost: str, summary: str
) -> None:
    told = Usage(*usage, None, 7) if usage else None
    assert exchange(*who).summary(told, lost) == summary


def test_a_line_is_of_one_speaker_and_endpoint() -> None:
    assert exchange().line == exchange().line
    assert len({exchange(*who).line for who in ("", ("t",), ("s", "a1"), ("s", "main", "n"))}) == 4
    assert exchange() != exchange()


@pytest.mark.parametrize(
    ("tokens", "short"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (24_149, "24.1k"), (1_200_000, "1200.0k")],
)
def test_thousands(tokens: int, short: str) -> None:
    assert thousands(tokens) == short
