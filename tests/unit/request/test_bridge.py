import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lib.recordings import records
from prompt_cache_key.request import bridge
from prompt_cache_key.request.bridge import MAX_LINES, MAX_WAITING, Bridge

Json = dict[str, Any]


def text(*texts: str) -> list[Json]:
    return [{"type": "text", "text": text} for text in texts]


def result(*texts: str) -> Json:
    """Return a tool result, of one text as Claude Code's Bash has it, of several as its Agent."""
    content = texts[0] if len(texts) == 1 else text(*texts)
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}


def says(role: str, *blocks: str | Json) -> Json:
    return {
        "role": role,
        "content": [block for b in blocks for block in (text(b) if isinstance(b, str) else [b])],
    }


USE = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls\nls -l"}}
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="},
}
REMINDER = "<system-reminder>\nThe date is 2026-11-22.\n\nUse tabs.\n</system-reminder>\n"
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.330.572; cc_entrypoint=cli;"
SYSTEM = [ATTRIBUTION, "You are Claude Code.", "Be concise.\nBe careful.\n\n# Tools\nUse Bash."]
TOOLS = ("Agent", "Bash", "Edit", "Read")


def request(*messages: Json, system: list[str] = SYSTEM, tools: tuple[str, ...] = TOOLS) -> Json:
    """Return a request as Claude Code sends it."""
    return {
        "model": "claude-opus-5-5",
        "messages": list(messages),
        "system": text(*system),
        "tools": [
            {"name": name, "description": f"{name} it", "input_schema": {}} for name in tools
        ],
        "stream": True,
    }


def prompt(*texts: str) -> Json:
    return says("user", REMINDER, *texts)


