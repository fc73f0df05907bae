"""Requests of any kind, under way at once, in any order: each is as it is expected to be.

Requests begin, end, are reset by either side, answered before they are complete, rejected, and
called for by a translator, while options change. `expected.World` says what is to become of each.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any, ClassVar, NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lib import ADDON, TIMEOUT
from lib.client import Client
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.expected import (
    ALL,
    BLANK,
    GENERATIONS,
    JSON,
    LIMIT,
    NO_OBJECTS,
    NOTHING,
    OWN,
    Kind,
    Name,
    UnderWay,
    World,
)
from live.proxied import assert_sound, script
from live.stepwise import NUMBER, of_client, respond_early
from prompt_cache_key.body import MEMBER_SIZE
from prompt_cache_key.upstreams import DEFAULT_FILTER

# One script answers before the addon sees a request; it also sets options and calls commands.
_BEFORE = """
import json
from mitmproxy import ctx, http

def request(flow):
    if flow.request.path == "/set":
        ctx.options.update(**json.loads(flow.request.content))
    elif flow.request.path == "/forget":
        ctx.master.commands.call("promptcache.forget", flow.request.text)
    elif not flow.request.path.startswith("/by-script/"):
        return
    flow.response = http.Response.make(418)
"""

# Another one says how far a request has come, when the addon is done with it.
_AFTER = f"""
def say(what, flow):
    print(what, flow.request.headers.get("{NUMBER}"))

def requestheaders(flow):
    say("begun", flow)

def responseheaders(flow):
    say("answered", flow)

def response(flow):
    say("ended", flow)

