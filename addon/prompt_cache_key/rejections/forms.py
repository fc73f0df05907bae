"""Whether an error says that a field of the request is not taken, in one of the forms seen so far.

An error may name the field for other reasons: it repeats the request, quotes a user, names a tool
or gives a hint. So a message counts only if all of it is one of these forms, give or take what
gateways put around it, and a structure only where the upstream itself writes `param` or `loc`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from functools import lru_cache
from typing import Any

_STATUSES = (400, 422)
_MAX_SIZE = 256 << 10  # bytes of an error; a longer one is about more than a field
_MAX_MESSAGE = 4096  # characters of a message; what is longer is more than a form
_MAX_PARTS = 200  # objects, lists and messages of one error

_EXTRA = "extra inputs are not permitted"
# The forms and their names in the log. FIELD is the field or a member of it, QUOTED the same in
# quotes or not, NAMES a list that has it.
_FORMS = (
    # Anthropic's validator (Vertex, Bedrock, OpenCode Zen), Databricks, Kimi
    (_EXTRA, r"(?:body\.)?FIELD: Extra (?:inputs are|fields) not permitted"),
    # pydantic's own words, and its list of errors as Python writes it (older vLLM)
    (
        _EXTRA,
        r"\d+ validation errors? for \w+\nFIELD\n +Extra (?:inputs are|fields) not permitted.*",
    ),
    (_EXTRA, r"\[\{'type': 'extra_forbidden', 'loc': \('body', 'FIELD'\), 'msg': 'Extra inputs .*"),
    # Gemini
    ("unknown name", r'Unknown name "FIELD": Cannot find field'),
    # Groq, Cerebras
    (
        "property is unsupported",
        r"(?:(?:body\.)?FIELD: )?property '(?:body\.)?FIELD' is unsupported",
    ),
    # NVIDIA, the Codex backend, OpenAI
    (
        "unsupported parameter",
        r"Unsupported parameter(?:s|\(s\))?: NAMES(?: is not supported with this model)?",
    ),
    # OpenAI
    ("unknown parameter", r"(?:Unknown|Unrecognized) parameters?: NAMES"),
    ("invalid value", r"Invalid (?:type for |value for )?'FIELD': [^\n]{1,300}"),
    # Azure
    ("unrecognized request argument", r"Unrecognized request arguments? supplied: NAMES"),
    # Bedrock
    (
        "extraneous key",
        r"#: extraneous key \[FIELD\] is not permitted(?:, please reformat [\w ]+)?",
    ),
    # LiteLLM
    (
        "unsupported by the provider",
        r"\S{1,64} does not support parameters: \[NAMES\], for model=.*",
    ),
    # several gateways
    (
        "not supported",
        r"(?:The )?(?:parameter |field )?QUOTED is not supported(?: \w+ this model)?",
    ),
)

# What gateways and SDKs write before an upstream's message, and after it.
_OPENERS = re.compile(
    r"""(?: (?:litellm\.)? \w{1,40}Error: [ ]
        | \w{1,40}Exception (?: [ ] \w{1,40}Error)? (?: [ ]- | :) [ ]
        | (?:Error[ ]code: [ ])? \d{3} (?: [ ]- | :) [ ]
        | Provider [ ] \S{1,64} [ ] returned [ ] \d{3}: [ ]
        | Error [ ] from [ ] provider \([^()\n]{1,100}\): [ ]
        | Upstream [ ] (?:request [ ] failed | error): [ ]
        | \[\w{1,40}_error\] [ ]
        | \w{1,40}_error: [ ]
        | Validation: [ ]
        | Invalid [ ] JSON [ ] payload [ ] received\. [ ]
        | Malformed [ ] input [ ] request: [ ]
        | \{ (?:'type': [ ] 'error', [ ])? 'error': [ ] \{  # a dictionary as Python writes it
          (?:'type': [ ] '\w{1,40}', [ ])? 'message': [ ] ["']
        )*""",
    re.VERBOSE,
)
_CLOSER = (
    r"\.?(?:[\"'](?:, '\w+': .*|\}.*)|(?: \(request id: [^()\n]{1,100}\))+"
    r"|\.? Received Model Group=.*| \| Upstream: .*)?\s*"
)
_CLOSED = re.compile(f"['\"]?{_CLOSER}", re.DOTALL)

# Where the words of an error are. Not `input`, `body`, `ctx` or `request`, which repeat a request.
_WORDS = (
    *("error", "errors", "detail", "details", "message", "msg", "description"),
    *("fieldViolations", "metadata", "raw"),  # Gemini's; OpenRouter's
)
_CODES = {
    "unknown_parameter": "unknown parameter",
    "unsupported_parameter": "unsupported parameter",
    "missing_required_parameter": "",
}
_TYPES = {
    "extra_forbidden": _EXTRA,
    "value_error.extra": _EXTRA,  # pydantic 1
    "missing": "",
}
_JSON = json.JSONDecoder(strict=False)
# How Python writes bytes, to be undone in this order: an escaped backslash escapes nothing more.
_ESCAPES = (("\\\\", "\0"), ("\\n", "\n"), ("\\'", "'"), ("\\", ""), ("\0", "\\"))


def refusal(status: int, content: bytes, field: str = "prompt_cache_key") -> str:
    """Return the name of the form in which an error rejects `field`; empty if it does not.

    `content` is the decoded body. The name is one of a few of ours, never an upstream's words.
    A value that is not taken counts as well, so ask only where the field was put in by us.
    """
    if status not in _STATUSES or len(content) > _MAX_SIZE or field.encode() not in content:
        return ""
    parts: deque[Any] = deque([content.decode("utf-8-sig", "replace").strip()])
    for _ in range(_MAX_PARTS):
        part = parts.popleft() if parts else None
        found = ""
        if isinstance(part, str):
            found = _form(part, field)
            parts.extend(_inside(part))
        elif isinstance(part, dict):
            found = _param(part, field) or _loc(part, field)
            parts.extend(part[name] for name in _WORDS if name in part)
        elif isinstance(part, list):
            parts.extend(part[:_MAX_PARTS])
        if found:
            return found
    return ""


def _form(message: str, field: str) -> str:
    """Return the form that a message has as a whole."""
    if len(message) > _MAX_MESSAGE:
        return ""
    start = _message_start(message)
    return next((name for name, form in _patterns(field) if form.fullmatch(message, start)), "")


def _inside(message: str) -> list[Any]:
    """Return the JSON that is all of a message, as it is or as Python writes bytes."""
    text = message[_message_start(message) :]
    if text.startswith(("b'", 'b"')):
        text, _, _ = text[2:].rpartition(text[1])
        for written, meant in _ESCAPES:
            text = text.replace(written, meant)
    if not text.startswith(("{", "[")):  # in quotes it may be a user's
        return []
    try:
        value, end = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return []
    return [value] if _CLOSED.fullmatch(text, end) else []


def _param(error: dict[str, Any], field: str) -> str:
    """Return the form of an error of OpenAI's that names the field in `param`."""
    param, code = error.get("param"), error.get("code")
    if not isinstance(param, str) or param.partition(".")[0] != field:
        return ""
    return _CODES.get(code if isinstance(code, str) else "", "named in param")


def _loc(error: dict[str, Any], field: str) -> str:
    """Return the form of an error of pydantic's that names the field at the top of the request.

    Before it may stand "body" and the names of models; a name of another field or an index means
    that it is somewhere in what a user may have written.
    """
    loc, kind = error.get("loc"), error.get("type")
    names = [str(name) for name in loc[:8]] if isinstance(loc, list) else []
    while names and (names[0] == "body" or names[0][:1].isupper()):
        del names[0]
    if names[:1] != [field]:
        return ""
    return _TYPES.get(kind if isinstance(kind, str) else "", "named in loc")


def _message_start(message: str) -> int:
    opener = _OPENERS.match(message)
    return opener.end() if opener else 0


@lru_cache(maxsize=8)
def _patterns(field: str) -> list[tuple[str, re.Pattern[str]]]:
    quote, name = "[`'\"]?", "[\\w.]{1,100}"
    own = re.escape(field) + r"(?:\.\w{1,100})?"
    quoted = f"{quote}{own}{quote}"
    other = f"{quote}{name}{quote}"
    names = f"(?:{other}, )*{quoted}(?:, {other})*"
    return [
        (
            form,
            re.compile(
                pattern.replace("NAMES", names).replace("QUOTED", quoted).replace("FIELD", own)
                + _CLOSER,
                re.DOTALL | re.IGNORECASE,
            ),
        )
        for form, pattern in _FORMS
    ]
