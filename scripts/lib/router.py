"""A real HAProxy before the replicas, and its configurations."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from lib import LOOPBACK

# What decides where a request goes, in HAProxy's words. Who lacks it is served in turn.
_BACKENDS = {
    "header": """
    balance hdr({header})
    # A replica that ends takes only its own sessions along.
    hash-type consistent
""",
    "key": """
    # The key is the first member of the body; what does not fit into the buffer is not looked at.
    option http-buffer-request
    balance hash req.body,json_query('$.prompt_cache_key')
    hash-type consistent
""",
    "stick": """
    # A new session goes to the replica with the least to do, a known one to its own.
    balance leastconn
    stick-table type string len 64 size 100k expire 1h
    stick on req.hdr({header})
""",
}
ROUTERS = tuple(_BACKENDS)

_CONFIGURATION = """\
global
    nbthread 1
    tune.bufsize 65536
    log stdout format raw daemon

defaults
    mode http
    # For each request the replica, the status, and `--` if nobody broke off.
    log global
    log-format "%s %ST %ts"
    # llama.cpp closes a connection that was idle for 5 seconds, maybe just when it is used again.
    option http-server-close
    # What a replica has not accepted goes to another one.
    option redispatch 1
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    timeout check 10s

frontend clients
    bind {listen}
    default_backend replicas

backend replicas{backend}\
    option httpchk GET /health
    default-server check inter 1s fastinter 200ms weight 100
    {servers}
"""


class RouterError(Exception):
    """Why there is no router."""


def configuration(kind: str, header: str, servers: Iterable[str], listen: str = ":8000") -> str:
    """Return HAProxy's configuration of a kind, for servers as `name host:port`."""
    return _CONFIGURATION.format(
        listen=listen,
        backend=_BACKENDS[kind].format(header=header),
        servers="\n    ".join(f"server {server}" for server in servers),
    )


def find_haproxy() -> str:
    """Return HAProxy's path; RouterError if it is not installed."""
    # Debian puts it where only root's PATH looks.
    path = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if not path:
        raise RouterError(
            "HAProxy is not installed; apt-get install haproxy, brew install haproxy or the like"
        )
    return path


class Routed(NamedTuple):
    """A request that HAProxy has answered: from which server, and with which status.

    `is_whole` says that neither side broke off, so a 502 that HAProxy gives for a server is whole
    only if the server gave it.
    """

    server: str
    status: int
    is_whole: bool


class Router:
    """A HAProxy on a free port of 127.0.0.1; a context manager. Its files lie in the folder."""

    def __init__(self, folder: Path, kind: str, header: str, servers: Iterable[str]) -> None:
        self._log = folder / "haproxy.log"
        config = folder / "haproxy.cfg"
        command = [find_haproxy(), "-f", str(config)]
        with socket.create_server((LOOPBACK, 0), backlog=512) as listener:
            self.port: int = listener.getsockname()[1]
            # A socket that listens already: there is no port to guess and no start to wait for.
            inherited = [listener.fileno()]
            config.write_text(configuration(kind, header, servers, f"fd@{inherited[0]}"))
            check = subprocess.run(
                [*command, "-c"], pass_fds=inherited, capture_output=True, text=True, check=False
            )
            if check.returncode:
                raise RouterError(f"HAProxy does not take its configuration: {check.stderr}")
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, "-db"], stdout=log, stderr=log, pass_fds=inherited
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def routed(self) -> list[Routed]:
        """Return the requests that were answered, in the order of their ends."""
        lines = re.findall(r"^(\S+) (\d+) (..)$", self._log.read_text(), re.MULTILINE)
        return [Routed(server, int(status), end == "--") for server, status, end in lines]
