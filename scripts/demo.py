"""Play recorded Claude Code sessions through a real mitmdump, without the addon and with it.

It needs no key and no network: the upstream is the stand-in of `upstream.py`, on a virtual clock.
Requests go out in the order of that clock, one at a time, so every run gives the same numbers.
"""

import argparse
import asyncio
import hashlib
import http.client
import itertools
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_cache_key.show import report
from upstream import Totals, Upstream

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT / "tests" / "data" / "claude_code.jsonl"
ADDON = ROOT / "addon" / "addon.py"
REPORT = "demo-report.html"

# The scenarios of each recorded client: twelve sessions, one of them with a subagent. The first
# two clients send no session header.
PLAYED = {
    "claude-code 1.0.128": {"bash"},
    "claude-code 2.0.76": {"agent"},
    "claude-code 2.1.90": {"noattr"},
    "claude-code 2.1.330": {"simple", "bash", "agent", "fork", "noattr", "custom-headers"}
    | {"tui-6compact", "tui-9after-clear"},
}
TOOL_RESULTS = [1_000, 12_000, 3_000, 8_000, 2_000]  # characters that turns add, over and over
MAPPING = re.compile(
    r"\[prompt-cache\] key=(?P<key>\S+) session=(?P<session>\S+) agent=(?P<agent>\S+)"
    r" model=(?P<model>\S+) .*"
)


class DemoError(Exception):
    """What went wrong, in words for the one who runs the demo."""


@dataclass
class Conversation:
    """What one agent of a session says to one model: its requests, each longer than the last."""

    path: str
    headers: dict[str, str]
    bodies: Iterator[bytes]


@dataclass
class Result:
    """One pass: what the upstream counted, the keys it saw by session and model, mitmdump's log."""

    totals: Totals
    keys: dict[tuple[str, str], set[str | None]]
    log: list[str]


def conversations() -> list[Conversation]:
    """Read how each conversation began; texts that the recording cut get their length back."""
    found: dict[tuple[str, str, str], Conversation] = {}
    for line in RECORDINGS.read_text("utf-8").splitlines():
        record = json.loads(line)
        if record["scenario"] not in PLAYED[record["client"]] or record["method"] != "POST":
            continue
        cut = r"(\d+) characters of text – ✓"  # noqa: RUF001
        body = json.loads(re.sub(cut, lambda m: filler(m[0], int(m[1])), record["body"]))
        headers = dict(record["headers"])
        agent = headers.get("x-claude-code-agent-id", "main")
        name = (body["metadata"]["user_id"], body["model"], agent)
        found.setdefault(name, Conversation(record["path"], headers, requests(str(name), body)))
    return list(found.values())


def filler(seed: str, length: int) -> str:
    """Make a text of that many characters: always the same for one seed."""
    return hashlib.shake_128(seed.encode()).hexdigest(length)[:length]


def requests(name: str, body: dict[str, Any]) -> Iterator[bytes]:
    """Yield request after request; a helper's, which has no tools, does not grow."""
    for turn, length in enumerate(itertools.cycle(TOOL_RESULTS)):
        yield json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        call = {"type": "tool_use", "id": f"toolu_{turn}", "name": "Read", "input": {}}
        text = filler(f"{name} {turn}", length)
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": text}
        if body.get("tools"):
            body["messages"].append({"role": "assistant", "content": [call]})
            body["messages"].append({"role": "user", "content": [result]})


def schedule(players: int, seconds: int) -> list[tuple[float, int]]:
    """Tell who speaks when: they join a second apart, then each speaks every 12 to 19 seconds."""
    return sorted(
        (index + turn * (12 + index / 2), index)
        for index in range(players)
        for turn in range(seconds)
        if index + turn * (12 + index / 2) < seconds
    )


async def play(minutes: int, *options: str) -> Result:
    """Play all conversations through a mitmdump with these options."""
    now = 0.0
    keys: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    log: list[str] = []

    def note_key(body: dict[str, Any]) -> None:
        keys[body["metadata"]["user_id"], body["model"]].add(body.get("prompt_cache_key"))

    async with Upstream(lambda: now, note_key) as upstream:
        received = Totals()
        try:
            async with mitmdump(log, upstream.port, *options) as port:
                players = [
                    (http.client.HTTPConnection("127.0.0.1", port, timeout=10), conversation)
                    for conversation in conversations()
                ]
                for at, index in schedule(len(players), 60 * minutes):
                    now = at
                    received.add(*await asyncio.to_thread(ask, *players[index]))
                for connection, _ in players:
                    connection.close()
        except DemoError as error:
            raise DemoError("\n".join([str(error), "mitmdump said:", *log[-20:]])) from None
    if received != upstream.totals:
        raise DemoError(f"the upstream counted {upstream.totals}, its clients {received}")
    return Result(upstream.totals, keys, log)


def ask(connection: http.client.HTTPConnection, conversation: Conversation) -> tuple[int, int]:
    """Send the next request; return its prompt tokens, and how many of them came from cache."""
    body = next(conversation.bodies)
    try:
        connection.request("POST", conversation.path, body, conversation.headers)
        response = connection.getresponse()
        answer = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"a request was not answered: {error!r}") from None
    last = re.search(r'^data: (.*"message_delta".*)$', answer, re.MULTILINE)
    if response.status != http.HTTPStatus.OK or not last:
        raise DemoError(f"a request was answered with {response.status}: {answer[:200]!r}")
    usage = json.loads(last[1])["usage"]
    cached = usage["cache_read_input_tokens"]
    return usage["input_tokens"] + cached, cached


