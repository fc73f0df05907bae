import pytest
from prompt_cache_key.launcher import LaunchError
from prompt_cache_key.launcher.arguments import (
    Arguments,
    before_prompt,
    parse,
    reason_without_proxy,
)


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ([], Arguments()),
        (["--to", "http://a", "-p", "hi"], Arguments(to="http://a", claude=("-p", "hi"))),
        (["--to=http://a", "--to=http://b"], Arguments(to="http://b")),
        (["--stable"], Arguments(is_stable=True)),
        (
            ["--set", "a=1", "--set=b=2", "--mode", "reverse:https://c@8082", "--mode=regular@9"],
            Arguments(options=("a=1", "b=2"), modes=("reverse:https://c@8082", "regular@9")),
        ),
    ],
)
def test_own_options_come_first(given: list[str], arguments: Arguments) -> None:
    assert parse(given) == arguments


@pytest.mark.parametrize(
    ("given", "claude"),
    [
        (["--stab"], ("--stab",)),
        (["--stable=1"], ("--stable=1",)),
        (["-p", "--stable"], ("-p", "--stable")),
        (["--", "--stable"], ("--stable",)),
        (["-p", "--", "--stable"], ("-p", "--", "--stable")),
        (["--", "--", "hi"], ("--", "hi")),
        (["", "--to"], ("", "--to")),
    ],
)
def test_all_else_is_for_claude_code(given: list[str], claude: tuple[str, ...]) -> None:
    assert parse(given) == Arguments(claude=claude)


@pytest.mark.parametrize("given", [["--to"], ["--set"], ["--stable", "--mode"], ["--set", "name"]])
def test_a_bad_option_is_an_error(given: list[str]) -> None:
    with pytest.raises(LaunchError):
        parse(given)


def test_a_prompt_has_no_options() -> None:
    assert before_prompt(["-p", "--", "--bg"]) == ["-p"]
    assert before_prompt(["-p", "x"]) == ["-p", "x"]


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["mcp", "list"], {}, "`claude mcp`"),
        (["agents"], {}, "`claude agents`"),
        (["-p", "--version"], {}, "--version"),
        (["-h"], {}, "-h"),
        (["--bg", "work"], {}, "--bg"),
        (["-w", "--tmux=classic"], {}, "--tmux"),
        (["--environment", "ccpool_1", "hi"], {}, "--environment"),
        ([], {"CLAUDE_CODE_USE_BEDROCK": "1"}, "CLAUDE_CODE_USE_BEDROCK"),
        (["-p", "x"], {"CLAUDE_CODE_USE_VERTEX": "True"}, "CLAUDE_CODE_USE_VERTEX"),
        (["x"], {"CLAUDE_CODE_USE_FOUNDRY": " on "}, "CLAUDE_CODE_USE_FOUNDRY"),
    ],
)
def test_what_outlives_or_bypasses_the_launcher_gets_no_proxy(
    arguments: list[str], environment: dict[str, str], reason: str
) -> None:
    assert reason in reason_without_proxy(arguments, environment)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], {}),
        (["-p", "mcp"], {}),
        (["-p", "--", "--bg"], {}),
        (["--resume", "x"], {"CLAUDE_CODE_USE_BEDROCK": "0", "CLAUDE_CODE_USE_VERTEX": ""}),
    ],
)
def test_a_conversation_gets_a_proxy(arguments: list[str], environment: dict[str, str]) -> None:
    assert reason_without_proxy(arguments, environment) == ""
