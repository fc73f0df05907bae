"""Say what Claude Code's prompts got from the cache, and why not more, from flows that were saved.

The proxy that saved them need not have had the addon. Memory does not grow with the file, but for
a few numbers of each request: of the bodies only the last are kept, to see where a prefix broke.
"""

import argparse
import json
import math
import signal
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mitmproxy import flow, flowfilter, http
from mitmproxy.io import FlowReader

from prompt_cache_key.judge.prefix import Break, compare
from prompt_cache_key.log import text
from prompt_cache_key.options import GENERATIONS, seconds
from prompt_cache_key.request import body
from prompt_cache_key.request.speaker import find
from prompt_cache_key.response.usage import Usage, UsageReader
from prompt_cache_key.show.page import page

# The hosts that the addon leaves out take no key, but cache by prefix as well.
KEEP = "10m"  # OpenAI gives a prefix up after 5 to 10 minutes without use, at times after an hour
SHORTEST = 1024  # tokens of a prompt that OpenAI caches
KEPT_EACH = 8  # bodies of one speaker: up to 2.1.138 subagents that work at once are all `main`
KEPT_SIZE = 32 << 20  # bytes of bodies in all
LARGE_FILE = 64 << 20  # bytes from which a progress bar is shown
MAX_TIME = 1 << 37  # a Unix time that any clock can show, in the year 6325


class Row(NamedTuple):
    """What is kept of a request; names are as in log lines."""

    time: float
    """When it began, Unix time."""
    agent: str
    model: str
    endpoint: str
    key: str
    """The `prompt_cache_key` it had; empty without one."""
    usage: Usage | None
    broke: Break | None
    """Where its prompt left what the speaker had sent before."""
    is_first: bool = False
    """Whether it is the speaker's first."""
    old_key: str | None = None
    """The key of the speaker's request before, if that was another one."""
    pause: float = 0
    """Seconds since that request, if an upstream keeps no cache for so long."""

    @property
    def speaker(self) -> tuple[str, str, str]:
        """Whose requests continue each other."""
        return self.agent, self.model, self.endpoint

    @property
    def uncached(self) -> int:
        """Prompt tokens that did not come from the cache."""
        return self.usage.input - self.usage.cached if self.usage else 0

    @property
    def why(self) -> str:
        """Why they did not: a new key or a pause loses the whole prefix, a break what follows."""
        if self.old_key is not None:
            return "the key changed"
        if self.pause:
            return "a long pause"
        if self.broke:
            return f"the prefix broke: {self.broke.cause}"
        if self.is_first:
            return "an agent's first request to a model"
        return "new text, or a miss of the upstream's own"


class Prices(NamedTuple):
    """Of a million tokens each, in any currency."""

    input: float
    cached: float
    written: float
    output: float

    def cost(self, usage: Usage) -> float:
        """Return what a request cost."""
        written = usage.written or 0
        fresh = max(0, usage.input - usage.cached - written)
        tokens = (fresh, usage.cached, written, usage.output or 0)
        return sum(price * count for price, count in zip(self, tokens, strict=True)) / 1e6


class Sums(NamedTuple):
    """Of a number of requests; those that reported no usage count no tokens and cost nothing."""

    requests: int
    without_usage: int
    prompt_tokens: int
    cached_tokens: int
    uncached_tokens: int
    written_tokens: int
    output_tokens: int
    hit_percent: float
    breaks: int
    key_changes: int
    pauses: int
    cost: float | None
    cost_without_cache: float | None


class Session(NamedTuple):
    """A session's requests in order of time, and their sums in all and by `Row.speaker`."""

    id: str
    sums: Sums
    speakers: list[tuple[tuple[str, str, str], Sums]]
    requests: list[Row]


class Report(NamedTuple):
    """All that is shown; `causes` are sums by `Row.why`.

    What has the most prompt tokens that did not come from the cache comes first.
    """

    file: str
    problem: str
    keep: int
    prices: Prices | None
    sums: Sums
    causes: list[tuple[str, Sums]]
    sessions: list[Session]


class Bodies:
    """The last bodies of each speaker; those of who has not spoken for longest are dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, deque[tuple[int, dict[str, Any]]]] = OrderedDict()
        self._size = 0

    def compare(self, speaker: Hashable, content: bytes) -> Break | None:
        """Find where a body's prompt left what the speaker had sent before, and keep the body."""
        try:
            after = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):  # no body, or one with a number of 4301 digits
            return None
        kept = self._kept.setdefault(speaker, deque())
        self._kept.move_to_end(speaker)
        broke = nearest((before for _, before in reversed(kept)), after)
        kept.append((max(len(content), 4096), after))
        self._size += kept[-1][0]
        if len(kept) > KEPT_EACH:
            self._size -= kept.popleft()[0]
        while self._size > KEPT_SIZE:
            oldest, bodies = next(iter(self._kept.items()))
            self._size -= bodies.popleft()[0]
            if not bodies:
                del self._kept[oldest]
        return broke


