"""Read finished requests from flows, whether or not the addon was there when they were saved.

A file of flows may be anybody's: bodies are decoded up to `MAX_BODY`, names are cut, and a Host
header that is longer than a name can be is not looked at.
"""

import sys
from collections.abc import Iterable, Iterator

from mitmproxy import flow, http

from prompt_cache_key.body import Body
from prompt_cache_key.codings import decode
from prompt_cache_key.endpoint import has_plain_host, model_in_path
from prompt_cache_key.finished import FinishedRequest
from prompt_cache_key.identity import UNKNOWN, Identity, find_identity
from prompt_cache_key.misses.history import History
from prompt_cache_key.project import project_of
from prompt_cache_key.stats.sums import bounded
from prompt_cache_key.upstreams import Upstream, upstream_of
from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import Usage, UsageReader

MAX_BODY = 16 << 20
"""Bytes of a decoded request body that is read."""

_MAX_TIME = 1 << 37  # a Unix time that any clock can show, in the year 6325


def finished_in(
    flows: Iterable[flow.Flow], retention: int | None = None
) -> Iterator[FinishedRequest]:
    """Yield the requests of sessions, judged; the flows come in the order of their answers.

    A flow in whose place the addon has counted a translator's call is left out. `retention` is for
    how many seconds upstreams keep a prefix; None: for as long as each is known to.
    """
    history, accounting = History(), Accounting()
    seen: set[tuple[str, str, str]] = set()
    for each in flows:
        request = read(each, accounting) if _counts(each) else None
        if not request:
            continue
        if retention is not None:
            upstream = request.upstream._replace(retention=retention)
            request = request._replace(upstream=upstream)
        row = request.session, request.agent, request.model
        is_first = bool(request.usage) and row not in seen
        miss = history.judge(request) if history.may_have_missed(request) else None
        history.add(request)
        if request.usage:
            seen.add(row)
        yield request._replace(miss=miss, is_first=is_first, body=b"")


def read(each: flow.Flow, accounting: Accounting | None = None) -> FinishedRequest | None:
    """Return the request of a flow, complete or not; None if it shows no session.

    `accounting` knows what the conversation's earlier responses have shown.
    """
    if not isinstance(each, http.HTTPFlow) or not has_plain_host(each.request):
        return None
    request = each.request
    known = each.metadata if isinstance(each.metadata, dict) else {}  # the addon's, if it was there
    content = _content(request)
    try:
        model, key, identity = _read_body(request, content)
    except ValueError:
        model, key, identity = _read_body(request, b"{}")
    session = known.get("claude_session") or (identity and identity.session)
    if not session:
        return None
    agent = known.get("claude_agent") or (identity and identity.agent) or UNKNOWN
    key = key or known.get("prompt_cache_key") or ""
    model = model or model_in_path(request.path) or str(known.get("prompt_cache_model") or "")
    upstream = upstream_of(request.host, request.path, model, request.pretty_host)
    found = FinishedRequest(
        time=request.timestamp_start if 0 <= request.timestamp_start < _MAX_TIME else 0,
        session=_name(session),
        agent=_name(agent),
        model=_name(model or UNKNOWN),
        endpoint=_name(request.pretty_url.partition("?")[0]),
        key=_name(key),
        key_state=_name(known.get("prompt_cache_state") or ""),
        routing=_routing(request, upstream),
        upstream=upstream,
        answered=(each.response and each.response.timestamp_start) or 0,
        project=project_of(content),
        body=content,
    )
    usage, diagnosis = _usage(each.response, found, accounting or Accounting())
    return found._replace(usage=usage, diagnosis=diagnosis)


def _counts(each: flow.Flow) -> bool:
    known = each.metadata if isinstance(each.metadata, dict) else {}
    return known.get("prompt_cache_counts") is not False


def _content(request: http.Request) -> bytes:
    """Return the body, decoded; b"" if it is unknown, corrupt or too large."""
    raw = request.raw_content or b""
    try:
        return decode(raw, request.headers.get("content-encoding", ""), MAX_BODY)
    except ValueError:
        return b""


def _read_body(request: http.Request, content: bytes) -> tuple[str, object, Identity | None]:
    body = Body(content)
    return body.model, body.own_key if body.has_key else None, find_identity(request.headers, body)


def _usage(
    response: http.Response | None, request: FinishedRequest, accounting: Accounting
) -> tuple[Usage | None, str]:
    """Return the usage that a response reports, and the upstream's own words for a miss."""
    if not response:
        return None, ""
    reader = UsageReader(response.headers.get("content-encoding", ""))
    reader.feed(response.raw_content or b"")
    endpoint = request.endpoint, request.model
    usage = accounting.settle(request.conversation, reader.finish(), endpoint)
    return usage, reader.diagnosis


def _routing(request: http.Request, upstream: Upstream) -> tuple[tuple[str, str], ...]:
    """Return the headers by which the upstream routes, with their values."""
    names = [header.name.lower() for header in upstream.headers]
    return tuple(
        (name, bounded(request.headers[name])) for name in names if name in request.headers
    )


def _name(value: object) -> str:
    """Return a name, cut, as one object for all requests."""
    return sys.intern(bounded(str(value)))
