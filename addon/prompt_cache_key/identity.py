"""Who is speaking: the Claude Code session, agent and user that a request shows."""

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from prompt_cache_key.body import Body

SESSION_HEADER = b"x-claude-code-session-id"
AGENT_HEADER = b"x-claude-code-agent-id"
MAIN = "main"
UNKNOWN = "unknown"
"""The agent whose header is malformed."""
MAX_LENGTH = 256

# Claude Code 1.0 to 2.1.77 sends user_<64 hex>_account_<uuid or nothing>_session_<uuid>.
_SESSION = re.compile(r"_session_([a-f0-9-]+)\Z")
_USER = re.compile(r"user_([a-f0-9]*)_account_([a-f0-9-]*)_session_[a-f0-9-]+\Z")

# A user id, whole or cut: LiteLLM 1.99 to 1.101 sends its first 64 characters as the key,
# claude-code-router 3.1 all of it.
_RAW_USER_ID = re.compile(r"user_[a-f0-9]+_account_|user_[a-f0-9]{59}|\{")


class Headers(Protocol):
    """What is needed of mitmproxy's headers: names and values as they came."""

    @property
    def fields(self) -> Iterable[tuple[bytes, bytes]]: ...  # noqa: D102


class Identity(NamedTuple):
    """A session's id, its agent (`main`, a subagent's id, `unknown`), and where the id was."""

    session: str
    agent: str
    source: str


def find(headers: Headers, body: Body) -> Identity | None:
    """Find who speaks in a request; the first source that shows a session wins.

    None means that none does. ValueError where the body has to be read for it and can't be.
    """
    if session := _checked(_first(headers, SESSION_HEADER), ascii_only=True):
        return Identity(session, _agent(headers), "header")
    if session := _session_in(user_id(body)):
        return Identity(session, _agent(headers), "metadata")
    if session := _session_in(body.user):
        return Identity(session, _agent(headers), "user")
    if is_raw_user_id(body.own_key) and (session := _session_in(body.own_key)):
        return Identity(session, _agent(headers), "key")
    return None


def find_user(body: Body) -> tuple[str, str] | None:
    """Return account and device in the user id that a request shows; None if it shows neither."""
    for value in (user_id(body), body.user, body.own_key):
        match = _USER.match(value) if isinstance(value, str) else None
        parts = _object(value)
        both = (
            (match[2], match[1]) if match else (parts.get("account_uuid"), parts.get("device_id"))
        )
        account, device = (part.strip() if isinstance(part, str) else "" for part in both)
        if max(len(account), len(device)) <= MAX_LENGTH and (account or device):
            return account, device
    return None


def user_id(body: Body) -> Any:
    """Return `metadata.user_id`, of whatever type; None if it is missing."""
    return body.metadata.get("user_id") if isinstance(body.metadata, dict) else None


def is_raw_user_id(key: Any) -> bool:
    """Whether a `prompt_cache_key` is a whole or cut user id: one per machine, so a bad key."""
    return isinstance(key, str) and bool(_RAW_USER_ID.match(key))


def _session_in(value: Any) -> str:
    """Return the session id in a user id in any form that Claude Code has sent; "" if none.

    The forms: text that ends in `_session_<hex and dashes>`, JSON text of an object with a
    `session_id`, or such an object itself.
    """
    if isinstance(value, str) and (match := _SESSION.search(value)):
        return _checked(match[1])
    session = _object(value).get("session_id")
    return _checked(session.strip()) if isinstance(session, str) else ""


def _object(value: Any) -> dict[str, Any]:
    """Return an object, or the one that a JSON text is; an empty one for all else."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value, parse_int=float)  # int() refuses over 4300 digits
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _agent(headers: Headers) -> str:
    value = _first(headers, AGENT_HEADER)
    return (_checked(value, ascii_only=True) or UNKNOWN) if value else MAIN


def _first(headers: Headers, name: bytes) -> str:
    # mitmproxy's own look at a header takes four times as long.
    for each, value in headers.fields:
        if each.lower() == name and (stripped := value.decode(errors="replace").strip()):
            return stripped
    return ""


def _checked(value: str, *, ascii_only: bool = False) -> str:
    """Pass on what can be an id; an id that is cut would be shared, so a long one is none."""
    sound = len(value) <= MAX_LENGTH and value.isprintable()
    return value if sound and (value.isascii() or not ascii_only) else ""
