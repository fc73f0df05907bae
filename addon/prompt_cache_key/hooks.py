"""The mitmproxy addon: options, hooks and commands around the plain modules beside it."""

import json
import logging
import math
import shlex
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import mitmproxy.log
from mitmproxy import command, ctx, exceptions, flowfilter, http, types
from mitmproxy.addonmanager import Loader, traverse
from mitmproxy.flow import Flow
from mitmproxy.utils import human

from prompt_cache_key.exchange import Exchange, Speaker
from prompt_cache_key.judge.explain import RECENT, explain, find_break
from prompt_cache_key.judge.totals import LARGE, SUSPICIOUS, Totals
from prompt_cache_key.log import LOGGER, log, pairs, text
from prompt_cache_key.options import PREFIX, Options, seconds, without
from prompt_cache_key.request import body
from prompt_cache_key.request.bridge import Bridge
from prompt_cache_key.request.keys import Keys, Name, derived_key, name_of, random_key
from prompt_cache_key.request.redis_store import RedisStore, shown
from prompt_cache_key.request.speaker import (
    AGENT_HEADER,
    Session,
    agent,
    find,
    from_header,
    is_raw_user_id,
)
from prompt_cache_key.request.stream import MEMBER_SIZE, RequestKey, ResponseTap
from prompt_cache_key.response.usage import Usage, UsageReader
from prompt_cache_key.show.table import table

T = TypeVar("T")


