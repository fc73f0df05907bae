import json

import pytest
from prompt_cache_key.judge.explain import explain, find_break
from prompt_cache_key.response.usage import Usage


def body(*texts: str, system: str = "s") -> bytes:
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "m", "system": system, "messages": messages}).encode()


@pytest.mark.parametrize(
    ("earlier", "path"),
    [
        ([], None),
        ([body("a")], None),
        # Two agents that can't be told apart: the last request was the other's.
        ([body("x", system="other"), body("a")], None),
        # With neither of them: the one that held longest.
        ([body("x", system="other"), body("a", "c")], "messages[1].content"),
        ([body("a", "c"), body("x", system="other")], "messages[1].content"),
    ],
)
def test_find_break(earlier: list[bytes], path: str | None) -> None:
    broken = find_break(earlier, body("a", "b"))
    assert (broken.path if broken else None) == path


def test_explain() -> None:
    usage = Usage(2048, 0, None, None)
    broken = find_break([body("a", "this")], body("a", "other"))
    line, details = explain(broken, usage)
    assert line == (
        "the prefix broke at messages[1].content, character 0: messages rewritten; "
        "the upstream reports input=2048 cached=0"
    )
    assert details == "was: this\nis: other"
    assert explain(None, usage) == (
        "the prefix held; the upstream reports input=2048 cached=0",
        "",
    )
    assert explain(None, None)[0] == "the prefix held; the upstream reports no usage"
