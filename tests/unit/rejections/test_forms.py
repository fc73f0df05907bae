import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.rejections.forms import MAX_SIZE, rejection

KEY = "prompt_cache_key"
UUID = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
EXTRA = "extra inputs are not permitted"
PERMITTED = "Extra inputs are not permitted"
QUOTE = f"Unsupported parameter(s): {KEY}"
UNKNOWN = f"Unknown parameter: '{KEY}'."
GEMINI = f'Invalid JSON payload received. Unknown name "{KEY}": Cannot find field.'
BEDROCK = f"#: extraneous key [{KEY}] is not permitted, please reformat your input and try again."
GO = f'json: unknown field "{KEY}"'
FIREWORKS = f"{PERMITTED}, field: '{KEY}', value: '{UUID}'"
OTHERS = (
    f"{PERMITTED}, field: 'parallel_tool_calls', value: True",
    f"{PERMITTED}, field: 'metadata', value: {{'user_id': 'a', 'n': [1]}}",
    f"{PERMITTED}, field: 'user', value: 'a b'",
)
FASTAPI = (
    f"\n  {{'type': 'extra_forbidden', 'loc': ('body', '{KEY}'), 'msg': '{PERMITTED}', "
    f"'input': '{UUID}'}}"
)
MISSING = (
    "\n  {'type': 'missing', 'loc': ('body', 'n'), 'msg': 'Field required', 'input': {'a': 'b'}}"
)
SOURCE = '\n\n  File "/usr/lib/api_server.py", line 669, in create\n    POST /v1/chat/completions'
LITELLM = "litellm.UnsupportedParamsError: groq does not support parameters"
FORBIDDEN = {"type": "extra_forbidden", "loc": ["body", KEY], "msg": PERMITTED}
PYDANTIC = "[type=extra_forbidden, input_value='k', input_type=str]"
PYDANTIC += "\n    For further information visit https://errors.pydantic.dev/2.11/v/extra_forbidden"
PYTHON_LIST = [{"type": "extra_forbidden", "loc": ("body", KEY), "msg": PERMITTED, "input": "k"}]


ZOD = {
    "code": "unrecognized_keys",
    "keys": [KEY],
    "path": [],
    "message": f"Unrecognized key(s) in object: '{KEY}'",
}


def said(message: Any, **members: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None} | members}


def detail(**members: Any) -> dict[str, Any]:
    return {"detail": [FORBIDDEN | members]}


