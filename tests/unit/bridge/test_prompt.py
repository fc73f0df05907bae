import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.bridge.lines import Lines, length
from prompt_cache_key.bridge.prompt import (
    MAX_BYTES,
    MAX_IDS,
    MAX_ITEMS,
    MAX_LINES,
    MAX_MESSAGES,
    MAX_VALUES,
    Prompt,
    newest_ids,
    read,
)
from unit.bridge.translators import (
    Json,
    chat,
    done,
    encoded,
    request,
    responses,
    result,
    says,
    text,
    told,
    use,
)

USES = [use(f"call_{number}") for number in range(3)]
PARALLEL = request(
    says("user", "hi there"),
    says("assistant", USES[0]),
    says("user", result("old", call="call_0")),
    says("assistant", "Both.", USES[1], USES[2]),
    says("user", result("x", call="call_1"), result("y\nz", "and w", call="call_2")),
    says("system", "Mind the gap: now."),
)


def read_all(body: Json, *, is_call: bool = True) -> Prompt:
    prompt = done(read(encoded(body), is_call=is_call))
    assert prompt
    return prompt


def results(prompt: Prompt) -> list[Lines]:
    return [each for message in prompt.messages for each in message.results]


def answers(prompt: Prompt) -> list[bool]:
    return [message.is_answer for message in prompt.messages if message.is_assistant]


@pytest.mark.parametrize("translate", [dict, chat, responses])
def test_three_dialects(translate: Any) -> None:
    prompt = read_all(translate(PARALLEL))
    assert len(prompt.tools) == 4
    assert [length(prompt.said), length(results(prompt)), prompt.newest_calls] == [2, 4, 2]
    assert all(answers(prompt))
    newest = newest_ids(encoded(translate(PARALLEL)))[: prompt.newest_calls]
    assert set(newest) == {"call_1", "call_2"}


@pytest.mark.parametrize("translate", [dict, chat, responses])
def test_results_are_read_back_to_the_newest_calls(translate: Any) -> None:
    more = [*PARALLEL["messages"], says("assistant", "Done."), says("user", "and now")]
    prompt = read_all(translate(request(*more)))
    assert (length(results(prompt)), prompt.newest_calls) == (4, 2)
    prompt = read_all(translate(request(*more, says("assistant", USES[0]))))
    assert (results(prompt), prompt.newest_calls) == ([], 0)


def test_what_is_only_thought_is_no_answer() -> None:
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}
    assert answers(read_all(request(says("user", "hi"), thought))) == [False]
    assert answers(read_all({"input": [{"type": "reasoning"}]})) == [False]


def test_messages_are_plain_without_calls_and_results() -> None:
    assert [each.is_plain for each in read_all(PARALLEL).messages] == [*[False] * 4, True]


def test_calls_and_results_as_text() -> None:
    prompt = read_all(told(PARALLEL))
    assert (answers(prompt), prompt.newest_calls, results(prompt)) == ([True] * 2, 0, [])


