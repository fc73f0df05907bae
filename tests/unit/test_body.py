import json
import re
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.recordings import records
from prompt_cache_key.body import (
    ABSENT,
    MAX_MARKS,
    MAX_MEMBERS,
    MAX_PARSED,
    MEMBER_SIZE,
    NAME,
    Body,
    elements,
    members,
    reading,
)

NAMES = ("model", "metadata", "user", "own_key")
KEY = "0d2c1f6e-7b58-4a39-9c40-5e6f7a8b9c0d"
MEMBER = f'"{NAME}":"{KEY}"'
BOM = "\ufeff"
NINES = "9" * 5000
UNREADABLE = r"^the body is not JSON in UTF-8$"


def read(body: Body) -> dict[str, Any]:
    return {name: getattr(body, name) for name in NAMES}


def expected(value: dict[str, Any]) -> dict[str, Any]:
    """What has to be read of an object that `json` has read whole."""
    model = value.get("model")
    return {
        "model": model if isinstance(model, str) else "",
        "metadata": value.get("metadata"),
        "user": value.get("user"),
        "own_key": value.get(NAME, ABSENT),
    }


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        " { } ",
        f'{BOM} \r\n{{\t"model" : "größe ✓ 😀" , "user" :\n"u" }} \n',
        r'{"model":"a\u0062\"c","user":"\ud83d"}',
        '{"model":null,"metadata":true,"user":[1,{"user":2}],"prompt_cache_key":{}}',
        '{"x":{"model":"m","prompt_cache_key":"k","metadata":1},"y":[{"user":"u"}],"role":"user"}',
        '{"MODEL":"m","models":"m"}',
        '{"model":"m","messages":[{"a":1,"metadata":{"user_id":"no"}}]}',
        '{"model":"m","messages":[{"a":1,"metadata":2}],"metadata":{"user_id":"u"},"z":[]}',
        '{"model":"m","metadata":{"user_id":"u"},"tools":[{"a":1,"metadata":2}]}',
        '{"model":"m", "metadata":{"user_id":"u"}}',
        '{"metadata":{"a":1,"metadata":2}}',
        r'{"model":"m","x":",\"metadata\":{}}","y":"\"user\":1"}',
        '{"prompt_cache_key":"k","user":NaN,"model":-1e400}',
        f'{{"model":"m","user":-{"9" * 4000},"prompt_cache_key":"k"}}',
        '{"model":"m","model":"m","user":"a","user":"b","metadata":1,"metadata":2}',
    ],
)
def test_reads_what_json_reads(text: str) -> None:
    found = read(Body(text.encode()))
    assert repr(found) == repr(expected(json.loads(text.removeprefix(BOM))))


def test_reads_numbers_of_any_length() -> None:
    assert Body(f'{{"user":{NINES}}}'.encode()).user == float("inf")