# Each form as it was seen, and what the error is called.
REJECTIONS: dict[str, list[Any]] = {
    EXTRA: [
        said(f"{KEY}: {PERMITTED}") | {"type": "error"},
        {"message": f"{KEY}: {PERMITTED}"},
        said(f"1 validation error for X\n{KEY}\n  {PERMITTED} {PYDANTIC}"),
        said(
            f"3 validation errors for ChatRequest\nstore\n  {PERMITTED} {PYDANTIC}\n"
            f"{KEY}\n  {PERMITTED} {PYDANTIC}\nn\n  Input should be 1 or 2 [type=literal_error, x]"
        ),
        said(f"1 validation error for X\n{KEY}\n  extra fields not permitted (type=value_error.x)"),
        said(repr(PYTHON_LIST)),
        said(repr(PYTHON_LIST).replace("'input': 'k'", "'ctx': {'error': ValueError(<x>)}")),
        said(f"1 validation error:{FASTAPI}{SOURCE}"),
        said(f"3 validation errors:{MISSING}{FASTAPI}{MISSING}"),
        said(f"1 validation error:{FASTAPI}".replace(f"('body', '{KEY}')", f"'body.{KEY}'")),
        detail(input="k"),
        detail(type="value_error.extra", loc=["body", "Chat", KEY]),
        {"detail": [{"type": "x", "loc": ["body", "messages"]}, FORBIDDEN]},
        {"object": "error", "message": detail()},
        said(FIREWORKS),
        said("; ".join([*OTHERS, FIREWORKS])),
        said("; ".join([FIREWORKS, *OTHERS])),
    ],
    "named in loc": [detail(type="string_type", loc=["body", KEY, "str"], msg="x")],
    "unknown name": [
        [{"error": {"code": 400, "message": GEMINI, "status": "INVALID_ARGUMENT"}}],
        said("x") | {"details": [{"fieldViolations": [{"description": GEMINI}]}]},
    ],
    "unknown field": [
        {"error": GO},
        said(GO),
        said(
            "Failed to deserialize the JSON body into the target type: "
            f"{KEY}: unknown field `{KEY}`"
        ),
        said(f"unknown field `{KEY}`, expected one of `model`, `messages` at line 1 column 30"),
    ],
    "property is unsupported": [
        said(f"property '{KEY}' is unsupported"),
        said(f"body.{KEY}: property 'body.{KEY}' is unsupported"),
    ],
    "unsupported parameter": [
        {"detail": f"Unsupported parameter(s): `{KEY}`", "status": 400},
        said(f"Validation: Unsupported parameter(s): `store`, `{KEY}`, `user`"),
        {"detail": f"Unsupported parameter: {KEY}"},
        {"detail": [{"loc": ["body", "Chat"], "msg": QUOTE}]},
        said(QUOTE, param="prompt_cache_retention"),
        {"errorMessage": QUOTE},
        {"name": "AI_APICallError", "responseBody": json.dumps(said(QUOTE)), "cause": None},
        {"type": "response.failed", "response": {"id": "x", "error": {"message": QUOTE}}},
        said(f"unsupported chat completion parameter: {KEY}"),
        said(f"Unsupported parameter: '{KEY}' is not supported with this model."),
    ],
    "unrecognized request argument": [
        said(f"Unrecognized request argument supplied: {KEY}"),
        said(f"Unrecognized request arguments supplied: {KEY}, store"),
    ],
    "unknown parameter": [
        said(UNKNOWN),
        said(UNKNOWN, param=KEY, code="unknown_parameter"),
        said(f"Additional properties are not allowed ('store', '{KEY}' were unexpected)"),
    ],
    "unrecognized key": [
        said(f"Unrecognized key(s) in object: '{KEY}'"),
        {"errors": [{"path": [], "message": f'Unrecognized keys: "store", "{KEY}"'}]},
        {"success": False, "error": {"issues": [ZOD], "name": "ZodError"}},
        said(json.dumps([ZOD], indent=2)),
    ],
    "named in param": [said("x", param=KEY, code=None)],
    "invalid value": [said(f"Invalid '{KEY}': string too long. Expected at most 64, got 159.")],
    "extraneous key": [
        said(f"Malformed input request: {BEDROCK}"),
        {"message": f"The model returned the following errors: {BEDROCK}"},
        {"message": f"#: required key [a] not found#/b: required key [c] not found{BEDROCK}"},
        {"Message": BEDROCK},
    ],
    "unsupported by the provider": [
        said(f"{LITELLM}: ['{KEY}'], for model=x. To drop these, set `litellm.drop_params=True`"),
        said(f"{LITELLM}: [{KEY}], for model=accounts/fireworks/models/kimi-k3"),
    ],
    "not supported": [
        said(f"{KEY} is not supported on this model"),
        said(f"The parameter '{KEY}' is not supported"),
        {"detail": f"'{KEY}' is not supported for anthropic"},
        said(f"feature '{KEY}' is not currently supported"),
    ],
}
FORMS = pytest.mark.parametrize(
    ("error", "form"),
    [(error, form) for form, errors in REJECTIONS.items() for error in errors],
    ids=str,
)

