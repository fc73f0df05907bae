import json
from collections import Counter, defaultdict
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.recordings import records
from mitmproxy.http import Headers
from prompt_cache_key.body import Body
from prompt_cache_key.identity import Identity, find_identity, find_user, is_raw_user_id

SESSION = b"X-Claude-Code-Session-Id"
AGENT = b"x-claude-code-agent-id"
ID = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
DEVICE = "d" * 64
ACCOUNT = "11111111-2222-4333-8444-555555555555"

TEXT = f"user_{DEVICE}_account_{ACCOUNT}_session_{ID}"
NO_ACCOUNT = f"user_{DEVICE}_account__session_{ID}"
OBJECT: dict[str, Any] = {"device_id": DEVICE, "account_uuid": ACCOUNT, "session_id": ID}
JSON = json.dumps(OBJECT, separators=(",", ":"))
MISSING = object()


def body(metadata: Any = MISSING, user: Any = MISSING, key: Any = MISSING) -> Body:
    members = {"model": "m", "metadata": metadata, "user": user, "prompt_cache_key": key}
    return Body(json.dumps({n: v for n, v in members.items() if v is not MISSING}).encode())


def find_in(record: Any) -> Identity | None:
    fields = record["headers"]
    pairs = fields.items() if isinstance(fields, dict) else fields
    headers = Headers([(name.encode(), value.encode()) for name, value in pairs])
    try:
        return find_identity(headers, Body(record["body"].encode()))
    except ValueError:
        return find_identity(headers, body())


def test_finds_what_the_original_found() -> None:
    for vector in records("session_vectors"):
        found = find_in(vector)
        assert (found.session if found else "") == vector["session"], vector


def test_finds_each_session_of_claude_code() -> None:
    found: defaultdict[tuple[str, str, str] | None, list[str]] = defaultdict(list)
    for record in records("claude_code"):
        if identity := find_in(record):
            assert str(UUID(identity.session)) == identity.session
            version = record["client"].split()[1]
            found[version, identity.source, identity.agent].append(identity.session)
            # What the header shows and what the body shows is the same.
            if identity.source == "header" and '"user_id"' in record["body"]:
                in_body = find_in(record | {"headers": {}})
                assert in_body
                assert in_body[:2] == (identity.session, "main")
        else:  # count_tokens and HEAD /
            assert "count_tokens" in record["path"] or record["method"] == "HEAD"
    assert {who: (len(ids), len(set(ids))) for who, ids in found.items()} == {
        ("1.0.128", "metadata", "main"): (10, 3),
        ("2.0.76", "metadata", "main"): (13, 4),
        ("2.1.90", "header", "main"): (6, 3),
        ("2.1.330", "header", "main"): (42, 10),
        ("2.1.330", "header", "a134bdbef7dedb932"): (2, 1),
    }


def test_finds_what_translators_show() -> None:
    assert Counter(find_in(record) for record in records("translators")) == {
        Identity(ID, "main", "header"): 22,
        Identity(ID, "main", "metadata"): 1,
        Identity(ID, "main", "user"): 1,
        None: 26,
    }
    keys = [json.loads(record["body"]).get("prompt_cache_key") for record in records("translators")]
    assert sum(isinstance(key, str) for key in keys) == 26
    assert {key for key in keys if is_raw_user_id(key)} == {JSON, JSON[:64], f"user_{'a' * 59}"}


A = {"user_id": "_session_a"}
OTHER_ID = ID.replace("3", "4")
OTHER = TEXT.replace(ID, OTHER_ID)


@pytest.mark.parametrize(
    ("header", "metadata", "user", "key", "found"),
    [
        ("h", A, OTHER, TEXT, ("h", "header")),
        (" ", A, OTHER, TEXT, ("a", "metadata")),
        ("é", A, None, None, ("a", "metadata")),
        ("", {"user_id": "plain"}, OTHER, TEXT, (OTHER_ID, "user")),
        ("", {"user_id": ""}, OTHER, TEXT, (OTHER_ID, "user")),
        ("", MISSING, "plain", TEXT, (ID, "key")),
        ("", {"user_id": None}, TEXT[:64], NO_ACCOUNT, (ID, "key")),
        ("", [A], 1, JSON, (ID, "key")),
        ("", "_session_a", MISSING, MISSING, None),
        ("", {"session_id": "a"}, None, None, None),
        ("", MISSING, MISSING, {"session_id": "c"}, None),
        ("", MISSING, MISSING, f"acme_session_{ID}", None),
    ],
)
def test_first_source_wins(
    header: str, metadata: Any, user: Any, key: Any, found: tuple[str, str] | None
) -> None:
    identity = find_identity(Headers([(SESSION, header.encode())]), body(metadata, user, key))
    assert (identity and (identity.session, identity.source)) == found


