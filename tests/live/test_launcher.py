"""The launcher with a real proxy, and a Claude Code that is a script, or the real one."""

import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lib import ADDON, LOOPBACK, TIMEOUT, free_port
from lib.messages import EVENTS, Reply, Request, event
from lib.mitmdump import Mitmdump
from lib.server import Server
from live.test_claude_code import answer
from live.tls_server import TlsServer

COMMAND = (
    "import sys; from prompt_cache_key.cli import main; sys.exit(main(['claude', *sys.argv[1:]]))"
)

FAKE = f"""#!{sys.executable}
import json, os, signal, sys, time, urllib.request
arguments = sys.argv[1:]
settings = {{}}
if "--settings" in arguments:
    path = arguments[arguments.index("--settings") + 1]
    settings = json.load(open(path)) | {{"path": path}}
def say(**what):
    print(json.dumps(what), flush=True)
def ask(tokens=(10, None), session="{uuid4()}"):
    body = json.dumps({{"model": "gpt-5.4", "messages": [], "tokens": tokens}}).encode()
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    headers = {{"X-Claude-Code-Session-Id": session, "Content-Type": "application/json"}}
    return urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
environment = dict(os.environ)
exec(os.environ.get("RUN", ""))
"""


def respond(request: Request) -> Reply:
    """Report the tokens that the request asks to be reported."""
    prompt, cached = request.json["tokens"]
    usage = {"prompt_tokens": prompt}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return Reply(body=json.dumps({"usage": usage}).encode())


class Launched:
    """A launcher that runs, in an environment of its own."""

    def __init__(
        self, folder: Path, run: str, *given: str, terminal: int = -1, **variables: str
    ) -> None:
        def control() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND, *given],
            stdin=subprocess.DEVNULL if terminal < 0 else terminal,
            preexec_fn=None if terminal < 0 else control,  # noqa: PLW1509
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=folder / "project",
            env={
                "HOME": str(folder),
                "PATH": f"{folder / 'bin'}:{os.defpath}",
                "PYTHONPATH": str(ADDON.parent),
                "PYTHONUTF8": "1",
                "TMPDIR": str(folder / "tmp"),
                "RUN": run,
                **variables,
            },
        )

    def said(self) -> Any:
        """Wait for what the fake Claude Code says next."""
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], TIMEOUT)[0], "it said nothing"
        line = self.process.stdout.readline()
        assert line, self.end()
        return json.loads(line)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit status, and what it has said itself."""
        _, errors = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, errors

    def log(self) -> str:
        (path,) = (self._folder / "tmp").glob("*/log")
        return path.read_text()

    def settings(self) -> list[Path]:
        return [*(self._folder / "tmp").glob("*/*/settings.json")]


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    for name in ("bin", "project", "tmp"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "claude"
    program.write_text(FAKE)
    program.chmod(0o700)
    launched: list[Launched] = []

    def start(*args: str, **variables: Any) -> Launched:
        launched.append(Launched(tmp_path, *args, **variables))
        return launched[-1]

    yield start
    for each in launched:
        with suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as client:
        return client.connect_ex((LOOPBACK, port)) == 0


def test_a_session_through_a_gateway(launch: Launch, tmp_path: Path) -> None:
    given = json.dumps({"model": "m", "env": {"ANTHROPIC_AUTH_TOKEN": "secret"}})
    run = """
ask((10_000, 0))
ask((10_000, 9_999))
say(settings=settings, arguments=arguments, environment=environment,
    mode=os.stat(settings["path"]).st_mode & 0o777,
    processes=os.popen("ps axww -o args").read())