@pytest.mark.parametrize(
    ("value", "has_key"),
    [
        *[(blank, False) for blank in ("null", '""', r'" \t\n\u00a0"')],
        *[(key, True) for key in ('"k"', '" k "', '"null"', "0", "false", "NaN", "[]", "{}")],
    ],
)
def test_blank_and_null_are_no_key(value: str, has_key: bool) -> None:
    assert Body(f'{{"prompt_cache_key":{value}}}'.encode()).has_key is has_key
    assert not Body(f'{{"x":{{"prompt_cache_key":{value}}}}}'.encode()).has_key
    assert Body(f'{{"prompt_cache_key":"k","x":{value}}}'.encode()).has_key


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", BOM, "null", "1", '"{}"', "[]", "[{}]", "{", "}", "{} x", "{}\0", "\0{}"],
        *["\v{}", "\xa0{}", f" {BOM}{{}}", f"{BOM}{BOM}{{}}"],
        *[b"\xff{}", b"{}\xff", b"\x1f\x8b\x08{}"],
        *["{}".encode(coding) for coding in ("utf-16", "utf-16-le", "utf-32")],
    ],
)
def test_refuses_what_is_no_object(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^the body is not a JSON object$"):
        Body(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "raw",
    [
        *[b"{a:1}", b"{'model':1}", b'{"model"}', b'{"model":"m}', b'{"model":"\xff"}', b"{}{}"],
        *[b'{"model":"\xed\xa0\xbd"}', b'{"model":"\n"}', b'{"x":1 "model":"m"}'],
        *[b'{"x":01}', b'{"x":1,}'],
    ],
)
def test_tells_nothing_of_what_cannot_be_read(raw: bytes) -> None:
    body = Body(raw)
    for ask in (lambda: body.model, lambda: body.whole):
        with pytest.raises(ValueError, match=UNREADABLE):
            ask()


def test_a_body_of_which_too_much_is_to_be_parsed() -> None:
    long = Body(b'{"x":"' + b"x" * MAX_PARSED + b'","metadata":{"user_id":"u"}}')
    assert long.metadata == {"user_id": "u"}
    many = Body(b'{"x":[' + b"0," * MAX_MARKS + b"0]}")
    for body, words in ((long, "MB"), (many, "values")):
        with pytest.raises(ValueError, match=words):
            _ = body.whole


def test_what_follows_the_metadata_deeper_inside() -> None:
    body = Body(b'{"a":{"x":1,"metadata":1}}')
    assert body.metadata is None


def test_what_is_not_asked_for_is_not_looked_at() -> None:
    body = Body(b'{"model":"m","x":[\xff,"metadata":{"user_id":"u"}}')
    assert read(body) == expected({"model": "m", "metadata": {"user_id": "u"}})
    assert body.with_key(KEY) == body.raw.replace(b"{", f"{{{MEMBER},".encode(), 1)
    assert body.has("x")
    assert not body.has("y")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_refuses_what_nests_absurdly_deep(opening: str, closing: str) -> None:
    deep = f"{opening * 100_000}1{closing * 100_000}"
    body = Body(f'{{"metadata":{deep},"prompt_cache_key":1}}'.encode())
    for ask in (lambda: body.model, lambda: body.metadata, lambda: body.with_key(KEY)):
        with pytest.raises(ValueError, match=r"^the body nests too deep$"):
            ask()


@pytest.mark.parametrize(
    ("text", "wants"), [('{"stream": true}', True), ('{"stream":false}', False), ("{}", False)]
)
def test_whether_a_stream_is_asked_for(text: str, wants: bool) -> None:
    assert Body(text.encode()).wants_stream is wants


# --- putting the key in -------------------------------------------------------------------------


def test_member_size() -> None:
    assert len(f"{MEMBER},") == MEMBER_SIZE


@pytest.mark.parametrize(
    "text",
    [
        f"{BOM}\r\n{{@\r\n\t}} \n",
        ' {@, "model" : "m" } ',
        f'{BOM}{{@,"":""}}',
        '{@,"x":{"prompt_cache_key":"y"},"z":[{"prompt_cache_key":null}]}',
        r'{@,"x":"{\"prompt_cache_key\":\"y\"}"}',
        '{@,"Prompt_Cache_Key":"y","prompt_cache_keys":"y"}',
        '{@,"x":1E400,"y":-0.0,"z":-0,"u":1.0000,"v":NaN,"w":[-Infinity]}',
        f'{{@,"x":{NINES},"y":{{"prompt_cache_key":1}}}}',
        r'{@,"x":"\ud83d\u0041\/ü ✓ \u2028 😀"}',
    ],
)
def test_key_goes_in_after_the_opening_brace(text: str) -> None:
    raw = text.replace("@,", "").replace("@", "").encode()
    assert Body(raw).with_key(KEY) == text.replace("@", MEMBER).encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt_cache_key":@null@}',
        f'{BOM}\n{{\n\t"prompt_cache_key"\r\n:\r\n@"  "@ , "model":"m"\r\n}}\n',
        '{"prompt_cache_key":@"a"@,"model":"m","prompt_cache_key":@null@}',
        r'{"prompt_cache_key":@1@,"prompt\u005Fcache_key": @2@ }',
        '{"x":{"prompt_cache_key":"y"},"prompt_cache_key":@"a"@,"z":[{"prompt_cache_key":"y"}]}',
        '{"prompt_cache_key":@{"prompt_cache_key":"y"}@,"x":"prompt_cache_key","y":{}}',
        r'{"x":"\"prompt_cache_key\":\"y\"","prompt_cache_key":@"\"}\\"@}',
        f'{{"x":{NINES},"prompt_cache_key":@{NINES}@}}',
        r'{"ü":"\ud83d ✓ 😀","prompt_cache_key":@"\ud83d ✓ 😀"@,"y":NaN}',
    ],
)
def test_key_takes_the_place_of_each_value(text: str) -> None:
    raw = text.replace("@", "").encode()
    assert Body(raw).with_key(KEY) == re.sub(r"@.*?@", f'"{KEY}"', text).encode()


