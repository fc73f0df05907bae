"""The addon's options: names, types, defaults, help texts, and what their values mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PREFIX: Final = "prompt_cache_"

# Hosts that answer 400 because of the field: Claude's own API, Bedrock, Vertex and Gemini, Groq,
# NVIDIA NIM.
_HOSTS = (
    "anthropic[.]com|claude[.]ai|claude[.]com|amazonaws[.]com|googleapis[.]com|groq[.]com"
    "|integrate[.]api[.]nvidia[.]com"
)

# In a filter expression a quoted string eats backslashes, hence [.] and [?].
GENERATIONS: Final = '~m ^POST$ & ~u "^[^?#]*/(messages|responses|chat/completions)([?#]|$)"'
FILTER: Final = f'{GENERATIONS} & !~d "(^|[.])({_HOSTS})[.]?$"'

_IN_PATTERN = dict.fromkeys('"\\^[]', ".")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def without(filter_: str, url: str) -> str:
    """Return the filter expression that leaves out a URL, whatever its query, from another's."""
    # A quoted string of a filter has no backslash to escape with.
    pattern = re.sub(r"[^\w/:-]", lambda match: _IN_PATTERN.get(match[0], f"[{match[0]}]"), url)
    # In a filter an operator without an argument, as in "~all )", needs the space.
    return f'({filter_} ) & !~u "^{pattern}([?]|$)"'


def seconds(text: str) -> int:
    """Read a time span such as `90s`, `30m`, `1h`, `2d` or `3600`; ValueError if it is none."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if not match or not int(match[1]):
        raise ValueError(f"{text!r} is not a time span such as 90s, 30m, 1h or 2d")
    return int(match[1]) * _UNITS[match[2]]


def at_least_one(number: int) -> int:
    """Return the number; ValueError if it is below 1."""
    if number < 1:
        raise ValueError(f"{number} is less than 1")
    return number


def one_of(*choices: str) -> Any:
    """Return a check that passes on one of the choices; ValueError for any other text."""

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return check


def _header_names(names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # RFC 9110, token
            raise ValueError(f"{name!r} is not a header name")


def _option(default: Any, help_: str, check: Any = None) -> Any:
    return field(default=default, metadata={"help": help_, "check": check})


@dataclass(frozen=True)
class Options:
    """The values of all options."""

    filter: str = _option(
        FILTER,
        "Flow filter: which requests may get a prompt_cache_key. By default each POST to "
        ".../messages, .../responses and .../chat/completions, but for hosts that are known to "
        "reject the field.",
    )
    ttl: str = _option(
        "1h",
        "How long a session keeps its key. Understands s/m/h/d suffixes, i.e. 30m for 30 minutes; "
        "a plain number is seconds.",
        seconds,
    )
    sliding: bool = _option(
        True,
        "Each use of a key renews its life. If false, a key ends one prompt_cache_ttl after it "
        "was made, in use or not.",
    )
    max_sessions: int = _option(
        10_000,
        "How many mappings are kept. The least recently used one goes first.",
        at_least_one,
    )
    scope: str = _option(
        "session",
        'Who shares a key: "session" is one key for a session with its subagents, "agent" one '
        "for each of them.",
        one_of("session", "agent"),
    )
    keys: str = _option(
        "random",
        'Where keys come from: "random" is a UUIDv4 that is remembered, "derived" the UUIDv5 of '
        "model and session, the same on every proxy and after every restart.",
        one_of("random", "derived"),
    )
    store: str = _option(
        "memory",
        'Where keys are kept: "memory", or in the Redis or Valkey server of a redis:// URL, which '
        "several proxies share.",
    )
    overwrite: bool = _option(False, "Replace a prompt_cache_key that the client sent.")
    headers: Sequence[str] = _option(
        (),
        "Request headers that get the same value as the prompt_cache_key, i.e. session-id for the "
        "Codex backend or x-grok-conv-id for xAI.",
        _header_names,
    )
    stream: bool = _option(
        True,
        "Pass server-sent events on as they come for requests that have a key. The body is still "
        "kept for display and saving.",
    )
    comment: bool = _option(
        True,
        "Put session, agent, model, key and cached tokens into the comment of a flow without one.",
    )
    strip_attribution: bool = _option(
        False,
        "Remove the attribution block (x-anthropic-billing-header: ...) from the beginning of the "
        "system prompt of requests that have a key. It may change on each request, and then no "
        "upstream can cache what follows.",
    )
    bridge: bool = _option(
        True,
        "Give a translator's upstream request that shows no session the session of the Claude Code "
        "request that caused it.",
    )

    def __post_init__(self) -> None:
        """Check the values; ValueError, in one line, names the option and what is wrong."""
        for option in self.__dataclass_fields__.values():
            if check := option.metadata["check"]:
                try:
                    check(getattr(self, option.name))
                except ValueError as e:
                    raise ValueError(f"{PREFIX}{option.name}: {e}") from None