sys.exit(7)
"""
    with Server(respond) as gateway:
        launched = launch(run, "--to", f"{gateway.url}/a/b", "--settings", given, "-p", "hi")
        said = launched.said()
        status, errors = launched.end()
        assert status == 7
        assert [request.target for request in gateway.requests] == ["/a/b/v1/messages"] * 2
        keys = [request.key for request in gateway.requests]
        assert keys[0] == keys[1]
        assert keys[0]
    base_url = said["environment"]["ANTHROPIC_BASE_URL"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/a/b", base_url)
    assert said["settings"]["env"] == {
        "ANTHROPIC_AUTH_TOKEN": "secret",
        "ANTHROPIC_BASE_URL": base_url,
        "CLAUDE_CODE_DISABLE_AGENT_VIEW": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    assert said["settings"]["model"] == "m"
    assert said["mode"] == 0o600
    assert said["arguments"][2:] == ["-p", "hi"]
    # Those of the launcher itself have what the user has typed.
    ours = [line for line in said["processes"].splitlines() if "['claude'" not in line]
    assert "secret" not in "\n".join(ours)

    first, *rest = errors.splitlines()
    assert first == "claude-prompt-cache: hit rate 49%, 9,999 of 20,000 prompt tokens; 2 requests"
    names = {"log", "report.html"}
    (folder,) = (tmp_path / "tmp").iterdir()
    assert {path.name for path in folder.iterdir()} == names
    for name in names:
        assert (folder / name).stat().st_mode & 0o777 == 0o600
        assert any(str(folder / name) in line for line in rest)
    assert f"live page: http://127.0.0.1:{base_url.split(':')[2].split('/')[0]}" in (
        "\n".join(launched.log().splitlines()[:4])
    )


def test_where_the_settings_say(launch: Launch, tmp_path: Path) -> None:
    with Server(respond) as gateway:
        settings = tmp_path / ".claude" / "settings.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": gateway.url}}))
        status, errors = launch("ask()", ANTHROPIC_BASE_URL="http://127.0.0.1:9").end()
        assert status == 0
        assert len(gateway.requests) == 1
    assert "hit rate unknown" in errors


def test_the_page_is_there_while_the_gateway_is_down(launch: Launch) -> None:
    run = """
import re
log = open(os.path.join(os.path.dirname(settings["path"]), "../log")).read()
(url,) = re.findall("live page: ([^ ;]*)", log)
say(status=urllib.request.urlopen(url).status)
"""
    assert launch(run, "--to", f"http://127.0.0.1:{free_port()}").said() == {"status": 200}


def test_a_gateway_that_is_down(launch: Launch) -> None:
    port = free_port()
    launched = launch(
        "import contextlib\nwith contextlib.suppress(OSError): ask()",
        "--to",
        f"http://127.0.0.1:{port}",
    )
    assert f'no connection to "127.0.0.1:{port}: ' in launched.end()[1]


def test_a_home_that_cannot_be_written_is_one_line_and_nothing_starts(
    launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / ".mitmproxy").touch()
    status, errors = launch("say(started=True)", "--to", "http://127.0.0.1:9").end()
    assert status == 1
    assert str(tmp_path / ".mitmproxy") in errors
    assert errors.count("\n") == 1


def test_nothing_came_through(launch: Launch) -> None:
    status, errors = launch("", "--to", "http://127.0.0.1:9").end()
    assert status == 0
    assert "no request came through this proxy" in errors


@contextmanager
def users_proxy(folder: Path, port: int, **options: Any) -> Iterator[tuple[str, str]]:
    """Run a proxy that leads all connections to a port; yield its URL and its certificate."""
    script = folder / "to_server.py"
    script.write_text(
        f"def server_connect(data):\n    data.server.address = ('{LOOPBACK}', {port})\n"
    )
    with Mitmdump("regular", scripts=[script], ssl_insecure="true", **options) as proxy:
        certificate = folder / "own.pem"
        certificate.write_bytes(Path(proxy._home.name, "mitmproxy-ca-cert.pem").read_bytes())
        yield f"http://{LOOPBACK}:{proxy.port}", str(certificate)


def test_to_anthropic_through_a_proxy_of_the_users(launch: Launch, tmp_path: Path) -> None:
    """The next proxy leads to a server, and opens connections too.

    Its certificate is all that a program needs to accept which Claude Code starts: our own proxy
    does not open what is for other hosts.
    """
    run = """
import ssl
ours = os.path.expanduser("~/.mitmproxy/mitmproxy-ca-cert.pem")
own = environment["OWN"]
accepted = open(environment["NODE_EXTRA_CA_CERTS"]).read()
assert open(ours).read() in accepted and open(own).read() in accepted
# Not of one file: both authorities have one name.
for host, trusted in (("api.anthropic.com", ours), ("other.test", own)):
    context = ssl.create_default_context(cafile=trusted)
    with urllib.request.urlopen(f"https://{host}/", context=context) as response:
        say(status=response.status)