def encoded(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def waiting(**requests: Json) -> Bridge:
    """Return a bridge with a request in flight for each of these sessions."""
    found = Bridge()
    for session, body in requests.items():
        found.add(session, session, "main", lambda body=body: encoded(body))  # type: ignore[misc]
    return found


def find(found: Bridge, call: Json) -> str | None:
    cause = found.find(encoded(call))
    return cause[1] if cause else None


# --- translators --------------------------------------------------------------------------------

Translator = Callable[[Json], Json]


def content_blocks(message: Json) -> list[Json]:
    content = message["content"]
    return text(content) if isinstance(content, str) else list(content)


def texts_of(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [block["text"] for block in content or [] if block.get("type") == "text"]


def result_text(block: Json, how: str) -> str:
    """Return a tool result as one text: its blocks joined, or as JSON text of their list."""
    content = block["content"]
    if isinstance(content, str):
        return content
    return json.dumps(content) if how == "json" else how.join(texts_of(content))


def shortened(written: str) -> str:
    lines = written.split("\n")
    half = (len(lines) + 1) // 2
    return "\n".join([*lines[:half], "... (cut)"][: len(lines)])


def chat_messages(
    role: str, blocks: list[Json], *, join: str | None, split: bool, results: str, shorten: bool
) -> tuple[list[Json], list[Json]]:
    """Return what a message says, and the messages of the tool results in it."""
    said = texts_of(blocks)
    contents: list[Any] = [text(*said)] if join is None else [join.join(said)]
    own = [
        {"role": role, "content": each} for each in (said if split else contents if said else [])
    ]
    of_tools = []
    for block in blocks:
        if block["type"] == "tool_result":
            written = result_text(block, results)
            content = shortened(written) if shorten else written
            of_tools.append({"role": "tool", "tool_call_id": "toolu_1", "content": content})
        elif block["type"] == "tool_use":
            function = {"name": block["name"], "arguments": json.dumps(block["input"])}
            own = own or [{"role": role, "content": None}]
            own[-1]["tool_calls"] = [{"id": block["id"], "type": "function", "function": function}]
    return own, of_tools


def merged(messages: list[Json]) -> list[Json]:
    """Make one of the user's messages that follow each other."""
    found: list[Json] = []
    for message in messages:
        if message["role"] == "user" and found and found[-1]["role"] == "user":
            found[-1]["content"] += f"\n\n{message['content']}"
        else:
            found.append(message)
    return found


def chat(
    body: Json,
    *,
    system: str = "keep",
    middle: str = "drop",
    join: str | None = None,
    split: bool = False,
    results: str = "json",
    results_first: bool = True,
    shorten: bool = False,
    merge: bool = False,
    extra: str = "",
) -> Json:
    """Translate to OpenAI Chat Completions.

    `system` is kept, cut (the attribution), stripped, or said by the user, and `middle` says what
    becomes of system messages: dropped, kept, or said by the user, maybe with a note as LiteLLM
    1.106 does. `join` joins the texts of a message, `split` makes a message of each. `results` says
    how tool results of several blocks are written, `results_first` where they go, `shorten` cuts
    them. `merge` joins the messages of a role that follow each other. `extra` is said first.
    """
    prompts = texts_of(body["system"])
    if system == "cut":
        prompts = [each for each in prompts if not each.startswith("x-anthropic-billing-header:")]
    messages: list[Json] = []
    if system == "user":
        messages.append({"role": "user", "content": "\n\n".join(prompts)})
    elif system != "strip":
        messages.append({"role": "system", "content": "\n".join(prompts)})
    if extra:
        messages.append({"role": "user", "content": extra})
    for message in body["messages"]:
        role = message["role"]
        if role == "system":
            if middle == "drop":
                continue
            role = middle
        blocks = content_blocks(message)
        if role == "note":
            role, blocks = "user", [*text("This was a system message."), *blocks]
        own, of_tools = chat_messages(
            role, blocks, join=join, split=split, results=results, shorten=shorten
        )
        messages += of_tools + own if results_first else own + of_tools
    if merge:
        messages = merged(messages)
    tools = [{"type": "function", "function": {"name": t["name"]}} for t in body.get("tools") or []]
    return {"model": "gpt-5", "messages": messages} | ({"tools": tools} if tools else {})


def responses(body: Json, *, strip: bool = False) -> Json:
    """Translate to OpenAI Responses."""
    items: list[Json] = []
    for message in body["messages"]:
        role = {"system": "developer"}.get(message["role"], message["role"])
        type_ = "output_text" if role == "assistant" else "input_text"
        for block in content_blocks(message):
            if block["type"] == "text":
                content = [{"type": type_, "text": block["text"]}]
                items.append({"type": "message", "role": role, "content": content})
            elif block["type"] == "tool_use":
                arguments = json.dumps(block["input"])
                items.append({"type": "function_call", "name": "Bash", "arguments": arguments})
            elif block["type"] == "tool_result":
                output = [{"type": "input_text", "text": t} for t in texts_of(block["content"])]
                items.append(
                    {"type": "function_call_output", "call_id": "toolu_1", "output": output}
                )
    call = {
        "model": "gpt-5",
        "input": items,
        "tools": [{"type": "function"} | t for t in body.get("tools", [])],
    }
    return call if strip else call | {"instructions": "\n\n".join(texts_of(body["system"]))}


def told(body: Json) -> Json:
    """Translate to Chat Completions as claude-code-proxy 0.1.5 does: all is said, in one text."""
    messages = [{"role": "system", "content": "\n\n".join(texts_of(body["system"]))}]
    for message in body["messages"]:
        lines = []
        for block in content_blocks(message):
            if block["type"] == "text":
                lines.append(block["text"])
            elif block["type"] == "tool_use":
                lines.append(f"[Tool: {block['name']}]\nInput: {json.dumps(block['input'])}\n")
            elif block["type"] == "tool_result":
                lines.append(result_text(block, "\n"))
        if message["role"] != "system":
            content = "\n".join(lines) if lines else "..."
            messages.append({"role": message["role"], "content": content})
    return {"model": "gpt-5", "messages": messages, "tools": body.get("tools", [])}


def anthropic(body: Json) -> Json:
    """Send it on as it is, under another model's name."""
    return body | {"model": "m2"}


TRANSLATORS: dict[str, Translator] = {
    "anthropic": anthropic,
    "chat": chat,
    "responses": responses,
    "responses, stripped": lambda body: responses(body, strip=True),
    "one text for all": told,
}
for _name, _options in {
    "strips system": {"system": "strip"},
    "cuts attribution": {"system": "cut"},
    "system is said by the user": {"system": "user"},
    "keeps system messages": {"middle": "system"},
    "system messages are said by the user": {"middle": "user"},
    "system messages are said with a note": {"middle": "note", "results": ""},
    "user messages are merged": {"middle": "user", "join": "\n", "merge": True},
    "joins": {"join": "", "results": ""},
    "joins with a space": {"join": " ", "results": " "},
    "joins with a line break": {"join": "\n", "results": "\n"},
    "joins with a blank line": {"join": "\n\n", "results": "\n\n"},
    "splits": {"split": True},
    "results last": {"results_first": False},
    "shortens results": {"shorten": True, "results": "\n"},
    "says something first": {"system": "strip", "extra": "You are no Claude.\nBe yourself."},
}.items():
    TRANSLATORS[_name] = lambda body, options=_options: chat(body, **options)  # type: ignore[misc]

# --- conversations ------------------------------------------------------------------------------

FIRST = prompt("fix the tests")
LOOK = says("assistant", "I look around.", USE)
ENVIRONMENT = says("system", "\n".join(f"# Environment {number}" for number in range(9)))
FILES = says("user", result("a.py\nb.py\nc.py\nd.py"))
FOUND = [FIRST, LOOK, FILES, says("assistant", "I found it.", USE)]

# Each in another session, and as like as they can be without being the same.
CONVERSATIONS = {
    "first prompt": request(FIRST),
    "another prompt": request(prompt("fix the tools")),
    "a longer prompt": request(prompt("fix the tests\nand the docs\nand the tools\nand the rest")),
    "a prompt in two blocks": request(prompt("fix the", "rest")),
    "a result": request(FIRST, LOOK, FILES),
    "another result": request(FIRST, LOOK, says("user", result("x.py\nb.py\ny.py\nz.py"))),
    "another answer": request(FIRST, says("assistant", "I see.", USE), FILES),
    "a second result": request(*FOUND, says("user", result("1 passed"))),
    "a trivial result": request(*FOUND, says("user", result("a.py"))),
    "results of agents": request(
        *FOUND, says("user", result("All is well.", "agent: a1"), result("2 passed\n", "agent: a2"))
    ),
    "a result and a prompt": request(*FOUND, says("user", result("a.py"), "and now", "stop it")),
    "a prompt after": request(
        FIRST, LOOK, FILES, says("assistant", "Done."), says("user", "commit it")
    ),
    "a fork": request(
        FIRST, LOOK, FILES, says("assistant", "Done."), says("user", "push it\nto the fork")
    ),
    "the fork goes on": request(
        FIRST,
        LOOK,
        FILES,
        says("assistant", "Done."),
        says("user", "push it\nto the fork"),
        says("assistant", "I push it."),
        {"role": "user", "content": "commit it, too"},
    ),
    "a system message": request(prompt("what is new"), ENVIRONMENT),
    "another after a system message": request(prompt("what is old"), ENVIRONMENT),
    "the same one later": request(
        prompt("what is new"),
        ENVIRONMENT,
        says("assistant", "Nothing."),
        says("user", "and now"),
        ENVIRONMENT,
    ),
    "an image": request(prompt("what is this"), says("assistant", "A cat."), says("user", IMAGE)),
    "a subagent": request(prompt("look for cats"), system=["You are an agent."], tools=("Bash",)),
    "its title": request(
        says("user", "fix the tests"), system=[ATTRIBUTION, "Write a title.\nAs a line."], tools=()
    ),
    "a summary": request(FIRST, LOOK, FILES, says("user", "Sum it up."), tools=()),
}


# Without tools and system prompt a few words don't tell it from a stranger, nor does a whole
# conversation with something added; "..." for an image neither.
NOT_FOUND = {
    ("strips system", "its title"),
    ("responses, stripped", "its title"),
    ("says something first", "its title"),
    ("says something first", "a summary"),
    ("one text for all", "an image"),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("translator", TRANSLATORS)
def test_each_call_finds_its_session(translator: str, name: str) -> None:
    call = TRANSLATORS[translator](CONVERSATIONS[name])
    found = None if (translator, name) in NOT_FOUND else name
    assert find(waiting(**CONVERSATIONS), call) == found


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("translator", TRANSLATORS)
def test_no_call_finds_another_session(translator: str, name: str) -> None:
    others = {other: body for other, body in CONVERSATIONS.items() if other != name}
    if (translator, name) == ("one text for all", "a trivial result"):
        # Said by the user, what is also the first result looks as if that were the last word.
        del others["a result"]
    assert find(waiting(**others), TRANSLATORS[translator](CONVERSATIONS[name])) is None


def test_results_of_the_same_call_that_differ_a_little() -> None:
    outputs = ["a.py\nb.py\nc.py", "a.py\nb.py\nc.py\nd.py", "a.py\nb.py\nx.py", "a.py\nb.py"]
    bodies = {output: request(FIRST, LOOK, says("user", result(output))) for output in outputs}
    for order in (outputs, outputs[::-1]):
        found = waiting(**{output: bodies[output] for output in order})
        for output, body in bodies.items():
            assert find(found, chat(body)) == output


def test_tools_that_are_left_out_and_added() -> None:
    found = waiting(session=request(FIRST))
    for tools, cause in [
        (TOOLS, "session"),
        ((*TOOLS, "Search", "Fetch", "Exit", "Wait", "Watch"), "session"),
        (TOOLS[:2], "session"),
        (TOOLS[:1], "session"),
        ((), "session"),
        (("Search",), None),
        ((*TOOLS[:1], "Search"), None),
    ]:
        assert find(found, chat(request(FIRST, tools=tools))) == cause
    # Who leaves out most of them adds nothing, or is a stranger.
    for tools, cause in [(TOOLS[:2], "session"), (TOOLS[:1], None)]:
        assert find(found, chat(request(FIRST, tools=tools), extra="Be yourself.")) == cause


# --- strangers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stranger",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user", "content": ""}]},
        {
            "messages": [{"role": "user", "content": []}],
            "tools": [{"name": name} for name in TOOLS],
        },
        request(),
        request(says("user", IMAGE)),
        request(says("user", result("a.py"))),
        request(says("user", "hi")) | {"tools": []},
        request(says("user", "write a poem")),
        request(prompt("write a poem")),
        request(FIRST, tools=("Search", "Fetch")),
        request(FIRST, tools=(), system=["You are helpful."]),
        request(FIRST, LOOK, FILES, tools=("Bash", "Search")),
        request(FIRST, says("assistant", "Done."), says("user", "a.py")),
        chat(request(FIRST, LOOK, FILES, says("user", "Well?"), tools=())),
        chat(request(says("user", "fix the tests"), tools=()), system="strip"),
        {"input": "fix the tests", "instructions": "Be concise."},
        {"input": "hi"},
        {"messages": [{"role": "system", "content": "\n".join(SYSTEM)}]},
        {"messages": ["hi", 1, None, [], {"role": 1, "content": {"text": "hi"}}], "tools": [1, {}]},
        {"messages": {"role": "user", "content": "hi"}, "tools": {"function": {"name": "Bash"}}},
    ],
)
def test_stranger_finds_nothing(stranger: Json) -> None:
    trivial = {
        "hi": request(says("user", "hi")),
        "with reminder": request(prompt("hi")),
        "bare": request(says("user", "hi"), system=[], tools=()),
    }
    found = waiting(**CONVERSATIONS, **trivial)
    assert find(found, stranger) is None
    assert find(found, chat(trivial["hi"])) == "hi"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"messages":', b"[" * 100_000])
def test_no_object_finds_nothing(body: bytes) -> None:
    found = waiting(**CONVERSATIONS)
    assert found.find(body) is None
    found.add("broken", "broken", None, lambda: body)
    assert found.find(body) is None
    assert find(found, chat(CONVERSATIONS["a fork"])) == "a fork"


# --- the requests in flight ---------------------------------------------------------------------


def test_equal_requests_take_turns() -> None:
    found = waiting(first=request(FIRST), second=request(FIRST), third=request(FIRST))
    call = chat(request(FIRST))
    assert [find(found, call) for _ in range(4)] == ["first", "second", "third", "first"]
    found.remove("first")
    found.add("fourth", "fourth", None, lambda: encoded(request(FIRST)))
    assert [find(found, call) for _ in range(4)] == ["fourth", "second", "third", "fourth"]


def test_the_same_prompt_twice_is_told_apart_by_its_tool_calls() -> None:
    def turn(number: int) -> Json:
        use, came = USE | {"id": f"call_{number}"}, result("no output")
        return request(
            FIRST, says("assistant", use), says("user", came | {"tool_use_id": use["id"]})
        )

    found = waiting(first=turn(1), second=turn(2))
    for number, session in [(2, "second"), (2, "second"), (1, "first"), (2, "second")]:
        body = turn(number)
        (came,) = body["messages"][-1]["content"]
        chat_form = [
            {"role": "user", "content": body["messages"][0]["content"]},
            {"role": "tool", "tool_call_id": came["tool_use_id"], "content": came["content"]},
        ]
        output = {"type": "function_call_output", "output": came["content"]}
        responses_form = [chat_form[0], output | {"call_id": came["tool_use_id"]}]
        assert find(found, body | {"model": "m2"}) == session
        assert find(found, {"messages": chat_form, "tools": body.get("tools", [])}) == session
        assert find(found, {"input": responses_form, "tools": body.get("tools", [])}) == session


def test_agent() -> None:
    found = Bridge()
    found.add(1, "session", "main", lambda: encoded(request(FIRST)))
    found.add(2, "session", "a1", lambda: encoded(CONVERSATIONS["a subagent"]))
    found.add(3, "session", None, lambda: encoded(request(prompt("be malformed"))))
    assert found.find(encoded(chat(request(FIRST)))) == (1, "session", "main")
    assert found.find(encoded(chat(CONVERSATIONS["a subagent"]))) == (2, "session", "a1")
    assert found.find(encoded(chat(request(prompt("be malformed"))))) == (3, "session", None)


def test_retries_and_second_calls() -> None:
    found = waiting(**CONVERSATIONS)
    call = chat(CONVERSATIONS["a result"])
    assert {find(found, call) for _ in range(5)} == {"a result"}
    assert {find(found, responses(CONVERSATIONS["a result"])) for _ in range(5)} == {"a result"}


def test_what_is_answered_is_forgotten() -> None:
    found = waiting(**CONVERSATIONS)
    call = chat(CONVERSATIONS["a result"])
    found.remove("a result")
    found.remove("never there")
    assert find(found, call) is None
    found.add("again", "again", None, lambda: encoded(CONVERSATIONS["a result"]))
    assert find(found, call) == "again"


def test_bodies_are_read_once_and_only_for_a_call() -> None:
    reads = []

    def read_body() -> bytes:
        reads.append(1)
        return encoded(request(FIRST))

    found = Bridge()
    assert find(found, chat(request(FIRST))) is None
    found.add(1, "session", None, read_body)
    assert reads == []
    for _ in range(3):
        assert find(found, chat(request(FIRST))) == "session"
    assert reads == [1]


def test_no_body_is_read_that_waits_behind_the_cause() -> None:
    reads = []

    def read_body(session: str, body: Json) -> bytes:
        reads.append(session)
        return encoded(body)

    this, that = request(prompt("do this")), request(prompt("do that"))
    found = Bridge()
    for session, body in {"a": this, "b": that, "c": that, "d": this}.items():
        found.add(session, session, None, partial(read_body, session, body))
    assert find(found, chat(this)) == "a"
    assert reads == ["a"]
    assert [find(found, chat(that)) for _ in range(2)] == ["b", "c"]
    assert reads == ["a", "b", "c"]


def test_the_oldest_goes_first() -> None:
    found = Bridge()
    bodies = [request(prompt(f"do this {number}")) for number in range(MAX_WAITING + 2)]
    for number, body in enumerate(bodies):
        found.add(number, str(number), None, lambda body=body: encoded(body))  # type: ignore[misc]
    expected = [None, None, *map(str, range(2, MAX_WAITING + 2))]
    assert [find(found, chat(body)) for body in bodies] == expected


# --- long conversations -------------------------------------------------------------------------


def long_log(name: str) -> str:
    return "\n".join(f"{name} {number}" for number in range(500))


def long_conversation(name: str, turns: int) -> list[Json]:
    messages = [prompt(f"begin {name}")]
    for turn in range(turns):
        messages.append(says("assistant", f"{name}, turn {turn}", USE))
        messages.append(says("user", result(long_log(f"{turn}"), "end of it")))
    return messages


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_long_conversations(translator: str) -> None:
    trunk = long_conversation("trunk", 30)
    bodies = {name: request(*trunk, *long_conversation(name, 2)) for name in ("one", "two")}
    bodies["grown"] = request(*bodies["two"]["messages"], says("user", "go on"))
    bodies["trunk"] = request(*trunk)
    found = waiting(**bodies)
    for name, body in bodies.items():
        assert find(found, TRANSLATORS[translator](body)) == name


@pytest.mark.parametrize("lines", [2000, MAX_LINES - 1, MAX_LINES])
@pytest.mark.parametrize("translator", TRANSLATORS)
def test_long_texts(translator: str, lines: int) -> None:
    log = "\n".join(map(str, range(lines)))
    bodies = {
        "a long prompt": request(says("user", "look at this", log)),
        "a long text and a prompt": request(says("user", log, "look at that")),
        "a long result": request(FIRST, LOOK, says("user", result(log))),
    }
    for name, body in bodies.items():
        assert find(waiting(**bodies), TRANSLATORS[translator](body)) == name


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_longest_texts(translator: str) -> None:
    log = "\n".join(map(str, range(2 * MAX_LINES)))
    bodies = {
        "a prompt after it": request(says("user", log, "look at this")),
        "a prompt before it": request(says("user", "look at that", log)),
        "answered": request(says("user", log), says("assistant", "Well.", USE), FILES),
    }
    for name, body in bodies.items():
        # Maybe none, but never a wrong one.
        assert find(waiting(**bodies), TRANSLATORS[translator](body)) in (name, None)
    assert find(waiting(**bodies), TRANSLATORS[translator](bodies["answered"])) == "answered"


def test_memory_is_bounded() -> None:
    log = "\n".join(map(str, range(3 * MAX_LINES)))
    turns = [says("user", f"turn {number}\n{log}") for number in range(9)]
    for body in (request(*turns), {"input": log}):
        assert len(bridge.read(encoded(body), MAX_LINES).known) < 2 * MAX_LINES
    logs = ["\n".join(map(str, range(start, start + 100))) for start in range(0, 10**5, 100)]
    turns = [says("user", log, result(log.replace("\n", "!\n"))) for log in logs]
    assert len(bridge.read(encoded(request(*turns)), MAX_LINES).known) < 2.1 * MAX_LINES
    results = [says("user", result(log)) for log in logs]
    assert len(bridge.read(encoded(request(*results))).known) < 1.1 * MAX_LINES


# --- recorded requests --------------------------------------------------------------------------

RECORDED = {
    f"{record['client']} {record['scenario']} {record['seq']}": json.loads(record["body"])
    for record in records("claude_code")
    if record["path"].startswith("/v1/messages?")
}


def conversation(body: Json) -> Any:
    """Return what is said, and the results of tools."""
    return [
        (message["role"], block.get("text"), block.get("content"))
        for message in body["messages"]
        if message["role"] != "system"
        for block in content_blocks(message)
    ]


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_recorded_requests(translator: str) -> None:
    assert len(RECORDED) > 40
    for body in RECORDED.values():
        found = find(waiting(**RECORDED), TRANSLATORS[translator](body))
        if found is None:
            # Helpers without tools, whose system prompt was their frame.
            assert not body.get("tools")
            assert translator in {translator for translator, _ in NOT_FOUND}
        else:
            assert conversation(RECORDED[found]) == conversation(body)


def test_recorded_calls_find_no_stranger() -> None:
    found = waiting(**RECORDED)
    for record in records("translators"):
        assert found.find(record["body"].encode()) is None


# --- any sessions, any translator ---------------------------------------------------------------

TRIVIAL = st.sampled_from(["hi", "ok", "}", "a.py", "Tool ran without output"])


@st.composite
def forests(draw: st.DrawFn) -> dict[str, Json]:
    """Draw sessions, many of them forks of others; each says something that no other says."""
    lines = iter(range(1000))

    def own_text() -> str:
        around = draw(st.lists(TRIVIAL, max_size=2))
        around.insert(draw(st.integers(0, len(around))), f"do this {next(lines)}")
        return draw(st.sampled_from(["\n", "\n\n"])).join(around)

    def tool_turn() -> list[Json]:
        said = draw(st.sampled_from([[], [own_text()]]))
        texts = draw(
            st.lists(TRIVIAL | st.builds(own_text), min_size=1, max_size=3)
            | st.sampled_from([[""], ["", ""]])
        )
        return [says("assistant", *said, USE), says("user", result(*texts))]

    sessions: dict[str, Json] = {}
    for number in range(draw(st.integers(1, 6))):
        parents = [[prompt("hi"), says("assistant", "Hello!")]]
        parents += [[*body["messages"], says("assistant", "Done.")] for body in sessions.values()]
        messages = list(draw(st.sampled_from(parents)))
        messages.append(says("user", *draw(st.lists(TRIVIAL, max_size=1)), own_text()))
        for _ in range(draw(st.integers(0, 2))):
            messages += tool_turn()
        if draw(st.booleans()):
            messages.append(says("system", "Mind the gap."))
        sessions[str(number)] = request(*messages)
    return sessions


@settings(deadline=None, max_examples=100)
@given(forests(), st.sampled_from(sorted(TRANSLATORS)), st.data())
def test_any_session(sessions: dict[str, Json], translator: str, data: st.DataObject) -> None:
    caller = data.draw(st.sampled_from(sorted(sessions)))
    in_flight = data.draw(st.sets(st.sampled_from(sorted(sessions))))
    found = waiting(**{name: sessions[name] for name in sorted(in_flight)})
    cause = find(found, TRANSLATORS[translator](sessions[caller]))
    if translator in ("shortens results", "one text for all") and cause is None:
        return  # shortened by too much; a tool call's text instead of an empty result
    if caller in in_flight:
        assert cause == caller
    elif translator != "one text for all":  # a result may look like the last word there
        assert cause is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "text", "output", "type", "call_id", "name", "function"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["messages", "input", "system", "instructions", "tools"]), JSON)
)
def test_any_json(body: Json) -> None:
    found = waiting(it=body, **CONVERSATIONS)
    assert find(found, body) in (None, "it")
    assert find(found, chat(CONVERSATIONS["a fork"])) == "a fork"
