import pytest
from prompt_cache_key.launcher import LaunchError
from prompt_cache_key.launcher.arguments import Arguments
from prompt_cache_key.launcher.claude_settings import ClaudeSettings
from prompt_cache_key.launcher.plan import STABLE, STABLE_OPTION, Plan, plan

GATEWAY = "https://gateway.test:8443/api/v9/"
CORPORATE = "http://corporate.test:3128"
PROXY = "http://127.0.0.1:9"
NO_OPTIONS = Arguments()
NO_SETTINGS = ClaudeSettings({}, (), ())


def planned(
    arguments: Arguments = NO_OPTIONS, settings: ClaudeSettings = NO_SETTINGS, **environment: str
) -> Plan:
    return plan(arguments, settings, environment)


def test_a_base_url_is_reversed_to_and_keeps_its_path() -> None:
    made = planned(ANTHROPIC_BASE_URL=GATEWAY)
    assert made.mode == "reverse:https://gateway.test:8443"
    assert made.is_reverse
    assert made.options == ("connection_strategy=lazy", "flow_detail=0")
    assert made.variables(9) == {
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9/api/v9",
        "CLAUDE_CODE_DISABLE_AGENT_VIEW": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def test_to_wins_over_the_environment() -> None:
    made = planned(Arguments(to="http://[::1]:4000"), ANTHROPIC_BASE_URL="nonsense")
    assert made.mode == "reverse:http://[::1]:4000"


@pytest.mark.parametrize("environment", [{}, {"ANTHROPIC_BASE_URL": ""}])
def test_without_a_base_url_the_proxy_is_a_regular_one(environment: dict[str, str]) -> None:
    made = plan(Arguments(), NO_SETTINGS, environment)
    assert made.mode == "regular"
    assert not made.is_reverse
    assert made.options == (r"allow_hosts=^api\.anthropic\.com:443$", "flow_detail=0")
    assert made.variables(9) == {
        "CLAUDE_CODE_DISABLE_AGENT_VIEW": "1",
        "HTTPS_PROXY": PROXY,
        "https_proxy": PROXY,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def test_anthropics_own_host_needs_a_regular_proxy_too() -> None:
    made = planned(Arguments(to="https://api.anthropic.com"))
    assert made.mode == "regular"
    assert made.variables(9)["ANTHROPIC_BASE_URL"] == "https://api.anthropic.com"
    assert "ANTHROPIC_BASE_URL" not in planned(
        ANTHROPIC_BASE_URL="https://api.anthropic.com"
    ).variables(9)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"])
def test_a_proxy_of_the_users_is_the_next_one(name: str) -> None:
    made = plan(Arguments(), NO_SETTINGS, {name: CORPORATE})
    assert made.mode == "upstream:http://corporate.test:3128"
    assert made.variables(9)["HTTPS_PROXY"] == PROXY


def test_a_gateway_behind_a_proxy_of_the_users() -> None:
    made = planned(ANTHROPIC_BASE_URL="http://gateway.test/x", HTTPS_PROXY="u%20:p@corporate.test")
    assert made.mode == "upstream:http://corporate.test"
    assert made.options == (
        r"allow_hosts=^gateway\.test:80$",
        "upstream_auth=u :p",
        "flow_detail=0",
    )
    assert made.variables(9)["HTTP_PROXY"] == made.variables(9)["https_proxy"] == PROXY
    assert "ANTHROPIC_BASE_URL" not in made.environment


@pytest.mark.parametrize(
    ("base_url", "excepted", "is_excepted"),
    [
        ("http://127.0.0.1:4000", "", True),
        ("https://gateway.test", "*", True),
        ("https://gateway.test", "a, GATEWAY.test", True),
        ("https://gateway.test", ".test b", True),
        ("https://gateway.test", "*.test", True),
        ("https://gateway.test", "gateway.test:443", True),
        ("https://gateway.test", "gateway.test:80,way.test,,", False),
    ],
)
def test_no_proxy_excepts_hosts_and_keeps_what_it_has(
    base_url: str, excepted: str, is_excepted: bool
) -> None:
    made = planned(ANTHROPIC_BASE_URL=base_url, HTTPS_PROXY=CORPORATE, NO_PROXY=excepted)
    assert made.is_reverse is is_excepted
    entries = excepted.replace(",", " ").split()
    assert made.variables(9)["no_proxy"] == ",".join((*entries, "127.0.0.1"))


@pytest.mark.parametrize("entry", ["*", ".anthropic.com", "api.anthropic.com:443"])
def test_claude_code_does_not_go_past_a_regular_proxy(entry: str) -> None:
    made = plan(Arguments(), NO_SETTINGS, {"no_proxy": f"a {entry},b", "https_proxy": CORPORATE})
    assert made.mode == "regular"
    assert made.variables(9)["NO_PROXY"] == "a,b,127.0.0.1"


@pytest.mark.parametrize(
    "url",
    [
        "gateway:4000",
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:x",
        "http://a?b",
        "http://u:p@a",
    ],
)
def test_an_unusable_base_url_is_an_error_that_does_not_quote_it(url: str) -> None:
    with pytest.raises(LaunchError, match="base URL") as error:
        planned(Arguments(to=url))
    assert str(error.value) == "--to is not a base URL such as http://127.0.0.1:4000"
    with pytest.raises(LaunchError, match="ANTHROPIC_BASE_URL is not"):
        planned(ANTHROPIC_BASE_URL=url)


def test_an_unusable_proxy_is_an_error() -> None:
    with pytest.raises(LaunchError, match="https_proxy is not"):
        planned(https_proxy="socks5://a:1")


def test_a_second_listener() -> None:
    modes = ("reverse:https://api.openai.com@8082",)
    assert "connection_strategy=lazy" in planned(Arguments("http://a", modes=modes)).options
    modes = ("regular@8082",)
    assert "connection_strategy=lazy" not in planned(Arguments("http://a", modes=modes)).options


def test_an_option_of_the_users_replaces_ours() -> None:
    options = ("flow_detail=2", "prompt_cache_ttl=2h", "connection_strategy=eager")
    assert planned(Arguments("http://a", options=options)).options == options


def test_a_certificate_that_claude_code_need_not_check() -> None:
    made = planned(ANTHROPIC_BASE_URL=GATEWAY, NODE_TLS_REJECT_UNAUTHORIZED="0")
    assert "ssl_insecure=true" in made.options


def test_stable_sets_what_the_user_has_not_set() -> None:
    made = planned(Arguments(is_stable=True), ENABLE_TOOL_SEARCH="auto")
    ours = {name: made.environment[name] for name in STABLE if name in made.environment}
    assert ours == {name: value for name, value in STABLE.items() if name != "ENABLE_TOOL_SEARCH"}
    assert made.claude == (STABLE_OPTION,)


def test_stable_knows_the_setting_of_the_countdown_and_its_own_option() -> None:
    settings = ClaudeSettings({}, ({"totalTokensReminder": "countdown"},), ("-p", STABLE_OPTION))
    made = planned(Arguments(is_stable=True), settings)
    assert "CLAUDE_CODE_TOTAL_TOKENS_REMINDER" not in made.environment
    assert made.claude == settings.arguments
