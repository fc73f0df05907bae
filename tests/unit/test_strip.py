import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.strip import STRIPPED, strip

LINE = "x-anthropic-billing-header: cc_version=2.1.330.faf; cc_entrypoint=sdk-cli; cch=00000;"
COUNT = "<total_tokens>998210 tokens left</total_tokens>"
BLOCK = f'{{"type":"text","text":"{LINE}"}}'
SYSTEM = f'{{"role":"system","content":"{COUNT}"}}'
ESCAPED = SYSTEM.replace("<", r"\u003c").replace(">", r"\u003e")  # as Go does
DEEP = b"[" * 100_000 + b"]" * 100_000


def stripped(text: str) -> str:
    return strip(text.encode(), STRIPPED).decode()


def check(text: str) -> None:
    """What stands between « and » has to go, and nothing else."""
    before = text.replace("«", "").replace("»", "")
    after = "".join(part.rpartition("»")[2] for part in text.split("«"))
    assert stripped(before) == after
    assert json.loads(before)
    assert isinstance(json.loads(after), dict)
    assert strip(before.encode(), []) == before.encode()


@pytest.mark.parametrize(
    "text",
    [
        # alone
        f'{{"system":[«{BLOCK},»{{"type":"text","text":"b"}}]}}',
        f'{{"m":1, "system" : [ «{BLOCK} , »1 , 2 ] }}',
        f'{{"system":[«{{"text":"{LINE}\\n","type":"text","cache_control":{{}}}},»{{}}]}}',
        # merged with what follows
        f'{{"system":[{{"type":"text","text":"«{LINE}\\n»You are"}},{{"text":"b"}}]}}',
        f'{{"system":[{{"text":"«{LINE}\\r\\n»\\nYou are; a=b;"}}]}}',
        f'{{"system":"«{LINE}\\n»You are"}}',
        f'{{"system":"«{LINE}»"}}',
        f'{{"model":"m","instructions" : "«{LINE}\\n»\\"✓\\" \\ud83d"}}',
        # the first message
        f'{{"messages":[{{"role":"system","content":"«{LINE}\\n»b"}},{{"role":"user"}}]}}',
        f'{{"messages": [ {{"content" : "«{LINE}»✓", "role":"developer"}} ] }}',
        f'{{"input":[{{"role":"developer","content":[{{"text":"«{LINE}»b"}}]}}]}}',
        # a first message that is nothing else
        f'{{"messages":[«{{"role":"system","content":"{LINE}"}} , »{{"role":"user"}}]}}',
        f'{{"messages":[«{{"content":[{BLOCK}],"role":"system"}},»{{"role":"user"}}]}}',
        f'{{"messages":[{{"role":"system","content":"«{LINE}»"}}]}}',
        f'{{"input":[{{"role":"developer","content":[«{BLOCK}»]}}]}}',
        f'{{"input":[{{"role":"developer","content":[«{BLOCK},»{BLOCK}]}},{{}}]}}',
        # several
        f'{{"input":[{{"role":"system","content":"«{LINE}»b"}}],"instructions":"«{LINE}\\n»"}}',
        # brackets and quotes in strings before and behind it
        f'{{"a":"{{[\\\\","b":["\\"}}]",{{}}],"system":"«{LINE}»b","c":[{{"d":"]\\\\"}}]}}',
    ],
)
def test_attribution(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        # not at the lead
        f'{{"system":[{{"text":"b"}},{BLOCK}]}}',
        f'{{"system":" {LINE}"}}',
        f'{{"messages":[{{"role":"user","content":"b"}},{{"role":"system","content":"{LINE}"}}]}}',
        # someone else's
        f'{{"messages":[{{"role":"user","content":"{LINE}\\nwhat is this?"}}]}}',
        f'{{"messages":[{BLOCK},{{"role":["system"],"content":"{LINE}"}}]}}',
        f'{{"x":{{"system":[{BLOCK}]}},"y":[{BLOCK}],"z":"{LINE}"}}',
        f'{{"system":[],"messages":[],"input":["{LINE}"]}}',
        f'{{"system":[{{}},{BLOCK}],"messages":[{{}},{BLOCK}]}}',
        f'{{"system":["{LINE}"]}}',
        f'{{"system":{BLOCK}}}',
        f'{{"system":[{{"type":"text","txt":"{LINE}"}}]}}',
        f'{{"messages":[{{"role":"system"}},{BLOCK}]}}',
        f'{{"messages":{{"role":"system","content":"{LINE}"}}}}',
        # nothing of the kind
        '{"system":"x-anthropic-billing-header: "}',
        '{"system":"x-anthropic-billing-header: what it means"}',
        f'{{"system":"X-{LINE[2:]}"}}',
        '{"x-anthropic-billing-header: a=b;":"x"}',
    ],
)
def test_no_attribution(text: str) -> None:
    assert stripped(text) == text


