import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.recordings import records
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
        # several
        f'{{"input":[{{"role":"system","content":"«{LINE}»b"}}],"instructions":"«{LINE}\\n»"}}',
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
    raw = b'{"system":[\xff}'
    assert strip(raw, STRIPPED) is raw


@pytest.mark.parametrize("mark", [f'"system":[{BLOCK}]', f'"messages":[1,{SYSTEM}]'])
@pytest.mark.parametrize(
    ("end", "problem"),
    [
        *((end, "is not JSON in UTF-8") for end in (b"", b",", b',"x"}', b',"x":nope}')),
        (b',"x":"\xff"}', "is not JSON in UTF-8"),
        (b',"messages":[1,{"a":1]}', "is not JSON in UTF-8"),
        (b',"x":' + DEEP + b"}", "nests too deep"),
        (b',"messages":[1,' + DEEP + b"]}", "nests too deep"),
    ],
    ids=range(8),
)
def test_what_cannot_be_read(mark: str, end: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^the body {problem}$"):
        strip(b"{" + mark.encode() + end, STRIPPED)


def without(body: dict[str, Any]) -> dict[str, Any]:
    """Do the same on a Messages body that was parsed, with texts of these kinds alone."""
    if isinstance(system := body.get("system"), list) and LINE[:30] in json.dumps(system[0]):
        body = body | {"system": system[1:]}
    kept = [each for each in body["messages"] if "<total_tokens>" not in json.dumps(each)]
    return body | {"messages": kept}


@pytest.mark.parametrize(
    ("name", "attributions", "countdowns"), [("claude_code", 22, 0), ("countdown", 5, 10)]
)
def test_recorded_bodies(name: str, attributions: int, countdowns: int) -> None:
    found = [0, 0]
    for record in records(name):
        if text := record["body"]:
            # Compact JSON as JavaScript writes it, so each byte can be told.
            after = without(json.loads(text))
            assert stripped(text) == json.dumps(after, ensure_ascii=False, separators=(",", ":"))
            found[0] += '"x-anthropic-billing-header' in text
            found[1] += text.count("<total_tokens>")
    assert found == [attributions, countdowns]


# --- anything at all ----------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS | st.sampled_from([LINE, COUNT, f"a{LINE}"]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "role", "system"]) | TEXTS, values, max_size=3)
    ),
    max_leaves=5,
)
TEXT_BLOCKS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)
USER = st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS | st.just(COUNT) | VALUES})
NAMES = TEXTS.filter(lambda name: name not in ("system", "messages"))


@given(
    rest=st.dictionaries(NAMES, VALUES),
    blocks=TEXT_BLOCKS,
    text=st.sampled_from(["", "\nYou", "\r\nYou", "You"]),
    messages=st.lists(USER | st.just(json.loads(SYSTEM)), max_size=6),
    indent=st.sampled_from([None, 0, 3]),
)
def test_of_any_object_the_named_texts_alone_go(
    rest: dict[str, Any], blocks: list[Any], text: str, messages: list[Any], indent: int | None
) -> None:
    first, left = [{"text": LINE + text}], [{"text": text.lstrip()}] if text else []
    kept = messages[:1] + [each for each in messages[1:] if each != json.loads(SYSTEM)]
    for before, after in [(first + blocks, left + blocks), (LINE + text, text.lstrip())]:
        body = rest | {"messages": messages, "system": before}
        once = stripped(json.dumps(body, ensure_ascii=bool(blocks), indent=indent))
        assert json.loads(once) == rest | {"messages": kept, "system": after}
        assert stripped(once) == once