# LiteLLM's router, without and with fallbacks, and where they failed as well.
ROUTER = ". Received Model Group=gpt-5.6\nAvailable Model Group Fallbacks=None"
FALLBACKS = "No fallback model group found for original model_group=gpt-5.6. Fallbacks="
FAILED = f"{ROUTER}\nError doing the fallback: litellm.RateLimitError: XException - later"
# What gateways and SDKs make of an upstream's message, or of its whole body.
WRAPPED = [
    "%s",
    "%s (request id: 20260101) (request id: 20260102)",
    "%s Request id: 0217641234567890abcdef",
    "%s (reset after 30s)",
    "[openai-compatible-ce56549/gpt-5.6] [400]: %s (reset after 30s)",
    "litellm.BadRequestError: OpenAIException - %s",
    "litellm.BadRequestError: VertexAIException BadRequestError - %s. Received Model Group=x\ny",
    f"litellm.BadRequestError: BedrockException - %s{ROUTER}",
    f"litellm.BadRequestError: BedrockException - %s{FALLBACKS}[{{'*': ['a', 'b']}}]{ROUTER}",
    f"litellm.BadRequestError: BedrockException - %s. {FALLBACKS}{{'*': 'None'}}{ROUTER}",
    f"litellm.BadRequestError: AnthropicException - %s{FAILED}",
    "litellm.BadRequestError: XException - %s"
    f"{ROUTER} LiteLLM Retried: 2 times, LiteLLM Max Retries: 3",
    "litellm.ServiceUnavailableError: litellm.MidStreamFallbackError: litellm.BadRequestError: "
    f"AnthropicException - %s Original exception: BadRequestError: litellm.X{ROUTER}",
    "Upstream request failed: [invalid_request_error] %s",
    "Provider my-1 returned 400: invalid_request_error: %s | Upstream: {}",
    "Error from provider(x,model: 400): %s",
    "Error from provider: %s",
    "Error from provider: [p/m] [400]: 400: Upstream error: %s (reset after 3s) (request id: 2026)",
    "upstream returned 400: %s",
    "The model returned the following errors: %s",
    "An error occurred (ValidationException) when calling the InvokeModel operation: %s",
    "error, status code: 400, status: 400 Bad Request, message: %s",
    "Request failed with status code 400: %s",
    "API Error: 400 %s",
    "HTTP 400 Bad Request: %s. Please retry after 3 seconds.",
    "openai error: %s, status code: 400",
    "400: %s",
]
PYTHON = [
    "Error code: 400 - {'error': {'message': \"%s\", 'type': 'x', 'param': 'y'}}",
    "Error code: 400 - {'type': 'error', 'error': {'type': 'x', 'message': '%s'}, 'y': 'z'}",
    "Error code: 400 - {'error': {'message': '%s', 'param': None, 'x': (True, False, ())}}",
    "BadRequestError(\"Error code: 400 - {'error': {'message': '%s', 'code': 400}}\")",
    "BadRequestError('%s')",
]
ECHO = {"model": "m", KEY: "k", "param": KEY, "messages": [{"content": QUOTE}]}

