"""Find the identity of a request: the Claude Code session, agent and user that it shows.

Claude Code has sent its user id in two forms, each with device, account and session:

    user_<64 hex>_account_<uuid or nothing>_session_<uuid>                     1.0 to 2.1.77
    {"device_id":"<64 hex>","account_uuid":"<uuid or nothing>","session_id":"<uuid>"}  from 2.1.78

In the JSON the order of the members varies, and others may stand between them
(`CLAUDE_CODE_EXTRA_METADATA`). Where the user id is found decides how much of it has to be there:

    header `X-Claude-Code-Session-Id`  any printable text       the client says what it is
    `metadata.user_id`                 `_session_<hex and ->`   the original's rule, kept as it is
                                       at the end, or an object
                                       with a `session_id`
    `user`                             text as above, or JSON   other programs write there too, and
                                       with a whole UUID as     translators cut what they write
                                       `session_id`
    `prompt_cache_key`                 a complete form only     what is none is the client's own key

So `alice_session_1` in `user` is no session, and neither is a user id cut to 128 characters, whose
last 5 hex digits strangers would share.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from prompt_cache_key.body import Body

SESSION_HEADER = b"x-claude-code-session-id"
AGENT_HEADER = b"x-claude-code-agent-id"
MAIN = "main"
UNKNOWN = "unknown"
"""The agent of a request whose agent header is malformed."""
UNKNOWN_SESSION = "?"
"""The session, and the agent, where several are equally likely and only the user is known."""
MAX_LENGTH = 256
MAX_USER_ID = 16_384
"""Characters of a user id that is parsed; Claude Code's own have at most 186."""

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TEXT = re.compile(f"user_([0-9a-f]{{64}})_account_({_UUID}|)_session_({_UUID})")
_JSON = re.compile(
    rf'\{{"device_id":"[0-9a-f]{{64}}","account_uuid":"(?:{_UUID}|)","session_id":"{_UUID}"\}}'
)
_JSON_ID = json.JSONDecoder(parse_int=float)  # int() refuses over 4300 digits
_DEVICE = re.compile("[0-9a-f]{64}")
_ACCOUNT = re.compile(f"{_UUID}|")
_SESSION = re.compile(_UUID)

# What `metadata.user_id` ends in, and the parts of a text there: the original's rule.
_SESSION_AT_END = re.compile(r"_session_([a-f0-9-]+)\Z")
_USER_IN_TEXT = re.compile(r"user_([a-f0-9]*)_account_([a-f0-9-]*)_session_[a-f0-9-]+\Z")

# A key is a cut user id if the rest of an example completes it. With each form: its example, and
# how long a cut key has to be, unless it is as long as LiteLLM cuts it.
_LITELLM_CUT = 64
_D, _U = "0" * 64, "00000000-0000-0000-0000-000000000000"
_TEXT_CUT, _JSON_CUT = len(f"user_{_D}_account_"), len(f'{{"device_id":"{_D}","account_uuid":"')
_EXAMPLES = (
    (_TEXT, f"user_{_D}_account_{_U}_session_{_U}", _TEXT_CUT),
    (_TEXT, f"user_{_D}_account__session_{_U}", _TEXT_CUT),
    (_JSON, f'{{"device_id":"{_D}","account_uuid":"{_U}","session_id":"{_U}"}}', _JSON_CUT),
    (_JSON, f'{{"device_id":"{_D}","account_uuid":"","session_id":"{_U}"}}', _JSON_CUT),
)


class Headers(Protocol):
    """What is needed of mitmproxy's headers: names and values as they came."""

    @property
    def fields(self) -> Iterable[tuple[bytes, bytes]]: ...  # noqa: D102


class Identity(NamedTuple):
    """A session's id, its agent (`main`, a subagent's id, `unknown`), and where the id was."""

    session: str
    agent: str
    source: str


def find_identity(headers: Headers, body: Body) -> Identity | None:
    """Find the session and agent of a request; the first source that shows a session wins.

    None means that no source shows a session. ValueError where the body has to be read for it and
    can't be.
    """
    if session := session_in_header(headers):
        return Identity(session, _agent(headers), "header")
    if session := _session_in_metadata(user_id(body)):
        return Identity(session, _agent(headers), "metadata")
    if session := _session_in_user(body.user):
        return Identity(session, _agent(headers), "user")
    if parts := _complete(body.own_key):
        return Identity(parts[2], _agent(headers), "key")
    return None


