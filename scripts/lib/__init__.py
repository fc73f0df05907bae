"""What the scripts and the tests share. It needs mitmproxy and what that brings, nothing else."""

import socket
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ADDON = ROOT / "addon" / "addon.py"
LOOPBACK = "127.0.0.1"
TIMEOUT = 30.0
"""Seconds after which something that never comes is a failure."""


def free_port(host: str = LOOPBACK) -> int:
    """Return a port of the host that nobody listens on."""
    with socket.create_server((host, 0)) as free:
        port: int = free.getsockname()[1]
        return port