# Errors that name the field and do not reject it.
LOOKALIKES: list[Any] = [
    detail(type="missing", loc=["body", "messages"], msg="Field required", input=ECHO),
    detail(type="missing", msg="Field required"),
    detail(loc=["body", "messages", 0, KEY]),
    detail(loc=["body", "tools", 0, "function", "parameters", KEY]),
    detail(loc=["query", "x"], ctx=FORBIDDEN),
    detail(loc=f"body.{KEY}"),
    detail(loc=[]),
    said("bad request") | {"request": ECHO, "body": json.dumps(ECHO)},
    said(f"context too long; consider {KEY}", param="messages"),
    said("x", param=KEY, code="missing_required_parameter"),
    said("x", param=[KEY], code={KEY: 1}),
    said(f"Your input was flagged: {QUOTE}"),
    said(f'Your input "{QUOTE}" was flagged'),
    said(f'"{QUOTE}"'),
    said(f"{QUOTE} was flagged as unsafe"),
    said(f"Unsupported parameter: {KEY} is not supported, said the user"),
    said(f"{QUOTE}\n\nwas flagged as unsafe"),
    said(f"litellm.ContentPolicyViolationError: AzureException - flagged: {QUOTE}"),
    said(f"litellm.BadRequestError: '{QUOTE}' was flagged"),
    said(f"Error code: 400 - {{'error': {{'message': 'flagged: {QUOTE}'}}}}"),
    said(f'flagged: {{"error": {{"message": "{QUOTE}"}}}}'),
    said(f'{{"error": {{"message": "{QUOTE}"}}}} was flagged'),
    said(f"Invalid function name: set_{KEY}"),
    said(f"tools.0.{KEY}: Extra inputs are not permitted"),
    said(f"messages.0.content.0.{KEY}: Extra inputs are not permitted"),
    said(f"set_{KEY}: Extra inputs are not permitted"),
    said(f"{KEY}_2: Extra inputs are not permitted"),
    said(f"Unsupported parameter(s): `{KEY}_2`, `set_{KEY}`"),
    said(f"Unsupported parameter: 'max_tokens'. Use '{KEY}' instead."),
    said(f"'messages.0': property '{KEY}' is unsupported"),
    said(f"Unknown name \"{KEY}\" at 'contents[0].parts[0]': Cannot find field."),
    said(f"#/messages/0: extraneous key [{KEY}] is not permitted"),
    said(f"#/messages/0: extraneous key [{KEY}] is not permitted, please reformat your input"),
    {"issues": [ZOD | {"path": ["messages", 0, "content", 1]}]},
    {"cause": ECHO, "responseBody": json.dumps(ECHO), "Message": f"flagged: {QUOTE}"},
    {"requestBodyValues": ECHO, "responseBody": json.dumps({"choices": [{"message": QUOTE}]})},
    {
        "type": "response.failed",
        "response": {"output": [said(QUOTE)], "input": QUOTE, "error": None},
    },
    {"type": "response.created", "response": said(QUOTE)},
    said(f"2 validation errors:{MISSING}".replace("{'a': 'b'}", repr(f"{FASTAPI}{SOURCE}"))),
    said(f"1 validation error:{FASTAPI}".replace(UUID, "what a user wrote")),
    said(f"1 validation error:{FASTAPI}\nwas flagged"),
    said(f"1 validation error:{FASTAPI}".replace("('body', ", "('body', 'messages', 0, ")),
    said(f"feature '{KEY}' is not currently supported, said the user"),
    # the request repeated
    said("bad request", request=ECHO, input=ECHO, body=ECHO, ctx={"error": QUOTE}),
    said("flagged", metadata={"flagged_input": QUOTE, "message": QUOTE, "error": said(QUOTE)}),
    said(json.dumps(ECHO)),
    said(repr(ECHO)),
    said(f"could not parse {json.dumps(said(QUOTE))}"),
    {"detail": "bad", "input": said(QUOTE), "requestBodyValues": said(QUOTE)},
    {"choices": [{"message": {"content": json.dumps(said(QUOTE))}}]},
    # a user, a tool or a model quoted
    said(f"Invalid prompt: {QUOTE}"),
    said(f"Your message '{QUOTE}' was blocked"),
    said(f"Tool error: {QUOTE}"),
    said(f"ToolExecutionError: {QUOTE}"),
    said(f"ContentFilterException - {QUOTE}"),
    said(f"ContentFilterError('{QUOTE}')"),
    said(f"Model output: {QUOTE}"),
    said(f"[p/m] [400]: Your input was flagged: {QUOTE} (reset after 30s)"),
    said(f"{QUOTE} (he said)"),
    said(f"{QUOTE} (request id: what is that?)"),
    said(f"{QUOTE}. Received Model Group=x was flagged"),
    said(f"{QUOTE}. {FALLBACKS}[1] was flagged"),
    said(f"{QUOTE} Original exception: said the user"),
    said(f"{QUOTE} | Upstream: rejected"),
    said(f"b'{QUOTE}' was flagged"),
    said(f"b'{QUOTE}"),
    said(f"(400) what is {QUOTE}"),
    said(f"Unsupported parameter: set_{KEY} (reset after 30s)"),
    said(f"[user] {QUOTE}"),
    said(f"[INST] {QUOTE}"),
    said(f"[what the user said] {QUOTE}"),
    {"error": {"message": "flagged", "details": [{"role": "user", "message": QUOTE}]}},
    # about something inside the request
    detail(loc=["body", "messages", 0, "content"], type="value_error", msg=QUOTE),
    {"errors": [{"message": QUOTE, "path": ["messages", 0]}]},
    said(QUOTE, param="messages[0].content"),
    said(QUOTE, param="input"),
    # names of other fields, tools, places
    said(f"Invalid tool name '{KEY}'"),
    said(f"tools.0.name: '{KEY}' is not supported"),
    said(f"messages[0]: unknown field `{KEY}`, expected `role`"),
    said(f'json: unknown field "{KEY}_2"'),
    said(f'json: cannot unmarshal "{KEY}" into Go value'),
    {"errors": [{"path": ["messages", 0], "message": f"Unrecognized key(s) in object: '{KEY}'"}]},
    said(f"{PERMITTED}, field: 'user', value: '{KEY}'"),
    said(f"{PERMITTED}, field: 'messages.0.{KEY}', value: '{UUID}'"),
    said(f"{PERMITTED}, field: '{KEY}', value: 'what a user wrote'"),
    said(f"{PERMITTED}, field: '{KEY}', value: '{UUID}' was flagged"),
    said(f"{PERMITTED}, field: 'x', value: \"{FIREWORKS}\""),
    said(f"{PERMITTED}, field: 'x', value: \"a; {FIREWORKS}\""),
    said(f"1 validation error for X\nx\n  Value error, no\n{KEY}\n  {PERMITTED} [type=x]"),
    # hints
    said(f"cache is full; {KEY} is not supported"),
    said(f"{KEY} is not supported without a subscription"),
    said(f"rate limited, use {KEY}"),
    said(f"Missing required parameter: '{KEY}'."),
    said(f"rate limited; {KEY} is not supported by your plan"),
    said(f"1 validation error for X\nmessages\n  Value error, {KEY}\n  {PERMITTED}"),
]


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


