"""The README's table of options agrees with the code, and the commands are documented."""

import re
from dataclasses import fields

from lib import ROOT
from prompt_cache_key.commands import Commands
from prompt_cache_key.options import PREFIX, Options

README = (ROOT / "README.md").read_text("utf-8")


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(rf"^\| `{PREFIX}(\w+)` \| (.*?) \|", README, re.MULTILINE))
    defaults = {option.name: option.default for option in fields(Options)}
    shown = {name: f"`{default}`" for name, default in defaults.items()}
    shown |= {name: f"`{str(each).lower()}`" for name, each in defaults.items() if each in (0, 1)}
    shown |= {"headers": "`auto`", "strip": "none", "filter": rows["filter"]}
    assert rows == shown


def test_every_command_is_named() -> None:
    pages = README + "".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md"))
    commands = {
        method.command_name for method in vars(Commands).values() if hasattr(method, "command_name")
    }
    assert {
        f"promptcache.{name}" for name in ("sessions", "forget", "explain", "report")
    } == commands
    assert all(f"`{command}" in pages for command in commands)
