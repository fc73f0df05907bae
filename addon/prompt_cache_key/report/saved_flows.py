"""What a flow tells of a request to a model, whether or not the addon was there."""

import sys
from collections import defaultdict
from collections.abc import Iterable

from mitmproxy import flow, http

from prompt_cache_key.body import Body
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.identity import UNKNOWN, Identity, find
from prompt_cache_key.log import text
from prompt_cache_key.misses.history import History
from prompt_cache_key.stats.facts import RequestFacts
from prompt_cache_key.upstreams import upstream_of
from prompt_cache_key.usage.reader import UsageReader

_MAX_TIME = 1 << 37  # a Unix time that any clock can show, in the year 6325


def read(each: flow.Flow) -> FinishedRequest | None:
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
    return FinishedRequest(
        time=request.timestamp_start if 0 <= request.timestamp_start < _MAX_TIME else 0,
        session=_name(session),
        agent=_name(agent),
        model=_name(model or UNKNOWN),
        endpoint=_name(request.pretty_url.partition("?")[0]),
        key=_name(key) if key else "",
        usage=usage.finish(),
        upstream=upstream,
        diagnosis=usage.diagnosis,
        key_state=str(known.get("prompt_cache_state") or ""),
        body=content,
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
        if keep is not None:
            upstream = request.upstream._replace(retention=int(keep))
            request = request._replace(upstream=upstream)  # noqa: PLW2901
        miss = history.judge(request)
        history.add(request)
        sessions[request.session].append(
            RequestFacts(
                time=request.time,
                agent=request.agent,
                model=request.model,
                endpoint=request.endpoint,
                key=request.key,
                usage=request.usage,
                is_first=request.conversation not in seen,
                miss=miss,
            )
        )
        if request.usage:
            seen.add(request.conversation)
    return sessions


def _counts(each: flow.Flow) -> bool:
    known = each.metadata if isinstance(each.metadata, dict) else {}
    return known.get("prompt_cache_counts") is not False


def _read_body(request: http.Request, content: bytes) -> tuple[str, object, Identity | None]:
    body = Body(content)
    return body.model, body.own_key if body.has_key else None, find(request.headers, body)


def _name(value: object) -> str:
    """Return a name as log lines have it, as one object for all requests."""
    return sys.intern(text(str(value)))