def session_in_header(headers: Headers) -> str:
    """Return the session in the header of a request; "" if the header shows none."""
    return _checked(_first(headers, SESSION_HEADER), ascii_only=True)


def find_user(body: Body) -> tuple[str, str] | None:
    """Return account and device in the user id that a request shows; None if it shows neither."""
    account, device = _user_in_metadata(user_id(body))
    if account or device:
        return account, device
    for value in (body.user, body.own_key):
        if parts := _complete(value):
            return parts[:2]
    return None


def user_id(body: Body) -> Any:
    """Return `metadata.user_id`, of whatever type; None if it is missing."""
    return body.metadata.get("user_id") if isinstance(body.metadata, dict) else None


def is_raw_user_id(key: Any) -> bool:
    """Whether a `prompt_cache_key` is Claude Code's user id, whole or cut.

    Such a key is bad: a whole one is over the limit of 64 characters, a cut one is the same for
    all sessions of a device. These forms count:

        text or JSON, whole           claude-code-router 3.1 Responses (recorded)
        text or JSON, 64 characters   LiteLLM 1.99 to 1.101 (recorded): `user_` and 59 hex digits,
                                      `{"device_id":"` and 50
        text or JSON, cut behind      translators that cut at 128 characters: nothing else has
        `_account_`, `account_uuid`   a device of 64 hex digits in front of these

    A client's own key, such as `{"tenant":1}` or `user_` and 64 hex digits, is none.
    """
    if not isinstance(key, str):
        return False
    is_cut = any(
        (len(key) == _LITELLM_CUT or least <= len(key) <= len(example))
        and form.fullmatch(key + example[len(key) :])
        for form, example, least in _EXAMPLES
    )
    return is_cut or _complete(key) is not None


def _complete(value: Any) -> tuple[str, str, str] | None:
    """Return account, device and session of a text that is one of Claude Code's user ids."""
    if not isinstance(value, str):
        return None
    if match := _TEXT.fullmatch(value):
        device, account, session = match.groups()
        return account, device, session
    parts = _object(value)
    forms = {"account_uuid": _ACCOUNT, "device_id": _DEVICE, "session_id": _SESSION}
    found = [(parts.get(name), form) for name, form in forms.items()]
    if all(isinstance(part, str) and form.fullmatch(part) for part, form in found):
        account, device, session = (str(part) for part, _ in found)
        return account, device, session
    return None


def _session_in_user(value: Any) -> str:
    """Return the session id in a `user`, which is a text; "" if it shows no whole one."""
    if not isinstance(value, str):
        return ""
    match = _TEXT.fullmatch(value)
    session = match[3] if match else _object(value).get("session_id")
    return session if isinstance(session, str) and _SESSION.fullmatch(session) else ""


def _session_in_metadata(value: Any) -> str:
    """Return the session id in a `metadata.user_id`, by the original's rule; "" if none."""
    if isinstance(value, str) and (match := _SESSION_AT_END.search(value[-2 * MAX_LENGTH :])):
        return _checked(match[1])
    session = _object(value).get("session_id")
    return _checked(session.strip()) if isinstance(session, str) else ""


def _user_in_metadata(value: Any) -> tuple[str, str]:
    """Return account and device in a `metadata.user_id`, each "" if it shows none."""
    is_text = isinstance(value, str) and len(value) <= MAX_USER_ID
    if is_text and (match := _USER_IN_TEXT.match(value)):
        device, account = match.groups()
    else:
        parts = _object(value)
        account, device = (
            part.strip() if isinstance(part := parts.get(name), str) else ""
            for name in ("account_uuid", "device_id")
        )
    return (account, device) if max(len(account), len(device)) <= MAX_LENGTH else ("", "")


def _object(value: Any) -> dict[str, Any]:
    """Return an object, or the object that a short JSON text is; an empty one for all else."""
    if isinstance(value, str) and value.startswith("{") and len(value) <= MAX_USER_ID:
        try:
            value = _JSON_ID.decode(value)
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
    """Return a value that can be an id, else ""; a long id is not cut, as others would share it."""
    is_id = len(value) <= MAX_LENGTH and value.isprintable()
    return value if is_id and (value.isascii() or not ascii_only) else ""
