import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.rejections.forms import rejection

KEY = "prompt_cache_key"
EXTRA = "extra inputs are not permitted"
PERMITTED = "Extra inputs are not permitted"
QUOTE = f"Unsupported parameter(s): {KEY}"
UNKNOWN = f"Unknown parameter: '{KEY}'."
GEMINI = f'Invalid JSON payload received. Unknown name "{KEY}": Cannot find field.'
BEDROCK = "please reformat your input and try again."
LITELLM = "litellm.UnsupportedParamsError: groq does not support parameters"
FORBIDDEN = {"type": "extra_forbidden", "loc": ["body", KEY], "msg": PERMITTED}


def said(message: Any, **members: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None} | members}


def detail(**members: Any) -> dict[str, Any]:
    return {"detail": [FORBIDDEN | members]}


# Each form as it was seen, and what the error is called.
REJECTIONS: dict[str, list[Any]] = {
    EXTRA: [
        said(f"{KEY}: {PERMITTED}") | {"type": "error"},
        {"message": f"{KEY}: {PERMITTED}"},
        said(
            f"1 validation error for X\n{KEY}\n  {PERMITTED} [type=extra_forbidden, input_value=1]"
        ),
        said(
            f"[{{'type': 'extra_forbidden', 'loc': ('body', '{KEY}'), 'msg': '{PERMITTED}', 'x'}}]"
        ),
        detail(input="k"),
        detail(type="value_error.extra", loc=["body", "Chat", KEY]),
        {"detail": [{"type": "x", "loc": ["body", "messages"]}, FORBIDDEN]},
        {"object": "error", "message": detail()},
    ],
    "named in loc": [detail(type="string_type", loc=["body", KEY, "str"], msg="x")],
    "unknown name": [
        [{"error": {"code": 400, "message": GEMINI, "status": "INVALID_ARGUMENT"}}],
        said("x") | {"details": [{"fieldViolations": [{"description": GEMINI}]}]},
    ],
    "property is unsupported": [
        said(f"property '{KEY}' is unsupported"),
        said(f"body.{KEY}: property 'body.{KEY}' is unsupported"),
    ],
    "unsupported parameter": [
        {"detail": f"Unsupported parameter(s): `{KEY}`", "status": 400},
        said(f"Validation: Unsupported parameter(s): `store`, `{KEY}`, `user`"),
        {"detail": f"Unsupported parameter: {KEY}"},
        said(f"Unsupported parameter: '{KEY}' is not supported with this model."),
    ],
    "unrecognized request argument": [
        said(f"Unrecognized request argument supplied: {KEY}"),
        said(f"Unrecognized request arguments supplied: {KEY}, store"),
    ],
    "unknown parameter": [said(UNKNOWN), said(UNKNOWN, param=KEY, code="unknown_parameter")],
    "named in param": [said("x", param=KEY, code=None)],
    "invalid value": [said(f"Invalid '{KEY}': string too long. Expected at most 64, got 159.")],
    "extraneous key": [
        said(f"Malformed input request: #: extraneous key [{KEY}] is not permitted, {BEDROCK}")
    ],
    "unsupported by the provider": [
        said(f"{LITELLM}: ['{KEY}'], for model=x. To drop these, set `litellm.drop_params=True`")
    ],
    "not supported": [said(f"{KEY} is not supported on this model")],
}
FORMS = pytest.mark.parametrize(
    ("error", "form"),
    [(error, form) for form, errors in REJECTIONS.items() for error in errors],
    ids=str,
)

# What gateways and SDKs make of an upstream's message, or of its whole body.
WRAPPED = [
    "%s",
    "%s (request id: 20260101) (request id: 20260102)",
    "litellm.BadRequestError: OpenAIException - %s",
    "litellm.BadRequestError: VertexAIException BadRequestError - %s. Received Model Group=x\ny",
    "Upstream request failed: [invalid_request_error] %s",
    "Provider my-1 returned 400: invalid_request_error: %s | Upstream: {}",
    "Error from provider(x,model: 400): %s",
    "400: %s",
]
PYTHON = [
    "Error code: 400 - {'error': {'message': \"%s\", 'type': 'x', 'param': 'y'}}",
    "Error code: 400 - {'type': 'error', 'error': {'type': 'x', 'message': '%s'}, 'y': 'z'}",
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
    said(f"rate limited; {KEY} is not supported by your plan"),
    said(f"1 validation error for X\nmessages\n  Value error, {KEY}\n  {PERMITTED}"),
]


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


@FORMS
def test_rejections(error: Any, form: str) -> None:
    for status in (400, 422):
        assert rejection(status, body(error)) == form
        assert rejection(status, json.dumps(error, indent=2).encode("utf-8-sig")) == form
    for status in (200, 401, 404, 413, 429, 500):
        assert rejection(status, body(error)) == ""
    assert rejection(400, body(error), "prompt_cache") == ""
    assert rejection(400, body(error).replace(KEY.encode(), b"store_x"), "store_x") == form


@pytest.mark.parametrize("wrapper", WRAPPED)
@FORMS
def test_rejections_in_a_gateways_message(error: Any, form: str, wrapper: str) -> None:
    inner = json.dumps(error)
    assert rejection(400, body(said(wrapper % inner))) == form
    assert rejection(400, body(said(wrapper % repr(json.dumps(error, indent=1).encode())))) == form
    assert rejection(400, (wrapper % inner).encode()) == form
    assert rejection(
        400, body({"error": {"message": "Provider error", "metadata": {"raw": inner}}})
    )


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
def test_lookalikes(error: Any) -> None:
    for status in (400, 422):
        assert rejection(status, body(error)) == ""
        for wrapper in WRAPPED:
            assert rejection(status, body(said(wrapper % json.dumps(error)))) == ""


def test_a_member_of_the_field_is_the_field() -> None:
    member = "prompt_cache_options.comparison_response_id"
    error = {"error": {"message": f"Unknown parameter: '{member}'.", "param": member}}
    for value in (error, said(f"Unknown parameter: '{member}'.")):
        assert rejection(400, body(value), "prompt_cache_options")
        assert rejection(400, body(value)) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        KEY.encode(),
        b"\xff\x00" + KEY.encode(),
        b'{"error": ' + KEY.encode(),
        b'["' + KEY.encode() + b'", ' + b"[" * 200_000,
        b'{"error": ' * 100_000 + b'"' + KEY.encode(),
        b'{"error": ' * 500 + body(UNKNOWN) + b"}" * 500,
        body([KEY, 1, None, True, [[]], {"error": None}, {"loc": {}, "param": 1}]),
        body([KEY] + [said("x")] * 9000),
        body(said(QUOTE + ", a" * 5000)),
        body(said("litellm." * 500 + QUOTE)),
        body(said("Error: " * 580 + QUOTE + "!")),
        body(said("400: " * 800 + "`a`, " * 9 + KEY)),
        body(said(QUOTE) | {"input": "x" * (256 << 10)}),
        b"b'" + b"\\" * 4001 + KEY.encode() + b"'",
        b"b'[" + b"1" * 5000 + KEY.encode(),
    ],
    ids=range(16),
)
def test_hostile_errors(content: bytes) -> None:
    assert rejection(400, content) == ""


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
