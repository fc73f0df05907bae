"""The addon's options: names, types, defaults, help texts, and what their values mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from prompt_cache_key import redis_store
from prompt_cache_key.strip import STRIPPED
from prompt_cache_key.upstreams import DEFAULT_FILTER

PREFIX: Final = "prompt_cache_"
AUTO: Final = ("auto",)

# Headers with a meaning of their own: a key in one of these would break the request, pass for a
# credential, or contradict the body.
_NOT_FOR_KEYS = {
    "api-key",
    "authorization",
    "connection",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "content-type",
    "cookie",
    "date",
    "digest",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "repr-digest",
    "set-cookie",
    "signature",
    "signature-input",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-auth-token",
    "x-claude-code-agent-id",
    "x-claude-code-session-id",
    "x-goog-api-key",
}
_NOT_FOR_KEYS_STARTS = ("anthropic-", "proxy-", "sec-", "x-amz-", "x-forwarded-", "x-goog-")

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
    """Return a check that a text is one of the choices; ValueError for any other."""

    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return check


def some_of(choices: Sequence[str]) -> Any:
    """Return a check that every text is blank or among the choices; `auto` stands alone."""
    check = one_of(*choices)

    def check_all(names: Sequence[str]) -> None:
        for name in filter(None, names):
            check(name)
        if len(names) > 1 and AUTO[0] in names:
            raise ValueError("auto stands alone")

    return check_all


def _header_names(names: Sequence[str]) -> None:
    for name in names:
        # RFC 9110, token
        if name and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in _NOT_FOR_KEYS or name.lower().startswith(_NOT_FOR_KEYS_STARTS):
            raise ValueError(f"{name!r} has a meaning of its own and can't carry a key")
        if name in AUTO and len(names) > 1:
            raise ValueError("auto stands alone")


def _store(url: str) -> None:
    if url != "memory":
        redis_store.client(url)


def _option(default: Any, help_: str, check: Any = None) -> Any:
    return field(default=default, metadata={"help": help_, "check": check})


@dataclass(frozen=True)
class Options:
    """The values of all options."""

    filter: str = _option(
        DEFAULT_FILTER,
        "Flow filter: which requests get a prompt_cache_key. By default each POST to "
        ".../messages, .../responses and .../chat/completions, except to hosts that are known to "
        "reject the field, whose requests are observed.",
    )
    ttl: str = _option(
        "1h",
        "TTL of a mapping from session to key. Understands s/m/h/d suffixes, i.e. 30m for 30 "
        "minutes; a plain number is seconds.",
        seconds,
    )
    sliding: bool = _option(
        True,
        "Each use of a key resets its TTL. If false, a key expires one prompt_cache_ttl after it "
        "was made, in use or not.",
    )
    max_sessions: int = _option(
        10_000,
        "How many mappings are kept. The least recently used one is evicted first.",
        at_least_one,
    )
    scope: str = _option(
        "auto",
        'Who shares a key: "session" is one key for a session with its subagents, "agent" one '
        'for each of them, "user" one for all sessions of a user. "auto" is a session, except '
        "where the upstream's documentation says otherwise.",
        one_of("auto", "session", "agent", "user"),
    )
    keys: str = _option(
        "random",
        'Where keys come from: "random" is a UUIDv4 that is remembered, "derived" the UUIDv5 of '
        "model and owner, the same on every proxy and after every restart.",
        one_of("random", "derived"),
    )
    overwrite: bool = _option(False, "Replace a prompt_cache_key that the client sent.")
    headers: Sequence[str] = _option(
        AUTO,
        'Request headers that carry the key too. "auto": those that a known host routes by, i.e. '
        "session-id for the Codex backend.",
        _header_names,
    )
    strip: Sequence[str] = _option(
        AUTO,
        'Volatile text to remove from keyed requests: "attribution" is the line '
        'x-anthropic-billing-header: ... that leads the system prompt, "countdown" are system '
        "messages that hold nothing but <total_tokens>... tokens left</total_tokens>, "
        '"session" is the session in metadata.user_id. "auto": what is known to cost hits at a '
        "known upstream. Empty: nothing.",
        some_of((*AUTO, *STRIPPED)),
    )
    stream: bool = _option(
        True,
        "Pass server-sent events on as they arrive, for requests of a session. The body is still "
        "kept for display and saving.",
    )
    annotate: bool = _option(
        True,
        "Put a summary into the comment of a session's flows, and mark flows with missed tokens, "
        "where nobody else has.",
    )
    diagnose: bool = _option(
        False,
        "Ask upstreams that can explain a miss (OpenAI Responses, GPT-5.6 and later).",
    )
    bridge: bool = _option(
        True,
        "Give a translator's anonymous upstream call the key of the Claude Code request that "
        "waits for it.",
    )
    store: str = _option(
        "memory",
        'Where keys are kept: "memory", or the Redis or Valkey server of a redis:// URL, which '
        "several proxies share.",
        _store,
    )
    page: bool = _option(
        True,
        "Serve the live page on the listeners, at an address that holds a secret and that the "
        "log names.",
    )

    def __post_init__(self) -> None:
        """Check the values; ValueError, in one line, names the option and what is wrong."""
        for option in fields(self):
            value = getattr(self, option.name)
            type_ = (list, tuple) if isinstance(option.default, tuple) else type(option.default)
            if not isinstance(value, type_):
                what = "another script has an option of this name, but of another type"
                raise ValueError(f"{PREFIX}{option.name}: {what}")  # noqa: TRY004
            if check := option.metadata["check"]:
                try:
                    check(value)
                except ValueError as e:
                    raise ValueError(f"{PREFIX}{option.name}: {e}") from None
