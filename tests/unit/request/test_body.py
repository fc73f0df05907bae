import importlib.util
import json
import re
import sys
from itertools import cycle
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lib.recordings import records
from prompt_cache_key.request import body as installed

NAME = "prompt_cache_key"
NAMES = ("model", "metadata", "user", NAME)
KEY = "0d2c1f6e-7b58-4a39-9c40-5e6f7a8b9c0d"
MEMBER = f'"{NAME}":"{KEY}"'
BOM = "\ufeff"
NINES = "9" * 5000
DEPTH = 100_000
NO_OBJECT = r"^the body is not a JSON object$"
TOO_DEEP = r"^the body nests too deep$"


def without_msgspec() -> ModuleType:
    spec = importlib.util.find_spec("prompt_cache_key.request.body")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "msgspec", None)
        spec.loader.exec_module(module)
    return module


# With msgspec, where that is installed, and without.
PARSERS = [installed, without_msgspec()]


@pytest.fixture(name="body", scope="module", params=PARSERS, ids=["installed", "json"])
def fixture_body(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_msgspec_is_used_where_it_is_installed() -> None:
    assert bool(installed._msgspec) == bool(importlib.util.find_spec("msgspec"))
    assert not PARSERS[1]._msgspec


def fields(body: Any, raw: bytes) -> dict[str, Any]:
    """What was read; the key only where there is one, numbers as floats: msgspec knows integers."""
    found = body.read(raw)
    values = {name: getattr(found, name) for name in NAMES}
    if values[NAME] is body.ABSENT:
        del values[NAME]
    as_floats: dict[str, Any] = loads(json.dumps(values))
    return as_floats


def loads(text: str) -> Any:
    # NaN too equals itself in it: json always gives the same one.
    return json.loads(text, parse_int=float)


def with_key(body: Any, raw: bytes) -> bytes:
    edited = body.with_key(raw, body.read(raw), KEY)
    assert isinstance(edited, bytes)
    return edited


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", {}),
        ('{"model":"m"}', {"model": "m"}),
        ('{"model":"m","metadata":{"user_id":"u"},"user":"v","prompt_cache_key":"k"}', None),
        ('{"model":null,"metadata":true,"user":[1,{"user":2}],"prompt_cache_key":{}}', None),
        ('{"prompt_cache_key":null}', None),
        ('{"MODEL":"m","x":{"model":"m","prompt_cache_key":"k"},"y":[{"user":"u"}]}', {}),
        ('{"model":"a","model":"b","user":"c","user":null}', {"model": "b", "user": None}),
        (r'{"mod\u0065l":"a","prompt\u005Fcache_key":"b"}', {"model": "a", NAME: "b"}),
        (r'{"model":"a","\u006dodel":"b"}', {"model": "b"}),
        (r'{"user":"\ud83d","x":"\ude00"}', {"user": "\ud83d"}),
        (r'{"user":"\ud83d\ude00 ✓ 😀"}', {"user": "😀 ✓ 😀"}),
        ('{"user":NaN,"model":-Infinity}', None),
        ('{"user":1E400,"model":-1e400}', {"user": float("inf"), "model": float("-inf")}),
        ('{"user":-0.0,"model":1e-999}', {"user": 0.0, "model": 0.0}),
        ('{"user":12345678901234567890123}', {"user": 12345678901234567890123.0}),
        (f'{{"user":{NINES}}}', {"user": float("inf")}),
        ('\r\n\t { "model" :\n"m"\t,\r"user": "u" } \n', {"model": "m", "user": "u"}),
        (f'{BOM} {{"model":"m"}}', {"model": "m"}),
    ],
)
def test_reads_the_fields(body: Any, text: str, found: dict[str, Any] | None) -> None:
    if found is None:
        found = loads(text)
    expected = {"model": None, "metadata": None, "user": None} | found
    assert fields(body, text.encode()) == expected


