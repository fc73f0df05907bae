"""What a flow tells of a request to a model, whether or not the addon was there."""

import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from mitmproxy import flow, http

from prompt_cache_key.body import Body
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.identity import UNKNOWN, Identity, find
from prompt_cache_key.log import text
from prompt_cache_key.misses.history import History
from prompt_cache_key.misses.judge import Sent
from prompt_cache_key.stats.facts import RequestFacts
from prompt_cache_key.upstreams import Upstream, upstream_of
from prompt_cache_key.usage.reader import UsageReader

_MAX_TIME = 1 << 37  # a Unix time that any clock can show, in the year 6325


class SessionRequest(NamedTuple):
    """A request that shows its session, or to which the addon has given one.

    Names are written as in log lines, escaped and bounded.
    """

    session: str
    agent: str
    model: str
    endpoint: str
    """The URL without its query."""
    sent: Sent
    """Its time is Unix time."""
    upstream: Upstream
    """What is known of where it went."""
    diagnosis: str
    """What the upstream says itself of a miss; empty if nothing."""

    @property
    def line(self) -> tuple[str, str, str, str]:
        """Whose requests continue each other."""
        return self[:4]


def read(each: flow.Flow) -> SessionRequest | None:
    """Read a flow, complete or not; None if it is no request of a session."""
    if not isinstance(each, http.HTTPFlow):
        return None
    request, response = each.request, each.response
    known = each.metadata if isinstance(each.metadata, dict) else {}  # the addon's, if it was there
    content = request.get_content(strict=False) or b""
    try:
        model, key, identity = _read_body(request, content)
    except ValueError:
        model, key, identity = _read_body(request, b"{}")
    session = known.get("claude_session") or (identity and identity.session)
    if not session:
        return None
    agent = known.get("claude_agent") or (identity and identity.agent) or UNKNOWN
    key = key or known.get("prompt_cache_key") or ""
    headers = response.headers if response else {}
    usage = UsageReader(headers.get("content-type", ""), headers.get("content-encoding", ""))
    usage.feed((response and response.raw_content) or b"")
    upstream = upstream_of(request.host, request.path, model, request.pretty_host)
    return SessionRequest(
        session=_name(session),
        agent=_name(agent),
        model=_name(model or UNKNOWN),
        endpoint=_name(request.pretty_url.partition("?")[0]),
        sent=Sent(
            time=request.timestamp_start if 0 <= request.timestamp_start < _MAX_TIME else 0,
            key=_name(key) if key else "",
            content=content,
            usage=usage.finish(),
        ),
        upstream=upstream,
        diagnosis=usage.diagnosis,
    )


def sessions_in(
    flows: Iterable[flow.Flow], keep: float | None = None
) -> dict[str, list[RequestFacts]]:
    """Return each session's requests, judged; the flows come in the order of their answers.

    A flow in whose place the addon has counted a translator's call is left out.
    `keep` is for how many seconds upstreams keep a prefix; None: for as long as each is known to.
    """
    sessions: defaultdict[str, list[RequestFacts]] = defaultdict(list)
    history, seen = History(), set()
    for request in filter(None, map(read, filter(_counts, flows))):
        line, sent = request.line, request.sent
        upstream = request.upstream
        limit = upstream.retention if keep is None else keep
        miss = history.judge(line, sent, limit, request.diagnosis, is_limited=upstream.is_limited)
        history.add(line, sent)
        session, agent, model, endpoint = line
        sessions[session].append(
            RequestFacts(
                time=sent.time,
                agent=agent,
                model=model,
                endpoint=endpoint,
                key=sent.key,
                usage=sent.usage,
                is_first=line not in seen,
                miss=miss,
            )
        )
        if sent.usage:
            seen.add(line)
    return sessions


def finished(sessions: dict[str, list[RequestFacts]]) -> list[FinishedRequest]:
    """Return the requests of all sessions."""
    return [
        FinishedRequest(session=session, **request._asdict())
        for session, requests in sessions.items()
        for request in requests
    ]


def _counts(each: flow.Flow) -> bool:
    known = each.metadata if isinstance(each.metadata, dict) else {}
    return known.get("prompt_cache_counts") is not False


def _read_body(request: http.Request, content: bytes) -> tuple[str, object, Identity | None]:
    body = Body(content)
    return body.model, body.own_key if body.has_key else None, find(request.headers, body)


def _name(value: object) -> str:
    """Return a name as log lines have it, as one object for all requests."""
    return sys.intern(text(str(value)))
