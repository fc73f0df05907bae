"""Play Claude Code sessions to real llama.cpp replicas, without the addon and with it.

The sessions are recorded, or with --claude-code new ones of a real Claude Code. The traffic goes
through a real mitmdump and a real HAProxy. What is compared is what the engines counted, in tokens:
seconds depend on what else the machine does.
"""

import argparse
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lib import ROOT
from lib.dialects import DIALECTS, Dialect, Usage
from lib.engine import Counts, EngineError, write_model
from lib.messages import header
from lib.new_conversations import play_new
from lib.playthrough import SLOTS, Outcome, Request, Way, play
from lib.recordings import encoded
from lib.router import ROUTERS, RouterError, find_haproxy
from lib.sessions import Conversation, turns

CUT, SHORT = 32, 16
"""Of texts one character in so many is left, but so many at least; outputs of tools stay whole."""
TURNS = 7
"""How often an agent speaks, or once more; the engines' slots hold about ten turns."""

POINTS, REPLICAS = 20, 4
"""Points by which the addon has to raise the cached share, in percent, with so many replicas."""

PROMPT = ("system", "tools", "messages")
OK = 200
HEADER = "session-id"
OWN_HEADER = "x-claude-code-session-id"
KEYS = ("--set", "prompt_cache_keys=derived")
HEADERS = ("--set", f"prompt_cache_headers={HEADER}")
SHARED = ("--set", "prompt_cache_scope=user", "--set", "prompt_cache_strip=attribution")
NEW_CONVERSATIONS = 3

WHAT = """\
Real: llama.cpp's server, its cache and its token counts (xllamacpp {}); HAProxy;
mitmproxy {}; the addon; how the sessions of recorded Claude Codes began.
Not real: the model (tiny, with random weights; a cache does not mind), the prompts' length (texts
cut to a 32nd, but not outputs of tools; a token is a byte), the answers (two tokens), what follows
the recorded beginnings{}.
"""
WHAT_NEW = """\
Real: Claude Code, its whole prompts; llama.cpp's server, its cache and its token counts
(xllamacpp {}); HAProxy; mitmproxy {}; the addon.
Not real: the model (tiny, with random weights; a cache does not mind; a token is a byte or an
English word), the answers (they start an agent, or say goodbye).
Played: {} new conversations of one user in one project, each with a subagent.
"""
TRANSLATED = ", the translator (of a request only the user id shows whose it is)"


class ProofError(Exception):
    """What was not as it should be."""


def share(counts: Counts) -> float:
    """Return the share of the prompt tokens that came from the cache, in percent."""
    return 100 * counts.cached / counts.prompt if counts.prompt else 0.0


def table(title: str, outcome: Outcome) -> Iterator[str]:
    """Yield the lines of what each engine counted, and of all."""
    yield f"{title:32}{'requests':>9}{'prompt tokens':>15}{'cached':>12}{'share':>8}{'seconds':>9}"
    requests = Counter(routed.server for routed in outcome.routed if routed.is_whole)
    rows = [(name, requests[name], counts) for name, counts in outcome.counts.items()]
    for name, answered, counts in [*rows, ("all", requests.total(), outcome.counted)]:
        tokens = f"{counts.prompt:15,}{counts.cached:12,}{share(counts):6.1f} %"
        yield f"  {name:30}{answered:9,}{tokens}{counts.seconds:9.1f}"


def check_answers(outcome: Outcome, way: Way) -> str:
    """Return what was answered, in words; ProofError if clients got less than HAProxy had.

    Where no engine was killed, all have to be answered, and to have told what they counted.
    """
    whole = Counter(routed.status for routed in outcome.routed if routed.is_whole)
    got = Counter(each.status for each in outcome.answers if each.is_whole or each.status != OK)
    rest = len(outcome.routed) - whole.total(), len(outcome.answers) - len(outcome.routed)
    words = [f"{count} with {status}" for status, count in sorted(whole.items())]
    words += [f"{n} {what}" for n, what in zip(rest, ("in part", "not at all"), strict=True) if n]
    line = f"HAProxy answered {', '.join(words)}"
    if min(rest) < 0 or whole[OK] != got[OK] or not whole <= got:
        raise ProofError(f"{line}; the clients got {dict(got)}")
    if not way.restart and whole[OK] < len(outcome.answers):
        raise ProofError(line)
    if not way.restart and outcome.told != outcome.counted[:2]:
        raise ProofError(f"the engines counted {outcome.counted} and told {outcome.told}")
    return line