def test_no_key_is_replaced_among_too_many_members() -> None:
    body = b'{"prompt_cache_key":""%b}'
    assert Body(body % (b',"a":1' * (MAX_MEMBERS - 1))).with_key("k").count(b'"k"') == 1
    with pytest.raises(ValueError, match="too many members"):
        Body(body % (b',"a":1' * MAX_MEMBERS)).with_key("k")


def test_a_model_behind_much_white_space_is_found_by_the_parser() -> None:
    body = Body(b'{%b"model":"m"}' % (b" " * 1000))
    assert body.model == "m"
    assert body.with_key("k").startswith(b'{"prompt_cache_key":"k", ')


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("{}", r'{"prompt_cache_key":"k","a":{"b":"\u2713"}}'),
        (' {"x":1}', r' {"prompt_cache_key":"k","a":{"b":"\u2713"},"x":1}'),
        ('{"prompt_cache_key": ""}', r'{"a":{"b":"\u2713"},"prompt_cache_key": "k"}'),
    ],
)
def test_more_members(text: str, edited: str) -> None:
    assert Body(text.encode()).with_key("k", a={"b": "✓"}).decode() == edited


@pytest.mark.parametrize("text", ["{}", '{"prompt_cache_key":null}'])
@pytest.mark.parametrize("key", ['"', "\\", "}\n", "ü", "\ud83d", "\\1", "%s", ""])
def test_any_text_can_be_a_key(text: str, key: str) -> None:
    assert json.loads(Body(text.encode()).with_key(key)) == {NAME: key}


@pytest.mark.parametrize(
    ("name", "count"),
    [("claude_code", 82), ("translators", 50), ("countdown", 5), ("session_vectors", 156)],
)
def test_recorded_bodies(name: str, count: int) -> None:
    texts = [record["body"] for record in records(name) if record["body"].startswith("{")]
    assert len(texts) == count
    for text in texts:
        body = Body(text.encode())
        assert read(body) == expected(json.loads(text))
        edited = re.sub(rf'("{NAME}": ?)"(?:[^"\\]|\\.)*"', rf'\1"{KEY}"', text)
        if edited == text:
            edited = f"{{{MEMBER},{text[1:]}"
        assert body.with_key(KEY) == edited.encode()


# --- the parts of a text ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", []),
        ("x{ \n}", []),
        (r'{"a":1,"\u0062" : [2, {}] , "a":"}"}', [("a", "1"), ("b", "[2, {}]"), ("a", '"}"')]),
    ],
)
def test_members(text: str, found: list[tuple[str, str]]) -> None:
    assert [(name, text[start:end]) for name, start, end in members(text)] == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("[]", []), ("[ ]", []), ("[ 1 ,[2,3],{}\n]", ["1", "[2,3]", "{}"]), ("[1", ["1"])],
)
def test_elements(text: str, found: list[str]) -> None:
    text = f"x {text}"
    assert [text[start:end] for start, end in elements(text, 2)] == found