BLOCKS = f'[{{"type":"text","text":"{COUNT}","cache_control":{{"type":"ephemeral"}}}}]'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"messages":[1«,{SYSTEM}»,2«,{SYSTEM}»«,{SYSTEM}»]}}',
        f'{{"messages" : [ {{"role":"user"}}« , {SYSTEM}» , {{"content":"✓ \\ud83d"}} ] , "x":1}}',
        f'{{"messages":[1«,{{"role":"system","content":{BLOCKS}}}»]}}',
        f'{{"input":[1«,{{"type":"message","role":"developer","content":" {COUNT}\\n"}}»,[]]}}',
        f'{{"messages":[1«,{ESCAPED}»]}}',
        f'{{"messages":[{SYSTEM}«,{SYSTEM}»]}}',
        f'{{"messages":[{{"role":"system","content":"«{LINE}\\n»b"}}«,{SYSTEM}»]}}',
    ],
)
def test_countdown(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "message",
    [
        f'{{"role":"user","content":"{COUNT}"}}',
        f'{{"role":["system"],"content":"{COUNT}"}}',
        f'{{"content":"{COUNT}"}}',
        f'{{"role":"system","content":"{COUNT} Be brief."}}',
        f'{{"role":"system","content":"{COUNT}{COUNT}"}}',
        '{"role":"system","content":"<total_tokens>soon</total_tokens>"}',
        f'{{"role":"system","content":[{{"text":"{COUNT}"}},{{"text":"b"}}]}}',
        f'{{"role":"system","content":[{{"type":"image","url":"{COUNT}"}}]}}',
        f'{{"role":"system","content":["{COUNT}"]}}',
        f'{{"role":"system","text":"{COUNT}"}}',
        f'"{COUNT}"',
    ],
)
def test_no_countdown(message: str) -> None:
    for text in (
        f'{{"messages":[1,{message}]}}',
        f'{{"messages":[{SYSTEM},{message}]}}',  # the first one stays
        f'{{"messages":{SYSTEM},"input":"{COUNT}","x":[1,{SYSTEM}],"y":{{"input":[1,{SYSTEM}]}}}}',
    ):
        assert stripped(text) == text


def test_only_what_is_named_goes() -> None:
    text = f'{{"system":"{LINE}b","messages":[1,{SYSTEM}]}}'
    raw = text.encode()
    assert strip(raw, ["attribution"]).decode() == text.replace(LINE, "")
    assert strip(raw, ["countdown"]).decode() == text.replace(f",{SYSTEM}", "")
    assert strip(raw, []) is raw


def test_what_has_none_of_it_is_not_read() -> None:
    for raw in (b'{"system":[\xff}', b'{"metadata":{}}', b"{}"):
        assert strip(raw, STRIPPED) is raw


# --- session --------------------------------------------------------------------------------------

UUID = "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a"
LEGACY = f"user_{'a' * 64}_account_{UUID}_session_{UUID}"


def escaped(text: str) -> str:
    """Return a text as it stands in a JSON string; « and » stay."""
    return json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize(
    "user_id",
    [
        f'{{"device_id":"a","account_uuid":""«,"session_id":"{UUID}"»}}',
        f'{{«"session_id":"{UUID}",»"device_id":"✓"}}',
        f'{{ «"session_id" : "{UUID}" , »"device_id" : {{"session_id":1}} }}',
        f'{{"a":"{{\\"session_id\\"\\n\U0001f600"« , "session_id":"{UUID}"» ,"b":[1,2] }}',
        f'{{«"session_id":"{UUID}"»}}',
        '{«"session_id":1,»«"session_id":2»}',
        '{"a":1«,"session_id":{"b":[1]}»«,"session_id":null»,"c":2}',
        LEGACY.replace("_session", "«_session") + "»",
        f"user_é\n_session_x«_session_{UUID}»",
    ],
)
def test_session(user_id: str) -> None:
    for text in (
        escaped(user_id),
        escaped(user_id).replace("✓", "\\u2713").replace("x", "\\u0078"),
    ):
        check(
            f'{{"messages":[],"metadata":{{"a":{{"user_id":{escaped(LEGACY)}}},"user_id":{text}}}}}'
        )
        check(f'{{"metadata" : {{ "user_id" : {text} , "b":"{LEGACY}"}} ,"messages":[]}}')