def check_totals(outcome: Outcome, way: Way) -> str:
    """Return the addon's own totals; ProofError if they are not those of the engines.

    An engine that was killed took some of its counts along: then it is what the clients were told.
    """
    prompt, cached = outcome.told if way.restart else outcome.counted[:2]
    expected = f"requests={len(outcome.answers)} input={prompt} cached={cached}"
    last = outcome.log[-1] if outcome.log else "nothing"
    if not re.search(rf"\[prompt-cache\] total .*\b{expected} ", last):
        raise ProofError(f"the engines have {expected}; the addon's last line is: {last}")
    return expected


def check_misses(outcome: Outcome) -> str:
    """Return the missed tokens by the addon's causes; ProofError if the engines missed others."""
    found: dict[str, list[int]] = {}
    for line in outcome.log:
        if match := re.search(r'\[prompt-cache\] miss missed=(\d+) cause="([^"]*)"', line):
            found.setdefault(match[2], []).append(int(match[1]))
    named = [missed for each in found.values() for missed in each]
    if sorted(named) != sorted(outcome.misses):
        raise ProofError(f"the engines missed {outcome.misses}; the addon's log names {found}")
    words = (f"{sum(each):,} in {len(each)} requests: {cause}" for cause, each in found.items())
    return "; ".join(words) or "none"


def run(way: Way, requests: list[Request], model: Path) -> None:
    """Play all ways and print what the engines counted; ProofError if it is not as it should be."""
    without = play(way, requests, model)
    print(*table("without the addon", without), sep="\n")
    print(f"  {check_answers(without, way)}.\n")
    options = KEYS if way.kind == "key" else (*KEYS, *HEADERS)
    with_ = play(replace(way, options=options), requests, model)
    print(*table("with the addon", with_), sep="\n")
    print(f"  {check_answers(with_, way)}. The addon's totals agree: {check_totals(with_, way)}.")
    print(f"  Tokens computed once more, by engines and addon alike: {check_misses(with_)}.\n")
    if way.dialect is DIALECTS["messages"]:
        itself = replace(way, kind="stick" if way.kind == "stick" else "header", header=OWN_HEADER)
        own = play(itself, requests, model)
        print(*table("by Claude Code's own header", own), sep="\n")
        print(f"  {check_answers(own, way)}.\n")
    compare(way, without.counted, with_.counted)


def run_new(way: Way, model: Path) -> None:
    """Let Claude Code begin conversations and print what the engines counted; as `run`."""
    without = play_new(way, NEW_CONVERSATIONS, model)
    print(*table("without the addon", without), sep="\n")
    print(f"  {check_answers(without, way)}.\n")
    options = (*KEYS, *HEADERS, *SHARED)
    with_ = play_new(replace(way, options=options), NEW_CONVERSATIONS, model)
    print(*table("with the addon", with_), sep="\n")
    print(f"  {check_answers(with_, way)}. The addon's totals agree: {check_totals(with_, way)}.")
    print(f"  Tokens computed once more, by engines and addon alike: {check_misses(with_)}.")
    first: dict[Hashable, Usage | None] = {}
    for each in with_.answers:
        first.setdefault(each.identity, each.usage)
    new = [f"{each.cached:,} of {each.prompt:,}" for each in first.values() if each]
    print("  Cached of the first prompts, each conversation's and its subagent's:")
    print(f"  {', '.join(new)}.\n")
    compare(way, without.counted, with_.counted)