def test_a_body_that_cannot_be_read_is_not_asked_where_the_header_shows_the_session() -> None:
    broken = Body(b'{"user": "}')
    assert find_identity(Headers([(SESSION, b"s")]), broken) == Identity("s", "main", "header")
    with pytest.raises(ValueError, match=r"^the body is not JSON in UTF-8$"):
        find_identity(Headers(), broken)


JSON_NO_ACCOUNT = JSON.replace(ACCOUNT, "")
MORE_JSON = json.dumps({"team": {"a": [1]}, "session_id": ID} | OBJECT | {"z": None}, indent=1)
# What Claude Code has sent, whole.
COMPLETE = [TEXT, NO_ACCOUNT, JSON, JSON_NO_ACCOUNT, MORE_JSON]
# The same, cut by translators: at 64 characters, or anywhere behind the device.
CUT = [
    *(whole[:64] for whole in COMPLETE[:4]),
    *(whole[:120] for whole in (NO_ACCOUNT, JSON_NO_ACCOUNT)),
    *(TEXT[:length] for length in range(len(f"user_{DEVICE}_account_"), len(TEXT))),
    *(
        JSON[:length]
        for length in range(len(f'{{"device_id":"{DEVICE}","account_uuid":"'), len(JSON))
    ),
]
# JSON that shows the session of Claude Code, and is no complete user id.
SESSION_ALONE = [
    f'{{"session_id":"{ID}"}}',
    JSON.replace(DEVICE, "d"),
    JSON.replace(ACCOUNT, "me"),
    JSON.replace("account_uuid", "a"),
]
# What looks like a user id, and is another program's.
OTHERS = [
    *(ID, f"cc-{ID}", "claudish_cc8380a7c3a87932d74c205fa40fdb62", "", " ", "{", "{}", "{1}"),
    *(
        "alice_session_1",
        "bob_session_1",
        f"acme_session_{ID}",
        "user_session_1",
        "user_d_account_",
    ),
    *('{"tenant":1}', f'{{"tenant":"{"a" * 52}', '{"device_id":"d"}', f'{{"a":{"[" * 9000}'),
    *(f"user_{'d' * length}" for length in (58, 60, 64)),
    *(f"user_{'D' * 59}", f"user_{'d' * 63}_account_", f"user_{DEVICE}_session_{ID}"),
    *(f"user_{DEVICE}_account_me", f"user_{DEVICE}_account_{ACCOUNT}_team_{ID}"),
    *(f"my_{TEXT}", f"{TEXT}0", f"{TEXT}\n", f" {TEXT}", f"{TEXT} ", TEXT.upper(), TEXT[1:65]),
    *(TEXT.replace(ACCOUNT, "me"), TEXT.replace(ID, "x"), NO_ACCOUNT.replace(ID, "g")),
    *(f"{JSON}x", f" {JSON}", f"[{JSON}]", JSON[1:65], JSON.replace(f'"{ID}"', "1")),
    *(JSON.replace(ID, ID[:-1]), JSON.replace(ID, f"{ID} "), JSON.replace(ID, ID.upper())),
    f"{JSON[:-1]}{' ' * 20_000}}}",  # too long to be parsed
    *(None, 1, True, ["{"], OBJECT),
]


def test_a_user_id_whole_or_cut_is_a_raw_user_id() -> None:
    assert [key for key in [*COMPLETE, *CUT] if not is_raw_user_id(key)] == []


@pytest.mark.parametrize("key", [*SESSION_ALONE, *OTHERS], ids=lambda key: repr(key)[:40])
def test_a_clients_own_key_is_no_raw_user_id(key: Any) -> None:
    assert not is_raw_user_id(key)
    assert not find_identity(Headers(), body(key=key))


