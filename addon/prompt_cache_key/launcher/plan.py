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
through unopened (`allow_hosts`). Entries of `NO_PROXY` that except the host itself are left out
there, as Claude Code would go past our proxy, which for its part goes to the host directly.
"""

import re
from collections.abc import Mapping, Sequence
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

_NO_BACKGROUND = {"CLAUDE_CODE_DISABLE_AGENT_VIEW": "1"}
"""Switches off `/background` and the agent view: such sessions outlive the proxy, but keep its
address, and all their requests fail (tried with 2.1.332)."""

_REVERSE = "reverse:"
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
        return self.mode.startswith(_REVERSE)

    def variables(self, port: int) -> dict[str, str]:
        """Return the variables of Claude Code."""
        return {name: text.replace("{port}", str(port)) for name, text in self.environment.items()}


def plan(arguments: Arguments, settings: ClaudeSettings, environment: Mapping[str, str]) -> Plan:
    """Return the plan for an environment over which the settings are laid."""
    base_url = ANTHROPIC
    for name, text in (("--to", arguments.to), (BASE_URL, environment.get(BASE_URL))):
        if text:
            base_url = _url(text, name)
            break
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    entries = [entry for entry in re.split(r"[,\s]+", excepted) if entry]
    others = [entry for entry in entries if not _is_of(base_url, entry)]
    is_excepted = base_url.hostname in _THIS_MACHINE or others != entries
    proxy = None if is_excepted else _proxy(environment)
    if proxy or base_url.hostname == ANTHROPIC.hostname:
        mode, options, variables = _by_proxy(base_url, proxy)
        if arguments.to:
            variables[BASE_URL] = arguments.to
        entries = others
    else:
        mode, options, variables = _by_base_url(base_url, arguments.modes)
    variables |= _NO_BACKGROUND | dict.fromkeys(_NO_PROXY, ",".join((*entries, HOST)))
    options.append("flow_detail=0")
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
    return Plan(mode, (*options, *arguments.options), variables, claude)


_Route = tuple[str, list[str], dict[str, str]]
"""Mode and options of the proxy, and variables of Claude Code."""


def _by_base_url(url: SplitResult, modes: Sequence[str]) -> _Route:
    are_reverse = all(mode.startswith(_REVERSE) for mode in modes)
    options = ["connection_strategy=lazy"] if are_reverse else []
    base_url = f"http://{HOST}:{{port}}{url.path.rstrip('/')}"
    return f"{_REVERSE}{url.scheme}://{url.netloc}", options, {BASE_URL: base_url}


def _by_proxy(url: SplitResult, proxy: SplitResult | None) -> _Route:
    mode = "regular"
    options = [f"allow_hosts=^{re.escape(url.hostname or '')}:{_port(url)}$"]
    if proxy:
        mode = f"upstream:{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"
        if proxy.username is not None:
            user, password = unquote(proxy.username), unquote(proxy.password or "")
            options.append(f"upstream_auth={user}:{password}")
    names = _PROXIES if url.scheme == "http" else _PROXIES[:2]
    return mode, options, dict.fromkeys(names, f"http://{HOST}:{{port}}")


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


def _is_of(url: SplitResult, entry: str) -> bool:
    """Whether an entry of NO_PROXY excepts the host of a URL."""
    host = url.hostname or ""
    name = entry.lower().removeprefix("*").removeprefix(".")
    if not name:
        return entry == "*"
    return f"{host}:{_port(url)}" == name or f".{host}".endswith(f".{name}")
