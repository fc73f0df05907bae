"""Play recorded Claude Code sessions through real mitmdumps, and tell which key saves how much.

It needs no account and no network: the upstream is the stand-in of `lib`, on a virtual clock.
Requests go out in the order of that clock, one at a time, so every run gives the same numbers.
"""

import argparse
import re
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from lib import ADDON
from lib.client import Client
from lib.mitmdump import Mitmdump, MitmdumpError
from lib.server import Server
from lib.sessions import Call, calls, unlucky_calls
from lib.stand_in import TIME_HEADER, URL, Counts, StandIn
from prompt_cache_key.report import command as report

REPORT = "demo-report.html"
OLD, NEW, UNLUCKY = "gpt-5.4", "gpt-5.6", "gpt-5.1"
MAPPING = re.compile(
    r"\[prompt-cache\] key=(?P<key>\S+) session=(?P<session>\S+) agent=(?P<agent>\S+)"
    r" model=(?P<model>\S+) .*"
)
MISS = re.compile(r"\[prompt-cache\] miss .*")
# What is compared, by the addon's options; None is a mitmdump without it.
AUTO = "the default: auto"
COMPARED: dict[str, tuple[str, ...] | None] = {
    "no key": None,
    "a key per session": ("prompt_cache_scope=session", "prompt_cache_strip="),
    "a key per user": ("prompt_cache_scope=user", "prompt_cache_strip="),
    "a key per user, no attribution": ("prompt_cache_scope=user",),
    AUTO: (),
}

# Time is virtual in mitmdump too: for its flows, whose answers take a second, and for the addon.
SCRIPT = f"""
import sys

class Clock:
    now = 0.0

    def request(self, flow):
        self.now = float(flow.request.headers["{TIME_HEADER}"])
        flow.request.timestamp_start = flow.request.timestamp_end = self.now

    def response(self, flow):
        del flow.request.headers["{TIME_HEADER}"]
        flow.response.timestamp_start = flow.response.timestamp_end = self.now + 1

clock = Clock()
addons = [clock]
"""
WITH_ADDON = f"""
sys.path.append({str(ADDON.parent)!r})
from prompt_cache_key.hooks import PromptCacheKey
addons.append(PromptCacheKey(lambda: clock.now))
"""


class DemoError(Exception):
    """What went wrong, in words for the one who runs the demo."""


class Seen(NamedTuple):
    """A request as the upstream saw it, and whose it was."""

    model: str
    user: str
    session: str
    key: str | None


class Pass(NamedTuple):
    """What one mitmdump before a stand-in gave: the log, and what the upstream counted and saw."""

    log: list[str]
    counts: dict[str, Counts]
    seen: list[Seen]


def play(seconds: float, flows: Path) -> dict[str, Pass]:
    """Play all calls in five passes at once; the flows of the addon as it is go into a file."""
    turns = [(call, model) for call in calls(seconds) for model in (OLD, NEW)]
    unlucky = [(call, UNLUCKY) for call in unlucky_calls()]
    start, stopping, passes = time.time(), threading.Event(), {}
    with ThreadPoolExecutor() as pool:
        for name, options in COMPARED.items():
            args = [arg for option in options or () for arg in ("--set", option)]
            if name == AUTO:
                turns, args = turns + unlucky, ["-w", str(flows)]
            addon = "" if options is None else WITH_ADDON
            passes[name] = pool.submit(run, start, stopping, turns, *args, addon=addon)
        try:
            return {name: each.result() for name, each in passes.items()}
        finally:
            stopping.set()


def run(
    start: float, stopping: threading.Event, turns: list[tuple[Call, str]], *args: str, addon: str
) -> Pass:
    """Send calls to models through a mitmdump with these arguments.

    `start` is the time of the first, in seconds since the epoch.
    """
    stand_in, seen = StandIn(), []
    with tempfile.TemporaryDirectory() as folder, Server(stand_in.respond) as server:
        script = Path(folder, "virtual.py")
        script.write_text(SCRIPT + addon)
        # As the next proxy, the stand-in gets the requests for all hosts.
        mode = f"upstream:{server.url}"
        proxy = Mitmdump(mode, args=args, scripts=[script], flow_detail="0")
        with proxy, Client(proxy.port) as client:
            for call, model in turns:
                if stopping.is_set():
                    break
                play_call(client, stand_in, call, model, start)
                (request,) = server.take()
                seen.append(Seen(model, call.user, call.session, request.key))
    return Pass(proxy.lines, stand_in.counts, seen)


def play_call(client: Client, stand_in: StandIn, call: Call, model: str, start: float) -> None:
    """Send a call to a model; `start` as for `run`."""
    if call.finds_nothing_cached:
        stand_in.caches[model].clear()
    send(client, call, model, start + call.at)


