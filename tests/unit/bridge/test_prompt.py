import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cache_key.bridge.passage import length
from prompt_cache_key.bridge.prompt import (
    MAX_IDS,
    MAX_LINES,
    MAX_NEEDLES,
    Prompt,
    newest_ids,
    read,
)
from unit.bridge.translators import (
    CONVERSATIONS,
    TRANSLATORS,
    Json,
    chat,
    done,
    encoded,
    request,
    responses,
    result,
    says,
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


def read_all(body: Json) -> Prompt:
    return done(read(encoded(body)))


@pytest.mark.parametrize("translate", [dict, chat, responses])
def test_three_dialects(translate: Any) -> None:
    prompt = read_all(translate(PARALLEL))
    assert len(prompt.tools) == 4
    assert [length(prompt.said), length(prompt.new), prompt.answers, prompt.asked] == [2, 4, 2, 0]
    assert prompt.ids == {"call_1", "call_2"}
    assert prompt.are_new
    assert set(newest_ids(encoded(translate(PARALLEL)))[:2]) == prompt.ids


def test_older_ids_are_not_new() -> None:
    more = [*PARALLEL["messages"], says("assistant", "Done."), says("user", "and now,\nonce more!")]
    prompt = read_all(request(*more))
    assert (prompt.ids, prompt.are_new) == ({"call_1", "call_2"}, False)
    assert (prompt.new, prompt.asked, prompt.needles) == ([], 1, [b"once more"])
    prompt = read_all({"input": [f"text {number}" for number in range(9)]})
    assert (prompt.asked, prompt.needles[-1], len(prompt.needles)) == (9, b"text 5", MAX_NEEDLES)


def test_what_is_only_thought_is_no_answer() -> None:
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}
    assert read_all(request(says("user", "hi"), thought, says("user", "well?"))).answers == 0
    assert read_all({"input": [{"type": "reasoning"}]}).answers == 0


def test_calls_and_results_as_text() -> None:
    prompt = read_all(told(PARALLEL))
    assert (prompt.answers, prompt.ids, length(prompt.new)) == (2, set(), 0)


@pytest.mark.parametrize(
    "content",
    ['[{"type": "text", "text": "a"}, {"text": "b"}]', "a\nb", '[{"type": "text", broken\nb'],
)
def test_result_that_looks_like_json(content: str) -> None:
    message = {"role": "tool", "tool_call_id": "call_1", "content": content}
    assert length(read_all({"messages": [message]}).new) == 2


def test_newest_ids() -> None:
    many = [result("x", call=f"call_{number}") for number in range(99)]
    many += [says("user", '{"tool_use_id": "call_in_a_text"}'), {"session_id": "s", "my_id": ""}]
    for body in (json.dumps(many, indent=1).encode(), encoded({"x": many})):
        assert newest_ids(body) == [f"call_{98 - number}" for number in range(MAX_IDS)]
    assert newest_ids(b'"tool_use_id" ' * 9999) == newest_ids(b"") == []


def test_memory_is_bounded() -> None:
    log = "\n".join(map(str, range(3 * MAX_LINES)))
    logs = ["\n".join(map(str, range(start, start + 99))) for start in range(0, 10**5, 99)]
    for body in (
        request(*(says("user", f"turn {number}\n{log}") for number in range(9))),
        request(*(says("user", log, result(log.replace("\n", "!\n"))) for log in logs)),
        {"input": log},
    ):
        assert MAX_LINES <= len(done(read(encoded(body), MAX_LINES)).known) <= 2 * MAX_LINES


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"[]", b"null", b"\xff", b'{"messages":', b"[" * 100_000],
        b'{"messages":' + b"[" * 100_000,
        b'{"messages": [' + b"9" * 5000 + b"]}",
    ],
)
def test_what_cannot_be_read_says_nothing(body: bytes) -> None:
    assert vars(done(read(body))) == vars(Prompt())


def test_long_bodies_are_read_in_many_steps() -> None:
    bodies: list[Json] = [
        {"input": [{}] * 9999},
        request(says("user", *["x"] * 9999)),
        request(says("user", *[result("")] * 9999)),
        request(says("user", "\n".join("x" * 99999))),
    ]
    for body in bodies:
        steps = list(read(encoded(body)))
        assert sum(steps) > 9999
        assert max(steps) < 3000


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
def test_any_json_can_be_read(body: Json) -> None:
    assert isinstance(read_all(body), Prompt)


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_no_translator_changes_the_number_of_answers(translator: str) -> None:
    for body in CONVERSATIONS.values():
        assert read_all(TRANSLATORS[translator](body)).answers == read_all(body).answers