error = response
"""


def pairs(values: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, each in values.items() for value in each]


OPTIONS: dict[str, list[Any]] = {
    "strip": [["auto"], ["attribution"], []],
    "overwrite": [False, True],
    "stream": [True, False],
    "keys": ["random", "derived"],
    "scope": ["auto", "agent"],
    "filter": [DEFAULT_FILTER, NOTHING, DEFAULT_FILTER, ALL],
    "bridge": [True, False],
}
"""The values of options, the default first."""

# What a request may have that is not as usual: the usual one shows its session in a header, is
# said to be JSON, and gets a key.
UNUSUAL: dict[str, list[Any]] = {
    "path": [*GENERATIONS, "/upload"],
    "is_shown_in": ["metadata", "metadata", ""],
    "agent": ["a1"],
    "own": [*OWN],
    "has_attribution": [True],
    "is_chunked": [True],
    "no_object": [*NO_OBJECTS],
    "more": [
        [],
        [("Content-Type", "text/plain")],
        [JSON, ("Content-MD5", "x")],
        [JSON, ("Authorization", "AWS4-HMAC-SHA256 x")],
    ],
}
KINDS = st.builds(
    lambda size, early, unusual: Kind(**{"size": size, "early": early} | dict(unusual)),
    st.sampled_from([0, 0, 2 * LIMIT]),
    st.sampled_from(["", "", "answer", "reset"]),  # where the body is streamed
    st.lists(st.sampled_from([("agent", ""), *pairs(UNUSUAL)]), max_size=2),
)
EVENT = b'data: {"choices":[]}\n\n'
REJECTION = b"""{"error":{"message":"Unsupported parameter: 'prompt_cache_key'"}}"""
ALL_OF_IT = 100
SHARES = st.sampled_from([1, 40, 99, ALL_OF_IT, ALL_OF_IT, ALL_OF_IT])
CHANGES = st.sampled_from([*OPTIONS, "forget", "", ""])
ANSWERS = st.sampled_from(["events", "rejection"] * 2 + ["usage", "much", "error"])
ANY = st.integers(0, 99)  # which of those that there are


class Proxied(NamedTuple):
    """A mitmdump for all examples: requests come to one listener, a translator's calls to another.

    `under_way` has the requests of all examples, by number.
    """

    proxy: Mitmdump
    under_way: dict[str, UnderWay]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("scripts")
    scripts = [script(folder, "before", _BEFORE), ADDON, script(folder, "after", _AFTER)]
    options: dict[str, Any] = {"scripts": scripts, "stream_large_bodies": str(LIMIT)}
    under_way: dict[str, UnderWay] = {}

    def respond(request: Request) -> Reply:
        return under_way[request.header(NUMBER) or ""].respond(request)

    with Server(respond) as upstream, Server(respond) as other:
        upstream.respond_early = respond_early
        modes = [f"reverse:{each.url}" for each in (upstream, other)]
        with Mitmdump(*modes, flow_detail="0", **options) as proxy:
            yield Proxied(proxy, under_way)
    assert_sound(proxy)


def some(*phases: str) -> Callable[[Any], Any]:
    """Return the condition that a request is in one of these phases."""
    return precondition(lambda self: bool(self.of(*phases)))


class AnyOrder(RuleBasedStateMachine):
    proxied: ClassVar[Proxied]
    owners: ClassVar[dict[str, Name]] = {}

    @property
    def proxy(self) -> Mitmdump:
        return self.proxied.proxy

    @initialize()
    def begin_world(self) -> None:
        self.world = World({})
        self.all: list[UnderWay] = []
        self.changes = Counter[str]()
        self.sessions = [str(uuid4()), str(uuid4())]
        self.set({name: values[0] for name, values in OPTIONS.items()})

    def teardown(self) -> None:
        for each in self.of("begun", "complete", "streaming"):
            self.break_client(each, is_reset=False)

    def of(self, *phases: str) -> list[UnderWay]:
        return [each for each in self.all if each.phase in phases]

    def small(self) -> list[UnderWay]:
        """Return the requests for which a translator's call can have an origin."""
        return [each for each in self.all if not each.is_call and len(each.body) < LIMIT]

    def pick(self, which: int, *phases: str) -> UnderWay:
        found = self.of(*phases)
        return found[which % len(found)]

    def wait(self, what: str, request: UnderWay) -> None:
        self.proxy.find(f"^{what} {request.number}$", request.since)

    # --- options and commands ---

    def change(self, name: str) -> None:
        """Give an option the next of its values, or have a session forgotten."""
        if name == "forget":
            self.forget()
        elif name:
            self.changes[name] += 1
            values = OPTIONS[name]
            self.set({name: values[self.changes[name] % len(values)]})

    def set(self, options: dict[str, Any]) -> None:
        before, self.world.options = self.world.options, self.world.options | options
        if before.get("keys") != self.world.options["keys"]:
            self.world.keys.clear()
        named = {f"prompt_cache_{name}": value for name, value in options.items()}
        self.control("/set", json.dumps(named))

    def forget(self) -> None:
        if keys := self.world.keys:
            session = next(iter(keys))[1]
            self.world.keys = {name: key for name, key in keys.items() if name[1] != session}
            self.control("/forget", session)

    def control(self, path: str, body: str) -> None:
        with Client(self.proxy.port) as client:
            assert client.send("POST", path, (), body.encode()).status == 418

    # --- requests ---

    @rule(
        kind=KINDS, which=st.integers(0, 3), share=SHARES, is_shared=st.booleans(), change=CHANGES
    )
    def begin(self, kind: Kind, which: int, share: int, is_shared: bool, change: str) -> None:
        """Send the head of a request, and a share of its body; then maybe change an option."""
        text = f"do the same {kind.size} {kind.has_attribution}" if is_shared else uuid4()
        session, model = self.sessions[which % 2], f"m{which // 2}-{self.sessions[0]}"
        request = UnderWay(kind, session, model, f"{text} {self.sessions[0]}")
        early = kind.early if request.is_streamed else ""
        # The last byte comes later: an early answer and a change of options before it.
        size = len(request.body)
        self.start(request, self.proxy.ports[0], min(size * share // 100, size - 1))
        if early:
            response = request.response()
            self.wait("ended", request)
            assert response.status == (401 if early == "answer" else 502)
            request.is_answered = True
        self.change(change)
        if early == "reset":
            self.end(request)
        elif share == ALL_OF_IT:
            self.complete(request)

    @rule(which=ANY)
    @precondition(lambda self: bool(self.small()))
    def call(self, which: int) -> None:
        """Make a translator's call for a request, maybe for one that has ended."""
        waiting = [each for each in self.small() if each.is_known and each.phase != "ended"]
        origins = waiting or self.small() if which % 4 else self.small()
        call = origins[which % len(origins)].call()
        self.start(call, self.proxy.ports[1], len(call.body))
        self.complete(call)

    def start(self, request: UnderWay, port: int, size: int) -> None:
        self.proxied.under_way[str(request.number)] = request
        self.all.append(request)
        request.since = len(self.proxy.lines)
        self.world.begin(request)
        request.begin(port, size)
        self.wait("begun", request)

    @rule(which=ANY)
    @some("begun")
    def finish(self, which: int) -> None:
        """Send the rest of the body."""
        self.complete(self.pick(which, "begun"))

    def complete(self, request: UnderWay) -> None:
        request.finish()
        if request.is_ended_by_script:
            assert request.response().status == 418
            self.end(request)
            return
        self.world.settle(request)
        self.check(request, request.arrived.get(timeout=TIMEOUT))
        request.phase = "complete"
        if request.is_answered:
            self.end(request)

    def check(self, request: UnderWay, arrived: Request) -> None:
        """Check headers and body that have arrived."""
        assert of_client(arrived.headers) == of_client(request.sent_headers)
        before, after = self.world.expected(request)
        key = arrived.body[len(before) :][:36] if after else b""
        expected = before + key + after
        if request.is_held:
            expected = expected.ljust(len(request.body) + MEMBER_SIZE)
        is_expected = arrived.body == expected  # a bool: the bodies are large
        assert is_expected, (arrived.body[:300], expected[:300])
        if not request.kind.no_object:
            request.got = arrived.json
        request.state = "observed" if request.fate == "observed" else "kept"
        if after:
            self.check_key(request, key.decode())

    def check_key(self, request: UnderWay, key: str) -> None:
        """Check that the key is always this owner's and nobody else's."""
        assert UUID(key)
        name = request.name(self.world.options["scope"])
        is_new = name not in self.world.keys
        assert self.world.keys.setdefault(name, key) == key
        assert self.owners.setdefault(key, name) == name
        is_other = request.kind.own not in ("", *BLANK)
        request.state = "replaced" if is_other else "new" if is_new else "reused"

    # --- responses ---

    @rule(
        which=ANY, how=st.sampled_from(["events", "events", "usage", "much", "error", "rejection"])
    )
    @some("complete")
    def answer(self, which: int, how: str) -> None:
        request = self.pick(which, "complete")
        if how == "events":
            self.begin_stream(request)
            return
        size = 2 * LIMIT if how == "much" else 0
        reply = Reply(body=b'{"x":"%b",%b}' % (b"x" * size, request.usage))
        if how in ("error", "rejection"):
            reply = Reply(400, body=REJECTION) if how == "rejection" else Reply(500)
        request.answer(reply)
        response = request.response()
        assert (response.status, response.read()) == (reply.status, reply.body)
        if how == "rejection" and request.state in ("new", "reused", "replaced"):
            self.world.rejected.add(request.place)
        self.end(request, has_usage=how in ("usage", "much"), is_answered=True)

    def begin_stream(self, request: UnderWay) -> None:
        request.answer_by_events(EVENT)
        self.wait("answered", request)
        request.phase = "streaming"
        request.is_passed_on = request.fate != "untouched" and self.world.options["stream"]
        if request.is_passed_on:
            assert request.response().read1(len(EVENT)) == EVENT

    @rule(which=ANY)
    @some("streaming")
    def end_stream(self, which: int) -> None:
        request = self.pick(which, "streaming")
        assert request.is_passed_on or request.is_silent
        events = [b"data: {%b}\n\n" % request.usage, b"data: [DONE]\n\n"]
        for event in events:
            request.go_on(event)
        passed = b"" if request.is_passed_on else EVENT
        assert request.response().read() == passed + b"".join(events)
        self.end(request, has_usage=True, is_answered=True)

    @rule(which=ANY, by=st.sampled_from(["upstream", "client", "a client's reset"]))
    @some("begun", "complete", "streaming")
    def break_off(self, which: int, by: str) -> None:
        """Have a side close the connection, wherever the request is."""
        request = self.pick(which, "begun", "complete", "streaming")
        if by != "upstream" or request.phase == "begun":
            self.break_client(request, is_reset=by != "client")
            return
        request.break_off()
        response = request.response()
        if request.is_passed_on:
            with pytest.raises((HTTPException, ConnectionError)):
                response.read()
        else:
            assert response.status == 502
        self.end(request)

    def break_client(self, request: UnderWay, *, is_reset: bool) -> None:
        request.close(is_reset=is_reset)
        self.end(request)
        request.break_off()

    def end(self, request: UnderWay, *, has_usage: bool = False, is_answered: bool = False) -> None:
        """Wait for the end of a request, and check what was logged of it."""
        self.wait("ended", request)
        request.close()
        self.world.end(request, is_answered=is_answered)
        start = f"[{request.client}] INFO [prompt-cache] "
        lines = [line for line in self.proxy.lines[request.since :] if start in line]
        expected = []
        if request.fate != "untouched":
            session = ("session", request.shown_session)
            expected = [session, ("state", request.state)]
            expected += [("input", str(request.tokens)), session] * has_usage
        found = re.findall(r" (session|state|input|missed)=(\S+)", "\n".join(lines))
        assert found == expected, lines


def test_any_order(proxied: Proxied) -> None:
    AnyOrder.proxied = proxied
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            deadline=None,
            max_examples=60,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