@pytest.mark.parametrize("user_id", COMPLETE, ids=repr)
def test_a_complete_user_id_shows_session_and_user_wherever_it_stands(user_id: str) -> None:
    account = "" if user_id in (NO_ACCOUNT, JSON_NO_ACCOUNT) else ACCOUNT
    for of, source in [
        (body({"user_id": user_id}), "metadata"),
        (body(user=user_id), "user"),
        (body(key=user_id), "key"),
    ]:
        assert find_identity(Headers(), of) == Identity(ID, "main", source)
        assert find_user(of) == (account, DEVICE)


@pytest.mark.parametrize("user", SESSION_ALONE)
def test_json_in_user_shows_the_session_by_its_name(user: str) -> None:
    assert find_identity(Headers(), body(user=user)) == Identity(ID, "main", "user")


@pytest.mark.parametrize("user", [*CUT, *OTHERS], ids=lambda user: repr(user)[:40])
def test_what_is_no_whole_user_id_shows_no_session_in_user(user: Any) -> None:
    # What is left of a cut one would be shared by strangers.
    assert find_identity(Headers(), body(user=user)) is None


@pytest.mark.parametrize(
    "user_id", [*CUT, *SESSION_ALONE, *OTHERS], ids=lambda user_id: repr(user_id)[:40]
)
def test_what_is_no_complete_user_id_shows_no_user_in_user_and_key(user_id: Any) -> None:
    assert find_user(body(user=user_id, key=user_id)) is None


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], ""),
        ([b" \t "], ""),
        ([b" \tabc\t "], "abc"),
        ([b"a b"], "a b"),
        ([b"!~"], "!~"),
        ([b"", b" ", b"def", b"abc"], "def"),
        ([b"abc, def"], "abc, def"),
        ([b" " + b"a" * 256 + b" "], "a" * 256),
        # malformed
        *(([value], None) for value in (b"a" * 257, b"a\x00b", b"a\tb", b"a\x1bb", b"a\x7fb")),
        *(([value], None) for value in (b"s\xe9", b"s\xc3\xa9", b"\xff", b"\xed\xa0\x80")),
        ([b"\xff", b"abc"], None),
    ],
)
def test_headers(values: list[bytes], found: str | None) -> None:
    for session, agent in [(SESSION, AGENT), (SESSION.lower(), AGENT.upper())]:
        identity = Identity(found, "main", "header") if found else None
        assert find_identity(Headers([(session, value) for value in values]), body()) == identity
        fields = [(agent, value) for value in values]
        name = "unknown" if found is None else found or "main"
        for of, source in [
            (body({"user_id": TEXT}), "metadata"),
            (body(user=TEXT), "user"),
            (body(key=TEXT), "key"),
        ]:
            assert find_identity(Headers(fields), of) == Identity(ID, name, source)
        assert find_identity(Headers([*fields, (session, b"s")]), body()) == Identity(
            "s", name, "header"
        )


SESSION_IDS: list[tuple[Any, str]] = [
    (f" \n{ID}\t", ID),
    *((text, text) for text in ("team 1", "sitzung-ü", "null", "a" * 256)),
    *((text, "") for text in ("a" * 257, "", " \t\n", "a\nb", "a\x00b", "a\x7fb", "a\u2028b")),
    *((value, "") for value in ("a\u202eb", "a\ud800b", None, True, 1, [ID], {"session_id": ID})),
]
TEXTS_WITH_AN_ID = [
    (TEXT, ID),
    (NO_ACCOUNT, ID),
    ("x\n_session_ab", "ab"),
    (f"_session_{'a' * 256}", "a" * 256),
    (r'{"session\u005fid":"a"}', "a"),
    ('{"session_id":"a","session_id":"b"}', "b"),
    ('{"x":NaN,"session_id":"a"} \n', "a"),
    (f'{{"x":{"9" * 5000},"session_id":"a"}}', "a"),
    (f"{'x' * 100_000}_session_ab", "ab"),
]
NO_USER_IDS: list[Any] = [
    *[f"_session_{'a' * 257}", f"{TEXT}\n", f"{TEXT} ", f"{TEXT}_", "_session_", "_session_xyz"],
    *["_session_AB", "_session_a_b", "_session_١٢", "_Session_ab", "session_ab", ID, "null", ""],
    *['{"session_id":"a","session_id":null}', '\ufeff{"session_id":"a"}', '{"session_id":"a"}x'],
    ' {"session_id":"a"}',  # the original wants the brace first
    *['{"session_id":"a"', '{"session_id":"a\nb"}', '{"parent_session_id":"a"}', "{}", "{"],
    *[f'{{"session_id":"a","x":"{"x" * 17_000}"}}', "_session_" + "a" * 100_000],
    *['{"user":{"session_id":"a"}}', '[{"session_id":"a"}]', '{"session_id":' * 100_000],
    *[None, True, 0, 1.5, [], {}, [JSON], [{"session_id": ID}]],
]


