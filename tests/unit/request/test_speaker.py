import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lib.recordings import records
from mitmproxy.http import Headers
from prompt_cache_key.request import speaker as session
from prompt_cache_key.request.speaker import (
    Session,
    find,
    from_header,
    from_user_id,
    is_raw_user_id,
)

SESSION = "X-Claude-Code-Session-Id"
AGENT = "x-claude-code-agent-id"
ID = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
DEVICE = "d" * 64
ACCOUNT = "11111111-2222-4333-8444-555555555555"

TEXT = f"user_{DEVICE}_account_{ACCOUNT}_session_{ID}"
NO_ACCOUNT = f"user_{DEVICE}_account__session_{ID}"
JSON = f'{{"device_id":"{DEVICE}","account_uuid":"{ACCOUNT}","session_id":"{ID}"}}'


def headers(fields: Iterable[tuple[str, str]] = ()) -> Headers:
    return Headers([(name.encode(), value.encode()) for name, value in fields])


def members(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def find_in(fields: Iterable[tuple[str, str]], body: str) -> Session | None:
    found = members(body)
    return find(
        headers(fields), found.get("metadata"), found.get("user"), found.get("prompt_cache_key")
    )


# --- what was recorded --------------------------------------------------------------------------


@pytest.mark.parametrize("vector", records("session_vectors"))
def test_finds_what_the_original_found(vector: Any) -> None:
    found = find_in(vector["headers"].items(), vector["body"])
    assert (found.id if found else "") == vector["session"]


def test_finds_each_session_of_claude_code() -> None:
    found: defaultdict[tuple[str, str | None, str | None], list[str | None]] = defaultdict(list)
    for record in records("claude_code"):
        speaker = find_in(record["headers"], record["body"])
        id_, agent, source = speaker or (None, None, None)
        assert id_ is None or str(UUID(id_)) == id_
        found[record["client"].split()[1], source, agent].append(id_)
    assert {who: (len(ids), len(set(ids))) for who, ids in found.items()} == {
        ("1.0.128", "metadata", "main"): (10, 3),
        ("2.0.76", "metadata", "main"): (13, 4),
        ("2.0.76", None, None): (9, 1),  # count_tokens
        ("2.1.90", "header", "main"): (6, 3),
        ("2.1.90", None, None): (3, 1),  # HEAD /
        ("2.1.330", "header", "main"): (42, 10),
        ("2.1.330", "header", "a134bdbef7dedb932"): (2, 1),
    }


def test_header_and_metadata_of_claude_code_agree() -> None:
    both = 0
    for record in records("claude_code"):
        in_header = find_in(record["headers"], "")
        in_body = find_in((), record["body"])
        if in_header and in_body:
            both += 1
            assert in_header.id == in_body.id
    assert both == 24


def test_finds_each_session_that_a_translator_shows() -> None:
    found: Counter[str | None] = Counter()
    for record in records("translators"):
        body = members(record["body"])
        key = body.get("prompt_cache_key", "")
        shown = [
            dict(record["headers"]).get(SESSION.lower()),
            members(json.dumps(body.get("metadata"))).get("user_id"),
            body.get("user"),
            key if len(key) > 64 else None,  # a raw user id
        ]
        speaker = find_in(record["headers"], record["body"])
        assert (speaker is not None) == any(ID in text for text in shown if text)
        assert speaker is None or speaker.id == ID
        found[speaker and speaker.source] += 1
    assert found == {"header": 22, "metadata": 1, "user": 1, None: 26}


def test_knows_the_bad_keys_of_translators() -> None:
    keys = [members(record["body"]).get("prompt_cache_key") for record in records("translators")]
    assert sum(isinstance(key, str) for key in keys) == 26
    assert {key for key in keys if is_raw_user_id(key)} == {
        JSON,
        JSON[:64],
        f"user_{'a' * 59}",
    }


# --- the order of the sources -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "metadata", "user", "key", "found"),
    [
        ("h", {"user_id": "_session_a"}, "_session_b", TEXT, ("h", "header")),
        (" ", {"user_id": "_session_a"}, "_session_b", TEXT, ("a", "metadata")),
        ("é", {"user_id": "_session_a"}, None, None, ("a", "metadata")),
        ("h" * 257, {"user_id": "_session_a"}, None, None, ("a", "metadata")),
        ("", {"user_id": "plain"}, "_session_b", TEXT, ("b", "user")),
        ("", {"user_id": None}, "_session_b", TEXT, ("b", "user")),
        ("", {"user_id": ""}, {"session_id": "b"}, TEXT, ("b", "user")),
        ("", None, "plain", TEXT, (ID, "key")),
        ("", None, TEXT[:64], NO_ACCOUNT, (ID, "key")),
        ("", [{"user_id": "_session_a"}], 1, JSON, (ID, "key")),
        ("", "_session_a", None, None, None),
        ("", {"session_id": "a"}, None, None, None),
        ("", None, TEXT[:64], TEXT[:64], None),
        ("", None, JSON[:64], JSON[:64], None),
        ("", None, None, {"session_id": "c"}, None),
        ("", None, None, None, None),
    ],
)
def test_first_source_wins(
    header: str, metadata: Any, user: Any, key: Any, found: tuple[str, str] | None
) -> None:
    speaker = find(headers([(SESSION, header)]), metadata, user, key)
    assert (speaker and (speaker.id, speaker.source)) == found