def send(client: Client, call: Call, model: str, at: float) -> None:
    """Send a call to a model at a virtual time; DemoError if it is not well answered."""
    headers = [("Host", "api.openai.com"), (TIME_HEADER, str(at)), *call.headers]
    headers += [("Content-Type", "application/json")]
    try:
        answer = client.send("POST", URL, headers, call.body_for(model))
    except (OSError, HTTPException) as error:
        raise DemoError(f"a request was not answered: {error!r}") from None
    if answer.status != HTTPStatus.OK:
        raise DemoError(f"a request was answered with {answer.status}: {answer.body[:200]!r}")


def check_keys(seen: Iterable[Seen], model: str, owner: Callable[[Seen], str]) -> None:
    """Raise DemoError unless each owner has one key for a model, which no other has."""
    keys: defaultdict[str, set[str | None]] = defaultdict(set)
    for each in seen:
        if each.model == model:
            keys[owner(each)].add(each.key)
    flat = [key for some in keys.values() for key in some]
    if None in flat or not len(set(flat)) == len(flat) == len(keys):
        raise DemoError(f"not exactly one key for each owner: {dict(keys)}"[:1000])


def addon_counts(log: list[str]) -> Counts:
    """Return what the addon summed up when it ended."""
    total = re.search(r"total .*requests=(\d+) input=(\d+) cached=(\d+)", "\n".join(log))
    if not total:
        raise DemoError("the addon did not sum up:\n" + "\n".join(log[-20:]))
    return Counts(*map(int, total.groups()))


def mappings(seen: list[Seen], log: list[str]) -> Iterator[str]:
    """Yield the first mapping lines of a session with a subagent and of its user's next session."""
    found: dict[tuple[str, str, str], str] = {}
    for line in log:
        if match := MAPPING.search(line):
            found.setdefault((match["model"], match["session"], match["agent"]), match[0])
    session = next(session for _, session, agent in found if agent != "main")
    user = next(each.user for each in seen if each.session == session)
    other = next(each.session for each in seen if each.user == user and each.session != session)
    for model in (OLD, NEW):
        yield from (line for name, line in found.items() if name[:2] == (model, session))
        yield found[model, other, "main"]


def table(played: dict[str, Pass]) -> Iterator[str]:
    """Yield the lines that compare the passes: hit rate, and tokens that were not cached."""
    yield f"{'':32}" + "".join(f"{f'{model}: hit rate':>20}  not cached" for model in (OLD, NEW))
    for name, each in played.items():
        cells = (
            f"{100 * counts.cached // counts.prompt:18} %{counts.prompt - counts.cached:12,}"
            for counts in (each.counts[OLD], each.counts[NEW])
        )
        yield f"{name:32}{''.join(cells)}"


def show(played: dict[str, Pass], minutes: int) -> None:
    """Print what was played and what it gave; DemoError unless all counted the same."""
    auto = played[AUTO]
    check_keys(auto.seen, OLD, lambda each: each.session)
    check_keys(auto.seen, NEW, lambda each: each.user)
    counted = Counts()
    for counts in auto.counts.values():
        counted.add(counts)
    if (summed := addon_counts(auto.log)) != counted:
        raise DemoError(f"the upstream counted {counted}, the addon {summed}")
    usual = [each for each in auto.seen if each.model != UNLUCKY]
    sessions, users = ({each.session for each in usual}, {each.user for each in usual})
    print(
        "Upstream: a stand-in with no model behind it. What it reads from cache follows OpenAI's",
        f"guide. Before GPT-5.6 ({OLD}): key and first 256 tokens lead to a machine, which takes",
        "15 requests a minute (what is more goes elsewhere) and looks for a prefix in steps of 128",
        f"tokens. From GPT-5.6 on ({NEW}): routing is automatic, a key only separates; a prefix",
        "ends with the leading developer block or one of the last 20 messages before the new one.",
        "Both: from 1,024 tokens, for 30 minutes.",
        f"Played: {len(sessions)} sessions of {len(users)} users, in two projects each and with",
        "subagents, grown from recorded Claude Code traffic, as a translator sends them:",
        f"{minutes} virtual minutes to each model.",
        sep="\n",
    )
    print("", *table(played), sep="\n")
    print(
        f"auto: a key per session for {OLD}, per user for {NEW}; the attribution is removed.",
        "",
        "From mitmdump's event log, two sessions of one user:",
        *mappings(usual, auto.log),
        sep="\n",
    )
    misses = [match[0] for line in auto.log if (match := MISS.search(line)) and UNLUCKY in line]
    print("", f"And one session, on {UNLUCKY}, on which much goes wrong:", *misses, sep="\n")


def main() -> None:
    """Run the demo; end with a message and status 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description="Show what the addon does and what it buys.")
    parser.add_argument("--minutes", type=int, default=3, help="virtual minutes (default: 3)")
    arguments = parser.parse_args()
    if arguments.minutes < 1:
        parser.error("--minutes must be at least 1")
    # As Ctrl-C does, so that all that runs is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            flows = Path(folder, "demo.flows")
            show(play(60 * arguments.minutes, flows), arguments.minutes)
            print()
            report.main([str(flows), "-o", REPORT])
    except (DemoError, MitmdumpError, OSError) as error:
        sys.exit(f"demo: {str(error) or repr(error)}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")


if __name__ == "__main__":
    main()
