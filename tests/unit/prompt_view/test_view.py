import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import contentviews, http
from mitmproxy.test import taddons, tflow, tutils
from prompt_cache_key.prompt_view.view import (
    MAX_RESPONSE,
    NO_RESPONSES,
    PRIORITY,
    PromptView,
    facts,
)

BODY = b'{"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}]}'
METADATA = {"prompt_cache_key": "5bff22e6", "claude_session": "abc", "claude_agent": "main"}
USAGE = {"prompt_tokens": 4000, "prompt_tokens_details": {"cached_tokens": 128}}
API: Any = contentviews  # differs between mitmproxy 11 and 12
IS_12 = hasattr(API, "registry")


@pytest.fixture(autouse=True)
def view() -> Iterator[PromptView]:
    with taddons.context() as context:
        context.master.addons.add(view := PromptView())
        yield view
        view.done()


def flow_of(metadata: dict[str, Any], answer: Any = None) -> http.HTTPFlow:
    headers = http.Headers(((b"content-type", b"application/json"),))
    flow = tflow.tflow(req=tutils.treq(content=BODY, headers=headers))
    flow.metadata |= metadata
    if answer is not None:
        content = json.dumps(answer).encode()
        flow.response = tutils.tresp(content=content, headers=headers)
    return flow


def look(message: http.Message | None, flow: http.HTTPFlow, name: str = "auto") -> tuple[str, str]:
    """Return the view that mitmproxy shows, and its text."""
    assert message
    if IS_12:
        shown = API.prettify_message(message, flow, name)
        return shown.view_name or "", shown.text
    description, lines, error = API.get_message_content_view(name, message, flow)
    assert not error
    return description, "\n".join("".join(text for _, text in line) for line in lines)


@pytest.mark.parametrize(("metadata", "shown"), [(METADATA, "Prompt"), ({}, "JSON")])
def test_it_opens_by_itself_for_flows_with_a_key(metadata: dict[str, Any], shown: str) -> None:
    flow = flow_of(metadata, answer={"error": "no"})
    assert look(flow.request, flow)[0] == shown
    assert look(flow.response, flow)[0] == "JSON"


def test_a_response_is_left_to_other_views() -> None:
    flow = flow_of(METADATA, answer={"error": "no"})
    assert look(flow.response, flow, "prompt")[1] == NO_RESPONSES


def test_it_can_be_chosen_for_any_flow() -> None:
    assert "[0] user text" in look(flow_of({}).request, flow_of({}), "prompt")[1]


def test_both_apis_get_the_same(view: PromptView) -> None:
    tcp, keyed = tflow.ttcpflow(), flow_of(METADATA)
    for flow, message, priority in ((tcp, None, -1), (keyed, keyed.request, PRIORITY)):
        known: Any = {"flow": flow, "http_message": message, "content_type": "application/json"}
        metadata: Any = SimpleNamespace(**known)
        text = view.prettify(BODY, metadata)
        assert "[0] user text" in text
        assert [[("text", line)] for line in text.splitlines()] == list(view(BODY, **known)[1])
        assert view.render_priority(BODY, metadata) == priority
        assert view.render_priority(BODY, **known) == priority
        assert view.render_priority(b"", **known) == -1


def test_what_the_flow_says_of_a_request() -> None:
    missed = {
        "prompt_cache_missed": 3000,
        "prompt_cache_cause": "messages rewritten",
        "prompt_cache_path": "messages[0].content",
        "prompt_cache_before": "hallo",
        "prompt_cache_after": "hello",
    }
    flow = flow_of(METADATA | missed, answer={"usage": USAGE})
    assert look(flow.request, flow)[1].splitlines() == [
        "hit 3%: 128 of 4,000 tokens cached, 3,000 missed: messages rewritten",
        "model    gpt-5",
        "session  abc",
        "agent    main",
        " ",
        "   tokens characters",
        "──── read from the cache up to here: 128 of 4,000 ────",
        "    4,000          9  [0] user text  hello",
        "──── changed at messages[0].content: messages rewritten, 3,000 tokens missed ────",
        "               before   hallo",
        "                after   hello",
        "    4,000          9  in all",
        " ",
        "tokens: estimated from the characters of a line, scaled to the 4,000 reported",
    ]


@pytest.mark.parametrize("missed", ["", "many", "9" * 5000, {"a": 1}])
def test_other_metadata_of_a_saved_flow(missed: object) -> None:
    flow = flow_of(METADATA | {"prompt_cache_missed": missed})
    assert "missed" not in look(flow.request, flow)[1]


def test_usage_is_read_from_a_coded_response() -> None:
    flow = flow_of(METADATA, answer={"usage": USAGE})
    assert flow.response
    flow.response.encode("gzip")
    assert look(flow.request, flow)[1].startswith("hit 3%: ")


def test_usage_is_not_read_from_a_response_that_takes_long() -> None:
    flow = flow_of(METADATA, answer={"usage": USAGE, "x": "x" * MAX_RESPONSE})
    assert facts(flow).input is None


def test_an_outline_is_drawn_again_when_its_usage_is_known(view: PromptView) -> None:
    drawn: list[PromptView] = []

    def draw(view: PromptView) -> None:
        drawn.append(view)

    (API.registry.on_change if IS_12 else API.on_add).connect(draw)
    flow = flow_of(METADATA)
    view.response(flow)
    look(flow.request, flow)
    assert drawn == []
    view.response(flow)
    view.response(flow)
    assert drawn == [view]


def test_a_reloaded_script_adds_it_again(view: PromptView) -> None:
    view.done()
    again = PromptView()
    again.load(None)
    views = API.registry.values() if IS_12 else API.views
    assert [each for each in views if each.name == "Prompt"] == [again]
    again.done()
    view.load(None)