def nearest(befores: Iterable[dict[str, Any]], after: dict[str, Any]) -> Break | None:
    """Find where a prompt left the one of these with which it shares most.

    None if it held to one of them, or begins a conversation of its own, as subagents and helpers
    do: nothing in it is answered yet, and it has other tools or system prompts, or no tools at all.
    """
    breaks = []
    for before in befores:
        if not (broke := compare(before, after)):
            return None
        breaks.append(broke)
    best = max(breaks, key=lambda broke: broke.chars, default=None)
    said = after.get("messages") or after.get("input")
    turns = said if isinstance(said, list) else []
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    begins = all(role in ("user", "system", "developer") for role in roles)
    rewritten = best and "messages" in best.cause and after.get("tools")
    return best if rewritten or not begins or after.get("previous_response_id") else None


def read(each: flow.Flow, bodies: Bodies) -> tuple[str, Row] | None:
    """Read session and request of a flow; None if it shows no session."""
    if not isinstance(each, http.HTTPFlow):
        return None
    request = each.request
    known = each.metadata if isinstance(each.metadata, dict) else {}  # the addon's, if it was there
    content = request.get_content(strict=False) or b""
    try:
        found = body.read(content)
    except ValueError:
        found, content = body.Fields(), b""
    own = found.prompt_cache_key
    key = own if found.has_key else known.get("prompt_cache_key")
    shown = find(request.headers, found.metadata, found.user, own)
    if not (id_ := known.get("claude_session") or (shown and shown.id)):
        return None
    session = named(id_)
    row = Row(
        time=request.timestamp_start if 0 <= request.timestamp_start < MAX_TIME else 0,
        agent=named(known.get("claude_agent") or (shown and shown.agent) or "unknown"),
        model=named(found.model if isinstance(found.model, str) else "unknown"),
        endpoint=named(request.pretty_url.partition("?")[0]),
        key=named(key) if key else "",
        usage=usage_of(each.response),
        broke=None,
    )
    if broke := bodies.compare((session, row.speaker), content):
        row = row._replace(broke=broke._replace(path=text(broke.path)))
    return session, row


def named(value: object) -> str:
    """Return a name as log lines have it, as one object for all requests."""
    return sys.intern(text(str(value)))


def usage_of(response: http.Response | None) -> Usage | None:
    """Return what a response reported, if it did and was kept."""
    if not response:
        return None
    kind = response.headers.get("content-type", "")
    reader = UsageReader(kind, response.headers.get("content-encoding", ""))
    reader.feed(response.raw_content or b"")
    if reader.unread:  # mitmproxy decodes br and zstd too, but nothing that broke off
        reader = UsageReader(kind)
        reader.feed(response.get_content(strict=False) or b"")
    return reader.finish()


def marked(rows: Iterable[Row], keep: float) -> Iterator[Row]:
    """Sort requests by time; tell where a key changed, and where none came for `keep` seconds."""
    last: dict[Hashable, Row] = {}
    for row in sorted(rows, key=lambda row: row.time):
        before = last.get(row.speaker, row)
        last[row.speaker] = row
        pause = row.time - before.time
        lost = pause > keep and not (row.usage and row.usage.input < SHORTEST)
        yield row._replace(
            is_first=before is row,
            old_key=None if before.key == row.key else before.key,
            pause=pause if lost else 0,
        )


def sums(rows: Iterable[Row], prices: Prices | None) -> Sums:
    """Sum requests up."""
    rows = list(rows)
    used = [row.usage for row in rows if row.usage]
    prompt, cached = sum(u.input for u in used), sum(u.cached for u in used)
    uncached = [u._replace(cached=0, written=0) for u in used]
    return Sums(
        requests=len(rows),
        without_usage=len(rows) - len(used),
        prompt_tokens=prompt,
        cached_tokens=cached,
        uncached_tokens=prompt - cached,
        written_tokens=sum(u.written or 0 for u in used),
        output_tokens=sum(u.output or 0 for u in used),
        hit_percent=100 * cached / prompt if prompt else 0,
        breaks=sum(row.broke is not None for row in rows),
        key_changes=sum(row.old_key is not None for row in rows),
        pauses=sum(row.pause > 0 for row in rows),
        cost=sum(map(prices.cost, used)) if prices else None,
        cost_without_cache=sum(map(prices.cost, uncached)) if prices else None,
    )


def sums_by(name: str, rows: Iterable[Row], prices: Prices | None) -> list[tuple[Any, Sums]]:
    """Sum requests up by an attribute; the most tokens that were not cached come first."""
    parts: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        parts[getattr(row, name)].append(row)
    found = [(value, sums(part, prices)) for value, part in parts.items()]
    return sorted(found, key=lambda each: -each[1].uncached_tokens)