@FORMS
def test_a_known_form_is_a_rejection_whatever_the_status(error: Any, form: str) -> None:
    for status in (400, 404, 422, 429, 500, 503):
        assert rejection(status, body(error)) == form
        assert rejection(status, json.dumps(error, indent=2).encode("utf-8-sig")) == form
    for status in (100, 204, 301, 304, 600):
        assert rejection(status, b'"error": ' + body(error)) == ""
    assert rejection(400, body(error), "prompt_cache") == ""
    assert rejection(400, body(error).replace(KEY.encode(), b"store_x"), "store_x") == form


@pytest.mark.parametrize("wrapper", WRAPPED)
@FORMS
def test_rejections_in_a_gateways_message(error: Any, form: str, wrapper: str) -> None:
    inner = json.dumps(error)
    assert rejection(400, body(said(wrapper % inner))) == form
    assert rejection(400, body(said(wrapper % repr(json.dumps(error, indent=1).encode())))) == form
    assert rejection(400, body(said(wrapper % repr(error)))) == form
    assert rejection(400, (wrapper % inner).encode()) == form
    assert rejection(503, body(wrapper % inner)) == form
    provider = {"error": {"message": "Provider returned error", "metadata": {"raw": inner}}}
    assert rejection(400, body(provider)) == form


@pytest.mark.parametrize("outer", WRAPPED)
def test_wrappers_nest_in_any_order(outer: str) -> None:
    for wrapper in WRAPPED:
        for inner in (BEDROCK, json.dumps({"message": BEDROCK})):
            error = said(wrapper % inner)
            assert rejection(503, body(said(outer % json.dumps(error)))) == "extraneous key"
            assert rejection(400, body(said(outer % repr(error)))) == "extraneous key"


# How a stream frames an error.
FRAMES = [
    "data: %s\n\n",
    "event: error\ndata: %s\n\n",
    "event: error\ndata:%s",
    ": wait\n\nevent: ping\ndata: {}\n\ndata: %s\n\ndata: [DONE]\n\n",
    "data: %s\ndata: [DONE]\n\n",
    "data: %sdata: [DONE]\n\n",
    "data:%s[DONE]",
    "\ufeffdata: %s\r\n\r\n",
    "id: 1\ndata: %s\n\n",
]


@pytest.mark.parametrize("frame", FRAMES)
@FORMS
def test_rejections_as_an_event(error: Any, form: str, frame: str) -> None:
    inner = json.dumps(error)
    assert rejection(400, (frame % inner).encode()) == form
    wrapped = json.dumps({"type": "error", "error": {"message": f"Error from provider: {inner}"}})
    for status in (200, 201, 400, 503):
        assert rejection(status, (frame % wrapped).encode()) == form


