from prompt_cache_key.usage.reader import Usage
from unit.requests_made import finished, miss


def test_conversation_is_session_agent_model_and_endpoint() -> None:
    assert finished().conversation == finished(60, key="k").conversation
    first = finished()
    others = [
        *(first._replace(session="x"), first._replace(agent="x")),
        *(first._replace(model="x"), first._replace(endpoint="x")),
    ]
    assert len({each.conversation for each in (first, *others)}) == 5


def test_prompt_is_what_was_cached_what_was_missed_and_what_is_new() -> None:
    request = finished(usage=Usage(10_000, 2500, None, 20), miss=miss())
    assert (request.missed, request.new) == (6500, 1000)
    assert finished(usage=Usage(10_000, 2500, None, 20)).missed == 0


def test_nothing_is_new_where_no_cached_tokens_are_reported() -> None:
    assert finished(usage=None).new == 0
    assert finished(usage=Usage(10_000, None, None, 20)).new == 0
