"""Who is speaking: the Claude Code session and agent that a request shows."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

SESSION_HEADER = "x-claude-code-session-id"
AGENT_HEADER = "x-claude-code-agent-id"
MAIN = "main"
MAX_LENGTH = 256

# Claude Code 1.0 to 2.1.77 sends user_<64 hex>_account_<uuid or nothing>_session_<uuid>.
_SESSION = re.compile(r"_session_([a-f0-9-]+)\Z")

# A user id, whole or cut: LiteLLM 1.99 to 1.101 sends its first 64 characters as the key,
# claude-code-router 3.1 all of it.
_RAW_USER_ID = re.compile(r"user_[a-f0-9]+_account_|user_[a-f0-9]{59}|\{")


class Headers(Protocol):
    """What is needed of mitmproxy's headers: all values of a name, in any case."""

    def get_all(self, name: str, /) -> Sequence[str]: ...  # noqa: D102


class Session(NamedTuple):
    """A session's id, its agent (`main`, a subagent's id, None if malformed), where the id was."""

    id: str
    agent: str | None
    source: str


def find(headers: Headers, metadata: Any, user: Any, key: Any) -> Session | None:
    """Find the session in a request's headers and body fields; the first source that has it wins.

    `metadata`, `user` and `key` are the values of the body's members `metadata`, `user` and
    `prompt_cache_key`, of whatever type. None means that no session is shown.
    """
    if session := from_header(headers):
        return Session(session, agent(headers), "header")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    raw_key = key if is_raw_user_id(key) else None
    for source, value in (("metadata", user_id), ("user", user), ("key", raw_key)):
        if session := from_user_id(value):
            return Session(session, agent(headers), source)
    return None


def from_header(headers: Headers) -> str:
    """Return the first session header that is not blank, trimmed; "" if malformed or missing."""
    return _checked(_first(headers, SESSION_HEADER), ascii_only=True)


def from_user_id(value: Any) -> str:
    """Return the session id in a user id in any form that Claude Code has sent; "" if none.

    The forms: text that ends in `_session_<hex and dashes>`, JSON text of an object with a
    `session_id`, or such an object itself.
    """
    if isinstance(value, str):
        if match := _SESSION.search(value):
            return _checked(match[1])
        if not value.startswith("{"):
            return ""
        try:
            value = json.loads(value, parse_int=float)  # int() refuses over 4300 digits
        except (ValueError, RecursionError):
            return ""
    session = value.get("session_id") if isinstance(value, dict) else None
    return _checked(session.strip()) if isinstance(session, str) else ""


def agent(headers: Headers) -> str | None:
    """Return the id of the subagent that speaks, `main` if none does, None if it is malformed."""
    value = _first(headers, AGENT_HEADER)
    return (_checked(value, ascii_only=True) or None) if value else MAIN


def is_raw_user_id(key: Any) -> bool:
    """Whether a `prompt_cache_key` is a whole or cut user id: one per machine, so a bad key."""
    return isinstance(key, str) and bool(_RAW_USER_ID.match(key))


def _first(headers: Headers, name: str) -> str:
    return next(filter(None, map(str.strip, headers.get_all(name))), "")


def _checked(value: str, *, ascii_only: bool = False) -> str:
    """Pass on what can be an id; an id that is cut would be shared, so a long one is none."""
    sound = len(value) <= MAX_LENGTH and value.isprintable()
    return value if sound and (value.isascii() or not ascii_only) else ""
