"""Find the project of a request: the last folder of the working directory named in the prompt."""

import json
import re
from functools import lru_cache

# `Primary working directory: /home/me/shop` in the environment section of 2.1.330, and
# `Working directory: …` before. As it stands in JSON: up to the escape that ends the line.
_LABEL = b"orking directory: "
_DIRECTORY = re.compile(_LABEL + rb'((?:[^"\\\x00-\x1f]|\\\\|\\u[0-9a-f]{4}){1,1024})')
_SEPARATOR = re.compile(r"[/\\]+")
MAX_LENGTH = 64
"""Characters of a project's name."""


def project_of(body: bytes) -> str:
    """Return the project that a request body names; "" if it names none."""
    at = body.find(_LABEL)  # ten times as fast as the pattern's own search
    found = _DIRECTORY.search(body, at) if at >= 0 else None
    return _last_folder(found[1]) if found else ""


@lru_cache(maxsize=256)
def _last_folder(path: bytes) -> str:
    """Return the last folder of a path as it stands in JSON; "" if it is no text."""
    try:
        directory = json.loads(b'"%b"' % path)
    except ValueError:
        return ""
    return _SEPARATOR.split(directory.strip().rstrip("/\\"))[-1][:MAX_LENGTH]
