"""Claude Code's requests, and what translators make of them, as models of what was recorded."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from prompt_cache_key.bridge.lines import Steps

Json = dict[str, Any]
T = TypeVar("T")


def done(steps: Steps[T]) -> T:
    """Return what comes of work in steps."""
    while True:
        try:
            assert next(steps) >= 0
        except StopIteration as end:
            value: T = end.value
            return value


def encoded(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


# --- Claude Code --------------------------------------------------------------------------------


def text(*texts: str) -> list[Json]:
    return [{"type": "text", "text": text} for text in texts]


def use(call: str = "toolu_1") -> Json:
    return {"type": "tool_use", "id": call, "name": "Bash", "input": {"command": "ls\nls -l"}}


def result(*texts: str, call: str = "toolu_1") -> Json:
    """Return a tool result, of one text as Claude Code's Bash has it, of several as its Agent."""
    content = texts[0] if len(texts) == 1 else text(*texts)
    return {"type": "tool_result", "tool_use_id": call, "content": content}


def says(role: str, *blocks: str | Json) -> Json:
    content = [text(block)[0] if isinstance(block, str) else block for block in blocks]
    return {"role": role, "content": content}


IMAGE = {"type": "image", "source": {"type": "base64", "data": "aGVsbG8="}}
REMINDER = "<system-reminder>\nThe date is 2026-11-22.\n\nUse tabs.\n</system-reminder>\n"
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.330.572; cc_entrypoint=cli;"
SYSTEM = (ATTRIBUTION, "You are Claude Code.", "Be concise.\nBe careful.\n\n# Tools\nUse Bash.")
TOOLS = ("Agent", "Bash", "Edit", "Read")


def request(
    *messages: Json, system: tuple[str, ...] = SYSTEM, tools: tuple[str, ...] = TOOLS
) -> Json:
    """Return a request as Claude Code sends it."""
    return {
        "model": "claude-opus-5-5",
        "messages": list(messages),
        "system": text(*system),
        "tools": [{"name": name, "description": f"{name} it"} for name in tools],
        "stream": True,
    }


def prompt(*texts: str) -> Json:
    return says("user", REMINDER, *texts)


def turn(call: str, *more: Json, output: str = "no output", said: str = "fix the tests") -> Json:
    """Return a request with the result of one tool call."""
    first = [prompt(said), says("assistant", use(call))]
    return request(*first, says("user", result(output, call=call)), *more)


ONE, TWO, THREE = (f"toolu_01A09q90qw90lq91783{n}" for n in range(3))


def environment(directory: str, *more: str) -> str:
    return "\n".join(["# Environment", f" - Working directory: {directory}", *more, "Linux 6"])


# --- translators --------------------------------------------------------------------------------


