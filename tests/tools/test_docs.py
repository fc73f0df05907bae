"""README.md and docs/ agree with the code in what changes with the code."""

import json
import re
import subprocess
import uuid
from dataclasses import fields

import pytest
from lib import ROOT
from prompt_cache_key import __version__
from prompt_cache_key.commands import Commands
from prompt_cache_key.keys import derived_key
from prompt_cache_key.misses.causes import REMEDIES
from prompt_cache_key.options import PREFIX, Options, seconds
from prompt_cache_key.upstreams import DEFAULT_FILTER, UPSTREAMS, Upstream

PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
}
README = PAGES["README.md"]
KEYS = PAGES["docs/filter-and-keys.md"]
LOG = PAGES["docs/log.md"]
TABLE = PAGES["docs/upstreams.md"]
DEVELOPMENT = PAGES["docs/development.md"]


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \| (.*?) \|", README, re.MULTILINE)
    defaults = {option.name: f"`{option.default}`" for option in fields(Options)}
    defaults |= {"headers": "`auto`", "strip": "`auto`"}
    defaults["filter"] = (
        "POST to `…/messages`, `…/responses`, `…/chat/completions`, except hosts known to reject "
        "the field"
    )
    for name, shown in rows:
        assert shown == defaults.pop(name).replace("True", "true").replace("False", "false")
    assert not defaults


@pytest.mark.parametrize("page", PAGES)
def test_only_options_that_exist_are_named(page: str) -> None:
    named = set(re.findall(rf"\b{PREFIX}([a-z_]+)\b", PAGES[page]))
    options = {option.name for option in fields(Options)}
    # The field itself, what it is asked with, and what flows and responses have.
    others = {"key", "state", "missed", "options", "breakpoint", "diagnostics"}
    assert named <= options | others


def test_every_command_is_named() -> None:
    commands = [getattr(method, "command_name", "") for method in vars(Commands).values()]
    for name in filter(None, commands):
        assert f"`{name}" in README
        assert re.fullmatch("[a-z.]+", name), "the route of mitmweb takes no other names"


@pytest.mark.parametrize("page", PAGES)
def test_scripts_exist_and_links_lead_somewhere(page: str) -> None:
    for script in re.findall(r"(?<![\w/])scripts/[a-z_]+(?![\w./])", PAGES[page]):
        assert (ROOT / script).exists(), script
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        linked = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), target


def anchors(text: str) -> list[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_cause_has_a_row() -> None:
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", LOG, re.MULTILINE)
    kinds = {cause.partition(":")[0] for row in rows for cause in re.findall("`([^`]+)`", row)}
    assert set(REMEDIES) <= kinds


def test_every_file_of_the_package_is_in_the_layout() -> None:
    files = subprocess.run(
        ["git", "ls-files", "addon/prompt_cache_key"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    for file in files:
        name = file.removeprefix("addon/prompt_cache_key/")
        if not name.endswith(("__init__.py", "py.typed")):
            assert f"`{name}`" in DEVELOPMENT, name
    for name in re.findall(r"`((?:\w+/)?\w+[.](?:py|html|css|js))`", DEVELOPMENT):
        assert name == "addon.py" or f"addon/prompt_cache_key/{name}" in files, name


def test_the_default_filter_and_a_derived_key() -> None:
    assert f"\n{DEFAULT_FILTER}\n" in KEYS
    (text,) = re.findall(r"^uuid\.uuid5\(uuid\.NAMESPACE_URL, '(.*)'\)$", KEYS, re.MULTILINE)
    name = json.loads(text.removeprefix("prompt_cache_key:"))
    assert str(uuid.uuid5(uuid.NAMESPACE_URL, text)) == derived_key(tuple(name))


def test_the_changelog_has_this_version() -> None:
    assert f"\n## [{__version__}]" in PAGES["CHANGELOG.md"]


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