@pytest.mark.parametrize(
    ("user_id", "found"),
    [
        *TEXTS_WITH_AN_ID,
        *((user_id, "") for user_id in NO_USER_IDS),
        *((OBJECT | {"session_id": value}, found) for value, found in SESSION_IDS),
        *(
            (json.dumps({"x": [1], "session_id": value}, ensure_ascii=ascii_, indent=1), found)
            for value, found in SESSION_IDS
            for ascii_ in (True, False)
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_metadata_keeps_the_rule_of_the_original(user_id: Any, found: str) -> None:
    of = body({"user_id": user_id})
    assert find_identity(Headers(), of) == (Identity(found, "main", "metadata") if found else None)


def test_each_form_shows_the_same_user() -> None:
    for account, device in product(["", "a", ACCOUNT], ["", "d", DEVICE]):
        parts = {"account_uuid": account, "device_id": device, "session_id": ID}
        text = f"user_{device}_account_{account}_session_{ID}"
        found = {find_user(body({"user_id": form})) for form in (text, json.dumps(parts), parts)}
        assert found == {(account, device) if account or device else None}


LONG = "a" * 257


@pytest.mark.parametrize(
    ("user_id", "user"),
    [
        (TEXT, (ACCOUNT, DEVICE)),
        (OBJECT | {"account_uuid": None}, ("", DEVICE)),
        (OBJECT | {"device_id": 1}, (ACCOUNT, "")),
        ({"account_uuid": f" {ACCOUNT}\n"}, (ACCOUNT, "")),
        ({"device_id": "a" * 256}, ("", "a" * 256)),
        (OBJECT | {"device_id": LONG}, None),
        (OBJECT | {"account_uuid": LONG}, None),
        (f"user_{LONG}_account_{ACCOUNT}_session_{ID}", None),
        (f"user_{DEVICE}_account_{ACCOUNT}_session_{'a' * 20_000}", None),
        ({"account_uuid": " ", "device_id": []}, None),
        *((user_id, None) for user_id in (f"x{TEXT}", f"{TEXT} ", [OBJECT], "")),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_user_in_metadata(user_id: Any, user: tuple[str, str] | None) -> None:
    assert find_user(body({"user_id": user_id})) == user
    # What shows no user does not hide the one behind it.
    assert find_user(body({"user_id": user_id}, TEXT)) == (user or (ACCOUNT, DEVICE))


def test_the_first_value_that_shows_a_user_counts() -> None:
    ids = [TEXT.replace(DEVICE, letter * 64) for letter in "abc"]
    assert find_user(body({"user_id": ids[0]}, ids[1], ids[2])) == (ACCOUNT, "a" * 64)
    assert find_user(body({"user_id": ID}, ids[1], ids[2])) == (ACCOUNT, "b" * 64)
    assert find_user(body({"user_id": ID}, "me", ids[2])) == (ACCOUNT, "c" * 64)
    assert find_user(body()) is None


TEXTS = st.text(st.characters())  # lone surrogates too: JSON can say them
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values) | st.dictionaries(TEXTS | st.sampled_from([*OBJECT]), values),
    max_leaves=5,
)
USER_IDS = (
    VALUES
    | st.builds("{}_session_{}".format, TEXTS, st.text("abcdef0123456789-", max_size=300) | TEXTS)
    | st.dictionaries(st.sampled_from([*OBJECT]), VALUES).map(json.dumps)
    | st.sampled_from([TEXT, JSON])
)
FIELDS = st.lists(st.tuples(st.sampled_from([SESSION, AGENT, b"x-other"]), st.binary()), max_size=4)


@given(FIELDS, VALUES | st.dictionaries(st.just("user_id"), USER_IDS), USER_IDS, USER_IDS)
def test_whatever_comes_an_id_is_sound(
    fields: list[tuple[bytes, bytes]], metadata: Any, user: Any, key: Any
) -> None:
    identity = find_identity(Headers(fields), body(metadata, user, key))
    for text in identity[:2] if identity else ():
        assert text == text.strip()
        assert 0 < len(text) <= 256
        assert text.isprintable()