@pytest.mark.parametrize(
    "error",
    [
        said(GO),
        {"error": GO},
        {"type": "error", "code": None, "message": GO, "param": None},
        {"type": "response.failed", "response": {"error": {"code": "x", "message": GO}}},
        {"choices": [], "error": {"message": GO, "code": 400}},
        [said(GO)],
        {"type": "response.failed", "response": said(GO)},
    ],
    ids=repr,
)
def test_an_error_with_a_status_of_success_counts_by_its_structure(error: Any) -> None:
    assert rejection(200, body(error)) == "unknown field"
    assert rejection(200, json.dumps(error, indent=1).encode()) == "unknown field"
    lines = [body({"created": 1}), body(error), body({"done": True})]
    for content in (lines[1:], lines):
        assert rejection(200, b"\n".join(content)) == "unknown field"
        assert rejection(200, b"\n".join(content) + b'\n{"created"') == "unknown field"
    pretty = json.dumps(error, indent=1).encode().splitlines()
    assert rejection(200, b"".join(b"data: %b\n" % line for line in pretty)) == "unknown field"
    assert rejection(200, b"data: " + body(error) + b"\n\n") == "unknown field"


@pytest.mark.parametrize(
    "value",
    [
        {"choices": [{"message": {"role": "assistant", "content": json.dumps(said(GO))}}]},
        {"choices": [{"message": {"content": GO}}], "error": None, "prompt_cache_key": "k"},
        {"choices": [{"delta": {"content": GO}, "error": said(GO)}]},
        {"output": [said(GO), {"type": "error", "message": GO}], "error": None},
        {"type": "message", "content": [{"type": "text", "text": GO}, said(GO)]},
        {"type": "content_block_delta", "delta": {"text": f'"error": {json.dumps(said(GO))}'}},
        {"type": "response.failed", "response": None, "message": GO},
        {"type": "response.created", "response": said(GO), "message": GO},
        {"message": GO, "detail": GO, "x": {"error": {}}},
        [[said(GO)], GO],
        GO,
        f'{{"error": "{GO}"}}',
    ],
    ids=repr,
)
def test_a_completion_that_quotes_an_error_is_no_rejection(value: Any) -> None:
    for content in (body(value), b"data: " + body(value) + b"\n\n", b'"error":{ ' + body(value)):
        assert rejection(200, content) == ""
    assert rejection(200, GO.encode() + b'"error": ""') == ""


def test_a_rejection_far_behind_the_beginning_of_a_stream_is_not_looked_for() -> None:
    event = b"data: " + body(said(GO)) + b"\n\n"
    assert rejection(200, event + b"data: {}\n\n" * 20_000) == "unknown field"
    assert rejection(200, b"data: {}\n\n" * 20_000 + event) == ""


def test_python_bytes() -> None:
    inner = '{"error":\n {"x": "é \'quoted\' \\"x\\" \\\\n", "message": "KEY"}}'
    inner = inner.replace("KEY", f"{KEY}: extra fields not permitted")
    assert repr(inner.encode()).startswith("b'")
    assert rejection(400, body(said(f"litellm.XError: {inner.encode()!r}"))) == EXTRA


@pytest.mark.parametrize("wrapper", WRAPPED + PYTHON)
def test_messages_in_a_gateways_message(wrapper: str) -> None:
    for message in (f"{KEY}: Extra inputs are not permitted", f"Unsupported parameter: {KEY}"):
        assert rejection(400, body(said(wrapper % message)))
        assert rejection(400, (wrapper % message).encode())


@pytest.mark.parametrize("error", LOOKALIKES, ids=str)
def test_errors_that_name_the_field_for_another_reason_are_no_rejections(error: Any) -> None:
    inner = json.dumps(error)
    for status in (200, 400, 422, 503):
        assert rejection(status, inner.encode()) == ""
        assert rejection(status, body(inner)) == ""
        for frame in FRAMES:
            assert rejection(status, (frame % inner).encode()) == ""
    for wrapper in WRAPPED:
        for wrapped in (inner, repr(error), repr(inner.encode())):
            assert rejection(400, body(said(wrapper % wrapped))) == ""
            assert rejection(400, (wrapper % wrapped).encode()) == ""