@pytest.mark.parametrize("source", ["metadata", "user", "key"])
@pytest.mark.parametrize("user_id", [TEXT, NO_ACCOUNT, JSON])
def test_each_body_source_understands_each_form(source: str, user_id: str) -> None:
    values = {"metadata": None, "user": None, "key": None} | {
        source: {"user_id": user_id} if source == "metadata" else user_id
    }
    assert find(headers(), **values) == (ID, "main", source)


PROPER_KEYS = [
    ID,
    f"cc-{ID}",
    "claudish_cc8380a7c3a87932d74c205fa40fdb62",
    "team_session_1",
    f"acme_session_{ID}",
    "user_session_1",
    f"user_{ID}",
    f"user_{'d' * 58}",
    f"my_{TEXT}",
    "",
    " ",
]


@pytest.mark.parametrize("key", [*PROPER_KEYS, None, 1, True, ["{"], {"session_id": ID}])
def test_a_proper_key_is_no_user_id_and_no_source(key: Any) -> None:
    assert not is_raw_user_id(key)
    assert find(headers(), None, None, key) is None


@pytest.mark.parametrize(
    "key",
    [TEXT, TEXT[:64], TEXT[:128], NO_ACCOUNT, "user_d_account_", JSON, JSON[:64], JSON[:1]],
)
def test_a_user_id_whole_or_cut_is_a_bad_key(key: str) -> None:
    assert is_raw_user_id(key)


# --- headers ------------------------------------------------------------------------------------

HEADER_VALUES = [
    ([], ""),
    ([b""], ""),
    ([b" \t "], ""),
    ([b"abc"], "abc"),
    ([b" \tabc\t "], "abc"),
    ([b"a b"], "a b"),
    ([b"null"], "null"),
    ([b"!~"], "!~"),
    ([b"abc", b"def"], "abc"),
    ([b"", b" ", b"def"], "def"),
    ([b"abc, def"], "abc, def"),
    ([b"a" * 256], "a" * 256),
    ([b" " + b"a" * 256 + b" "], "a" * 256),
]
MALFORMED = [
    [b"a" * 257],
    [b"a" * 100_000],
    [b"a\x00b"],
    [b"a\tb"],
    [b"a\x1bb"],
    [b"a\x7fb"],
    ["sé".encode()],
    ["sé".encode("latin-1")],
    [b"\xff"],
    [b"\xed\xa0\x80"],
    [b"\xff", b"abc"],
]


@pytest.mark.parametrize("name", [b"X-Claude-Code-Session-Id", b"x-claude-code-session-id"])
@pytest.mark.parametrize(
    ("values", "found"), [*HEADER_VALUES, *((values, "") for values in MALFORMED)]
)
def test_session_header(name: bytes, values: list[bytes], found: str) -> None:
    assert from_header(Headers([(name, value) for value in values])) == found


@pytest.mark.parametrize(
    "name", ["x-session-id", "x-claude-code-session", "claude-code-session-id"]
)
def test_no_other_header_is_a_session(name: str) -> None:
    assert from_header(headers([(name, ID)])) == ""


@pytest.mark.parametrize("name", [b"X-CLAUDE-CODE-AGENT-ID", b"x-claude-code-agent-id"])
@pytest.mark.parametrize(
    ("values", "found"),
    [
        *((values, found or "main") for values, found in HEADER_VALUES),
        *((values, None) for values in MALFORMED),
    ],
)
def test_agent(name: bytes, values: list[bytes], found: str | None) -> None:
    fields = Headers([(name, value) for value in values])
    assert session.agent(fields) == found
    assert find(fields, {"user_id": TEXT}, None, None) == (ID, found, "metadata")


def test_agent_comes_with_a_session_in_the_header() -> None:
    fields = headers([(AGENT, "a1"), ("x-claude-code-parent-agent-id", "a0"), (SESSION, ID)])
    assert find(fields, None, None, None) == (ID, "a1", "header")


# --- user ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_id", "found"),
    [
        (TEXT, ID),
        (NO_ACCOUNT, ID),
        ("ü_session_ab-9", "ab-9"),
        ("x_session_a1_session_b2", "b2"),
        ("x\n_session_ab", "ab"),
        (f"_session_{'a' * 256}", "a" * 256),
        (f"_session_{'a' * 257}", ""),
        (f"{TEXT}\n", ""),
        (f"{TEXT} ", ""),
        (f"{TEXT}_", ""),
        ("_session_", ""),
        ("_session_xyz", ""),
        ("_session_AB", ""),
        ("_session_a_b", ""),
        ("_session_١٢", ""),
        ("_Session_ab", ""),
        ("session_ab", ""),
        (ID, ""),
        ("null", ""),
        ("", ""),
    ],
)
def test_user_id_as_text(user_id: str, found: str) -> None:
    assert from_user_id(user_id) == found


