from prompt_cache_key.routing import MAX_CONVERSATIONS, RoutingHeaders


def test_header_is_replaced_from_its_second_change_on() -> None:
    headers = RoutingHeaders()
    values = ["a", "a", "b", "b", "a", "a", "b"]
    replaced = [headers.is_replaced("conversation", "session-id", value) for value in values]
    assert replaced == [False, False, False, False, True, True, True]


def test_conversations_and_headers_are_apart() -> None:
    headers = RoutingHeaders()
    for conversation, name in (("one", "x"), ("two", "x"), ("one", "y")):
        for value in "ab":
            assert not headers.is_replaced(conversation, name, value)


def test_what_was_seen_long_ago_is_forgotten() -> None:
    headers = RoutingHeaders()
    headers.is_replaced("first", "x", "a")
    headers.is_replaced("first", "x", "b")
    for number in range(MAX_CONVERSATIONS):
        headers.is_replaced(number, "x", "a")
    assert not headers.is_replaced("first", "x", "c")
