"""Decide how Claude Code gets through the proxy.

| Claude Code goes to | through a proxy of the user's | mode of our proxy |
|---|---|---|
| a base URL | no, or `NO_PROXY` excepts the host, or the host is this machine | reverse |
| a base URL | yes | upstream, to the user's proxy |
| Anthropic's own host | no, or `NO_PROXY` excepts it | regular |
| Anthropic's own host | yes | upstream, to the user's proxy |

In reverse mode our proxy is Claude Code's base URL; the path stands there, as mitmproxy's reverse
mode takes none. In the other modes our proxy is Claude Code's `HTTPS_PROXY`: Claude Code keeps its
base URL, and behaves as it does without us. All programs that Claude Code starts inherit this
`HTTPS_PROXY` and do not trust mitmproxy's certificate, so connections to any other host pass
through unopened (`allow_hosts`).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from prompt_cache_key.launcher import LaunchError
from prompt_cache_key.launcher.arguments import Arguments
from prompt_cache_key.launcher.claude_settings import ClaudeSettings

ANTHROPIC = urlsplit("https://api.anthropic.com")
BASE_URL = "ANTHROPIC_BASE_URL"
CERTIFICATES = "NODE_EXTRA_CA_CERTS"
HOST = "127.0.0.1"

STABLE = {
    "ENABLE_TOOL_SEARCH": "false",
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
}
"""Variables of Claude Code that keep the beginning of a prompt unchanged."""

STABLE_OPTION = "--exclude-dynamic-system-prompt-sections"
"""Keeps directory, git status and the like out of the system prompt."""

# The setting that says the same as a variable.
_SETTINGS = {"CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "totalTokensReminder"}

_NO_PROXY = ("NO_PROXY", "no_proxy")
_PORTS = {"http": 80, "https": 443}
_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")  # as Claude Code tries them
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


class Plan(NamedTuple):
    """The listener that Claude Code uses, and how Claude Code is run."""

    mode: str
    """mitmproxy's mode."""
    options: tuple[str, ...]
    """mitmproxy's options, each NAME=VALUE."""
    environment: Mapping[str, str]
    """Variables of Claude Code; `{port}` stands for the port of the listener."""
    claude: tuple[str, ...]
    """Arguments of Claude Code."""

    @property
    def is_reverse(self) -> bool:
        """Whether Claude Code takes the proxy for its gateway, and needs no certificate."""
        return self.mode.startswith("reverse:")

    def variables(self, port: int) -> dict[str, str]:
        """Return the variables of Claude Code."""
        return {name: text.replace("{port}", str(port)) for name, text in self.environment.items()}


class _Route(NamedTuple):
    mode: str
    options: tuple[str, ...]
    environment: dict[str, str]


def plan(arguments: Arguments, settings: ClaudeSettings, environment: Mapping[str, str]) -> Plan:
    """Return the plan for an environment over which the settings are laid."""
    if arguments.to:
        base_url = _url(arguments.to, "--to")
    elif environment.get(BASE_URL):
        base_url = _url(environment[BASE_URL], BASE_URL)
    else:
        base_url = ANTHROPIC
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    proxy = None if _is_excepted(base_url, excepted) else _proxy(environment)
    if proxy or base_url.hostname == ANTHROPIC.hostname:
        route = _route_by_proxy(base_url, proxy)
    else:
        route = _route_by_base_url(base_url, arguments)
    variables = route.environment
    variables |= dict.fromkeys(_NO_PROXY, ",".join(filter(None, (excepted, HOST))))
    if arguments.to and not route.mode.startswith("reverse:"):
        variables[BASE_URL] = arguments.to
    options = ["flow_detail=0", *route.options]
    if environment.get("NODE_TLS_REJECT_UNAUTHORIZED") == "0":
        options.append("ssl_insecure=true")
    # mitmproxy ends where an option is given twice.
    given = {option.partition("=")[0] for option in arguments.options}
    options = [option for option in options if option.partition("=")[0] not in given]
    claude = settings.arguments
    if arguments.is_stable:
        for name, value in STABLE.items():
            if name not in environment and not settings.has(_SETTINGS.get(name, name)):
                variables[name] = value
        if STABLE_OPTION not in claude:
            claude = (STABLE_OPTION, *claude)
    return Plan(route.mode, (*options, *arguments.options), variables, claude)


def _route_by_base_url(url: SplitResult, arguments: Arguments) -> _Route:
    are_reverse = all(mode.startswith("reverse:") for mode in arguments.modes)
    return _Route(
        f"reverse:{url.scheme}://{url.netloc}",
        ("connection_strategy=lazy",) if are_reverse else (),
        {BASE_URL: f"http://{HOST}:{{port}}{url.path.rstrip('/')}"},
    )


def _route_by_proxy(url: SplitResult, proxy: SplitResult | None) -> _Route:
    mode = "regular"
    options = [f"allow_hosts=^{re.escape(url.hostname or '')}:{_port(url)}$"]
    if proxy:
        mode = f"upstream:{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"
        if proxy.username is not None:
            user, password = unquote(proxy.username), unquote(proxy.password or "")
            options.append(f"upstream_auth={user}:{password}")
    names = _PROXIES if url.scheme == "http" else _PROXIES[:2]
    return _Route(mode, tuple(options), dict.fromkeys(names, f"http://{HOST}:{{port}}"))


def _url(text: str, name: str) -> SplitResult:
    """Read a base URL; LaunchError if Claude Code or mitmproxy could not use it."""
    url = _parsed(text)
    if not url or url.username is not None or url.query or url.fragment:
        # Without the text itself, which may hold a password.
        raise LaunchError(f"{name} is not a base URL such as http://127.0.0.1:4000")
    return url


def _proxy(environment: Mapping[str, str]) -> SplitResult | None:
    """Return the proxy that Claude Code uses without us; None without one."""
    name = next((name for name in _PROXIES if environment.get(name)), None)
    if not name:
        return None
    text = environment[name]
    url = _parsed(text if "://" in text else f"http://{text}")
    if not url:
        raise LaunchError(f"{name} is not the URL of an http proxy; correct it, or unset it")
    return url


def _parsed(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        is_usable = url.scheme in _PORTS and url.hostname and url.port != 0
    except ValueError:
        return None
    return url if is_usable else None


def _port(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme]


def _is_excepted(url: SplitResult, excepted: str) -> bool:
    """Whether requests for a URL go past the user's proxy."""
    host = url.hostname or ""
    if host in _THIS_MACHINE:
        return True
    for entry in re.split(r"[,\s]+", excepted.lower()):
        name = entry.removeprefix("*").removeprefix(".")
        if entry == "*" or (
            name and (f"{host}:{_port(url)}" == name or f".{host}".endswith(f".{name}"))
        ):
            return True
    return False