def saved(file: BinaryIO, problems: list[str]) -> Iterator[flow.Flow]:
    """Yield a file's flows up to where it breaks off or is corrupt, which is a problem to tell."""
    count = 0
    try:
        for each in FlowReader(file).stream():
            yield each
            count += 1
    except Exception as e:  # noqa: BLE001  # a corrupt flow raises more than FlowReadException
        why = text(f"{type(e).__name__}: {e}")
        problems.append(f"the file is broken after {count:,} flows: {why}")


def build(path: Path, matches: flowfilter.TFilter, keep: int, prices: Prices | None) -> Report:
    """Read a file of flows; OSError if that cannot be done."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    problems: list[str] = []
    bodies = Bodies()
    with path.open("rb") as file:
        size = path.stat().st_size
        shown = size > LARGE_FILE and sys.stderr.isatty()
        for each in saved(file, problems):
            if shown:
                done = file.tell() / size
                print(f"\r[{'#' * int(40 * done):40}] {done:4.0%}", end="", file=sys.stderr)
            if matches(each) and (request := read(each, bodies)):
                found[request[0]].append(request[1])
        if shown:
            print(f"\r{'':47}\r", end="", file=sys.stderr)
    sessions = []
    for id_, unsorted in found.items():
        rows = list(marked(unsorted, keep))
        speakers = sums_by("speaker", rows, prices)
        sessions.append(Session(id_, sums(rows, prices), speakers, rows))
    sessions.sort(key=lambda session: -session.sums.uncached_tokens)
    rows = [row for session in sessions for row in session.requests]
    return Report(
        file=text(path.name),
        problem="".join(problems),
        keep=keep,
        prices=prices,
        sums=sums(rows, prices),
        causes=sums_by("why", rows, prices),
        sessions=sessions,
    )


def as_json(value: Any) -> Any:
    """Return a report as JSON has it: times are Unix times, `keep` and `pause` seconds."""
    if hasattr(value, "_asdict"):
        members = {name: as_json(member) for name, member in value._asdict().items()}
        return members | ({"tokens": value.tokens} if isinstance(value, Break) else {})
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def price(number: str) -> float:
    """Read a price; ValueError if it is none."""
    if not 0 <= float(number) < math.inf:
        raise ValueError
    return float(number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report; end with a message and status 1 if there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="report",
        description="Show what Claude Code's prompts got from the prompt cache.",
        epilog="Costs are shown if there is a price. Cached and written tokens cost as much as "
        "input tokens unless they have one of their own.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="flows that mitmdump -w saved")
    add("-o", type=Path, metavar="PAGE", help="where the page goes (default: FILE.html)")
    add("--json", action="store_true", help="write JSON instead; to standard output without -o")
    keep_help = "how long the upstream keeps a prefix without use (default: %(default)s)"
    add("--keep", type=seconds, default=KEEP, metavar="TIME", help=keep_help)
    filter_help = "mitmproxy filter of the flows that count (default: %(default)s)"
    add("--filter", type=flowfilter.parse, default=GENERATIONS, metavar="F", help=filter_help)
    for name in Prices._fields:
        add(f"--price-{name}", type=price, metavar="N", help=f"price of a million {name} tokens")
    options = parser.parse_args(arguments)
    given = [getattr(options, f"price_{name}") for name in Prices._fields]
    prices = None
    if given != [None] * 4:
        usual = (given[0] or 0.0,) * 3 + (0.0,)
        prices = Prices(*(u if g is None else g for u, g in zip(usual, given, strict=True)))
    try:
        report = build(options.file, options.filter, options.keep, prices)
    except OSError as e:
        sys.exit(f"report: {e}")
    total = report.sums
    if not total.requests:
        why = report.problem or "no request of a Claude Code session in it"
        sys.exit(f"report: {options.file}: {why}")
    if report.problem:
        print(f"report: {options.file}: {report.problem}", file=sys.stderr)
    pieces = [json.dumps(as_json(report)), "\n"] if options.json else page(report)
    if options.json and not options.o:
        sys.stdout.writelines(pieces)
        return
    target = options.o or Path(f"{options.file}.html")
    try:
        with target.open("w", encoding="utf-8") as out:
            out.writelines(pieces)
    except OSError as e:
        sys.exit(f"report: {e}")
    print(
        f"{target}: sessions {len(report.sessions):,}, requests {total.requests:,}, "
        f"prompt tokens {total.prompt_tokens:,}, hit rate {total.hit_percent:.1f} %, "
        f"prefix breaks {total.breaks:,}, key changes {total.key_changes:,}"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in: report FILE --json | head
    main()