def test_session_behind_escapes_of_two_characters() -> None:
    emoji = r"\ud83d\uDE00 \ud83d \u00e9"
    check(f'{{"metadata":{{"user_id":"{emoji}«_session_{UUID}»"}}}}')
    check(f'{{"metadata":{{"user_id":"{{\\"a\\":\\"{emoji}\\"«,\\"session_id\\":1»}}"}}}}')


@pytest.mark.parametrize(
    "member",
    [
        f'"metadata":"{LEGACY}"',
        f'"metadata":{{"user":"{LEGACY}"}}',
        f'"metadata":{{"user_id":{{"session_id":"{UUID}"}}}}',
        f'"metadata":{{"user_id":["{LEGACY}"]}}',
        f'"metadata":{{"user_id":"{LEGACY} "}}',
        f'"metadata":{{"user_id":"_session_{UUID}"}}',
        f'"metadata":{{"user_id":"{"a" * 5000}{LEGACY}"}}',
        '"metadata":{"user_id":"{\\"session_id\\":"}',
        '"metadata":{"user_id":"{}"}',
        f'"metadata":{{"user_id":{escaped(escaped(LEGACY))}}}',
        f'"user":"{LEGACY}","user_id":"{LEGACY}","x":{{"metadata":{{"user_id":"{LEGACY}"}}}}',
        f'"messages":[{{"metadata":{{"user_id":"{LEGACY}"}}}}]',
    ],
)
def test_no_session(member: str) -> None:
    assert stripped(f"{{{member}}}") == f"{{{member}}}"


# --- bodies that are large, or no JSON ------------------------------------------------------------

BIG = "x" * (4 << 20)
PARTS = (
    f'"system":[«{BLOCK},»{{"text":"b"}}]',
    f'"metadata":{{"user_id":"u«_session_{UUID}»"}}',
)
FIRST = f'"messages":[{{"role":"system","content":"«{LINE}\\n»b"}},{{"content":"'


@pytest.mark.parametrize("text", [f'{{"messages":["{BIG}"],{",".join(PARTS)},"x":[1]}}'])
def test_a_large_body_like_a_small_one(text: str) -> None:
    check(text)
    check(text.replace(BIG, ""))
    check(f'{{{FIRST}"}}]}}')
    check(f'{{{FIRST}{BIG}"}}]}}')
    # Texts of users that look like it change nothing, however many there are.
    user = f'{{"role":"user","content":"{LINE}"}}'
    before = ",".join([f'{{"input":{{"system":[{BLOCK}],"metadata":{{}}}}}}', user] * 2000)
    check(text.replace(f'["{BIG}"]', f'[{before},"{BIG}"]'))
    check(f'{{{FIRST}{BIG}"}},{before}]}}')


@pytest.mark.parametrize(
    "far", [f'"{BIG}"', '["",' + '"",' * 250_000 + "1]"], ids=["bytes", "quotes"]
)
@pytest.mark.parametrize("part", PARTS)
def test_too_far_from_both_ends(far: str, part: str) -> None:
    part = part.replace("«", "").replace("»", "")
    with pytest.raises(ValueError, match=r"^the body is too large to look for the text in it$"):
        stripped(f'{{"a":{far},{part},"b":{far}}}')
    # What is found nearer is enough.
    check(f'{{"a":{far},"c":{{{part}}},"b":{far},{",".join(PARTS)}}}')


@pytest.mark.parametrize("size", ["x" * (4 << 20), '","' * 50_000], ids=["bytes", "values"])
def test_countdown_of_a_large_body(size: str) -> None:
    with pytest.raises(
        ValueError, match=r"^the body is too large to look for the countdown in it$"
    ):
        stripped(f'{{"messages":[1,{SYSTEM},"{size}"]}}')


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        *((end, "is not JSON in UTF-8") for end in (b"", b",", b',"x":nope}')),
        (b',"messages":[1,{"a":1]}', "is not JSON in UTF-8"),
        (b',"x":' + DEEP + b"}", "nests too deep"),
        (b',"messages":[1,' + DEEP + b"]}", "nests too deep"),
    ],
    ids=range(6),
)
def test_what_cannot_be_read(end: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^the body {problem}$"):
        strip(b'{"messages":[1,' + SYSTEM.encode() + b"]" + end, STRIPPED)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"system":[{{"a":nope,"text":"{LINE}"}}]}}',
        f'{{"system":[{{"text":"{LINE}"',
        f'{{"messages":[{DEEP.decode()},{BLOCK}]}}',
        f'{{"messages":[{{"a":{DEEP.decode()},"role":"system","content":"{LINE}"}}]}}',
        f'{{"input":[{{"role":"system","content":"{LINE}","a":"{BIG}"}}]}}',
        f'{{"metadata":{{"user_id":"u_session_{UUID}","a":}}}}',
        f'{{"metadata":{{"user_id":"u_session_{UUID}","a":"{BIG}"}}}}',
        f'{{{" " * 2000}"system"{" " * 2000}:"{LINE}"}}',
    ],
    ids=range(8),
)
def test_what_is_left_as_it_is(text: str) -> None:
    assert stripped(text) == text


