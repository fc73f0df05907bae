"""The real Claude Code, for one prompt."""

import os
import subprocess
from pathlib import Path


def run_claude_code(
    session: str, prompt: str, settings: dict[str, str], directory: Path, *, resumes: bool = False
) -> str:
    """Run Claude Code in a directory, which is its HOME too, and return what it printed.

    `settings` are environment variables, beside which it sees none of ours but PATH, so that it
    talks to nobody but whom they name. Its path is in CLAUDE_CODE; KeyError if it is not.
    AssertionError: it failed, with all it said; TimeoutExpired: it took more than two minutes.
    """
    directory.mkdir(exist_ok=True)
    client = [os.environ["CLAUDE_CODE"], "--resume" if resumes else "--session-id", session]
    client += ["--allowedTools", "Bash,Agent"]
    finished = subprocess.run(
        [*client, "-p", prompt],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TERM": "xterm",
            "IS_SANDBOX": "1",
            "ANTHROPIC_API_KEY": "sk-ant-dummy",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            **settings,
        },
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if finished.returncode:
        raise AssertionError(finished)
    return finished.stdout.strip()
