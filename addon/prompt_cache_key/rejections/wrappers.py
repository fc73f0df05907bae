"""Take the wrappers off an error message that gateways, SDKs and clients put around it.

A gateway reports an upstream's error as text: its own words, then the upstream's message or the
whole body, then words of its own again. The next gateway wraps that again:

    [p/m] [400]: litellm.BadRequestError: BedrockException - {"message": "…"}. Received Model … (…)

`unwrapped` takes off one wrapper after the other, at either end. A wrapper is made of the few words
of which such phrases are made, or has an id, a number or a short name in a fixed place. Where
anything else is in the way the message is somebody's text, such as a user's that a moderation
quotes, and what is below is not looked at. The body of an error inside a message counts only if it
is all that is left: JSON, or JSON as Python writes it.

Bounded: a pattern looks at a bounded piece from the beginning or before the end, and a message has
a bounded number of layers. A wrapper was seen in the wild unless its line says that it is like one.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_LAYERS = 24
_WINDOW = 250  # characters before the end in which a closer begins
_MAX_DEPTH = 50  # brackets in brackets of such a value
_MAX_PYTHON = 4096  # characters of a value as Python writes it

# Names of gateways and vendors, such as Portkey puts in front: "openai error: …".
_VENDORS = """openai azure azure-openai anthropic bedrock aws vertex vertex-ai google gemini groq
    xai x-ai mistral mistral-ai moonshot kimi deepseek together together-ai fireworks fireworks-ai
    deepinfra cerebras nvidia nim openrouter perplexity-ai cohere volcengine ark dashscope qwen
    databricks cloudflare workers-ai litellm portkey vercel ollama vllm sglang codex copilot"""
_SUBJECTS = f"""an? the api http llm ai upstream provider gateway proxy backend server remote client
    internal inference model request response bad invalid validation call streaming stream sdk chat
    completions? responses messages generation {_VENDORS}"""
_AFTER = """an? the from by with at of code status http api upstream provider gateway server model
    backend errors? following error_code returned"""


def _one_of(words: str) -> str:
    return "|".join(words.split())


# Not a class whose errors are about what a user, a model or a tool has written.
_NOT_OF_TEXT = (
    r"(?!\w{0,60}(?:content|guardrail|moderation|policy|safety|block|flag|tool|function|mcp|search"
    r"|prompt|parse))"
)

# What stands before an upstream's message.
_OPENER = re.compile(
    rf"""
    # a class: "litellm.BadRequestError: ", "OpenAIException - ", "XException BadRequestError - "
    (?: (?:[a-z_]\w{{0,40}}\.){{0,4}} {_NOT_OF_TEXT}
        \w{{0,60}}(?:error|exception) (?:[ ]\w{{0,60}}(?:error|exception))? (?:[ ]-|:) \s )
    # a phrase that ends in a colon: "Error from provider: ", "Upstream request failed: ",
    # "The model returned the following errors: ", "upstream returned 400: "
  | (?: (?:(?:{_one_of(_SUBJECTS)})[ ]){{0,8}}
        (?:(?:provider|channel|upstream)[ ]["'`]?[\w./-]{{1,64}}["'`]?[ ])?
        (?:errors?|failed|failure|returned|responded)
        (?:[ ](?:{_one_of(_AFTER)}|\d{{3}})|[ ]?\([^()\n]{{1,100}}\)){{0,8}} (?:[ ]-|:) \s )
    # a status: "400: ", "Error code: 400 - ", "HTTP 400 Bad Request: ", and bare as in SDKs: "400 "
  | (?: (?:(?:error[ ]code|status(?:[ ]code)?|statuscode|http(?:/[\d.]{{1,3}})?(?:[ ]status)?|code)
        [:=]?[ ]?)?
        [\[(]?\d{{3}}[\])]?
        (?:[ ](?:bad[ ]request|unprocessable[ ](?:entity|content)|service[ ]unavailable
        |bad[ ]gateway|internal[ ]server[ ]error))? (?:[ ]-|[:,])? \s )
    # a tag: "[provider/model] ", "[invalid_request_error] "
  | (?: \[(?!(?:user|human|assistant|system|tool|inst|input|prompt|quote)\])[\w./:@+-]{{1,120}}\]
        (?:[ ]-|:)? \s )
    # an error's type: "invalid_request_error: "
  | (?: \w{{1,40}}_error (?:[ ]-|:) \s )
    # boto3
  | (?: an[ ]error[ ]occurred[ ]\(\w{{1,60}}\)[ ]when[ ]calling[ ]the[ ]\w{{1,60}}[ ]operation
        (?:[ ]\(reached[ ]max[ ]retries:[ ]\d{{1,3}}\))?:[ ] )
    # go-openai
  | (?: error,[ ]status[ ]code:[ ]\d{{3}},[ ](?:status:[ ][\w ]{{1,60}},[ ])?message:[ ] )
    # NVIDIA, Gemini, Bedrock, axum; the last two are like them
  | (?: validation:[ ]
      | invalid[ ]json[ ]payload[ ]received\.[ ]
      | malformed[ ]input[ ]request:[ ]
      | failed[ ]to[ ]deserialize[ ]the[ ]json[ ]body[ ]into[ ]the[ ]target[ ]type:[ ]
      | (?:bad|invalid)[ ]request(?:[ ]-|:)[ ] )
    """,
    re.VERBOSE | re.IGNORECASE,
)

# What stands behind it.
_CLOSER = re.compile(
    r"""
    (?: # an id: "(request id: 2026…)" (one-api, new-api), " Request id: 0217…" (Volcengine Ark)
        [.,;]?\s{0,3}[\[(]? (?:(?:client|upstream|x)[ _-])?
        (?:request|trace|correlation|log|cf-ray|ray) [ _-]?id["']? \s?[:=]?\s?
        ["']?[\w.:/+=-]{4,128}["']?[\])]?
        # a note: "(reset after 30s)" (9router), "(attempt 2 of 3)", "[status 400]"
      | [ ]?[\[(] (?:reset|retry|retrying|retried|attempts?|tried|cooldown|status|code|http
        |provider|model|type) \b [^()\[\]{}\n]{0,80} [\])]
      | [.,;]?[ ](?:please[ ])?(?:retry|try[ ]again)[ ](?:after|in)[ ][\d.]{1,8}[ ]?[a-z]{0,12}
      | [.,;]?[ ](?:http[ ])?status(?:[ ]code)?[:=]?[ ]?\d{3}
        # LiteLLM
      | ,?\s{0,2}LiteLLM[ ]Retried:[ ]\d{1,3}[ ]times(?:,[ ]LiteLLM[ ]Max[ ]Retries:[ ]\d{1,3})?
    ) \.? \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Longer ones, each with the words it begins with.
_LONG_CLOSERS = [
    (begin, re.compile(re.escape(begin) + rest, re.DOTALL))
    for begin, rest in (
        # LiteLLM's router: the model asked for, its fallbacks, and the last one's own error
        ("Received Model Group=", r"[^\s\"'\\]{0,300}(?:\n.{0,20000})?"),
        (
            "No fallback model group found for original model_group=",
            r"\S{1,300}(?: Fallbacks=(?:None|\[[^\n]{0,5000}\]|\{[^\n]{0,5000}\}))?\.?",
        ),
        # LiteLLM's MidStreamFallbackError
        ("Original exception: ", r"(?:litellm\.)?\w{0,60}(?:Error|Exception)\b.{0,20000}"),
        # one of the proxies whose errors were seen
        ("| Upstream: ", r"\{.{0,20000}\}"),
    )
]

# Bytes and an exception as Python writes them.
_PYTHON_STRING = re.compile(
    rf"""(?: (b) | {_NOT_OF_TEXT} \w{{1,60}}(?:error|exception)\( )
    (?: '((?:[^'\\]|\\.)*)' | "((?:[^"\\]|\\.)*)" ) (?(1)|\))""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
# What Python writes otherwise than JSON, and brackets. A string that does not end takes the rest.
_PYTHON = re.compile(
    r"""'((?:[^'\\]|\\.)*)(?:'|\\?\Z) | "((?:[^"\\]|\\.)*)(?:"|\\?\Z)
      | \b(None|True|False)\b | ([\[{(]) | ,?\s?([\]})])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|.)", re.DOTALL | re.IGNORECASE)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_AS_JSON = {"None": "null", "True": "true", "False": "false", "(": "[", ")": "]"}
_JSON = json.JSONDecoder(strict=False)


def unwrapped(message: str) -> tuple[list[str], Any]:
    """Return a message, what is left of it after each wrapper, and the value inside or None."""
    text = message.strip()
    messages: list[str] = []
    while len(messages) < MAX_LAYERS:
        messages.append(text)
        value, end = _leading_value(text)
        if value is not None and not _opened(text[end:])[-1]:
            return messages, value
        opener = _OPENER.match(text)
        if not opener:
            break
        text = text[opener.end() :].lstrip()
    return messages + _opened(text)[1:], None


def _opened(text: str) -> list[str]:
    """Return a text, and what is left of it after each closer."""
    texts = [text]
    while len(texts) < MAX_LAYERS and (end := _end(text)) < len(text):
        text = text[:end].rstrip(" \n\r\t.;,")
        texts.append(text)
    return texts


def _end(text: str) -> int:
    """Return where the last closer begins; the end of the text if it has none."""
    for begin, pattern in _LONG_CLOSERS:
        at = text.find(begin)
        if at >= 0 and pattern.fullmatch(text, at):
            return at
    closer = _CLOSER.search(text, max(0, len(text) - _WINDOW))
    return closer.start() if closer else len(text)


def _leading_value(text: str) -> tuple[Any, int]:
    """Return the value that a text begins with, JSON or as Python writes it, and where it ends.

    None if the text begins with none. A text in JSON's quotes is none: in a message a user may be
    quoted so.
    """
    if string := _PYTHON_STRING.match(text[:_MAX_PYTHON]):
        return _python_string(string), string.end()
    if text[:1] not in ("{", "["):
        return None, 0
    try:
        return _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return _python_object(text[:_MAX_PYTHON])


def _python_object(text: str) -> tuple[Any, int]:
    """Return the dictionary or list that a text begins with, its tuples as lists."""
    depth, parts, at = 0, [], 0
    for part in _PYTHON.finditer(text):
        parts += [text[at : part.start()], _json_of(part)]
        at = part.end()
        depth += bool(part[4]) - bool(part[5])
        if not 0 < depth < _MAX_DEPTH:
            break
    try:
        return _JSON.decode("".join(parts)), at
    except (ValueError, RecursionError):
        return None, 0


def _json_of(part: re.Match[str]) -> str:
    single, double, *others = part.groups()
    string = single if single is not None else double
    if string is not None:
        return json.dumps(_unescaped(string))
    other = "".join(filter(None, others))
    return _AS_JSON.get(other, other)


def _python_string(string: re.Match[str]) -> str:
    """Return the text in bytes or in an exception."""
    is_bytes, single, double = string.groups()
    plain = _unescaped(single or double or "")
    return plain.encode("latin-1", "replace").decode(errors="replace") if is_bytes else plain


def _unescaped(string: str) -> str:
    return _ESCAPE.sub(_character, string)


def _character(escape: re.Match[str]) -> str:
    code = escape[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)
