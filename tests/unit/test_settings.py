import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy.test import taddons
from mitmproxy.utils import human
from prompt_cache_key.hooks import PromptCacheKey
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
    assert line.startswith("ERROR [prompt-cache] not loaded, an option has an invalid value: ")
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
        run(context)
        context.set(keys="derived")
        assert context.state.store is context.state.keys
        context.set(keys="random")
        context.set(store="memory")
        assert context.state.store is context.state.keys

    asyncio.run(change())
    assert "store=redis://127.0.0.1:1/0" in log()[0]


def listen(context: Context, *listeners: tuple[str, tuple[Any, ...] | None]) -> None:
    proxyserver: Any = context.master.addons.get("proxyserver")
    proxyserver.servers = [
        SimpleNamespace(
            mode=SimpleNamespace(type_name=mode), listen_addrs=[address] if address else []
        )
        for mode, address in listeners
    ]


def run(context: Context) -> None:
    settings(context).running("/prompt-cache/secret/")


CLIENTS = {
    "reverse": "Claude Code: ANTHROPIC_BASE_URL=http://{at} claude; "
    "a translator: base URL http://{at}",
    "regular": "Claude Code: ANTHROPIC_BASE_URL=http://YOUR-GATEWAY HTTPS_PROXY=http://{at} "
    "HTTP_PROXY=http://{at} NODE_EXTRA_CA_CERTS={ca} claude; "
    "a translator: HTTPS_PROXY=http://{at} HTTP_PROXY=http://{at}",
    "socks5": "Claude Code does not support SOCKS proxies; use --mode reverse:http://YOUR-GATEWAY; "
    "a translator: ALL_PROXY=socks5://{at}",
    "transparent": "Claude Code: ANTHROPIC_BASE_URL=http://YOUR-GATEWAY "
    "NODE_EXTRA_CA_CERTS={ca} claude",
}
PAGE = "; live page: http://{at}/prompt-cache/secret/"


@pytest.mark.parametrize(
    ("mode", "address", "page"),
    [
        ("reverse", ("127.0.0.1", 8080), PAGE),
        ("reverse", ("::1", 8080, 0, 0), PAGE),
        ("regular", ("127.0.0.1", 1), PAGE),
        ("socks5", ("127.0.0.1", 1), ""),
        ("transparent", ("127.0.0.1", 1), ""),
    ],
)
def test_listener_is_logged_with_what_its_clients_set(
    context: Context, log: Log, mode: str, address: tuple[Any, ...], page: str
) -> None:
    listen(context, (mode, address))
    run(context)
    ca = Path(context.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
    at = human.format_address(address)
    assert log() == [
        f"INFO [prompt-cache] listening at {at}: {CLIENTS[mode].format(at=at, ca=ca)}",
        f"INFO [prompt-cache] active: all options have their defaults{page.format(at=at)}",
    ]


def test_each_listener_has_a_line_and_the_page_is_on_the_first_that_serves_it(
    context: Context, log: Log
) -> None:
    listeners = ("socks5", ("127.0.0.1", 1)), ("local", None), ("reverse", ("127.0.0.1", 2))
    listen(context, *listeners)
    run(context)
    first, second, active = log()
    assert "listening at 127.0.0.1:1: " in first
    assert "listening at 127.0.0.1:2: " in second
    assert active.endswith("; live page: http://127.0.0.1:2/prompt-cache/secret/")


def test_only_settings_that_differ_from_the_defaults_are_logged(context: Context, log: Log) -> None:
    context.set(page=False, ttl="5m", headers=["x-a", "x-b"])
    listen(context, ("reverse", ("127.0.0.1", 8080)))
    run(context)
    assert log()[1:] == ["INFO [prompt-cache] active: ttl=5m headers=x-a,x-b page=false"]


@pytest.mark.parametrize("host", ["", "::", "0.0.0.0"])
def test_listening_on_all_addresses_is_warned_of(context: Context, log: Log, host: str) -> None:
    listen(context, ("reverse", (host, 8080)))
    run(context)
    listening, _, warning = log()
    assert listening.endswith("; a translator: base URL http://127.0.0.1:8080")
    assert warning.startswith("WARNING ")
    assert warning.endswith("for this machine alone: --listen-host 127.0.0.1")


def test_unknown_option_is_warned_of(context: Context, log: Log) -> None:
    for name in ("prompt_cache_tll", "prompt_cache_" + "x" * 300, "other"):
        context.options.set(f"{name}=1", defer=True)
    run(context)
    _, near, far = log()
    assert near == (
        "WARNING [prompt-cache] unknown option prompt_cache_tll is ignored; "
        "the nearest known option is prompt_cache_ttl"
    )
    assert far.endswith('…" is ignored'.replace("…", r"\u2026"))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("reverse:gateway:4000", "for http write reverse:http://gateway:4000"),
        ("reverse:gateway@8082", "for http write reverse:http://gateway@8082"),
        ("reverse:http://gateway:4000", ""),
        ("regular", ""),
    ],
)
def test_reverse_mode_without_a_scheme_is_warned_of(
    context: Context, log: Log, mode: str, words: str
) -> None:
    context.options.update(mode=[mode])
    run(context)
    warnings = [line.partition("; ")[2] for line in log() if "--mode" in line]
    assert warnings == ([words] if words else [])


def test_last_lines(context: Context, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompt_cache_key.settings.load", lambda: None)
    settings(context).done()
    assert log() == ["INFO [prompt-cache] no request came through this proxy"]
    context.send(headers={})
    context.send(b"[]")
    context.send(headers={})
    log()
    settings(context).done()
    assert log() == [
        "WARNING [prompt-cache] no key for 3 requests: 2 because the request shows no session, "
        "1 because the body is not a JSON object"
    ]
    context.answer(context.send(), usage(2048, 1920))
    log()
    settings(context).done()
    sums = "requests=1 input=2048 cached=1920 hit=93% missed=0"
    assert log() == [
        f"INFO [prompt-cache] session={SESSION} {sums}",
        f"INFO [prompt-cache] total sessions=1 {sums}",
    ]


def test_number_in_yaml_is_a_time_span() -> None:
    with taddons.context() as context:
        # As mitmproxy reads `prompt_cache_ttl: 5` from config.yaml, before the addon is loaded.
        context.options.update_defer(prompt_cache_ttl=5)
        context.master.addons.add(addon := PromptCacheKey())
        assert context.options.prompt_cache_ttl == "5"
        context.master.addons.remove(addon)  # mitmproxy 11 refuses a second Prompt view
