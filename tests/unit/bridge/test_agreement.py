import pytest
from prompt_cache_key.bridge.agreement import Agreement, Comparison
from prompt_cache_key.bridge.prompt import read
from unit.bridge.translators import (
    ATTRIBUTION,
    CONVERSATIONS,
    FILES,
    FIRST,
    IMAGE,
    LOOK,
    TOOLS,
    Json,
    chat,
    cut,
    done,
    encoded,
    environment,
    prompt,
    request,
    result,
    says,
    told,
)

SYSTEM = (ATTRIBUTION, "You are Claude Code.\nBe concise.\nBe careful.\n\n# Tools\nUse Bash.")


def at(directory: str) -> Json:
    return says("system", environment(directory))


def first(*more: Json, system: tuple[str, ...] = SYSTEM, tools: tuple[str, ...] = TOOLS) -> Json:
    return request(FIRST, *more, system=system, tools=tools)


HERE = first(at("/here"))


def agreement(body: Json, call: Json, *, has_same_ids: bool = False) -> Agreement | None:
    request, its_call = (done(read(encoded(each), is_call=each is call)) for each in (body, call))
    assert request
    assert its_call
    return Comparison(its_call).agreement(request, has_same_ids=has_same_ids)


def test_an_equal_call_differs_in_nothing() -> None:
    for body in (HERE, *CONVERSATIONS.values()):
        assert agreement(body, body) == Agreement(0, is_changed=False)


@pytest.mark.parametrize(
    ("call", "unknown"),
    [
        (chat(HERE), 0),
        (chat(HERE, middle="system"), 0),
        (chat(HERE, middle="user"), 0),
        (chat(HERE, middle="user", note="A note."), 1),
        (cut(HERE), 0),
        (chat(HERE, system="drop", middle="user"), 0),
        (chat(HERE, extra="Be yourself."), 1),
        (first(system=(*SYSTEM, "Be yourself.")), 1),
        (first(system=("x-anthropic-billing-header: cc_version=1;", SYSTEM[1])), 1),
        (first(tools=TOOLS[:1]), 0),
        (first(at("/here"), tools=()), 0),
        (first(tools=(*TOOLS, "a", "b", "c", "d", "e")), 0),
    ],
)
def test_what_translators_drop_and_add(call: Json, unknown: int) -> None:
    assert agreement(HERE, call) == Agreement(unknown, is_changed=False)


STRANGERS = {
    "the words alone": first(system=(), tools=()),
    "another system prompt": first(system=("You are a bot.\nBe brief.\nBe kind.",)),
    "a bit of another": first(system=(*SYSTEM, "Be brief.", "Be kind.", "Be bold.")),
    "another directory": first(at("/there")),
    "another directory, as a user": chat(first(at("/there")), middle="user"),
    "other tools": first(tools=("Search", "Fetch")),
    "mostly other tools": first(tools=("Bash", "Search")),
    "tools alone": request(system=SYSTEM),
    "an image": request(says("user", IMAGE), system=SYSTEM),
    "other words": request(prompt("fix the tools"), system=SYSTEM),
    "more words": request(prompt("fix the tests", "and the docs"), system=SYSTEM),
    "fewer words": request(says("user", "fix the tests"), system=SYSTEM),
    "a later turn": first(says("assistant", "Done."), says("user", "fix the tests")),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers(stranger: str) -> None:
    assert agreement(HERE, STRANGERS[stranger]) is None


def test_a_helper_has_no_tools() -> None:
    helper = request(FIRST, system=("Write a title.\nAs a line.",), tools=())
    assert agreement(helper, chat(helper)) == Agreement(0, is_changed=False)
    assert agreement(helper, chat(helper, system="drop")) is None
    assert agreement(helper, chat(helper) | {"tools": [{"name": "Search"}]}) is None


def turn(output: str, call: str = "toolu_1", *more: Json, said: str = "fix the tests") -> Json:
    return request(prompt(said), LOOK, says("user", result(output, call=call)), *more)


@pytest.mark.parametrize(
    ("call", "agrees"),
    [
        (turn("x.py"), None),
        (turn("a.py\nb.py\nc.py", "toolu_x"), Agreement(0, is_changed=True)),
        (turn("a.py", "toolu_x"), None),
        (turn("a.py\nb.py\nc.py\nd.py\ne\nf\ng\nh\ni", "toolu_x"), None),
        (told(turn("a.py\nb.py\nc.py\nd.py")), Agreement(2, is_changed=False)),
    ],
)
def test_results_of_tools(call: Json, agrees: Agreement | None) -> None:
    assert agreement(request(FIRST, LOOK, FILES), call) == agrees


STOP = says("user", "and stop")


@pytest.mark.parametrize(
    ("call", "is_its"),
    [
        (turn("rewritten"), True),
        (chat(turn("rewritten"), system="drop") | {"tools": []}, True),
        (turn("rewritten", "toolu_1", at("/here")), True),
        (turn("rewritten", said="something else"), False),
        (turn("a.py\nb.py\nc.py\nd.py", "toolu_1", STOP), False),
        (turn("rewritten") | {"tools": [{"name": "Search"}]}, False),
        (turn("rewritten") | {"system": [{"text": "You are a bot."}]}, False),
    ],
)
def test_equal_ids_excuse_results_and_system_prompt_alone(call: Json, is_its: bool) -> None:
    body = request(FIRST, LOOK, FILES, at("/here"))
    assert (agreement(body, call, has_same_ids=True) is not None) == is_its


def test_words_after_the_results_are_in_the_call() -> None:
    body = turn("a.py", "toolu_1", STOP)
    assert agreement(body, turn("a.py"), has_same_ids=True) is None


# --- system messages that the assistant says ------------------------------------------------------

GIT = says("system", "Git: yes\nBranch: main")
TALK = request(FIRST, at("/here"), LOOK, FILES, GIT, says("assistant", "Done."), STOP, GIT)


@pytest.mark.parametrize("join", [None, "\n"])
@pytest.mark.parametrize("length", range(2, 9))
def test_assistant_says_system_messages(length: int, join: str | None) -> None:
    """OmniRoute 3.7.9 sends system messages inside a conversation as the assistant's."""
    body = TALK | {"messages": TALK["messages"][:length]}
    call = chat(body, middle="assistant", join=join)
    assert agreement(body, call) == Agreement(0, is_changed=False)


def test_assistant_who_says_a_bit_more_than_a_system_message_answers() -> None:
    call = chat(HERE, middle="assistant", note="A note.")
    assert agreement(HERE, call) is None


def test_a_system_message_of_another_directory_is_an_answer() -> None:
    assert agreement(HERE, chat(first(at("/there")), middle="assistant")) is None


def test_assistant_and_user_who_say_just_what_the_system_prompt_says() -> None:
    echo, reply = says("user", "Be concise."), says("assistant", "Be careful.")
    for messages in (
        [FIRST, reply, STOP],
        [FIRST, says("assistant", "Done."), echo],
        [FIRST, echo],
    ):
        body = request(*messages)
        for call in (body, chat(body), chat(body, middle="user")):
            assert agreement(body, call) == Agreement(0, is_changed=False)
