"""The table in docs/upstreams.md says what the code does."""

from lib import ROOT
from prompt_cache_key.options import seconds
from prompt_cache_key.request.upstreams import UPSTREAMS, Upstream

PAGE = (ROOT / "docs" / "upstreams.md").read_text("utf-8")


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def test_the_table_has_each_row_of_the_code() -> None:
    _, _, *lines = [line for line in PAGE.split("## ")[0].splitlines() if line.startswith("|")]
    assert len(lines) == len(UPSTREAMS)
    for line, row in zip(lines, UPSTREAMS, strict=True):
        name, domains, sent, scope, keep, since = line.strip("| ").split(" | ")
        assert name == f"[{row.name}]({row.source})"
        assert domains == code(*row.domains)
        assert sent == ("nothing" if row.rejects else ", ".join(["key", *map(code, row.headers)]))
        assert scope == ("–" if row.rejects else row.scope)  # noqa: RUF001
        assert seconds(keep.replace(" ", "").removesuffix("in")) == row.keep
        assert since == row.since


def test_what_holds_for_all_others() -> None:
    assert "gets the key of its session and no header" in PAGE
    assert (Upstream().rejects, Upstream().scope, Upstream().headers) == (False, "session", ())
    assert "10 minutes\nstand where the provider does not say" in PAGE
    assert Upstream().keep == 10 * 60
