"""The README's tables agree with the code."""

import re
from dataclasses import fields

from lib import ROOT
from prompt_cache_key.commands import Commands
from prompt_cache_key.options import PREFIX, Options

README = (ROOT / "README.md").read_text("utf-8")


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| (.*?) \|", README, re.MULTILINE)
    defaults = {option.name: f"`{option.default}`" for option in fields(Options)}
    defaults |= {"headers": "`auto`", "strip": "none"}
    defaults["filter"] = (
        "POST to `…/messages`, `…/responses`, `…/chat/completions`, but for hosts that reject "
        "the field"
    )
    for name, shown in rows:
        assert shown == defaults.pop(name).replace("True", "true").replace("False", "false")
    assert not defaults


def test_every_command_is_named() -> None:
    commands = [getattr(method, "command_name", "") for method in vars(Commands).values()]
    names = sorted(filter(None, commands))
    assert names == [f"promptcache.{name}" for name in ("explain", "forget", "report", "sessions")]
    assert all(f"`{name}" in README for name in names)
    # The route of mitmweb takes no other names.
    assert all(re.fullmatch("[a-z.]+", name) for name in names)