class PromptCacheKey:
    """Puts one stable `prompt_cache_key` for each Claude Code session into outgoing requests.

    `clock` returns seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.keys = Keys()
        self.store: RedisStore | None = None
        self.bridge = Bridge()
        self.totals = Totals()
        self.options = Options()
        self.matches = flowfilter.parse(self.options.filter)
        self.exchanges: WeakKeyDictionary[http.HTTPFlow, Exchange] = WeakKeyDictionary()
        self.refused: set[str] = set()
        self.told: set[str] = set()

    def load(self, loader: Loader) -> None:
        """Register the options, and judge the values that were set before they were known."""
        for option in fields(Options):
            type_ = cast("type", option.type)
            loader.add_option(PREFIX + option.name, type_, option.default, option.metadata["help"])
        # mitmproxy would apply such values after this hook, where one of a wrong type ends the
        # script's loading without a word, and one of no meaning with a traceback.
        try:
            ctx.options.process_deferred()
            self._read_options()
        except (exceptions.OptionsError, TypeError) as e:
            # mitmproxy 11 says "Not an integer: abc" and not of which option.
            names = [name for name in ctx.options.deferred if name.startswith(PREFIX)]
            where = "" if PREFIX in str(e) else f"{' or '.join(names)}: "
            log(logging.ERROR, f"not loaded, an option has a bad value: {where}{e}")
            raise exceptions.OptionsError(str(e)) from None

    def configure(self, updated: set[str]) -> None:
        """Take on changed options; OptionsError makes mitmproxy restore the old values."""
        if "stream_large_bodies" in updated and (size := ctx.options.stream_large_bodies):
            log(
                logging.WARNING,
                f"stream_large_bodies={size}: a larger request gets a key only if its session is "
                "in the header and its length is known",
            )
        if not any(name.startswith(PREFIX) for name in updated):
            return
        new, matches, store = self._read_options()
        if new.keys != self.options.keys:
            self.keys.clear()
        if (new.store, new.keys) != (self.options.store, self.options.keys):
            self._close_store()
            self.store = store
        self.options, self.matches = new, matches
        self.keys.ttl = seconds(new.ttl)
        self.keys.sliding = new.sliding
        self.keys.max_sessions = self.totals.max_sessions = new.max_sessions
        self.keys.make = derived_key if new.keys == "derived" else random_key

    def running(self) -> None:
        """Say that the addon is active, how it is set, and where Claude Code should go."""
        if self.store:
            self.store.connect()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, getattr(mitmproxy.log, "LegacyLogEvents", ())):
                handler.addFilter(_is_heard)
        settings = asdict(self.options)
        del settings["filter"]
        settings["headers"] = ",".join(settings["headers"])
        settings["store"] = shown(settings["store"])
        here = _client_settings()
        log(logging.INFO, f"active: {pairs(**settings)}; point Claude Code here: {here}")

    def done(self) -> None:
        """Sum up what the sessions got from the cache."""
        if self.totals.all.requests:
            for line in self.totals.summary():
                log(logging.INFO, line)
        self._close_store()

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Prepare a request that is streamed, and so is sent on before `request` is called."""
        request = flow.request
        if request.stream is not True or not self._is_ours(flow):
            return
        session = from_header(request.headers)
        length = request.headers.get("content-length")
        if not session or "content-encoding" in request.headers or length == "0":
            return
        if self._is_refused(request):
            return
        who = Session(session, agent(request.headers), "header")

        def key_of(model: str) -> str:
            name, now = self._name(who, model), self.clock()
            key, new = self.keys.get(name, now)
            if self.store:  # its answer can't be waited for here
                self.store.offer(name, now)
            self._keyed(flow, who, model, key, "new" if new else "reused")
            return key

        request.stream = RequestKey(key_of, int(length) if length else None)
        if length:
            request.headers["content-length"] = str(int(length) + MEMBER_SIZE)

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Put the session's key into a request that is ours to touch.

        Only where the key has to be asked for elsewhere there is something to be waited for.
        """
        return self._or_warn(flow, self._give_key) if self._is_ours(flow) else None

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let the events of a keyed request's response pass as they come."""
        exchange = self.exchanges.get(flow)
        if not exchange or not flow.response:
            return
        exchange.usage = _reader(flow.response)
        if self.options.stream and exchange.usage.is_stream and not flow.response.stream:
            exchange.tap = flow.response.stream = ResponseTap(exchange.usage.feed, _kept_size())

    def response(self, flow: http.HTTPFlow) -> None:
        """Report what the upstream read from its cache, and keep what was streamed."""
        self.bridge.remove(flow)
        exchange = self.exchanges.pop(flow, None)
        response = flow.response
        if not exchange or not exchange.usage or not response:
            return
        if not exchange.tap:
            exchange.usage.feed(response.raw_content or b"")
        elif response.raw_content is None and response.stream is exchange.tap:
            response.raw_content = exchange.tap.content
        if exchange.usage.unread:
            self._once(
                logging.DEBUG,
                f"usage is not read: {exchange.usage.unread}",
                _endpoint(flow.request),
                flow,
            )
        if usage := exchange.usage.finish():
            self._report(flow, exchange, usage)
        if response.status_code in (400, 422) and exchange.state != "kept":
            self._check_refusal(flow, response)

    def error(self, flow: http.HTTPFlow) -> None:
        """Do the same with what was seen before one side broke off."""
        self.response(flow)

    @command.command("prompt_cache.sessions")
    def sessions(self) -> types.Data:
        """Show the sessions: their keys, how long those live, and what they got from the cache."""
        return cast("types.Data", table(self.totals, self.keys, self.options.scope, self.clock()))

    @command.command("prompt_cache.forget")
    def forget(self, session: str) -> None:
        """End a session's mappings: its next request gets a new key."""
        if self.store and self.store.lost:
            raise exceptions.CommandError("the store is lost, and would bring the key back")
        names = self.keys.forget(session)
        if not names:
            raise exceptions.CommandError(f"no key is known for session {text(session)}")
        if self.store:
            for name in names:
                self.store.offer(name, self.clock(), replace=True)
        log(logging.INFO, f"forgot {pairs(keys=len(names), session=session)}")

    @command.command("prompt_cache.explain")
    def explain(self, flow: Flow) -> None:
        """Say whether a prompt began like the one before it in its session, or where it broke."""
        this = _said(flow)
        if not isinstance(flow, http.HTTPFlow) or not this:
            raise exceptions.CommandError("the flow shows no Claude Code session")
        speaker, content = this
        flows: list[Flow] = ctx.master.commands.call("view.flows.resolve", "@all")
        before = [each for each in flows if each.timestamp_created < flow.timestamp_created]
        before.sort(key=lambda each: -each.timestamp_created)
        others = filter(None, map(_said, before))
        earlier = list(islice((said for who, said in others if who == speaker), RECENT))
        if not earlier:
            raise exceptions.CommandError("no earlier request of this session, agent and model")
        line, details = explain(find_break(earlier, content), _usage(flow))
        log(logging.INFO, f"explain {pairs(**speaker._asdict())}: {line}")
        flow.comment = "\n".join(filter(None, (flow.comment, line, details)))

    def _is_ours(self, flow: http.HTTPFlow) -> bool:
        """Whether a request is live, unanswered and selected."""
        if flow.response or flow.error or not flow.live or flow.is_replay:
            return False
        return bool(self.matches(flow))

    def _is_refused(self, request: http.Request) -> bool:
        return bool(self.refused) and _endpoint(request) in self.refused

    def _give_key(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Find whose request it is and put the key in; ValueError if that cannot be done."""
        if isinstance(flow.request.stream, RequestKey):
            flow.request.stream.check()
            return None
        content = _content(flow.request)
        found = body.read(content)
        own = found.prompt_cache_key
        who, cause = self._who(flow, content, found)
        if not who or self._is_refused(flow.request):
            return None
        model = found.model if isinstance(found.model, str) else ""
        sent = body.without_attribution(content) if self.options.strip_attribution else content

        def tell(key: str, state: str) -> None:
            self._keyed(flow, who, model, key, state)
            self.exchanges[flow].cause = cause

        def put(key: str, new: bool) -> None:  # noqa: FBT001  # what a store returns
            flow.request.content = body.with_key(sent, found, key)
            tell(key, "replaced" if found.has_key else "new" if new else "reused")

        if found.has_key and not (self.options.overwrite or is_raw_user_id(own)):
            if sent is not content:
                flow.request.content = sent
            tell(str(own), "kept")
        elif self.store:
            return self._put_when(flow, self.store.get(self._name(who, model), self.clock()), put)
        else:
            put(*self.keys.get(self._name(who, model), self.clock()))
        return None

    def _who(
        self, flow: http.HTTPFlow, content: bytes, found: body.Fields
    ) -> tuple[Session | None, Exchange | None]:
        """Return whose request it is, and for a translator's the exchange that caused it.

        ValueError if it can't be told whose it is and its own key is bad.
        """
        own = found.prompt_cache_key
        who = find(flow.request.headers, found.metadata, found.user, own)
        if who:
            if self.options.bridge:
                self.bridge.add(
                    flow, who.id, who.agent, lambda: flow.request.get_content(strict=False) or b""
                )
            return who, None
        if self.options.bridge and (caused := self.bridge.find(content)):
            cause, session, its_agent = caused
            return Session(session, its_agent, "bridge"), self.exchanges.get(cause)
        if is_raw_user_id(own):
            raise ValueError("it shows no session, and its own key is a user id, a bad key")
        log(logging.DEBUG, "no key: the request shows no session", flow.client_conn.peername)
        return None, None

    async def _put_when(
        self,
        flow: http.HTTPFlow,
        answer: Awaitable[tuple[str, bool]],
        put: Callable[[str, bool], None],
    ) -> None:
        """Put the key in when it is known, unless the client has gone meanwhile."""
        got = await answer
        if flow.live and not flow.error:
            self._or_warn(flow, lambda _: put(*got))

    def _name(self, who: Session, model: str) -> Name:
        """Return what the key is kept by; ValueError if that needs an agent that is malformed."""
        if self.options.scope == "agent" and not who.agent:
            raise ValueError(f"its header {AGENT_HEADER} is malformed")
        return name_of(self.options.scope, model, who.id, who.agent or "")

    def _keyed(self, flow: http.HTTPFlow, who: Session, model: str, key: str, state: str) -> None:
        """Tell of a request that has its key now."""
        speaker = Speaker(who.id, who.agent or "unknown", model)
        flow.metadata |= {
            "prompt_cache_key": key,
            "prompt_cache_state": state,
            "claude_session": speaker.session,
            "claude_agent": speaker.agent,
        }
        if not flow.request.stream:
            for name in self.options.headers:
                flow.request.headers[name] = key
        total = self.totals.request(*speaker, key, state)
        exchange = self.exchanges[flow] = Exchange(speaker, key, state, total)
        self._comment(flow, exchange)
        mapping = pairs(key=key, **speaker._asdict(), state=state, source=who.source)
        log(logging.INFO, mapping, flow.client_conn.peername)

    def _comment(self, flow: http.HTTPFlow, exchange: Exchange, usage: Usage | None = None) -> None:
        """Comment the flow, unless someone else did."""
        if self.options.comment and flow.comment == exchange.comment:
            flow.comment = exchange.comment = exchange.summary(usage)

    def _report(self, flow: http.HTTPFlow, exchange: Exchange, usage: Usage) -> None:
        self._comment(flow, exchange, usage)
        session, _, model = exchange.speaker
        who = pairs(key=exchange.key, session=session, model=model)
        got = pairs(input=usage.input, cached=usage.cached, hit=f"{usage.hit:.0f}%")
        log(logging.INFO, f"usage {who} {got}", flow.client_conn.peername)
        exchange.replace_cause()
        total = exchange.total
        if usage.input >= LARGE and total.session.large < SUSPICIOUS:
            content = flow.request.get_content(strict=False) or b""
            total.see_attribution(body.attribution(content))
        if not exchange.is_replaced and total.add(usage.input, usage.cached):
            log(
                logging.WARNING,
                f"{total.session.large} large prompts and no cached token in "
                f"{pairs(session=session)}; likely causes: {total.likely_causes()}",
            )

    def _check_refusal(self, flow: http.HTTPFlow, response: http.Response) -> None:
        """Give no more keys to an endpoint that has rejected a request because of one."""
        words = (response.get_content(strict=False) or b"").decode(errors="replace")
        at = words.find(body.NAME)
        if at >= 0:
            endpoint = _endpoint(flow.request)
            self.refused.add(endpoint)
            said = json.dumps(words[max(0, at - 100) : at + 100])
            setting = f"{PREFIX}filter={without(self.options.filter, endpoint)}"
            log(
                logging.WARNING,
                f"{text(endpoint)} rejects the field ({response.status_code}: {said}) and gets no "
                f"key until a restart; to make that permanent: --set {shlex.quote(setting)}",
                flow.client_conn.peername,
            )

    def _or_warn(self, flow: http.HTTPFlow, do: Callable[[http.HTTPFlow], T]) -> T | None:
        """Do it; or warn, once for each reason, that the request goes on without a key."""
        try:
            return do(flow)
        except ValueError as e:
            where = f"no key for {flow.request.method} {text(_endpoint(flow.request))}"
            self._once(logging.WARNING, f"it goes on unchanged: {e}", where, flow)
            return None

    def _once(self, level: int, cause: str, where: str, flow: http.HTTPFlow) -> None:
        if cause not in self.told:
            self.told.add(cause)
            log(level, f"{where}, {cause}", flow.client_conn.peername)

    def _close_store(self) -> None:
        if self.store:
            self.store.close()
            self.store = None

    def _read_options(self) -> tuple[Options, flowfilter.TFilter, RedisStore | None]:
        names = [option.name for option in fields(Options)]
        values = {name: getattr(ctx.options, PREFIX + name) for name in names}
        where = ""
        try:
            options = Options(**values)
            where = f"{PREFIX}filter: "
            matches = flowfilter.parse(options.filter)
            where = f"{PREFIX}store: "
            store = None if options.store == "memory" else RedisStore(options.store, self.keys)
            if options.keys == "derived":
                store = None  # random keys that are left in it would win over the derived ones
        except ValueError as e:
            raise exceptions.OptionsError(f"{where}{e}") from None
        return options, matches, store


def _is_heard(record: logging.LogRecord) -> bool:
    """Whether a line has to become an `add_log` event, deprecated since mitmproxy 9.

    The event goes through all addons, which costs more than all else about a line of ours.
    """
    addons = traverse(ctx.master.addons.chain)
    return record.name != LOGGER or any(hasattr(addon, "add_log") for addon in addons)


def _client_settings() -> str:
    """Return the environment that leads Claude Code through the first of our listeners."""
    certificate = Path(ctx.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
    trust = f"NODE_EXTRA_CA_CERTS={certificate}"
    servers = ctx.master.addons.get("proxyserver").servers
    server = next((server for server in servers if server.listen_addrs), None)
    if not server:
        return f"{trust} claude"
    host, port = server.listen_addrs[0][:2]
    if host in ("", "::", "0.0.0.0"):  # noqa: S104  # compared, not bound
        host = "127.0.0.1"
    url = f"http://{human.format_address((host, port))}"
    if server.mode.type_name == "reverse":
        return f"ANTHROPIC_BASE_URL={url} claude"
    return f"HTTPS_PROXY={url} {trust} claude"


def _content(request: http.Request) -> bytes:
    """Return the decoded body; ValueError if there is none to work on."""
    if request.stream or request.raw_content is None:
        raise ValueError(
            "it is streamed (stream_large_bodies) with no known length or no session in its header"
        )
    try:
        return request.get_content() or b""
    except ValueError:
        raise ValueError("its content-encoding is unknown, or the body is corrupt") from None


def _said(flow: Flow) -> tuple[Speaker, bytes] | None:
    """Return who speaks in a flow, seen by the addon or not, and the body; None if no one does."""
    if not isinstance(flow, http.HTTPFlow):
        return None
    try:
        content = _content(flow.request)
        found = body.read(content)
    except ValueError:
        return None
    model = found.model if isinstance(found.model, str) else ""
    if session := flow.metadata.get("claude_session"):
        return Speaker(session, flow.metadata.get("claude_agent", ""), model), content
    who = find(flow.request.headers, found.metadata, found.user, found.prompt_cache_key)
    return (Speaker(who.id, who.agent or "unknown", model), content) if who else None


def _usage(flow: http.HTTPFlow) -> Usage | None:
    if not flow.response:
        return None
    reader = _reader(flow.response)
    reader.feed(flow.response.raw_content or b"")
    return reader.finish()


def _reader(response: http.Response) -> UsageReader:
    headers = response.headers
    return UsageReader(headers.get("content-type", ""), headers.get("content-encoding", ""))


def _endpoint(request: http.Request) -> str:
    return request.pretty_url.partition("?")[0]


def _kept_size() -> float:
    """Return up to which size mitmproxy would keep a body: any, unless it is told otherwise."""
    if getattr(ctx.options, "store_streamed_bodies", False):
        return 0  # it keeps a copy itself
    limits = (ctx.options.stream_large_bodies, ctx.options.body_size_limit)
    return min((human.parse_size(limit) or 0 for limit in limits if limit), default=math.inf)
