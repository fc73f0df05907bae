"""Read Claude Code's settings: what of its environment they set, and in which order.

Claude Code 2.1.332, tried: `env` of `--settings` beats that of `.claude/settings.local.json`, which
beats `.claude/settings.json`, both of the working directory and of no folder above it; then comes
`settings.json` of the user's folder (`CLAUDE_CONFIG_DIR`, else `~/.claude`), then the environment.
Of several `--settings` only the last counts. Project files count only in trusted folders.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prompt_cache_key.launcher import LaunchError
from prompt_cache_key.launcher.arguments import before_prompt

Settings = dict[str, Any]


class ClaudeSettings(NamedTuple):
    """All settings that Claude Code would take, and its arguments without `--settings`."""

    given: Settings
    """Those of `--settings`."""
    others: tuple[Settings, ...]
    """Those of files, the strongest first."""
    arguments: tuple[str, ...]

    def environment(self, process: Mapping[str, str]) -> dict[str, str]:
        """Return the environment as Claude Code sees it, the settings laid over the process's."""
        result = dict(process)
        for settings in reversed((self.given, *self.others)):
            result |= _environment(settings)
        return result

    def has(self, name: str) -> bool:
        """Whether any of the settings has a member of that name."""
        return any(name in settings for settings in (self.given, *self.others))

    def merged(self, environment: Mapping[str, str]) -> Settings:
        """Return the settings of `--settings` with these variables in their `env`."""
        return self.given | {"env": _environment(self.given) | dict(environment)}


def read_settings(
    arguments: Sequence[str], environment: Mapping[str, str], directory: Path
) -> ClaudeSettings:
    """Read the settings for a Claude Code with these arguments, started in that directory."""
    texts, rest = _take(arguments, "--settings")
    given = _given(texts[-1], directory) if texts else {}
    user = Path(environment.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")
    files = {
        "local": directory / ".claude" / "settings.local.json",
        "project": directory / ".claude" / "settings.json",
        "user": user / "settings.json",
    }
    sources = _sources(arguments)
    others = tuple(_read(path) for name, path in files.items() if name in sources)
    return ClaudeSettings(given, others, tuple(rest))


def _sources(arguments: Sequence[str]) -> Sequence[str]:
    """Return which of the files count."""
    if "--restricted" in before_prompt(arguments):
        return ()
    chosen, _ = _take(arguments, "--setting-sources")
    if not chosen:
        return "local", "project", "user"
    return [name.strip() for name in chosen[-1].split(",")]


def _take(arguments: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Return the values of an option, and the arguments without the option."""
    end = len(before_prompt(arguments))
    values, rest = [], []
    options = iter(arguments[:end])
    for each in options:
        name, equals, value = each.partition("=")
        if name != option:
            rest.append(each)
        elif equals:
            values.append(value)
        elif (following := next(options, None)) is None:
            raise LaunchError(f"{option} needs a value")
        else:
            values.append(following)
    return values, [*rest, *arguments[end:]]


def _given(text: str, directory: Path) -> Settings:
    """Read the value of `--settings`, which is JSON or the path of a file."""
    try:
        if not text.strip().startswith("{"):
            text = (directory / text).read_text("utf-8-sig")
        settings = json.loads(text)
    except (OSError, ValueError, RecursionError):
        # Not the text itself: it may hold a token.
        raise LaunchError("--settings is neither JSON nor a file that holds JSON") from None
    if not isinstance(settings, dict):
        raise LaunchError("--settings is not a JSON object")
    return settings


def _read(path: Path) -> Settings:
    """Return the settings in a file; {} if there are none that Claude Code could read."""
    try:
        settings = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _environment(settings: Settings) -> dict[str, str]:
    variables = settings.get("env")
    if not isinstance(variables, dict):
        return {}
    return {name: _text(value) for name, value in variables.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
