"""Replicas of a real inference engine: llama.cpp's own HTTP server, with a tiny model."""

import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import NamedTuple, Self

from lib import LOOPBACK, TIMEOUT

_HERE = Path(__file__).parent


class EngineError(Exception):
    """Why there is no engine, in its own words."""


class Counts(NamedTuple):
    """What an engine counted.

    The tokens of its prompts, those of them that it read from its cache, and the seconds that it
    took to compute the others.
    """

    prompt: int = 0
    cached: int = 0
    seconds: float = 0.0

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum."""
        return Counts(
            self.prompt + other.prompt, self.cached + other.cached, self.seconds + other.seconds
        )


def write_model(folder: Path, text: str = "") -> Path:
    """Write the model into the folder and return its path.

    A token is a byte, or one of the frequent words of the text: then four bytes, about.
    """
    path, words = folder / "tiny-random.gguf", folder / "words.txt"
    words.write_text(text, "utf-8")
    command = [sys.executable, str(_HERE / "model_file.py"), str(path), str(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"the model was not written: {done.stderr.strip()[-500:]}")
    return path


class Replica:
    """One engine on a free port of 127.0.0.1, which it keeps; a context manager.

    `slots` is how many conversations it works on at once. Its log is beside the model.
    """

    def __init__(self, model: Path, name: str, slots: int) -> None:
        self.name = name
        self.port = 0
        self._model, self._slots = model, slots
        self._log = model.with_name(f"{name}.log")
        self._before = Counts()  # what it counted before it was killed
        self._start()

    def __enter__(self) -> Self:
        self._await_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def counts(self) -> Counts:
        """Return what it counted so far, also before it was killed."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/metrics", timeout=TIMEOUT) as r:
            metrics = dict(re.findall(r"^llamacpp:(\w+) (\S+)$", r.read().decode(), re.MULTILINE))
        cached = int(metrics["prompt_tokens_cached_total"])
        computed = int(metrics["prompt_tokens_total"])
        now = Counts(computed + cached, cached, float(metrics["prompt_seconds_total"]))
        return self._before.plus(now)

    def kill(self) -> None:
        """Kill it, whatever it is doing."""
        self._before = self.counts()
        self._end()

    def restart(self) -> None:
        """Start it again after `kill`, with an empty cache."""
        self._start()
        self._await_start()

    def _start(self) -> None:
        command = [sys.executable, str(_HERE / "llama_server.py"), str(self._model)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self.port), str(self._slots)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )

    def _await_start(self) -> None:
        killer = threading.Timer(TIMEOUT, self._process.kill)
        killer.start()
        line = self._process.stdout.readline() if self._process.stdout else ""
        killer.cancel()
        found = re.fullmatch(r"listening http://127\.0\.0\.1:(\d+)\n", line)
        if not found:
            self._end()
            raise EngineError(f"{self.name} did not start: {self._log.read_text()[-500:].strip()}")
        self.port = int(found[1])

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