"""
    with TlsServer() as server:
        with users_proxy(tmp_path, server.port, proxyauth="u:p w") as (url, own):
            with_password = url.replace("//", "//u:p%20w@")
            launched = launch(run, HTTPS_PROXY=with_password, NODE_EXTRA_CA_CERTS=own, OWN=own)
            assert [launched.said()["status"] for _ in range(2)] == [200, 200]
            assert launched.end()[0] == 0
        assert {request.header("host") for request in server.requests} == {
            "api.anthropic.com",
            "other.test",
        }


def test_stable(launch: Launch) -> None:
    run = "say(environment=environment, arguments=arguments)"
    variables = {"ENABLE_TOOL_SEARCH": "auto", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    said = launch(run, "--stable", "-p", "x", **variables).said()
    assert said["environment"]["ENABLE_TOOL_SEARCH"] == "auto"
    assert said["environment"]["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert said["environment"]["CLAUDE_CODE_TOTAL_TOKENS_REMINDER"] == "off"
    assert said["arguments"][2:] == ["--exclude-dynamic-system-prompt-sections", "-p", "x"]


@pytest.mark.parametrize("given", [["--version"], ["mcp", "list"], ["--bg", "x"]])
def test_without_a_proxy(launch: Launch, tmp_path: Path, given: list[str]) -> None:
    launched = launch("say(arguments=arguments); sys.exit(3)", *given)
    assert launched.said()["arguments"] == given
    status, errors = launched.end()
    assert status == 3
    assert errors.count("\n") == 1
    assert "Claude Code runs without the proxy" in errors
    assert not [*(tmp_path / "tmp").iterdir()]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--set", "prompt_cache_scope=all"], "prompt_cache_scope: 'all' is not one of"),
        (["--set", "prompt_cache_scop=user"], "unknown option prompt_cache_scop"),
        (["--set", "ssl_insecure=maybe"], 'must be "true"'),
        (["--mode", "nonsense:x"], "nonsense:x"),
        (["--to", "gateway"], "--to is not a base URL"),
    ],
)
def test_a_bad_option_is_one_line_and_nothing_starts(
    launch: Launch, given: list[str], words: str
) -> None:
    launched = launch("say(started=True)", "--to", "http://127.0.0.1:9", *given)
    status, errors = launched.end()
    assert status == 1
    assert words in errors
    assert errors.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(launch: Launch) -> None:
    with Server() as taken:
        modes = f"reverse:http://127.0.0.1:9@{taken.port}"
        launched = launch("", "--to", "http://127.0.0.1:9", "--mode", modes)
        status, errors = launched.end()
    assert status == 1
    assert str(taken.port) in errors
    assert errors.count("\n") == 1


WAIT = """
say(port=int(environment["ANTHROPIC_BASE_URL"].split(":")[2]), pid=os.getpid())
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_both(launch: Launch, number: signal.Signals) -> None:
    launched = launch(WAIT, "--to", "http://127.0.0.1:9")
    port = launched.said()["port"]
    launched.process.send_signal(number)
    status, errors = launched.end()
    assert status == 128 + number
    assert "log: " in errors
    assert not answers(port)
    assert not launched.settings()


def test_a_terminal_that_is_closed_ends_both(launch: Launch) -> None:
    ours, theirs = os.openpty()
    launched = launch(WAIT, "--to", "http://127.0.0.1:9", terminal=theirs)
    os.close(theirs)
    port = launched.said()["port"]
    os.close(ours)
    status, errors = launched.end()
    assert status == 128 + signal.SIGHUP
    assert "log: " in errors
    assert not answers(port)
    assert not launched.settings()


def test_an_interrupt_is_claude_codes(launch: Launch) -> None:
    run = f"signal.signal(signal.SIGINT, lambda *_: sys.exit(5))\n{WAIT}"
    with Server(respond) as gateway:
        launched = launch(f"ask()\n{run}", "--to", gateway.url)
        launched.said()
        # As a terminal does: to launcher and Claude Code, and not to the proxy.
        os.killpg(launched.process.pid, signal.SIGINT)
        status, errors = launched.end()
    assert status == 5
    assert "1 request" in errors


def test_claude_code_ended_by_a_signal(launch: Launch) -> None:
    assert launch("os.kill(os.getpid(), signal.SIGKILL)").end()[0] == 137


