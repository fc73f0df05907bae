import pytest
from prompt_cache_key.console import columns, is_console
from prompt_cache_key.screen_text import COLUMNS
from unit.context import Context


def test_the_console_has_the_columns_of_its_screen(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    vars(context.master)["keymap"] = None
    assert is_console()
    assert (columns(), columns(0.5)) == (120, 60)


@pytest.mark.usefixtures("context")
def test_other_tools_have_a_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert not is_console()
    assert columns(0.5) == COLUMNS
