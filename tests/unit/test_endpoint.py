import tracemalloc

import pytest
from mitmproxy import flowfilter, http
from mitmproxy.test import tflow
from prompt_cache_key.endpoint import MAX_KNOWN, MAX_SIZE, Destination, Destinations
from prompt_cache_key.upstreams import DEFAULT_FILTER

URL = "https://10.0.0.1:8443/v1/messages?key=secret"


def destinations(filter_: str = DEFAULT_FILTER) -> Destinations:
    return Destinations(flowfilter.parse(filter_))


def flow(method: str = "POST", url: str = URL, **headers: str) -> http.HTTPFlow:
    made = tflow.tflow(req=http.Request.make(method, url, b"{}"))
    made.request.headers.update(headers)
    return made


def test_a_destination_is_what_the_client_asks_for() -> None:
    asked = flow(Host="gw.example:8443")
    known = Destination("gw.example", "/v1/messages", "https://gw.example:8443/v1/messages", True)
    assert [destinations().of(asked) for _ in range(2)] == [known, known]


# What differs in one thing alone is another destination.
FLOWS = [
    flow(),
    flow("GET"),
    flow(url=URL.replace("https", "http")),
    flow(url=URL.replace("8443", "443")),
    flow(url=URL.replace("messages", "models")),
    flow(url=URL.replace("10.0.0.1", "api.anthropic.com")),
    flow(Host="gw.example"),
    flow(Host="api.anthropic.com"),
]
two_hosts = flow()
two_hosts.request.headers.set_all("host", ["gw.example", "api.anthropic.com"])
http2 = flow(Host="gw.example")
http2.request.http_version, http2.request.authority = "HTTP/2.0", "api.anthropic.com"
http1 = http2.copy()
http1.request.http_version = "HTTP/1.1"


@pytest.mark.parametrize(
    "filter_",
    [
        DEFAULT_FILTER,
        "!(~m GET | ~d anthropic )",
        "models",
        "~all",
        "~hq gw",
        "~bq secret & ~m POST",
        "!(~u x | ! ~bq {} )",
    ],
)
def test_selects_what_the_filter_does(filter_: str) -> None:
    known, matches = destinations(filter_), flowfilter.parse(filter_)
    for each in [*FLOWS, two_hosts, http2, http1] * 2:
        assert known.selects(each) is bool(matches(each))
        assert known.of(each).host == each.request.pretty_host
        assert known.of(each).address == each.request.pretty_url.partition("?")[0]


@pytest.mark.parametrize("filter_", ["~bq one", "~m POST & ~bq one", "!(~u x | !~bq one )"])
def test_a_filter_that_looks_at_more_is_asked_each_time(filter_: str) -> None:
    known, asked = destinations(filter_), flow()
    for content, is_selected in [(b"one", True), (b"two", False), (b"one", True)]:
        asked.request.content = content
        assert known.selects(asked) is is_selected


def test_long_destinations_are_not_kept() -> None:
    known, path = destinations(), "/v1/" + "m" * MAX_SIZE
    flows = [flow(url=f"https://x{path}{number}") for number in range(20)]
    flows += [flow(Host=f"{number}{path}") for number in range(20)]
    tracemalloc.start()
    for each in flows:
        assert len(known.of(each).address) > MAX_SIZE
        assert known.selects(each) is ("messages" in each.request.path)
    assert tracemalloc.get_traced_memory()[0] < 10 * MAX_SIZE
    tracemalloc.stop()


def test_many_destinations() -> None:
    known = destinations()
    for number in range(2 * MAX_KNOWN + 1):
        assert known.of(flow(url=f"https://x/{number}")).path == f"/{number}"
        assert known.selects(flow())