def test_a_member_of_the_field_is_the_field() -> None:
    member = "prompt_cache_options.comparison_response_id"
    error = {"error": {"message": f"Unknown parameter: '{member}'.", "param": member}}
    for value in (error, said(f"Unknown parameter: '{member}'.")):
        assert rejection(400, body(value), "prompt_cache_options")
        assert rejection(400, body(value)) == ""


def test_the_value_that_an_error_repeats_has_to_be_the_addons() -> None:
    values = {
        f"'{UUID}'": KEY,
        "{'comparison_response_id': 'resp_68a1b2.c-d'}": "prompt_cache_options",
    }
    for value, field in values.items():
        error = said(f"{PERMITTED}, field: '{field}', value: {value}")
        assert rejection(400, body(error), field) == EXTRA
    for value in ("'me'", f"{UUID}", f"'{UUID} was flagged'", "{'comparison_response_id': 'a b'}"):
        error = said(f"{PERMITTED}, field: '{KEY}', value: {value}")
        assert rejection(400, body(error)) == ""


def fill(piece: str, length: int = 60_000) -> str:
    return (piece * (length // len(piece) + 1))[:length]


HOSTILE = [
    b"",
    KEY.encode(),
    b"\xff\x00" + KEY.encode(),
    b'{"error": ' + KEY.encode(),
    b'["' + KEY.encode() + b'", ' + b"[" * 60_000,
    b'{"error": ' * 6_000 + b'"' + KEY.encode(),
    b'{"error": ' * 500 + body(UNKNOWN) + b"}" * 500,
    body([KEY, 1, None, True, [[]], {"error": None}, {"loc": {}, "param": 1}]),
    body([KEY] + [said("x")] * 3000),
    body([[[[KEY]] * 9] * 9] * 9),
    body(said(QUOTE + ", a" * 5000)),
    body(said("litellm." * 500 + QUOTE)),
    body(said("Error: " * 580 + QUOTE)),
    body(said("400: " * 800 + "`a`, " * 9 + KEY)),
    body(said(QUOTE + " (reset after 1s)" * 800)),
    body(said(QUOTE) | {"input": "x" * (64 << 10)}),
    b"b'" + b"\\" * 4001 + KEY.encode() + b"'",
    b"b'[" + b"1" * 5000 + KEY.encode(),
    *(f"{KEY}{fill(piece)}".encode() for piece in ["[", "(reset ", "request id ", "| Upstream: {"]),
    *(
        f"{fill(piece)}{KEY}".encode()
        for piece in ["a", "a.", "upstream ", "x_error ", "error (a) "]
    ),
    ("{'" + KEY + fill("\\'\\'\"") + "}").encode(),
    ("{'" + KEY + "': " + fill("(", 4000) + "}").encode(),
    ("{" + fill("'a': None, ", 5000) + f"'{KEY}'}}").encode(),
    body({"error": [f"{{{fill(chr(39) + 'a' + chr(39) + ',', 5000)}{KEY}}}"] * 10}),
    f'data: {{"error": "{KEY}"}}\n\n'.encode() * 2000,
    f"data: x {KEY}\n".encode() * 3000,
    f'{{"x":{"9" * 5000},"error":"x {KEY}"}}'.encode(),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_errors(content: bytes) -> None:
    for status in (200, 400):
        assert rejection(status, content) == ""


def test_only_small_errors_are_looked_at() -> None:
    error = body(said(QUOTE))
    assert rejection(400, error.ljust(MAX_SIZE)) == "unsupported parameter"
    assert rejection(400, error.ljust(MAX_SIZE + 1)) == ""


MARKS = ["'", '"', "b'", "{", "}", "[", "\\", "400: ", "Error: ", ", ", "\n"]
WORDS = st.sampled_from([KEY, QUOTE, UNKNOWN, GEMINI, *MARKS])
NAMES = st.sampled_from(["error", "message", "detail", "loc", "param", "code", "type", "raw"])
ERRORS = st.recursive(
    st.lists(WORDS).map("".join) | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@given(ERRORS, st.integers(0, 60), st.binary(max_size=3))
def test_nothing_raises(error: Any, place: int, noise: bytes) -> None:
    content = body([KEY, error])
    assert isinstance(rejection(400, content), str)
    assert isinstance(rejection(400, content[:place] + noise + content[place:]), str)
