"""Read the launcher's command line."""

from collections.abc import Sequence
from typing import NamedTuple

from prompt_cache_key.launcher import LaunchError

# Of `claude --help`. What they run is elsewhere, or no conversation.
_COMMANDS = {
    *("agents", "attach", "auth", "auto-mode", "doctor", "gateway", "import", "install", "kill"),
    *("logs", "mcp", "plugin", "plugins", "purge", "remote-control", "respawn", "rm"),
    *("setup-token", "stop", "ultrareview", "update", "upgrade"),
}
_ELSEWHERE = {"--bg", "--background", "--cloud", "--desktop", "--environment", "--tmux"}
_NO_PROMPT = {"--version", "-v", "--help", "-h"}

# Switches of Claude Code, with the names that its messages use.
_PROVIDERS = {
    "CLAUDE_CODE_USE_BEDROCK": "Bedrock",
    "CLAUDE_CODE_USE_VERTEX": "Vertex",
    "CLAUDE_CODE_USE_FOUNDRY": "Foundry",
    "CLAUDE_CODE_USE_MANTLE": "Mantle",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": "Claude on AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD": "Claude on Google Cloud",
}
_YES = {"1", "true", "yes", "on"}


class Arguments(NamedTuple):
    """The launcher's options, and the arguments of Claude Code."""

    to: str = ""
    is_stable: bool = False
    options: tuple[str, ...] = ()
    """mitmproxy's options, each NAME=VALUE."""
    modes: tuple[str, ...] = ()
    """Listeners beside the one that Claude Code uses."""
    claude: tuple[str, ...] = ()


def parse(given: Sequence[str]) -> Arguments:
    """Read the launcher's options up to `--` or the first argument that is none of them."""
    values: dict[str, list[str]] = {"--to": [], "--set": [], "--mode": []}
    is_stable = False
    rest = list(given)
    while rest:
        name, equals, value = rest[0].partition("=")
        if rest[0] == "--stable":
            is_stable = True
        elif name in values:
            if not equals:
                if len(rest) == 1:
                    raise LaunchError(f"{name} needs a value")
                value = rest.pop(1)
            values[name].append(value)
        else:
            break
        del rest[0]
    if rest[:1] == ["--"]:
        del rest[0]
    for option in values["--set"]:
        if "=" not in option:
            raise LaunchError(f"--set needs NAME=VALUE, not {option!r}")
    to = values["--to"][-1] if values["--to"] else ""
    return Arguments(to, is_stable, tuple(values["--set"]), tuple(values["--mode"]), tuple(rest))


def before_prompt(arguments: Sequence[str]) -> Sequence[str]:
    """Return Claude Code's arguments up to `--`, behind which nothing is an option."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def reason_without_proxy(arguments: Sequence[str], environment: dict[str, str]) -> str:
    """Return why Claude Code runs without a proxy; "" if it runs through one.

    A subcommand counts only as the first argument: `claude -p mcp` is a prompt.
    """
    if arguments and arguments[0] in _COMMANDS:
        return f"`claude {arguments[0]}` sends no prompt from here"
    for each in before_prompt(arguments):
        option = each.partition("=")[0]
        if option in _NO_PROMPT:
            return f"{option} sends no prompt"
        if option in _ELSEWHERE:
            return f"{option} starts a session that outlives or bypasses this command"
    for name, provider in _PROVIDERS.items():
        if environment.get(name, "").strip().lower() in _YES:
            return f"{name} is set, and {provider} has addresses of its own"
    return ""
