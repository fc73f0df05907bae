"""A server and a mitmdump before it, both sound to the end, and what tests ask of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.client import without_key
from lib.messages import Reply, Request
from lib.mitmdump import Mitmdump
from lib.server import Server
from log_lines import fields
from mitmproxy import http
from mitmproxy.io import FlowReader

CHAT = "/v1/chat/completions"
KEY = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
SESSION_HEADER = "X-Claude-Code-Session-Id"


def assert_sound(proxy: Mitmdump) -> None:
    # Python 3.11 has a traceback of its own when mitmproxy ends with a connection open.
    bad = [each for each in proxy.lines if "Addon error" in each or "prompt_cache_key/" in each]
    assert not bad, "\n".join(proxy.lines)


@contextmanager
def proxied(
    respond: Callable[[Request], Reply] = lambda _: Reply(), **options: Any
) -> Iterator[tuple[Server, Mitmdump]]:
    with Server(respond) as upstream, Mitmdump(f"reverse:{upstream.url}", **options) as proxy:
        yield upstream, proxy
        assert upstream.broken == []
    assert_sound(proxy)


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def is_keyed(arrived: bytes, sent: bytes) -> bool:
    """Whether a key was put in and nothing else changed.

    A bool, as pytest would take minutes to show how two large bodies differ.
    """
    return without_key(arrived) == sent != arrived


def flows(path: Path) -> list[http.HTTPFlow]:
    with path.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]


def logged(proxy: Mitmdump, what: str) -> list[dict[str, str]]:
    """Return the fields of each line of a kind that the addon has logged."""
    return [fields(line) for line in proxy.lines if f"[prompt-cache] {what}" in line]


def cached_reply(_: Request) -> Reply:
    """Answer with 24,000 of 25,000 prompt tokens from the cache."""
    usage = {"input_tokens": 1000, "cache_read_input_tokens": 24_000}
    content = [{"type": "text", "text": "Hello\x1b[31m"}]
    return Reply(body=json.dumps({"content": content, "usage": usage}).encode())