@pytest.mark.parametrize(
    ("member", "has_key"),
    [
        ("", False),
        ('"prompt_cache_key":null', False),
        ('"prompt_cache_key":""', False),
        (r'"prompt_cache_key":" \t\n\u00a0"', False),
        ('"prompt_cache_key":"k","prompt_cache_key":" "', False),
        ('"x":{"prompt_cache_key":"k"}', False),
        ('"prompt_cache_key":"k"', True),
        ('"prompt_cache_key":" k "', True),
        ('"prompt_cache_key":"null"', True),
        ('"prompt_cache_key":null,"prompt_cache_key":"k"', True),
        (r'"prompt\u005fcache_key":"k"', True),
        ('"prompt_cache_key":0', True),
        ('"prompt_cache_key":false', True),
        ('"prompt_cache_key":NaN', True),
        ('"prompt_cache_key":[]', True),
        ('"prompt_cache_key":{}', True),
    ],
)
def test_blank_and_null_are_no_key(body: Any, member: str, has_key: bool) -> None:
    assert body.read(f"{{{member}}}".encode()).has_key is has_key


OBJECT = '{"model":"m","x":{"y":["✓"]}}'
NO_OBJECTS = [
    "",
    " ",
    BOM,
    "null",
    "true",
    "1",
    "NaN",
    '"{}"',
    "[]",
    f"[{OBJECT}]",
    "{",
    "}",
    "{}}",
    "{}{}",
    "{} x",
    "{}\0",
    "\0{}",
    "\v{}",
    "\xa0{}",
    f" {BOM}{{}}",
    f"{BOM}{BOM}{{}}",
    "{a:1}",
    "{'a':1}",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    '{,"a":1}',
    '{"a":1 "b":2}',
    '{"a":01}',
    '{"a":1.}',
    '{"a":.5}',
    '{"a":+1}',
    '{"a":0x1}',
    '{"a":nul}',
    '{"a":nan}',
    '{"a":"\n"}',
    '{"a":"\x01"}',
    '{"a\x01":1}',
    r'{"a":"\x"}',
    r'{"a":"\u12"}',
    r'{"a":"\ud83d\u12"}',
    '{"a":[1,2}',
    '{"a":/**/1}',
]


@pytest.mark.parametrize("text", [*NO_OBJECTS, *(OBJECT[:end] for end in range(len(OBJECT)))])
def test_refuses_what_is_no_object(body: Any, text: str) -> None:
    with pytest.raises(ValueError, match=NO_OBJECT):
        body.read(text.encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'\xff{"model":"m"}',
        b'{"model":"m"}\xff',
        b'{"model":"\xff"}',
        b'{"\xff":"m"}',
        b'{"x":"\xff"}',
        b'{"x":{"y":["\xff"]}}',
        b'{"x":"\xc3"}',
        b'{"x":"\xe2\x28\xa1"}',
        b'{"x":"\xc0\xaf"}',
        b'{"x":"\xed\xa0\xbd"}',
        b'{"x":"\xf4\x90\x80\x80"}',
        OBJECT.encode("latin-1", "replace")[:-1] + b"\xa0}",
        OBJECT.encode("utf-16"),
        OBJECT.encode("utf-16-be"),
        OBJECT.encode("utf-16-le"),
        OBJECT.encode("utf-32"),
    ],
)
def test_refuses_what_is_no_utf8(body: Any, raw: bytes) -> None:
    with pytest.raises(ValueError, match=NO_OBJECT):
        body.read(raw)


@pytest.mark.parametrize("before", range(-4, 3))
@pytest.mark.parametrize("end", ['"}', '"}' + " " * installed._STEP])
def test_reads_large_bodies_of_any_text(body: Any, before: int, end: str) -> None:
    start = b'{"model":"m","x":"'
    start += b"a" * (installed._STEP + before - len(start))
    for character in "aé✓😀":
        whole = character.encode()
        assert body.read(start + whole + end.encode()).model == "m"
    for character in "é✓😀":
        cut = character.encode()[:-1]
        with pytest.raises(ValueError, match=NO_OBJECT):
            body.read(start + cut + end.encode())


@pytest.mark.parametrize("start", ["", '{"x":', '{"metadata":', '{"prompt_cache_key":'])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("closed", [True, False])
def test_refuses_what_nests_absurdly_deep(
    body: Any, start: str, opening: str, closing: str, closed: bool
) -> None:
    end = "1" + closing * DEPTH + "}" * bool(start) if closed else ""
    with pytest.raises(ValueError, match=TOO_DEEP):
        body.read(f"{start}{opening * DEPTH}{end}".encode())


