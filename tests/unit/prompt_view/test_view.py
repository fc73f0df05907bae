import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import contentviews, http
from mitmproxy.test import taddons, tflow, tutils
from prompt_cache_key.prompt_view.view import PRIORITY, PromptView

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
    assert {look(message, flow)[0] for message in (flow.request, flow.response)} == {shown}


@pytest.mark.parametrize("content_type", ["text/html", ""])
def test_what_is_no_answer_is_left_to_others(content_type: str) -> None:
    flow = flow_of(METADATA, answer="hello")
    assert flow.response
    flow.response.headers["content-type"] = content_type
    assert look(flow.response, flow)[0] != "Prompt"


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
    lost = {
        "prompt_cache_lost": 3000,
        "prompt_cache_cause": "messages rewritten",
        "prompt_cache_path": "messages[0].content",
        "prompt_cache_before": "hallo",
        "prompt_cache_after": "hello",
    }
    flow = flow_of(METADATA | lost, answer={"usage": USAGE})
    assert look(flow.request, flow)[1].splitlines() == [
        "model    gpt-5",
        "session  abc",
        "agent    main",
        " ",
        "   tokens characters",
        "──── read from the cache up to here: 128 of 4,000 ────",
        "    4,000          9  [0] user text  hello",
        "──── the prefix broke at messages[0].content: messages rewritten, 3,000 tokens lost ────",
        "               before   hallo",
        "                after   hello",
        " ",
        "tokens: estimated, up to the line's end; four characters each, scaled to the 4,000 reported",  # noqa: E501
    ]


@pytest.mark.parametrize("lost", ["", "many", "9" * 5000, {"a": 1}])
def test_other_metadata_of_a_saved_flow(lost: object) -> None:
    flow = flow_of(METADATA | {"prompt_cache_lost": lost})
    assert "lost" not in look(flow.request, flow)[1]


def test_an_answer() -> None:
    flow = flow_of(METADATA, answer={"choices": [{"message": {"content": "Hi"}}], "usage": USAGE})
    lines = look(flow.response, flow)[1].splitlines()
    assert lines[:3] == ["usage input=4000 cached=128 hit=3%", " ", "Hi"]


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
