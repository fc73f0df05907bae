"""Recognise that an error says: this field of the request is not taken.

The problem. An upstream that does not know `prompt_cache_key` answers with an error, and so does
every later request until the field is left out. How it says so differs by upstream, and gateways
wrap what it says. But an error may name the field for other reasons: it repeats the request, quotes
a user, names a tool, gives a hint. If such an error counted, anybody could turn keys off.

The idea. An error is a tree: JSON, in which a message may be a wrapped message or JSON again. From
the body downwards only the places are followed where a gateway or upstream writes words of its own
(`error`, `message`, `detail` …), not those that repeat a request (`input`, `body`, `request` …). A
message counts only if all of it, once its wrappers are off (see `wrappers`), is one of the forms in
which this was seen. A structure counts only if it names the field in `param` or `loc`.

What counts as an error, by status and structure:

    status   body                                     looked at
    -------  ---------------------------------------  ------------------------------------------
    200-299  JSON with an `error`, or of type `error`  that error; a completion has none
    200-299  events, or JSON lines                    events of such JSON in the first 64 kB
    200-299  anything else                            nothing: the model may quote an error
    400-599  JSON                                     all of it
    400-599  events                                   the data of each event, as JSON or as text
    400-599  text                                     the text, as one message
    other    anything                                 nothing
    400-599  anything over 64 kB                      nothing: it is about more than a field

Bounded: the bytes looked at, the values and layers (`_MAX_STEPS`), the length of a message that can
be a form, and each pattern's steps. Not promised: that a form nobody has seen yet is recognised;
`learned` counts the errors that name nothing.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections import deque
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from prompt_cache_key.rejections.wrappers import unwrapped
from prompt_cache_key.usage.events import EventStream
from prompt_cache_key.usage.json_values import values_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_SIZE = 64 << 10
"""Bytes of a body that are looked at."""
_MAX_STEPS = 100  # values and layers of messages of one error; a long text counts for up to 20
_MAX_MESSAGE = 2048  # characters of a message; what is longer is more than a form
_MAX_ERRORS = 10  # events, and members of a list, of one error

_EXTRA = "extra inputs are not permitted"

# In the forms: FIELD is the field or a member of it, QUOTED the same in quotes or not, NAMES a list
# that has it, VALUE the value that the field had.
# The value can only be the addon's: a key is a UUID, the id of a response has these letters.
_VALUE = r"(?:'[0-9a-f-]{36}'|\{'comparison_response_id': '[\w.-]{1,200}'\})"
_NOT = "Extra (?:inputs are|fields) not permitted"
# Fireworks, about any field; a value in which a semicolon stands could be anything.
_FIREWORKS = r"Extra inputs are not permitted, field: '[\w.\[\]]{1,100}', value: "
_FIREWORKS += (
    r"(?:'[^';\\\n]{0,500}'|\"[^\";\\\n]{0,500}\"|-?\w[\w.+-]{0,40}|[\[{][^;\n]{0,2000}[\]}])"
)
# pydantic: what it adds to a message, and its messages about any field, of those that quote nobody.
_DETAILS = r"(?: \[type=[^\n]{1,300}\]| \(type=[\w.=; ]{1,200}\))?"
_DETAILS += r"(?:\n +For further information visit https?://[\w./-]{1,200})?"
_PYDANTIC = r"\n[\w.]{1,100}\n +(?:" + _NOT + r"|Field required"
_PYDANTIC += rf"|Input should be [\w ,'-]{{1,200}}){_DETAILS}"
# FastAPI, about any field; what it repeats is written as Python does, without line ends.
_FASTAPI = r"\n  \{'type': '[^\n]{1,2000}\}"
# Bedrock, about any field.
_BEDROCK = r"(?:#(?:/\w{1,100}){0,9}: (?:extraneous|required) key \[[\w.]{1,100}\]"
_BEDROCK += r" (?:is not permitted|not found))"

_FORMS = {
    _EXTRA: [
        # Anthropic's validator (Vertex, Bedrock, OpenCode Zen), Databricks, Kimi
        rf"(?:body\.)?FIELD: {_NOT}",
        # Fireworks
        (
            rf"(?:{_FIREWORKS}; ){{0,30}}"
            r"Extra inputs are not permitted, field: 'FIELD', value: VALUE"
            rf"(?:; {_FIREWORKS}){{0,30}}"
        ),
        # pydantic's own words, and its list as Python writes it (older vLLM)
        (
            rf"\d{{1,3}} validation errors? for [\w.\[\], ]{{1,100}}(?:{_PYDANTIC}){{0,30}}"
            rf"\nFIELD\n +{_NOT}{_DETAILS}(?:{_PYDANTIC}){{0,30}}"
        ),
        (
            r"\[\{'type': 'extra_forbidden', 'loc': \('body', 'FIELD'\), 'msg': "
            r"'Extra inputs are not permitted', [^\n]{1,3000}\}\]"
        ),
        # FastAPI's list of errors (vLLM from 0.11 on, NVIDIA), with the place in its source
        (
            rf"\d{{1,3}} validation errors?:(?:{_FASTAPI}){{0,30}}"
            r"\n  \{'type': 'extra_forbidden', 'loc': (?:\('body', 'FIELD'\)|'body\.FIELD'), "
            r"'msg': 'Extra inputs are not permitted', 'input': VALUE[^\n]{0,300}\}"
            rf"(?:{_FASTAPI}){{0,30}}"
            r"(?:\n\n  File \"[^\n\"]{1,300}\", line \d+, in \w{1,100}\n +[A-Z]+ /[\w/.-]{0,300})?"
        ),
    ],
    # Gemini
    "unknown name": [r'Unknown name "FIELD": Cannot find field'],
    "unknown field": [
        # Go's encoding/json (Volcengine Ark); Rust's serde, which names the fields that it knows
        (
            r"(?:json: |FIELD: )?unknown field QUOTED"
            r"(?:, (?:there are no fields|expected [`\w, ]{1,3000}))?(?: at line \d+ column \d+)?"
        ),
    ],
    # Groq, Cerebras
    "property is unsupported": [
        r"(?:(?:body\.)?FIELD: )?property '(?:body\.)?FIELD' is unsupported",
    ],
    # NVIDIA, the Codex backend, OpenAI
    "unsupported parameter": [
        (
            r"Unsupported (?:chat completion )?parameter(?:s|\(s\))?: NAMES"
            r"(?: (?:is|are) not supported with this model)?"
        ),
    ],
    # OpenAI
    "unknown parameter": [
        r"(?:Unknown|Unrecognized) (?:parameter|field|argument)s?: NAMES",
        r"Additional properties are not allowed \(NAMES (?:was|were) unexpected\)",
    ],
    "invalid value": [r"Invalid (?:type for |value for )?'FIELD': [^\n]{1,300}"],
    # Azure
    "unrecognized request argument": [r"Unrecognized request arguments? supplied: NAMES"],
    # zod
    "unrecognized key": [r"Unrecognized key(?:s|\(s\))?(?: in object)?: NAMES"],
    "extraneous key": [
        (
            rf"{_BEDROCK}{{0,30}}#: extraneous key \[FIELD\] is not permitted{_BEDROCK}{{0,30}}"
            r"(?:, please reformat [\w ]{1,60})?"
        ),
    ],
    # LiteLLM
    "unsupported by the provider": [
        (
            r"\S{1,64} does not support parameters: \[NAMES\], for model=\S{0,300}"
            r"(?: To drop these, set [^\n]{1,800})?"
        ),
    ],
    # several gateways; any-llm names the provider
    "not supported": [
        (
            r"(?:The )?(?:parameter |field |argument |feature )?QUOTED is "
            r"(?:not (?:currently |yet )?supported|unsupported)"
            r"(?: \w+ this (?:model|endpoint|provider|api)| for \w{1,40})?"
        ),
    ],
}
"""The forms by their names in the log."""

# Where the words of an error are. Not `input`, `body`, `ctx` or `request`, which repeat a request.
_WORDS = (
    *("error", "errors", "detail", "details", "message", "msg", "description", "error_message"),
    *("Message", "errorMessage", "issues", "fieldViolations"),  # Amazon, zod, Google
    *("cause", "inner_error", "innererror", "original_error", "upstream_error", "responseBody"),
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
_CONTENT = re.compile(r"(?:messages|input|instructions|prompt|system|tools)\b")
_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:event|data|id|retry)?:")
_END = re.compile(r"(?:data: ?)?\[DONE\]\Z")  # some put it right behind an event's JSON
_ERROR = re.compile(rb'"(?:error|response\.failed)"')


def rejection(status: int, body: bytes, field: str = "prompt_cache_key") -> str:
    """Return the name of the form in which an error rejects `field`; empty if it does not.

    `body` is decoded, of a stream at least its beginning. The name is one of a few of ours, never
    an upstream's words. A value that is not taken counts as well, so ask only about a field that
    the addon has put into the request.
    """
    name = field.encode()
    if 200 <= status < 300:  # noqa: PLR2004
        head = body[:MAX_SIZE]
        return _search(_errors(head, name), field) if name in head and _ERROR.search(head) else ""
    if not 400 <= status < 600 or len(body) > MAX_SIZE or name not in body:  # noqa: PLR2004
        return ""
    if _EVENTS.match(body):
        return _search(_events(body, name), field)
    text = _text(body)
    values, is_whole = values_in(text)
    is_string = is_whole and len(values) == 1 and isinstance(values[0], str)
    return _search(values if is_string else [text], field)


def _errors(head: bytes, name: bytes) -> Iterator[Any]:
    """Yield the errors in the beginning of a response whose status says that all went well."""
    text = _text(head)
    texts = [text] if text[:1] in ("{", "[") else _events(head, name)
    for value in chain.from_iterable(values_in(each)[0][:_MAX_ERRORS] for each in texts):
        for each in value[:_MAX_ERRORS] if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                continue
            if each.get("type") == "error":
                yield each
            elif each.get("type") == "response.failed":
                yield _failure(each)
            else:
                yield each.get("error")


def _failure(event: dict[str, Any]) -> Any:
    """Return the error in a `response.failed` of OpenAI Responses."""
    response = event.get("response")
    return response.get("error") if isinstance(response, dict) else None


def _events(body: bytes, name: bytes) -> Iterator[str]:
    """Yield the data of the first events that contain a name, each line alone if need be."""
    stream = EventStream((name,), MAX_SIZE)
    events = chain(stream.feed(body.removeprefix(BOM_UTF8)), stream.rest())
    for lines in islice(events, _MAX_ERRORS):
        data = _END.sub("", _text(b"\n".join(lines))).rstrip()
        is_whole = len(lines) == 1 or values_in(data)[1]
        yield from [data] if is_whole else map(_text, lines[:_MAX_ERRORS])


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace").strip()


def _search(errors: Iterable[Any], field: str) -> str:
    """Return the name of the first form that is found in errors, breadth first."""
    parts, steps = deque(errors), _MAX_STEPS
    while parts and steps > 0:
        part, found = parts.popleft(), ""
        steps -= 1
        if isinstance(part, str) and field in part:
            messages, value = unwrapped(part)
            steps -= len(messages) + min(len(part) // 256, _MAX_STEPS // 5)
            found = next(filter(None, (_form(message, field) for message in messages)), "")
            parts.append(value)
        elif isinstance(part, list):
            parts.extend(part[:_MAX_ERRORS])
        elif isinstance(part, dict) and field not in part:  # else it repeats the request
            found = _param(part, field) or _loc(part, field)
            parts.extend(_words(part))
        if found:
            return found
    return ""


def _words(error: dict[str, Any]) -> Iterator[Any]:
    """Yield the values of a structure that are words of whoever wrote it.

    An error about what a user may have written has none, nor has a message of a conversation.
    """
    param = error.get("param")
    if _place(error) or "role" in error or (isinstance(param, str) and _CONTENT.match(param)):
        return
    for name in _WORDS:
        if name in error:
            yield error[name]
    if error.get("type") == "response.failed":
        yield _failure(error)
    metadata = error.get("metadata")
    if isinstance(metadata, dict):  # OpenRouter; the rest of it may repeat what was sent
        yield metadata.get("raw")


def _form(message: str, field: str) -> str:
    """Return the form that a message has as a whole."""
    if len(message) > _MAX_MESSAGE or field not in message:
        return ""
    return next((name for name, form in _patterns(field) if form.fullmatch(message)), "")


def _param(error: dict[str, Any], field: str) -> str:
    """Return the form of an error of OpenAI's that names the field in `param`."""
    param, code = error.get("param"), error.get("code")
    if not isinstance(param, str) or param.partition(".")[0] != field:
        return ""
    return _CODES.get(code if isinstance(code, str) else "", "named in param")


