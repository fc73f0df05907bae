import asyncio
import uuid
from itertools import count

import pytest
from prompt_cache_key.identity import UNKNOWN, Identity
from prompt_cache_key.keys import Keys, Mapping, Name, derived_key, name_of, random_key

A, B, C = ("m", "a"), ("m", "b"), ("m", "c")


def numbered(max_sessions: int = 10, *, sliding: bool = True) -> Keys:
    """Return Keys that makes 0, 1, 2 … in turn, with a TTL of 10 s."""
    numbers = map(str, count())
    return Keys(10, max_sessions, sliding=sliding, make=lambda _: next(numbers))


@pytest.mark.parametrize(
    ("scope", "agent", "name"),
    [
        ("session", "main", ("m", "s")),
        ("session", UNKNOWN, ("m", "s")),
        ("agent", "main", ("m", "s", "main")),
        ("agent", "a1", ("m", "s", "a1")),
        ("user", UNKNOWN, ("m", "", "account", "device")),
    ],
)
def test_name(scope: str, agent: str, name: Name) -> None:
    identity = Identity("s", agent, "header")
    assert name_of(scope, "m", identity, ("account", "device")) == name


def test_unknown_agent_has_no_key_in_scope_agent() -> None:
    with pytest.raises(ValueError, match="x-claude-code-agent-id is malformed"):
        name_of("agent", "m", Identity("s", UNKNOWN, "header"), ())


def test_random_keys_are_uuid4() -> None:
    keys = [random_key(A) for _ in range(1000)]
    assert len(set(keys)) == 1000
    assert all(str(uuid.UUID(key, version=4)) == key for key in keys)


def test_derived_key_of_the_documentation() -> None:
    name = ("gpt-5.4", "3f6c1c1e-6d0b-4d0e-9a59-0f1e2d3c4b5a")
    # By sha1sum, of the namespace's bytes and the text.
    assert derived_key(name) == "70fd8503-e638-5b3b-9413-0e17c5ecafcc"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("m", "s", "main"), 'prompt_cache_key:["m","s","main"]'),
        (('a"\\', "b\n"), r'prompt_cache_key:["a\"\\","b\n"]'),
        (("ü", "😀"), r'prompt_cache_key:["\u00fc","\ud83d\ude00"]'),
        (("\ud800", ""), r'prompt_cache_key:["\ud800",""]'),
    ],
)
def test_derived_key_is_uuid5(name: Name, text: str) -> None:
    assert derived_key(name) == str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def test_by_default_keys_are_random_and_expire_an_hour_after_their_last_use() -> None:
    keys = Keys()
    key, new = keys.get_now(A, 0)
    assert new
    assert uuid.UUID(key).version == 4
    assert [keys.get_now(A, now) for now in (3599.9, 7199.8)] == [(key, False)] * 2
    assert keys.get_now(A, 10799.8)[1]


def test_way_of_making_keys_can_be_changed() -> None:
    keys = Keys()
    keys.make = derived_key
    assert keys.get_now(B, 0) == (derived_key(B), True)


def test_get_does_not_wait() -> None:
    keys = numbered()
    keys.connect()
    assert asyncio.run(keys.get(A, 0)) == ("0", True)
    assert keys.get_now(A, 9) == asyncio.run(keys.get(A, 18)) == ("0", False)
    keys.close()


@pytest.mark.parametrize(
    ("sliding", "times", "keys"),
    [
        (True, [0, 9, 18, 27, 36.9], "00000"),
        (True, [0, 10], "01"),
        (True, [5, 15, 24, 34], "0112"),
        (False, [0, 9, 9.999, 10], "0001"),
        (False, [0, 9, 18, 19, 20, 28], "001112"),
        (False, [5, 14, 15, 24, 25], "00112"),
    ],
)
def test_key_expires_at_the_age_of_the_ttl(sliding: bool, times: list[float], keys: str) -> None:
    cache = numbered(sliding=sliding)
    got = [cache.get_now(A, now) for now in times]
    assert [key for key, _ in got] == list(keys)
    assert [new for _, new in got] == [key not in keys[:index] for index, key in enumerate(keys)]


@pytest.mark.parametrize(("sliding", "remaining"), [(True, 8), (False, 4)])
def test_remaining(sliding: bool, remaining: float) -> None:
    keys = numbered(sliding=sliding)
    keys.get_now(A, 100)
    keys.get_now(A, 104)
    mapping = keys.peek(A, 106)
    assert mapping == Mapping("0", made=100, used=104)
    assert keys.remaining(mapping, 106) == remaining
    assert keys.remaining(mapping, 106 + remaining) == 0
    assert keys.peek(A, 106 + remaining) is None


def test_peek_does_not_count_as_use() -> None:
    keys = numbered(2)
    assert keys.peek(A, 0) is None
    keys.get_now(A, 0)
    keys.get_now(B, 0)
    assert keys.peek(A, 9) == Mapping("0", made=0, used=0)
    keys.get_now(C, 9)
    assert keys.peek(A, 9) is keys.peek(B, 10) is None


def test_ttl_can_be_changed() -> None:
    keys = numbered()
    keys.get_now(A, 0)
    keys.get_now(A, 9)
    keys.sliding = False
    assert not keys.peek(A, 10)
    keys.ttl = 11
    assert keys.peek(A, 10)
    keys.ttl, keys.sliding = 10, True
    assert keys.get_now(A, 18.9) == ("0", False)


@pytest.mark.parametrize(
    ("bound", "sessions", "left"),
    [
        (3, "abcd", "bcd"),
        (3, "abcad", "acd"),
        (3, "abcbad", "abd"),
        (2, "abab", "ab"),
        (1, "abc", "c"),
    ],
)
def test_least_recently_used_is_evicted_first(bound: int, sessions: str, left: str) -> None:
    keys = Keys(max_sessions=bound)
    for session in sessions:
        keys.get_now(("m", session), 0)
    assert len(keys) == bound
    assert [each for each in "abcd" if keys.peek(("m", each), 0)] == list(left)


def test_new_key_of_an_expired_mapping_is_the_most_recently_used() -> None:
    keys = numbered(2)
    for name, now in [(A, 0), (B, 5), (A, 10), (C, 10)]:
        keys.get_now(name, now)
    assert keys.peek(A, 10)
    assert not keys.peek(B, 10)


def test_bound_can_be_changed() -> None:
    keys = numbered()
    for name in (A, B, C):
        keys.get_now(name, 0)
    keys.max_sessions = 1
    assert keys.get_now(A, 0) == ("0", False)
    assert keys.get_now(("m", "d"), 0) == ("3", True)
    assert len(keys) == 1


def test_forget_evicts_the_mappings_of_names() -> None:
    keys = numbered()
    of_a = [A, ("n", "a"), ("n", "a", "agent")]
    for name in [*of_a, B, ("a", "b"), ("m", "c", "a"), ("m", "", "a", "")]:
        keys.get_now(name, 0)
    assert keys.names("a") == of_a
    keys.forget([*keys.names("a"), ("never", "known")], 0)
    assert keys.names("a") == []
    assert len(keys) == 4
    assert keys.get_now(A, 0) == ("7", True)
    assert keys.get_now(B, 0) == ("3", False)


def test_clear_evicts_all_mappings() -> None:
    keys = numbered()
    keys.get_now(A, 0)
    keys.clear()
    assert len(keys) == 0
    assert keys.get_now(A, 0) == ("1", True)