# --- anything at all ----------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(
    [
        *(LINE, f"{LINE}\nYou", f"{LINE}\r\nYou", f"{LINE}You", f" {LINE}", f"a{LINE}"),
        *(COUNT, f" {COUNT}\n", f"{COUNT}a", LEGACY, f"_session_{UUID}", "system", "user"),
        *('{"session_id":1}', '{"a":"\\n✓\U0001f600","session_id":"b"}', '"]}', '\\"{[', "\\"),
    ]
)
NAMES = st.sampled_from(
    [
        "system",
        "instructions",
        "messages",
        "input",
        "metadata",
        "user_id",
        "role",
        "content",
        "text",
    ]
)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(NAMES | TEXTS, values, max_size=4)
    ),
    max_leaves=12,
)
CONTENTS = TEXTS | st.lists(st.fixed_dictionaries({"text": TEXTS}, optional={"type": TEXTS}))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "developer"])})
    .flatmap(lambda role: st.fixed_dictionaries({"content": CONTENTS}).map(lambda it: role | it))
    .map(lambda message: dict(reversed(message.items())) if len(message) % 2 else message)
    | VALUES,
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("system", "instructions"), CONTENTS | VALUES),
        **dict.fromkeys(("messages", "input"), MESSAGES | VALUES),
        "metadata": st.fixed_dictionaries({"user_id": TEXTS}) | VALUES,
        "a": VALUES,
    },
).flatmap(lambda body: st.permutations([*body.items()]).map(dict))


def without_attribution(content: Any) -> tuple[Any, bool]:
    """Return a content without the attribution that leads it, and whether nothing is left."""
    first, text = None, content
    if isinstance(content, list) and content and isinstance(content[0], dict):
        first, text = content[0], content[0].get("text")
    if not isinstance(text, str) or not text.startswith(LINE):
        return content, False
    rest = re.sub(r"\A\r?\n?", "", text.removeprefix(LINE))
    if first is None:
        return rest, not rest
    blocks = [first | {"text": rest}] if rest else []
    return blocks + content[1:], not blocks + content[1:]


def is_countdown(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    is_text = isinstance(content, str) and content.strip() == COUNT
    return is_text and message.get("role") in ("system", "developer")


def reference(body: dict[str, Any]) -> dict[str, Any]:
    """Do what `strip` does on a body that was parsed."""
    body = dict(body)
    for name in ("system", "instructions"):
        if name in body:
            body[name] = without_attribution(body[name])[0]
    for name in ("messages", "input"):
        if not isinstance(messages := body.get(name), list) or not messages:
            continue
        first = messages[0]
        if isinstance(first, dict) and first.get("role") in ("system", "developer"):
            content, is_all = without_attribution(first.get("content"))
            changed = [first | {"content": content}] if "content" in first else [first]
            messages = ([] if is_all and messages[1:] else changed) + messages[1:]
        body[name] = messages[:1] + [each for each in messages[1:] if not is_countdown(each)]
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and isinstance(user_id := metadata.get("user_id"), str):
        if user_id.startswith("{"):
            user_id = re.sub(r',?"session_id":("b"|1)', "", user_id)
        elif user_id != f"_session_{UUID}":
            user_id = user_id.removesuffix(f"_session_{UUID}")
        body["metadata"] = metadata | {"user_id": user_id}
    return body


@given(BODIES, st.sampled_from([None, 0, 3]), st.booleans())
def test_of_any_object_the_named_texts_alone_go(
    body: dict[str, Any], indent: int | None, is_ascii: bool
) -> None:
    once = stripped(json.dumps(body, ensure_ascii=is_ascii, indent=indent))
    assert json.loads(once) == reference(body)


@given(st.binary() | st.text().map(str.encode), st.integers(0, 200))
def test_any_bytes_have_an_answer(noise: bytes, at: int) -> None:
    body = f'{{"messages":[1,{SYSTEM}],"system":[{BLOCK}],"metadata":{{"user_id":"{LEGACY}"}}}}'
    with suppress(ValueError):
        assert isinstance(strip(body.encode()[:at] + noise + body.encode()[at:], STRIPPED), bytes)
