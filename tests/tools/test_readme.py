"""The README's tables agree with the code."""

import re
from dataclasses import fields

from lib import ROOT
from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.options import FILTER, PREFIX, Options

README = (ROOT / "README.md").read_text("utf-8")


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| (.*?) \|", README, re.MULTILINE)
    defaults = {option.name: f"`{option.default}`" for option in fields(Options)}
    defaults |= {"filter": "see below", "headers": "none"}
    for name, shown in rows:
        assert shown == defaults.pop(name).replace("True", "true").replace("False", "false")
    assert not defaults
    assert f"\n{FILTER}\n" in README


def test_every_command_is_named() -> None:
    commands = {
        method.command_name
        for method in vars(PromptCacheKey).values()
        if hasattr(method, "command_name")
    }
    assert commands == {f"prompt_cache.{name}" for name in ("sessions", "forget", "explain")}
    assert all(f"`{command}" in README for command in commands)
