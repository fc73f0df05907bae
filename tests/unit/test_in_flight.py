from prompt_cache_key.endpoint import Endpoint
from prompt_cache_key.identity import Identity
from prompt_cache_key.in_flight import RequestInFlight
from prompt_cache_key.upstreams import Upstream


def in_flight(session: str = "s", agent: str = "main", model: str = "m") -> RequestInFlight:
    return RequestInFlight(
        identity=Identity(session, agent, "header"),
        user=None,
        endpoint=Endpoint("h", "/v1", model),
        url="http://h/v1",
        upstream=Upstream(),
        sent_at=0,
        body=b"{}",
        wants_stream=False,
    )


def test_conversation_is_session_agent_and_endpoint() -> None:
    assert in_flight().conversation == in_flight().conversation
    others = [in_flight(*names) for names in ((), ("t",), ("s", "a1"), ("s", "main", "n"))]
    assert len({each.conversation for each in others}) == 4
    assert in_flight() != in_flight()


def test_observed_request_shows_no_key() -> None:
    request = in_flight()
    assert request.names() == {"session": "s", "agent": "main", "model": "m"}
    request.state, request.key = "new", "k"
    assert request.names()["key"] == "k"
