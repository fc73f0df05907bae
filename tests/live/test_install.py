"""The addon from a wheel, and from a clone on a Python that has mitmproxy and nothing else."""

import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pytest
from lib import ADDON, ROOT
from lib.client import post, request_body, without_key
from lib.mitmdump import Mitmdump
from lib.server import Server
from prompt_cache_key import __version__

pytestmark = pytest.mark.client


def venv(path: Path, *packages: str | Path) -> Path:
    """Make a virtual environment with these packages and return its interpreter."""
    python = path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def has_module(python: Path, name: str) -> bool:
    code = f"import sys, importlib.util as u; sys.exit(u.find_spec({name!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def check_keys(python: Path, scripts: Iterable[Path]) -> None:
    first, second = str(uuid4()), str(uuid4())
    bodies = [request_body(session) for session in (first, second, first)]
    with (
        Server() as upstream,
        Mitmdump(f"reverse:{upstream.url}", scripts=scripts, python=python) as proxy,
    ):
        proxy.find(r"INFO \[prompt-cache\] active: ")
        requests = [post(proxy.port, upstream, body) for body in bodies]
    assert [without_key(request.body) for request in requests] == bodies
    keys = [request.key for request in requests]
    assert None not in keys
    assert keys[0] == keys[2] != keys[1]


def test_clone_beside_mitmproxy_alone(tmp_path: Path) -> None:
    python = venv(tmp_path / "venv", "mitmproxy")
    assert not has_module(python, "msgspec")
    assert not has_module(python, "prompt_cache_key")
    check_keys(python, [ADDON])


def test_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(ROOT)]
    subprocess.run(build, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("mitmproxy_prompt_cache_key-*-py3-none-any.whl")
    package = ADDON.parent / "prompt_cache_key"
    files = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if ".dist-info/" not in name} == files

    python = venv(tmp_path / "venv", f"{wheel}[redis,prices]")
    assert not has_module(python, "msgspec")
    assert has_module(python, "redis")
    # mitmproxy 11, the newest for Python 3.11, cannot stand beside it.
    assert has_module(python, "genai_prices") is (sys.version_info >= (3, 12))
    command = [str(python.with_name("claude-prompt-cache")), "--version"]
    version = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert version.startswith(f"claude-prompt-cache: {__version__}\nMitmproxy: ")
    script = tmp_path / "mine.py"
    script.write_text(
        "from prompt_cache_key.hooks import PromptCacheKey; addons = [PromptCacheKey()]\n"
    )
    check_keys(python, [script])