# --- putting the key in -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{@}",
        "{@ }",
        "{@\r\n\t}",
        " \t\r\n{@} \n",
        f"{BOM}{{@}}",
        f"{BOM}\n{{@\n}}\n",
        '{@,"model":"m"}',
        '{@,\n  "model": "m"\n}\n',
        ' {@, "model" : "m" } ',
        f'{BOM}{{@,"model":"m"}}',
        '{@,"":""}',
        '{@,"model":"a","model":"b"}',
        '{@,"x":{"prompt_cache_key":"y"},"z":[{"prompt_cache_key":null}]}',
        r'{@,"x":"{\"prompt_cache_key\":\"y\"}"}',
        '{@,"Prompt_Cache_Key":"y","prompt_cache_keys":"y"}',
        '{@,"x":1E400,"y":-0.0,"z":-0,"u":1.0000,"v":1e-999}',
        f'{{@,"x":{NINES}}}',
        '{@,"x":NaN,"y":[Infinity,-Infinity]}',
        r'{@,"x":"\ud83d","\ude00":"\ud83d\ude00"}',
        r'{@,"x":"\u0041\/\b"}',
        '{@,"x":"ü ✓ \u2028 😀 \x7f"}',
    ],
)
def test_key_goes_in_after_the_opening_brace(body: Any, text: str) -> None:
    raw = text.replace("@,", "").replace("@", "").encode()
    assert with_key(body, raw) == text.replace("@", MEMBER).encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt_cache_key":@null@}',
        ' { "prompt_cache_key" : @""@ , "model":"m" } ',
        f'{BOM}\n{{\n\t"prompt_cache_key"\r\n:\r\n@"  "@\r\n}}\n',
        '{"model":"m","prompt_cache_key":@"user_a_account_"@}',
        r'{"prompt\u005fcache_key":@"old"@,"x":"\u0041"}',
        r'{"\u0070rompt_cache_ke\u0079" :@"old"@}',
        '{"prompt_cache_key":@"a"@,"model":"m","prompt_cache_key":@null@}',
        r'{"prompt_cache_key":@1@,"prompt\u005Fcache_key": @2@ ,"prompt_cache_key":@"3"@}',
        '{"x":{"prompt_cache_key":"y"},"prompt_cache_key":@"a"@,"z":[{"prompt_cache_key":"y"}]}',
        '{"prompt_cache_key":@{"prompt_cache_key":"y"}@,"x":"prompt_cache_key"}',
        '{"prompt_cache_key":@[ "prompt_cache_key",{"prompt_cache_key":null} ]@}',
        r'{"x":"\"prompt_cache_key\":\"y\"","prompt_cache_key":@"\"}\\"@}',
        '{"x":1E400,"y":-0.0,"prompt_cache_key":@-0.0e+5@,"z":NaN}',
        f'{{"x":{NINES},"prompt_cache_key":@{NINES}@}}',
        r'{"x":"\ud83d","prompt_cache_key":@"\ud83d"@,"y":"\ude00"}',
        '{"ü":"✓ 😀","prompt_cache_key":@"✓ 😀 \u2028"@,"x":"✓ \x7f"}',
        '{"prompt_cache_key":@NaN@}',
        '{"prompt_cache_key":@false@}',
    ],
)
def test_key_takes_the_place_of_each_value(body: Any, text: str) -> None:
    raw = text.replace("@", "").encode()
    assert with_key(body, raw) == re.sub(r"@.*?@", f'"{KEY}"', text).encode()


@pytest.mark.parametrize("text", ["{}", '{"prompt_cache_key":null}'])
@pytest.mark.parametrize("key", ['"', "\\", "}\n", "ü", "\ud83d", "\\1", "%s", ""])
def test_any_text_can_be_a_key(body: Any, text: str, key: str) -> None:
    raw = text.encode()
    assert json.loads(body.with_key(raw, body.read(raw), key)) == {NAME: key}


@pytest.mark.parametrize("start", ['{"prompt_cache_key":', '{"prompt_cache_key":null,"x":'])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_replaces_nothing_in_what_nests_too_deep(body: Any, start: str, opening: str) -> None:
    found = body.Fields(prompt_cache_key=None)
    with pytest.raises(ValueError, match=TOO_DEEP):
        body.with_key(f"{start}{opening * DEPTH}".encode(), found, KEY)


