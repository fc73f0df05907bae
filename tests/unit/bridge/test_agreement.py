import pytest
from prompt_cache_key.bridge.match import Match, match
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


def matched(body: Json, call: Json, *, by_ids: bool = False) -> Match | None:
    return match(done(read(encoded(body))), done(read(encoded(call))), by_ids=by_ids)


def test_an_equal_call_differs_in_nothing() -> None:
    for body in (HERE, *CONVERSATIONS.values()):
        assert matched(body, body) == Match(0, is_changed=False)


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
    assert matched(HERE, call) == Match(unknown, is_changed=False)


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
    assert matched(HERE, STRANGERS[stranger]) is None


def test_a_helper_has_no_tools() -> None:
    helper = request(FIRST, system=("Write a title.\nAs a line.",), tools=())
    assert matched(helper, chat(helper)) == Match(0, is_changed=False)
    assert matched(helper, chat(helper, system="drop")) is None
    assert matched(helper, chat(helper) | {"tools": [{"name": "Search"}]}) is None


def turn(output: str, call: str = "toolu_1", *more: Json, said: str = "fix the tests") -> Json:
    return request(prompt(said), LOOK, says("user", result(output, call=call)), *more)


@pytest.mark.parametrize(
    ("call", "agrees"),
    [
        (turn("x.py"), Match(1, is_changed=True)),  # by the id
        (turn("a.py\nb.py\nc.py", "toolu_x"), Match(0, is_changed=True)),
        (turn("a.py", "toolu_x"), None),
        (turn("a.py\nb.py\nc.py\nd.py\ne\nf\ng\nh\ni", "toolu_x"), None),
        (told(turn("a.py\nb.py\nc.py\nd.py")), Match(2, is_changed=False)),
    ],
)
def test_results_of_tools(call: Json, agrees: Match | None) -> None:
    assert matched(request(FIRST, LOOK, FILES), call) == agrees


STOP = says("user", "and stop")


@pytest.mark.parametrize(
    ("call", "is_its"),
    [
        (turn("rewritten"), True),
        (turn("rewritten", said="something else"), True),
        (chat(turn("rewritten"), system="drop") | {"tools": []}, True),
        (turn("rewritten", "toolu_1", at("/here")), True),
        (turn("a.py\nb.py\nc.py\nd.py", "toolu_1", STOP), False),
        (turn("rewritten") | {"tools": [{"name": "Search"}]}, False),
        (turn("rewritten") | {"system": [{"text": "You are a bot."}]}, False),
    ],
)
def test_ids_outweigh_the_words(call: Json, is_its: bool) -> None:
    body = request(FIRST, LOOK, FILES, at("/here"))
    assert (matched(body, call, by_ids=True) is not None) == is_its


def test_what_was_asked_after_the_results_is_in_the_call() -> None:
    assert matched(turn("a.py", "toolu_1", STOP), turn("a.py"), by_ids=True) is None