@pytest.mark.parametrize("text", ["", "{", "{1", '{"a"', '{"a" 1}', '{"a":', '{"a":1', '{"a":1 2}'])
def test_members_of_what_is_no_object(text: str) -> None:
    with pytest.raises(ValueError, match=UNREADABLE), reading():
        list(members(text))


# --- anything at all ----------------------------------------------------------------------------

TEXTS = st.text(st.characters())  # lone surrogates too: JSON can say them
TOP_NAMES = st.sampled_from(("model", "metadata", "user", NAME)) | TEXTS
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TOP_NAMES, values, max_size=3),
    max_leaves=6,
)
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,"]+', re.DOTALL)


def encoded(text: str) -> bytes:
    # As JavaScript does it: raw UTF-8, but for lone surrogates.
    return text.encode(errors="backslashreplace")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw an object in any notation, its members' names once and without needless escapes."""
    value = draw(st.dictionaries(TOP_NAMES, VALUES))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=(",", ":"))
    space = cycle(draw(st.just([""]) | st.lists(st.text(" \t\n\r", max_size=2), min_size=1)))
    tokens = "".join(next(space) + token for token in TOKEN.findall(text))
    return encoded(draw(st.sampled_from(["", BOM])) + tokens + next(space))


@given(bodies())
def test_of_any_object_a_glance_tells_what_the_whole_tells_and_the_key_alone_is_new(
    raw: bytes,
) -> None:
    whole = json.loads(raw.decode("utf-8-sig"))
    for name, value in expected(whole).items():
        assert repr(getattr(Body(raw), name)) == repr(value)  # each at a glance of its own
    edited = Body(raw).with_key(KEY)
    keyed = whole | {NAME: KEY} if NAME in whole else {NAME: KEY} | whole
    assert repr(json.loads(edited.decode("utf-8-sig"))) == repr(keyed)
    before, _, after = edited.partition(f'"{KEY}"'.encode())
    if NAME in whole:
        assert raw.startswith(before)
        assert raw.endswith(after)
    else:
        assert before.removesuffix(f'"{NAME}":'.encode()) + after.removeprefix(b",") == raw


PROBLEMS = "the body (is not a JSON object|is not JSON in UTF-8|nests too deep)"


@given(
    st.binary()
    | st.tuples(bodies(), st.integers(0, 99), st.integers(0, 3), st.binary(max_size=3)).map(
        lambda cut: cut[0][: cut[1]] + cut[3] + cut[0][cut[1] + cut[2] :]
    )
)
def test_of_anything_else_it_tells_something_or_raises_value_error(raw: bytes) -> None:
    try:
        body = Body(raw)
        assert isinstance(body.with_key(KEY), bytes)
        assert isinstance(read(body)["model"], str)
    except ValueError as e:
        assert re.fullmatch(PROBLEMS, str(e))  # noqa: PT017  # it may raise nothing


@pytest.mark.parametrize(
    ("raw", "wants_stream"),
    [
        (b'{"stream":true}', True),
        (b'{"stream" : false}', False),
        (b'{"model":"m"}', False),
        (b'{"stream":true,"tools":[{"properties":{"stream":{"type":"boolean"}}}]}', True),
        (b'{"a":{"stream":true},"stream":false}', False),
        (b'{"stream":true,"x":[%b""]}' % (b'"stream",' * 200), False),
    ],
    ids=["asked", "not asked", "missing", "a tool's parameter", "deeper", "too many to look at"],
)
def test_a_stream_is_asked_for_by_the_last_member_of_that_name(
    raw: bytes, wants_stream: bool
) -> None:
    assert Body(raw).wants_stream is wants_stream