@pytest.mark.parametrize(("name", "count"), [("claude_code", 82), ("translators", 50)])
def test_recorded_bodies(body: Any, name: str, count: int) -> None:
    texts = [record["body"] for record in records(name) if record["body"]]
    assert len(texts) == count
    for text in texts:
        edited = re.sub(rf'("{NAME}": ?)"(?:[^"\\]|\\.)*"', rf'\1"{KEY}"', text)
        if edited == text:
            edited = f"{{{MEMBER},{text[1:]}"
        assert with_key(body, text.encode()) == edited.encode()
        assert json.loads(edited) == json.loads(text) | {NAME: KEY}


@pytest.mark.parametrize("key", [KEY, "ü"])
@pytest.mark.parametrize("comma", [",", ""])
def test_member(key: str, comma: str) -> None:
    assert installed.member(key, comma) == f'"{NAME}":{json.dumps(key)}{comma}'.encode()


def test_member_has_a_comma() -> None:
    assert installed.member(KEY) == f"{MEMBER},".encode()


# --- the beginning of a body --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "model"),
    [
        ('{"model":"m"', "m"),
        ('{"model":"m","messages":[{"role', "m"),
        (f'{BOM} \r\n{{\t"model" : "m" ,', "m"),
        (r'{"mod\u0065l":"m\u002e\"✓"}', 'm."✓'),
        ('{"x":[{"model":"y"}],"z":"\\"model\\":\\"y\\"","model":"m"}', "m"),
        (f'{{"x":{NINES},"y":-1E400,"model":""}}', ""),
        ('{"model":"a","model":"b"}', "a"),
        ("", None),
        (BOM, None),
        ("{", None),
        ("{}", None),
        ('{"mod', None),
        ('{"model', None),
        ('{"model"', None),
        ('{"model":', None),
        ('{"model":"m', None),
        ('{"model":"m\\', None),
        ('{"model":"m\\"', None),
        ('{"model":null,"model":"m"}', None),
        ('{"model":["m"]}', None),
        ('{"x":1', None),
        ('{"x":{"model":"m"}', None),
        ('{"x":{"model":"m"}}', None),
        ('{"x":"model","y":"m"}', None),
        ('[{"model":"m"}', None),
        ('x{"model":"m"}', None),
        ('{model:"m"}', None),
        ('{"x" "model":"m"}', None),
        ('{"x":nul,"model":"m"}', None),
        ('{"x":' * DEPTH, None),
        ('{"x":' + "[" * DEPTH, None),
    ],
)
def test_model_in_the_beginning(head: str, model: str | None) -> None:
    assert installed.model_in(head.encode()) == model


@pytest.mark.parametrize(
    ("head", "model"),
    [
        ('{"model":"m","x":"✓'.encode()[:-1], "m"),
        ('{"model":"✓'.encode()[:-1], None),
        (BOM.encode()[:2], None),
        ('{"model":"m"}'.encode("utf-16"), None),
        (b"\x1f\x8b\x08\x00", None),
    ],
)
def test_model_in_bytes_that_break_off(head: bytes, model: str | None) -> None:
    assert installed.model_in(head) == model


def test_attribution_block_of_recorded_bodies() -> None:
    for record in records("claude_code"):
        version = record["client"].split()[1]
        has_one = (
            version.startswith("2.1.")
            and record["scenario"] != "noattr"
            and record["path"].startswith("/v1/messages?")
        )
        block = installed.attribution(record["body"].encode()).decode()
        start = f"x-anthropic-billing-header: cc_version={version}."
        assert block.startswith(f'"{start}') if has_one else not block


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("", ""),
        ("{}", ""),
        ('{"x-anthropic-billing-header":"x"}', ""),
        ('{"x":"the x-anthropic-billing-header: x"}', ""),
        ('{"x":"x-anthropic-billing-header: a=✓;","y":"z"}', '"x-anthropic-billing-header: a=✓;'),
        ('{"x":"x-anthropic-billing-header: a', '"x-anthropic-billing-header: a'),
    ],
)
def test_attribution_block(text: str, block: str) -> None:
    assert installed.attribution(text.encode()).decode() == block


