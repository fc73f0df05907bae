import tracemalloc

import pytest
from mitmproxy import flowfilter, http
from mitmproxy.test import tflow
from prompt_cache_key.endpoint import (
    MAX_HOST,
    MAX_KNOWN,
    MAX_MODEL,
    MAX_SIZE,
    Destination,
    Destinations,
    Endpoint,
    endpoint_of,
    model_in_path,
)
from prompt_cache_key.upstreams import DEFAULT_FILTER

URL = "https://10.0.0.1:8443/v1/messages?key=secret"


def flow(method: str = "POST", url: str = URL, **headers: str) -> http.HTTPFlow:
    made = tflow.tflow(req=http.Request.make(method, url, b"{}"))
    made.request.headers.update(headers)
    return made


def test_destination_is_what_the_client_asks_for_and_endpoint_where_it_goes() -> None:
    asked, destinations = flow(Host="gw.example:8443"), Destinations(DEFAULT_FILTER)
    known = Destination("gw.example", "https://gw.example:8443/v1/messages", True, True)
    assert [destinations.of(asked) for _ in range(2)] == [known, known]
    assert endpoint_of(asked.request, "gpt") == Endpoint("10.0.0.1:8443", "/v1/messages", "gpt")


def test_names_of_an_endpoint_are_cut() -> None:
    long = flow(url=f"https://x/{'p' * 10_000}").request
    endpoint = endpoint_of(long, "m" * 10_000)
    assert (len(endpoint.path), len(endpoint.model)) == (MAX_SIZE, MAX_MODEL)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/openai/deployments/gpt-5.6-mine/chat/completions?api-version=1", "gpt-5.6-mine"),
        ("/openai/v1/responses", ""),
        ("/deployments/", ""),
        ("/deployments//x", ""),
        ("/x?a=/deployments/", ""),
        (f"/deployments/{'x' * 257}/", ""),
    ],
)
def test_model_in_path(path: str, model: str) -> None:
    assert model_in_path(path) == model


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
    known, matches = Destinations(filter_), flowfilter.parse(filter_)
    for each in [*FLOWS, two_hosts, http2, http1] * 2:
        assert known.selects(each) is bool(matches(each))
        assert known.of(each).host == each.request.pretty_host
        assert known.of(each).url == each.request.pretty_url.partition("?")[0]


@pytest.mark.parametrize("filter_", ["~bq one", "~m POST & ~bq one", "!(~u x | !~bq one )"])
def test_filter_that_looks_at_more_is_asked_each_time(filter_: str) -> None:
    known, asked = Destinations(filter_), flow()
    for content, is_selected in [(b"one", True), (b"two", False), (b"one", True)]:
        asked.request.content = content
        assert known.selects(asked) is is_selected


def test_generations_outside_the_default_filter_alone_are_observed() -> None:
    claude = flow(url="https://api.anthropic.com/v1/messages")
    default, own = Destinations(DEFAULT_FILTER), Destinations("~d gw.example")
    assert (default.selects(claude), default.observes(claude)) == (False, True)
    assert (own.selects(claude), own.observes(claude)) == (False, False)
    models = flow(url="https://api.anthropic.com/v1/models")
    assert not default.observes(models)


@pytest.mark.parametrize("filter_", [DEFAULT_FILTER, "~bq {}"])
def test_host_that_is_too_long_is_not_read(filter_: str) -> None:
    known = Destinations(filter_)
    for host in ("x" * (MAX_HOST + 1), " " * 60_000, "bedrock" * 9000):
        asked = flow(Host=host)
        assert known.of(asked).url == ""
        assert not known.selects(asked)
        assert not known.observes(asked)


def test_long_destinations_are_not_kept() -> None:
    known, path = Destinations(DEFAULT_FILTER), "/v1/" + "m" * MAX_SIZE
    flows = [flow(url=f"https://x{path}{number}") for number in range(20)]
    tracemalloc.start()
    for each in flows:
        assert len(known.of(each).url) > MAX_SIZE
        assert not known.selects(each)
    assert tracemalloc.get_traced_memory()[0] < 10 * MAX_SIZE
    tracemalloc.stop()


def test_many_destinations() -> None:
    known = Destinations(DEFAULT_FILTER)
    for number in range(2 * MAX_KNOWN + 1):
        assert known.of(flow(url=f"https://x/{number}")).url == f"https://x/{number}"
        assert known.selects(flow())
