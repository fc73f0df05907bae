import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy.log import LegacyLogEvents
from mitmproxy.test import taddons
from mitmproxy.utils import human
from prompt_cache_key.hooks import PromptCacheKey
from prompt_cache_key.log import LOGGER
from prompt_cache_key.settings import Settings
from unit.context import SESSION, Context, key, usage

Log = Callable[[], list[str]]


def settings(context: Context) -> Settings:
    return context.addon.settings


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("ttl", "soon", "ttl: 'soon' is not a time span such as 90s, 30m, 1h or 2d"),
        ("filter", "~~", "filter: not a filter expression, or too deep: ~~"),
        (
            "filter",
            "(" * 3000 + "~all" + ")" * 3000,
            rf'filter: not a filter expression, or too deep: "{"(" * 255}\u2026"',
        ),
    ],
)
def test_bad_value_leaves_the_old_one(
    context: Context, option: str, value: object, message: str
) -> None:
    before = context.state.options
    with pytest.raises(exceptions.OptionsError) as error:
        context.set(**{option: value})
    assert str(error.value) == f"prompt_cache_{message}"
    assert context.state.options == before


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("prompt_cache_max_sessions=abc", "prompt_cache_max_sessions: "),
        ("prompt_cache_sliding=maybe", "prompt_cache_sliding: "),
        ("prompt_cache_ttl=abc", "prompt_cache_ttl: 'abc' is not a time span"),
        ("prompt_cache_filter=~~", "prompt_cache_filter: "),
    ],
)
def test_bad_value_set_before_loading_is_one_error(setting: str, words: str, log: Log) -> None:
    with taddons.context() as context:
        context.options.set(setting, defer=True)
        with pytest.raises(exceptions.OptionsError):
            context.master.addons.add(PromptCacheKey())
    (line,) = log()
    assert line.startswith("ERROR [prompt-cache] not loaded, an option has a bad value: ")
    assert line.count(words) == 1


def test_options_of_others_are_not_read(context: Context) -> None:
    before = context.state.options
    settings(context).configure({"anticache"})
    assert context.state.options is before


def test_options_take_effect_while_running(context: Context) -> None:
    first = key(context.send())
    context.set(ttl="10s", sliding=False)
    context.now = 9.9
    assert key(context.send()) == first
    context.now = 10
    assert key(context.send()) != first
    context.set(keys="derived")
    derived = key(context.send())
    context.now = 20
    assert key(context.send()) == derived
    context.set(keys="random")
    assert key(context.send()) != derived


def test_store_of_random_keys_alone(context: Context, log: Log) -> None:
    async def change() -> None:
        context.set(store="redis://user:secret@127.0.0.1:1/0")
        assert context.state.store is not context.state.keys
        settings(context).running()
        context.set(keys="derived")
        assert context.state.store is context.state.keys
        context.set(keys="random")
        context.set(store="memory")
        assert context.state.store is context.state.keys

    asyncio.run(change())
    assert "store=redis://127.0.0.1:1/0" in log()[0]


@pytest.mark.parametrize(
    ("listener", "page", "here"),
    [
        (("reverse", ("127.0.0.1", 8080)), "http://{at}{path}", "http://{at} claude"),
        (("reverse", ("::1", 8080, 0, 0)), "http://{at}{path}", "http://{at} claude"),
        (
            ("regular", ("127.0.0.1", 1)),
            "http://{at}{path}",
            "http://YOUR-GATEWAY HTTPS_PROXY=http://{at} HTTP_PROXY=http://{at} "
            "NODE_EXTRA_CA_CERTS={ca} claude",
        ),
        (
            ("socks5", ("127.0.0.1", 1)),
            "",
            "nowhere, for it speaks no SOCKS; use --mode reverse:http://YOUR-GATEWAY",
        ),
        (("local", None), "", "http://YOUR-GATEWAY NODE_EXTRA_CA_CERTS={ca} claude"),
    ],
)
def test_active_line(
    context: Context, log: Log, listener: tuple[str, Any], page: str, here: str
) -> None:
    mode, address = listener
    listen(context, mode, address)
    settings(context).running()
    ca = Path(context.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
    at = human.format_address(address) if address else ""
    here = here if here.startswith("nowhere") else f"ANTHROPIC_BASE_URL={here}"
    path = context.addon.page.path
    page = f"; live page: {page.format(at=at, path=path)}" if page else ""
    assert log() == [
        "INFO [prompt-cache] active: ttl=1h sliding=true max_sessions=10000 scope=auto "
        "keys=random store=memory overwrite=false headers=auto stream=true comment=true "
        f'mark=true strip="" diagnose=false bridge=true page=/prompt-cache{page}; '
        f"point Claude Code here: {here.format(ca=ca, at=at)}"
    ]


def test_active_line_without_a_page(context: Context, log: Log) -> None:
    context.set(page="")
    for mode in ("reverse", "regular"):
        listen(context, mode, ("127.0.0.1", 8080))
        settings(context).running()
        assert ' page=""; point Claude Code here: ' in log()[0]


def listen(context: Context, mode: str, address: tuple[Any, ...] | None) -> None:
    proxyserver: Any = context.master.addons.get("proxyserver")
    mode_ = SimpleNamespace(type_name=mode)
    proxyserver.servers = [SimpleNamespace(listen_addrs=[address] if address else [], mode=mode_)]


@pytest.mark.parametrize("host", ["", "::", "0.0.0.0"])
def test_listening_to_all_is_warned_of(context: Context, log: Log, host: str) -> None:
    listen(context, "reverse", (host, 8080))
    settings(context).running()
    active, warning = log()
    assert active.endswith("ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude")
    assert warning.endswith("for this machine alone: --listen-host 127.0.0.1")


def test_unknown_option_is_warned_of(context: Context, log: Log) -> None:
    for name in ("prompt_cache_tll", "prompt_cache_" + "x" * 300, "other"):
        context.options.set(f"{name}=1", defer=True)
    settings(context).running()
    _, near, far = log()
    assert near == (
        "WARNING [prompt-cache] unknown option prompt_cache_tll is ignored; "
        "the nearest known one is prompt_cache_ttl"
    )
    assert far.endswith('…" is ignored'.replace("…", r"\u2026"))


def test_deprecated_event_of_a_line_only_for_who_listens(context: Context) -> None:
    settings(context).running()
    (handler,) = (
        each for each in logging.getLogger().handlers if isinstance(each, LegacyLogEvents)
    )
    # mitmproxy adds a condition of its own to what they say, which differs in a test.
    (is_heard,) = handler.filters
    assert callable(is_heard)
    ours, other = (
        logging.LogRecord(name, logging.INFO, "", 0, "", (), None) for name in (LOGGER, "other")
    )
    assert (is_heard(ours), is_heard(other)) == (False, True)
    context.master.addons.add(SimpleNamespace(name="listener", add_log=print))
    context.now += 1
    assert (is_heard(ours), is_heard(other)) == (True, True)


def test_last_lines(context: Context, log: Log) -> None:
    settings(context).done()
    assert not log()
    context.send(headers={})
    context.send(b"[]")
    context.send(headers={})
    log()
    settings(context).done()
    assert log() == [
        "WARNING [prompt-cache] 3 requests, no key: 2 without a session, "
        "1 the body is not a JSON object"
    ]
    context.answer(context.send(), usage(2048, 1920))
    log()
    settings(context).done()
    assert log() == [
        f"INFO [prompt-cache] session={SESSION} requests=1 input=2048 cached=1920 hit=94%",
        "INFO [prompt-cache] total sessions=1 requests=1 input=2048 cached=1920 hit=94%",
    ]