# --- anything at all ----------------------------------------------------------------------------

TEXTS = st.text(st.characters())  # lone surrogates too: JSON can say them
TOP_NAMES = st.sampled_from(NAMES) | TEXTS
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TOP_NAMES, values, max_size=3),
    max_leaves=6,
)
SPACES = st.lists(st.text(" \t\n\r", max_size=2), min_size=1, max_size=7)
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,"]+', re.DOTALL)


def encoded(text: str) -> bytes:
    # As JavaScript does it: raw UTF-8, but for lone surrogates.
    return text.encode(errors="backslashreplace")


def spaced(text: str, spaces: list[str]) -> str:
    """The JSON text with white space around each token."""
    space = cycle(spaces)
    return "".join(next(space) + token for token in TOKEN.findall(text)) + next(space)


def texts(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda value, ascii_, spaces: spaced(
            json.dumps(value, ensure_ascii=ascii_, separators=(",", ":")), spaces
        ),
        values,
        st.booleans(),
        SPACES,
    )


# A name with some of its letters escaped.
KEY_NAMES = st.lists(st.booleans(), min_size=len(NAME), max_size=len(NAME)).map(
    lambda escapes: "".join(
        ['"']
        + [
            f"\\u{ord(letter):04x}" if escape else letter
            for letter, escape in zip(NAME, escapes, strict=True)
        ]
        + ['"']
    )
)
BODIES = texts(st.dictionaries(TOP_NAMES, VALUES)).map(encoded)
PIECES = st.sampled_from(
    [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"9", b"e", b"-", b".", b"NaN"]
) | st.sampled_from([b"\0", b"\x1f", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\\ud83d", b'"user":"'])


@st.composite
def broken_bodies(draw: st.DrawFn) -> bytes:
    """A body with bytes flipped, put in, left out or cut off."""
    raw = bytearray(draw(BODIES))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        stop = draw(st.integers(start, start + 2) | st.just(len(raw)))
        raw[start:stop] = draw(PIECES | st.binary(max_size=2))
    return bytes(raw)


@settings(deadline=None)
@given(
    text=texts(st.dictionaries(TOP_NAMES.filter(lambda name: name != NAME), VALUES)),
    bom=st.sampled_from(["", BOM]),
)
def test_of_any_object_the_member_alone_is_new(text: str, bom: str) -> None:
    raw = encoded(bom + text)
    for body in PARSERS:
        edited = with_key(body, raw)
        at = raw.index(b"{") + 1
        after = at + len(edited) - len(raw)
        assert edited[:at] + edited[after:] == raw
        assert edited[at:after].rstrip(b",") == MEMBER.encode()
        assert repr(json.loads(edited)) == repr({NAME: KEY} | json.loads(raw))


@settings(deadline=None)
@given(
    members=st.lists(
        st.tuples(KEY_NAMES | TEXTS.map(json.dumps), texts(VALUES).map(str.strip)), max_size=3
    ),
    key=st.tuples(KEY_NAMES, texts(VALUES).map(str.strip)),
    at=st.integers(0, 3),
    spaces=SPACES,
)
def test_of_any_object_with_a_key_the_values_alone_are_new(
    members: list[tuple[str, str]], key: tuple[str, str], at: int, spaces: list[str]
) -> None:
    members.insert(at, key)

    def text(values: list[str]) -> str:
        space = cycle(spaces)
        return (
            "{"
            + ",".join(
                f"{next(space)}{name}{next(space)}:{next(space)}{value}{next(space)}"
                for (name, _), value in zip(members, values, strict=True)
            )
            + "}"
        )

    old = text([value for _, value in members])
    new = text([f'"{KEY}"' if json.loads(name) == NAME else value for name, value in members])
    for body in PARSERS:
        edited = with_key(body, encoded(old))
        assert edited == encoded(new)
        assert repr(json.loads(edited)) == repr(json.loads(old) | {NAME: KEY})


@settings(deadline=None)
@given(raw=BODIES | broken_bodies() | st.binary())
def test_reads_exactly_what_json_reads(raw: bytes) -> None:
    try:
        value = loads(raw.decode("utf-8-sig"))
    except ValueError:
        value = None
    for body in PARSERS:
        if isinstance(value, dict):
            expected = {"model": None, "metadata": None, "user": None}
            expected |= {name: value[name] for name in NAMES if name in value}
            assert fields(body, raw) == expected
            assert loads(with_key(body, raw).decode("utf-8-sig")) == value | {NAME: KEY}
        else:
            with pytest.raises(ValueError, match=NO_OBJECT):
                body.read(raw)


@settings(deadline=None)
@given(
    members=st.lists(st.tuples(TOP_NAMES, texts(VALUES)), max_size=4),
    bom=st.sampled_from(["", BOM]),
    data=st.data(),
)
def test_model_in_any_part_of_an_object(
    members: list[tuple[str, str]], bom: str, data: st.DataObject
) -> None:
    text = ",".join(f"{json.dumps(name)}:{value}" for name, value in members)
    raw = encoded(f"{bom}{{{text}}}")
    first = next((json.loads(value) for name, value in members if name == "model"), None)
    model = first if isinstance(first, str) else None
    assert installed.model_in(raw) == model
    assert installed.model_in(raw[: data.draw(st.integers(0, len(raw)))]) in (None, model)


@settings(deadline=None)
@given(broken_bodies() | st.binary())
def test_model_in_anything(head: bytes) -> None:
    assert isinstance(installed.model_in(head), str | None)


BLOCK = '{"type":"text","text":"x-anthropic-billing-header: cc_version=2;"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{{"system":[{BLOCK},{{"text":"b"}}]}}', '{"system":[{"text":"b"}]}'),
        (f'{{"m":1, "system" : [ {BLOCK} , 1 ] }}', '{"m":1, "system" : [ 1 ] }'),
        (f'{{"system":[{BLOCK}]}}', '{"system":[]}'),
        (f'{{"a":[{BLOCK}],"system":[{BLOCK}]}}', f'{{"a":[{BLOCK}],"system":[]}}'),
        *[
            (text, text)
            for text in (
                f'{{"system":[{{"text":"b"}},{BLOCK}]}}',
                f'{{"x":{{"system":[{BLOCK}]}}}}',
                f'{{"x":[{BLOCK}]}}',
                r'{"system":[{"text":"\"x-anthropic-billing-header: "}]}',
                f'{{"system":[],"a":{BLOCK}}}',
                '{"system":["x-anthropic-billing-header: "]}',
                '{"system":"x-anthropic-billing-header: "}',
                "{}",
            )
        ],
    ],
)
def test_without_attribution(body: Any, text: str, expected: str) -> None:
    assert body.without_attribution(text.encode()).decode() == expected