@pytest.mark.parametrize(
    "content",
    [
        '[{"type": "text", "text": "a"}, {"text": "b"}]',
        "a\nb",
        '[{"type": "text", broken\nb',
        '[{"text": "a\ud83d"}, {"text": "b"}]',
        '[{"text": "a\nb"},' + "[]," * (MAX_VALUES // 2) + "1]",
    ],
)
def test_result_that_looks_like_json(content: str) -> None:
    message = {"role": "tool", "tool_call_id": "call_1", "content": content}
    # Commas may be written as escapes, which nobody counts in the whole body.
    raw = json.dumps({"messages": [message]}).replace("[],", r"\u005b\u005d\u002c").encode()
    prompt = done(read(raw, is_call=True))
    assert prompt
    assert length(results(prompt)) == 2


def test_newest_ids() -> None:
    many = [result("x", call=f"call_{number}") for number in range(99)]
    many += [says("user", '{"tool_use_id": "call_in_a_text"}'), {"session_id": "s", "my_id": ""}]
    for body in (json.dumps(many, indent=1).encode(), encoded({"x": many})):
        assert newest_ids(body) == [f"call_{98 - number}" for number in range(MAX_IDS)]
    assert newest_ids(b'"tool_use_id" ' * 9999) == newest_ids(b"") == []


# --- bounds -------------------------------------------------------------------------------------

TINY = "\n".join(map(str, range(4 * MAX_LINES)))
LABELS = "\n".join(f"{n}: {n}" for n in range(4 * MAX_LINES))
BLOCKS = text(*(f"{n}: {n}\n{n}!" for n in range(MAX_ITEMS)))
HOSTILE: dict[str, Json] = {
    "tiny lines": request(says("user", TINY), system=(TINY,)),
    "labels": request(says("user", LABELS), says("system", LABELS), system=(LABELS,)),
    "messages of one line": request(*(says("user", f"{n}: x") for n in range(MAX_MESSAGES))),
    "messages without lines": request(*[{"role": "assistant"}] * MAX_MESSAGES),
    "system messages": request(*(says("system", f"{n}: x") for n in range(MAX_MESSAGES))),
    "blocks": {"system": BLOCKS, "messages": [{"role": "user", "content": BLOCKS}] * 9},
    "results": request(*(says("user", result(TINY, call=f"call_{n}")) for n in range(9))),
    "many results": request(*(says("user", result("a: 1", call=str(n))) for n in range(9999))),
    "many texts": {"input": [TINY, LABELS] * 4},
    "tools": {"tools": [{"name": str(n)} for n in range(MAX_ITEMS)]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_kept_of_a_request_is_bounded(name: str) -> None:
    prompt = read_all(HOSTILE[name], is_call=False)
    groups = [*prompt.system, *prompt.said, *results(prompt)]
    arrays = [array for each in groups for array in (each.inner, *each.edges, each.labels)]
    # Three kinds of lines; the last of each kind may take two lines a block more than has room.
    assert sum(map(len, arrays)) <= 12 * MAX_LINES
    assert len(groups) <= 3 * MAX_LINES / 24
    assert len(set(map(id, prompt.messages))) <= len(groups) + 8
    assert len(prompt.tools) <= MAX_ITEMS


@pytest.mark.parametrize("is_call", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_step_of_reading_takes_long(name: str, is_call: bool) -> None:
    steps = read(encoded(HOSTILE[name]), is_call=is_call)
    assert max(steps) <= 50_000


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"[]", b"null", b"\xff", b'{"messages":', b"[" * 100_000],
        b'{"messages":' + b"[" * 100_000,
        b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b"{}".ljust(MAX_BYTES + 1),
        b'{"x": [' + b"[]," * (MAX_VALUES // 2) + b"1]}",
        b'{"x": [' + b"1," * MAX_VALUES + b"1]}",
        encoded({"messages": [1] * (MAX_MESSAGES + 1)}),
        encoded({"messages": [says("user", *["x"] * (MAX_ITEMS + 1))]}),
        encoded({"tools": [{}] * (MAX_ITEMS + 1)}),
    ],
)
def test_what_is_too_much_or_no_object_is_not_read(body: bytes) -> None:
    assert done(read(body, is_call=True)) is None


def test_numbers_may_be_long() -> None:
    raw = b'{"x": [' + b"9" * 5000 + b', 1.5e999], "messages": [{"content": "hi"}]}'
    prompt = done(read(raw, is_call=True))
    assert prompt
    assert length(prompt.said) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "output", "type", "call_id", "function"]),
            inner | st.sampled_from(["assistant", "system", "function_call", "tool_use"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["messages", "input", "system", "instructions", "tools"]), JSON)
)
def test_any_json_object_can_be_read(body: Json) -> None:
    assert isinstance(read_all(body), Prompt)