def test_a_killed_launcher_leaves_the_proxy_until_claude_code_ends(launch: Launch) -> None:
    with Server() as gateway:
        launched = launch(WAIT, "--to", gateway.url)
        said = launched.said()
        launched.process.kill()
        launched.process.wait()
        assert answers(said["port"])
        assert launched.settings()
        os.kill(said["pid"], signal.SIGKILL)
        wait_for(lambda: not answers(said["port"]))
        wait_for(lambda: not launched.settings())


def claude_code(launch: Launch, *given: str, **variables: str) -> Launched:
    """Start the real Claude Code, which CLAUDE_CODE names, and which talks to nobody else."""
    return launch(
        "",
        *given,
        TERM="xterm",
        IS_SANDBOX="1",
        ANTHROPIC_API_KEY="sk-ant-dummy",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_TELEMETRY="1",
        DISABLE_AUTOUPDATER="1",
        DISABLE_ERROR_REPORTING="1",
        **variables,
    )


@pytest.fixture
def real(launch: Launch, tmp_path: Path) -> Launch:
    program = tmp_path / "bin" / "claude"
    program.unlink()
    program.symlink_to(Path(os.environ["CLAUDE_CODE"]).resolve())
    return launch


@pytest.mark.client
@pytest.mark.parametrize("source", ["--to", "--settings", "project", "user", "environment"])
def test_the_real_claude_code_goes_through_the_proxy(
    real: Launch, tmp_path: Path, source: str
) -> None:
    with Server(answer) as gateway:
        settings = json.dumps({"env": {"ANTHROPIC_BASE_URL": gateway.url}})
        given, variables = {
            "--to": (["--to", gateway.url], {}),
            "--settings": (["--settings", settings], {}),
            "environment": ([], {"ANTHROPIC_BASE_URL": gateway.url}),
        }.get(source, ([], {}))
        if not given and not variables:
            folder = (tmp_path / "project" if source == "project" else tmp_path) / ".claude"
            folder.mkdir()
            (folder / "settings.json").write_text(settings)
        launched = claude_code(
            real, "--stable", *given, "-p", "--allowedTools", "Bash,Agent", "--", "hi", **variables
        )
        out, errors = launched.process.communicate(timeout=4 * TIMEOUT)
        assert (launched.process.returncode, out.strip()) == (0, "goodbye"), errors
        requests = [each for each in gateway.requests if each.target.startswith("/v1/messages?")]
        assert len(requests) >= 5
        assert len({request.key for request in requests}) == 1
        assert requests[0].key
        assert b"x-anthropic-billing-header" not in requests[0].body
        assert b"defer_loading" not in requests[0].body
    assert f"{len(requests)} requests" in errors


@pytest.mark.client
def test_the_real_claude_code_is_observed_on_its_way_to_anthropic(
    real: Launch, tmp_path: Path
) -> None:
    with TlsServer(answer) as anthropic:
        with users_proxy(tmp_path, anthropic.port) as (url, own):
            variables = {"HTTPS_PROXY": url, "NODE_EXTRA_CA_CERTS": own}
            launched = claude_code(
                real, "-p", "--allowedTools", "Bash,Agent", "--", "hi", **variables
            )
            out, errors = launched.process.communicate(timeout=4 * TIMEOUT)
        assert (launched.process.returncode, out.strip()) == (0, "goodbye"), errors
        requests = [each for each in anthropic.requests if each.target.startswith("/v1/messages?")]
        assert {request.header("host") for request in requests} == {"api.anthropic.com"}
        assert {request.key for request in requests} == {None}
    assert f"{len(requests)} requests" in errors
    assert launched.log().count("state=observed") == len(requests)


@pytest.mark.client
def test_the_real_claude_code_ends_with_the_launcher(real: Launch) -> None:
    def wait(request: Request) -> Reply:
        if not request.target.startswith("/v1/messages?"):
            return Reply()
        message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
        started = event("message_start", message=message | {"usage": {"input_tokens": 1}})
        return Reply(headers=EVENTS, body=[started, b""])

    with Server(wait) as gateway:
        launched = claude_code(real, "--to", gateway.url, "-p", "hi")
        wait_for(lambda: bool(gateway.requests))
        launched.process.terminate()
        status, errors = launched.end()
    assert status == 143
    assert "log: " in errors