@pytest.mark.parametrize(
    ("session_id", "found"),
    [
        (ID, ID),
        (f" \n{ID}\t", ID),
        ("team 1", "team 1"),
        ("sitzung-ü", "sitzung-ü"),
        ("null", "null"),
        ("a" * 256, "a" * 256),
        ("a" * 257, ""),
        ("", ""),
        (" \t\n", ""),
        ("a\nb", ""),
        ("a\x00b", ""),
        ("a\x7fb", ""),
        ("a\u2028b", ""),
        ("a\u202eb", ""),
        ("a\ud800b", ""),
        (None, ""),
        (True, ""),
        (1, ""),
        (1.5, ""),
        ([ID], ""),
        ({"session_id": ID}, ""),
    ],
)
def test_user_id_as_object_and_as_json_text(session_id: Any, found: str) -> None:
    user_id = {"device_id": DEVICE, "session_id": session_id, "account_uuid": ""}
    assert from_user_id(user_id) == found
    assert from_user_id(json.dumps(user_id)) == found
    assert from_user_id(json.dumps(user_id, ensure_ascii=False, indent=1)) == found


@pytest.mark.parametrize(
    ("user_id", "found"),
    [
        ('{"session\\u005fid":"a"}', "a"),
        ('{"session_id":"a","session_id":"b"}', "b"),
        ('{"session_id":"a","session_id":null}', ""),
        ('{"x":NaN,"session_id":"a"} \n', "a"),
        (' {"session_id":"a"}', ""),  # the original wants the brace first
        ('\ufeff{"session_id":"a"}', ""),
        ('{"session_id":"a"}x', ""),
        ('{"session_id":"a"', ""),
        ('{"session_id":"a\nb"}', ""),
        ('{"parent_session_id":"a"}', ""),
        ('{"user":{"session_id":"a"}}', ""),
        ('[{"session_id":"a"}]', ""),
        ("{}", ""),
        ("{", ""),
        ('{"session_id":' * 100_000, ""),
        ('{"session_id":' + "[" * 100_000, ""),
    ],
)
def test_user_id_as_json_text(user_id: str, found: str) -> None:
    assert from_user_id(user_id) == found


@pytest.mark.parametrize(
    "value", [None, True, 0, 1, 1.5, float("nan"), [], {}, [JSON], [{"session_id": ID}]]
)
def test_no_session_in_a_value_of_another_type(value: Any) -> None:
    assert from_user_id(value) == ""
    assert find(headers(), value, value, value) is None


# --- a cut id would be shared by strangers ------------------------------------------------------


@pytest.mark.parametrize("text", [TEXT[:64], NO_ACCOUNT[:64], TEXT.partition("_session_")[0]])
def test_no_session_in_what_is_left_of_a_text_user_id(text: str) -> None:
    for length in range(len(text) + 1):
        assert find(headers(), {"user_id": text[:length]}, text[:length], text[:length]) is None


def test_no_session_in_any_part_of_a_json_user_id() -> None:
    for length in range(len(JSON)):
        cut = JSON[:length]
        assert find(headers(), {"user_id": cut}, cut, cut) is None


# --- anything at all ----------------------------------------------------------------------------

TEXTS = st.text(st.characters())  # lone surrogates too: JSON can say them
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values) | st.dictionaries(TEXTS | st.just("session_id"), values),
    max_leaves=5,
)
USER_IDS = (
    VALUES
    | st.builds("{}_session_{}".format, TEXTS, st.text("abcdef0123456789-", max_size=300) | TEXTS)
    | st.dictionaries(st.just("session_id"), VALUES).map(json.dumps)
    | st.sampled_from([TEXT, JSON])
)
FIELDS = st.lists(
    st.tuples(st.sampled_from([SESSION.encode(), AGENT.encode(), b"x-other"]), st.binary()),
    max_size=4,
)


@settings(deadline=None)
@given(
    fields=FIELDS,
    metadata=VALUES | st.dictionaries(st.just("user_id"), USER_IDS),
    user=USER_IDS,
    key=USER_IDS,
)
def test_whatever_comes_an_id_is_sound(
    fields: list[tuple[bytes, bytes]], metadata: Any, user: Any, key: Any
) -> None:
    speaker = find(Headers(fields), metadata, user, key)
    if speaker:
        assert speaker.source in ("header", "metadata", "user", "key")
        for text in (speaker.id, speaker.agent or "main"):
            assert text == text.strip()
            assert 0 < len(text) <= 256
            assert text.isprintable()


@settings(deadline=None)
@given(USER_IDS)
def test_whatever_comes_an_id_is_whole(value: Any) -> None:
    if found := from_user_id(value):
        if isinstance(value, str) and not value.endswith(f"_session_{found}"):
            value = json.loads(value)
        assert isinstance(value, str) or value["session_id"].strip() == found


@settings(deadline=None)
@given(st.binary() | st.text(st.characters(codec="ascii")).map(str.encode))
def test_whatever_comes_a_header_is_taken_whole(value: bytes) -> None:
    found = from_header(Headers([(SESSION.encode(), value)]))
    assert found in ("", value.decode(errors="replace").strip())