def _loc(error: dict[str, Any], field: str) -> str:
    """Return the form of an error of pydantic's that names the field at the top of the request."""
    kind = error.get("type")
    if "loc" not in error or _place(error)[:1] != [field]:
        return ""
    return _TYPES.get(kind if isinstance(kind, str) else "", "named in loc")


def _place(error: dict[str, Any]) -> list[str]:
    """Return where in the request an error is by pydantic or zod, from the top of the request.

    Before it may stand "body" and the names of models; a name of another field or an index means
    that it is somewhere in what a user may have written.
    """
    place = error.get("loc", error.get("path"))
    names = [str(name) for name in place[:8]] if isinstance(place, list) else []
    while names and (names[0] == "body" or names[0][:1].isupper()):
        del names[0]
    return names


@lru_cache(maxsize=8)
def _patterns(field: str) -> list[tuple[str, re.Pattern[str]]]:
    quote, comma = "[`'\"]?", "(?:, and |, | and )"
    own = re.escape(field) + r"(?:\.\w{1,100})?"
    quoted = f"{quote}{own}{quote}"
    other = rf"{quote}[\w.]{{1,100}}{quote}"
    names = f"(?:{other}{comma}){{0,50}}{quoted}(?:{comma}{other}){{0,50}}"
    parts = {"NAMES": names, "QUOTED": quoted, "VALUE": _VALUE, "FIELD": own}

    def filled(form: str) -> str:
        return re.sub("NAMES|QUOTED|VALUE|FIELD", lambda part: parts[part[0]], form)

    return [
        (name, re.compile(filled(form) + r"\.?", re.IGNORECASE))
        for name, forms in _FORMS.items()
        for form in forms
    ]