def test_without_attribution_too_deep(body: Any) -> None:
    deep = f'{{"a":{"[" * 100_000}{"]" * 100_000},"system":[{BLOCK}]}}'
    with pytest.raises(ValueError, match="nests too deep"):
        body.without_attribution(deep.encode())


def test_without_attribution_of_recorded_bodies() -> None:
    stripped = 0
    for record in records("claude_code"):
        text = record["body"]
        rest = installed.without_attribution(text.encode()).decode()
        if "x-anthropic-billing-header" in text:
            stripped += 1
            value = json.loads(text)
            del value["system"][0]
            assert json.loads(rest) == value
            start = next(at for at, letter in enumerate(text) if rest[at] != letter)
            assert text.endswith(rest[start:])
        else:
            assert rest == text
    assert stripped == 22


@settings(deadline=None)
@given(
    before=st.lists(st.tuples(TOP_NAMES.filter(lambda name: name != "system"), texts(VALUES))),
    system=st.lists(texts(VALUES).map(str.strip), max_size=3),
    spaces=SPACES,
)
def test_of_any_object_the_attribution_block_alone_goes(
    before: list[tuple[str, str]], system: list[str], spaces: list[str]
) -> None:
    members = "".join(f"{json.dumps(name)}:{value}," for name, value in before)
    block = spaced(BLOCK, spaces).strip()
    space = f" {spaces[0]}"
    after = f"{space},{space}" if system else space
    rest = f"{f'{space},{space}'.join(system)}{space}]{space}}}"
    raw = encoded(f'{{{members}"system":[{space}{block}{after}{rest}')
    edited = installed.without_attribution(raw)
    assert edited == encoded(f'{{{members}"system":[{space}{"" if system else space}{rest}')