def texts_of(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [block["text"] for block in content if block["type"] == "text"]


def chat(
    body: Json,
    *,
    system: str = "system",
    middle: str = "drop",
    join: str | None = None,
    note: str = "",
    extra: str = "",
) -> Json:
    """Translate to OpenAI Chat Completions.

    `system` is the role that says the system prompt, `middle` the one that says other system
    messages, with a `note` before as LiteLLM 1.106 does; "drop" is none. `join` joins the blocks of
    a text, else those of results are JSON text. `extra` is said first.
    """
    messages = [{"role": system, "content": "\n".join(texts_of(body.get("system", "")))}]
    messages += [{"role": "user", "content": extra}] if extra else []
    for message in body["messages"]:
        is_middle = message["role"] == "system"
        said = ([note] if is_middle and note else []) + texts_of(message["content"])
        content: Any = text(*said) if join is None else join.join(said)
        own: Json = {"role": middle if is_middle else message["role"], "content": content}
        for block in [] if isinstance(message["content"], str) else message["content"]:
            if block["type"] == "tool_result":
                blocks = texts_of(block["content"])
                written = json.dumps(text(*blocks)) if join is None else join.join(blocks)
                written = written if len(blocks) > 1 else blocks[0]
                messages.append(
                    {"role": "tool", "tool_call_id": block["tool_use_id"], "content": written}
                )
            elif block["type"] == "tool_use":
                call = {"name": block["name"], "arguments": json.dumps(block["input"])}
                own.setdefault("tool_calls", []).append({"id": block["id"], "function": call})
        messages += [own] if said or "tool_calls" in own else []
    tools = [{"type": "function", "function": tool} for tool in body.get("tools", [])]
    kept = [message for message in messages if message["role"] != "drop"]
    return {"model": "gpt-5", "messages": kept} | ({"tools": tools} if tools else {})


def responses(body: Json) -> Json:
    """Translate to OpenAI Responses."""
    items: list[Json] = []
    for message in body["messages"]:
        role = {"system": "developer"}.get(message["role"], message["role"])
        texts = texts_of(message["content"])
        items += [{"role": role, "content": text(each)} for each in texts]
        for block in [] if isinstance(message["content"], str) else message["content"]:
            if block["type"] == "tool_use":
                call = {"call_id": block["id"], "name": "Bash", "arguments": "{}"}
                items.append({"type": "function_call"} | call)
            elif block["type"] == "tool_result":
                output = {"call_id": block["tool_use_id"], "output": block["content"]}
                items.append({"type": "function_call_output"} | output)
    instructions = "\n\n".join(texts_of(body.get("system", "")))
    return {"input": items, "instructions": instructions, "tools": body.get("tools", [])}


def told(body: Json) -> Json:
    """Translate to Chat Completions as claude-code-proxy 0.1.5 does: all is said, in one text."""
    messages = [{"role": "system", "content": "\n\n".join(texts_of(body.get("system", "")))}]
    for message in body["messages"]:
        lines = texts_of(message["content"])
        for block in [] if isinstance(message["content"], str) else message["content"]:
            if block["type"] == "tool_use":
                lines.append(f"[Tool: {block['name']}]\nInput: {json.dumps(block['input'])}\n")
            elif block["type"] == "tool_result":
                lines += texts_of(block["content"])
        if message["role"] != "system":
            messages.append({"role": message["role"], "content": "\n".join(lines) or "..."})
    return {"model": "gpt-5", "messages": messages, "tools": body.get("tools", [])}


def cut(body: Json) -> Json:
    """Cut the attribution, and have the user say system messages."""
    kept = [each for each in texts_of(body.get("system", "")) if not each.startswith("x-anthropic")]
    return chat(body | {"system": text(*kept)}, middle="user")


TRANSLATORS: dict[str, Callable[[Json], Json]] = {
    "anthropic": dict,
    "drops system messages": chat,
    "responses": responses,
    "one text for all": told,
    "cuts attribution": cut,
    "keeps system messages": partial(chat, middle="system"),
    "adds notes": partial(chat, middle="user", note="This was a system message."),
    "system is said by the user": partial(chat, system="user"),
    "joins": partial(chat, join=""),
    "joins with a space": partial(chat, join=" "),
    "joins with line breaks": partial(chat, join="\n\n", middle="user"),
    "strips system": partial(chat, system="drop"),
    "says something first": partial(chat, system="drop", extra="You are no Claude.\nBe yourself."),
}

# --- conversations ------------------------------------------------------------------------------

FIRST = prompt("fix the tests")
LOOK = says("assistant", "I look around.", use())
FILES = says("user", result("a.py\nb.py\nc.py\nd.py"))
DONE = [FIRST, LOOK, FILES, says("assistant", "Done.")]
FOUND = [FIRST, LOOK, FILES, says("assistant", "I found it.", use("toolu_2"))]
NEWS = [prompt("what is new"), says("system", environment("/here", "Git: yes", "Branch: main"))]

# Each in another session, and as like as they can be without being the same.
CONVERSATIONS = {
    "first prompt": request(FIRST),
    "another prompt": request(prompt("fix the tools")),
    "a longer prompt": request(prompt("fix the tests\nand the docs\nand the tools\nand the rest")),
    "a prompt in two blocks": request(prompt("fix the", "rest")),
    "a result": request(FIRST, LOOK, FILES),
    "another answer": request(FIRST, says("assistant", "I see.", use("toolu_3")), FILES),
    "a second result": request(*FOUND, says("user", result("1 passed", call="toolu_2"))),
    "results of agents": request(
        *[FIRST, says("assistant", "Agents.", use("toolu_4"))],
        says("user", result("All is well.", "agent: a1", call="toolu_4")),
    ),
    "a result and a prompt": request(*FOUND, says("user", result("a.py"), "and now", "stop it")),
    "a prompt after": request(*DONE, says("user", "commit it")),
    "a fork": request(*DONE, says("user", "push it\nto the fork")),
    "the fork goes on": request(
        *[*DONE, says("user", "push it\nto the fork"), says("assistant", "I push it.")],
        {"role": "user", "content": "commit it, too"},
    ),
    "a system message": request(*NEWS),
    "the same one later": request(
        *[*NEWS, says("assistant", "Nothing."), says("user", "and now"), NEWS[1]]
    ),
    "an image": request(prompt("what is this"), says("assistant", "A cat."), says("user", IMAGE)),
    "a subagent": request(prompt("look for cats"), system=("You are an agent.",), tools=("Bash",)),
    "its title": request(
        says("user", "fix the tests"), system=(ATTRIBUTION, "Write a title.\nAs a line."), tools=()
    ),
    "a summary": request(FIRST, LOOK, FILES, says("user", "Sum it up."), tools=()),
}