@asynccontextmanager
async def mitmdump(log: list[str], upstream: int, *options: str) -> AsyncIterator[int]:
    """Run mitmdump before the upstream's port and give its own; its log is complete at the end."""
    with tempfile.TemporaryDirectory() as confdir:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("mitmdump"),
            *("--mode", f"reverse:http://127.0.0.1:{upstream}"),
            *("--listen-host", "127.0.0.1", "--listen-port", "0"),
            *("--set", f"confdir={confdir}", "--set", "flow_detail=0", *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 26,  # the log waits here until the end
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout  # noqa: S101
        try:
            async with asyncio.timeout(20):
                while not (found := re.search(r"listening at 127\.0\.0\.1:(\d+)", "".join(log))):
                    if not (line := await process.stdout.readline()):
                        raise DemoError("mitmdump did not start")
                    log.append(line.decode().rstrip())
            yield int(found[1])
        finally:
            if process.returncode is None:
                process.terminate()
            killer = asyncio.get_running_loop().call_later(5, process.kill)
            log += (await process.communicate())[0].decode().splitlines()
            killer.cancel()


def check_keys(keys: dict[tuple[str, str], set[str | None]]) -> None:
    """Raise DemoError unless each session has one key per model, which no other has."""
    flat = [key for some in keys.values() for key in some]
    if None in flat or not len(set(flat)) == len(flat) == len(keys):
        raise DemoError(f"not exactly one key for each session and model: {dict(keys)}"[:1000])


def addon_totals(log: list[str]) -> Totals:
    """Return what the addon summed up when it ended."""
    total = re.search(r"total .*requests=(\d+) input=(\d+) cached=(\d+)", log[-1] if log else "")
    if not total:
        raise DemoError("the addon did not sum up:\n" + "\n".join(log[-20:]))
    return Totals(*map(int, total.groups()))


def mappings(log: list[str]) -> list[str]:
    """Choose the first mapping line of each model and agent of the sessions that have several."""
    found: dict[tuple[str, str, str], str] = {}
    for line in log:
        if match := MAPPING.search(line):
            found.setdefault((match["session"], match["agent"], match["model"]), match[0])
    several = Counter(session for session, _, _ in found)
    return [line for (session, _, _), line in found.items() if several[session] > 1]


def table(without: Totals, with_: Totals) -> Iterator[str]:
    """Yield the lines that compare two passes."""
    yield f"{'':16}{'without':>12}    {'with':>12}"
    for name, a, b in (
        ("requests", without.requests, with_.requests),
        ("prompt tokens", without.prompt, with_.prompt),
        ("cached tokens", without.cached, with_.cached),
        ("not cached", without.prompt - without.cached, with_.prompt - with_.cached),
    ):
        yield f"{name:16}{a:12,} -> {b:12,}"
    rates = [100 * totals.cached / totals.prompt for totals in (without, with_)]
    yield "{:16}{:10.1f} % -> {:10.1f} %".format("hit rate", *rates)


async def run(minutes: int, flows: Path) -> None:
    """Play both passes at once, each with a proxy and an upstream of its own; print the result.

    The flows with the addon go into a file.
    """
    both = play(minutes), play(minutes, "-s", str(ADDON), "-w", str(flows))
    without, with_ = await asyncio.gather(*both, return_exceptions=True)
    if isinstance(without, BaseException):
        raise without
    if isinstance(with_, BaseException):
        raise with_
    check_keys(with_.keys)
    if (totals := addon_totals(with_.log)) != with_.totals:
        raise DemoError(f"the upstream counted {with_.totals}, the addon {totals}")
    print(
        "Upstream: a stand-in with no model behind it. It caches by OpenAI's rules: routed by the",
        "first 256 tokens and the key, above 15 requests a minute spilled to another machine,",
        "from 1,024 tokens in steps of 128, dropped after 10 idle minutes.",
    )
    sessions = len({session for session, _ in with_.keys})
    print(f"Played: {sessions} recorded Claude Code sessions, {minutes} virtual minutes.")
    print("From mitmdump's event log, the sessions with a second model or a subagent:", end="\n\n")
    print(*mappings(with_.log), "", sep="\n")
    print(*table(without.totals, totals), sep="\n")


def main() -> None:
    """Run the demo; end with a message and status 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description="Show what the addon does and what it buys.")
    parser.add_argument("--minutes", type=int, default=5, help="virtual minutes (default: 5)")
    arguments = parser.parse_args()
    if arguments.minutes < 1:
        parser.error("--minutes must be at least 1")
    # As Ctrl-C does: asyncio then cancels what runs, which ends both proxies.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            flows = Path(folder, "demo.flows")
            asyncio.run(run(arguments.minutes, flows))
            print()
            report.main([str(flows), "-o", REPORT])
    except (DemoError, OSError) as error:
        sys.exit(f"demo: {str(error) or repr(error)}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")


if __name__ == "__main__":
    main()
