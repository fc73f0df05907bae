"""What README.md and docs/ say agrees with the code."""

import json
import re
import uuid
from dataclasses import fields

from lib import ROOT
from prompt_cache_key.commands import Commands
from prompt_cache_key.keys import derived_key
from prompt_cache_key.options import PREFIX, Options, seconds
from prompt_cache_key.upstreams import DEFAULT_FILTER, UPSTREAMS, Upstream

README = (ROOT / "README.md").read_text("utf-8")
KEYS = (ROOT / "docs" / "filter-and-keys.md").read_text("utf-8")
TABLE = (ROOT / "docs" / "upstreams.md").read_text("utf-8")


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


def test_the_default_filter_and_a_derived_key() -> None:
    assert f"\n{DEFAULT_FILTER}\n" in KEYS
    (text,) = re.findall(r"^uuid\.uuid5\(uuid\.NAMESPACE_URL, '(.*)'\)$", KEYS, re.MULTILINE)
    name = json.loads(text.removeprefix("prompt_cache_key:"))
    assert str(uuid.uuid5(uuid.NAMESPACE_URL, text)) == derived_key(tuple(name))


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def test_the_table_of_upstreams_has_each_row_of_the_code() -> None:
    _, _, *lines = [line for line in TABLE.split("## ")[0].splitlines() if line.startswith("|")]
    for line, row in zip(lines, UPSTREAMS, strict=True):
        name, domains, sent, scope, retention, removed, reports, since = line.strip("| ").split(
            " | "
        )
        assert name == f"[{row.name}]({row.source})"
        assert domains == code(*row.domains)
        headers = [
            code(header.name) + (" of the session" if header.scope == "session" else "")
            for header in row.headers
        ]
        assert sent == ("nothing" if row.rejects else ", ".join(["key", *headers]))
        assert scope == ("–" if row.rejects else row.scope)  # noqa: RUF001
        assert seconds(retention.replace(" ", "").removesuffix("in")) == row.retention
        assert removed == ("–" if row.rejects else code(*row.strip))  # noqa: RUF001
        assert reports == ("yes" if row.reports else "no")
        assert since == row.since


def test_what_holds_for_all_other_upstreams() -> None:
    assert "gets the key of its session and no header" in TABLE
    assert "nothing is\nremoved from its prompts" in TABLE
    other = Upstream()
    assert (other.rejects, other.scope, other.headers, other.strip) == (False, "session", (), ())
    assert "10 minutes\n  stand where the provider does not say" in TABLE
    assert other.retention == 10 * 60