def compare(way: Way, without: Counts, with_: Counts) -> None:
    """Print what the addon has changed; ProofError if that is less than it should be."""
    shares = share(without), share(with_)
    computed = (counts.prompt - counts.cached for counts in (without, with_))
    print("Cached share: {:.1f} % -> {:.1f} %,".format(*shares), end=" ")
    print("tokens to compute: {:,} -> {:,}.".format(*computed))
    points = shares[1] - shares[0]
    # A cache that was killed has no share.
    if way.replicas >= REPLICAS and not way.restart and points < POINTS:
        raise ProofError(f"the cached share rose by {points:.1f} points, not by {POINTS}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Show what the addon buys on real engines.")
    add = parser.add_argument
    add(
        "--router",
        choices=ROUTERS,
        default="header",
        help="what HAProxy goes by: the header "
        f"{HEADER}, the key in the body, or a stick table of the header (default: header)",
    )
    add("--dialect", choices=DIALECTS, default="messages", help="default: messages")
    add(
        "--replicas",
        type=positive,
        default=REPLICAS,
        metavar="N",
        help="default: %(default)s",
    )
    add("--clients", type=positive, default=1, metavar="N", help="at once (default: 1)")
    add("--requests", type=positive, default=90, metavar="N", help="default: 90")
    add("--short", action="store_const", dest="requests", const=21, help="21 requests")
    add(
        "--restart",
        action="store_true",
        help="kill a replica in the middle, and start it again",
    )
    add(
        "--claude-code",
        action="store_true",
        help="new conversations of the Claude Code whose path is in CLAUDE_CODE; takes two minutes",
    )
    return parser.parse_args()


def positive(text: str) -> int:
    """Read a number from 1 on; ValueError if it is none."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def description(given: argparse.Namespace, played: list[Conversation]) -> str:
    """Say what is real and what is not, and what is played."""
    translated = "" if given.dialect == "messages" else TRANSLATED
    what = WHAT.format(version("xllamacpp"), version("mitmproxy"), translated)
    sessions = {said.session for said in played}
    silent = {said.session for said in played if not header(said.headers, OWN_HEADER)}
    return (
        f"{what}Played: {len(played)} requests of {len(sessions)} sessions, {len(silent)} of them "
        f"of clients that send no {OWN_HEADER};\n{given.dialect}; clients: {given.clients}; "
        f"replicas: {given.replicas} of {SLOTS} slots; HAProxy goes by: {given.router}.\n"
    )


def request(agent: int, said: Conversation, dialect: Dialect) -> Request:
    """Return what a client of that dialect sends: a translator passes no header on."""
    headers = {"content-type": "application/json"}
    if dialect is DIALECTS["messages"]:
        headers |= said.headers
    prompt = {name: shortened(said.body[name]) for name in PROMPT if name in said.body}
    return Request((agent, said.session), headers, encoded(dialect.translate(said.body | prompt)))


def shortened(value: Any) -> Any:
    """Return JSON with its long texts cut, each for itself, so that what grew still does."""
    match value:
        case {"type": "tool_result"}:
            return value
        case dict():
            return {name: shortened(member) for name, member in value.items()}
        case list():
            return [shortened(element) for element in value]
        case str():
            return value[: max(SHORT, len(value) // CUT)]
    return value


def main() -> None:
    """Run the proof; end with a message and status 1 if anything was not as it should be."""
    given = arguments()
    if given.claude_code and not os.environ.get("CLAUDE_CODE"):
        sys.exit("proof: --claude-code needs the path of Claude Code's program in CLAUDE_CODE")
    dialect = DIALECTS[given.dialect]
    played = list(islice(turns(1, -(-given.requests // TURNS)), given.requests))
    requests = [request(agent, said, dialect) for _, agent, said in played]
    way = Way(
        dialect,
        given.router,
        HEADER,
        None,
        given.replicas,
        given.clients,
        given.restart,
    )
    try:
        find_haproxy()
        with TemporaryDirectory() as folder:
            # As Ctrl-C does.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if given.claude_code:
                versions = version("xllamacpp"), version("mitmproxy")
                print(WHAT_NEW.format(*versions, NEW_CONVERSATIONS))
                english = "".join(page.read_text("utf-8") for page in ROOT.glob("docs/*.md"))
                run_new(replace(way, kind="header"), write_model(Path(folder), english))
            else:
                print(description(given, [said for _, _, said in played]))
                run(way, requests, write_model(Path(folder)))
    except (ProofError, EngineError, RouterError, AssertionError, ImportError, OSError) as error:
        sys.exit(f"proof: {str(error) or repr(error)}")
    except KeyboardInterrupt:
        sys.exit("proof: interrupted")


if __name__ == "__main__":
    main()
