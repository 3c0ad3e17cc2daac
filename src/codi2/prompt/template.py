"""Renders chat templates of models from elsewhere in a process with limits.

A template is a program: even in Jinja's sandbox it can loop or double a string without end. So it runs in a process of
its own with a limit of memory, which is killed after a limit of time. Templates of this package run in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from codi2.config import CHATML
from codi2.errors import PromptError

SECONDS = 10.0  # limit of one rendering; templates of known models take a millisecond
STARTS = 120.0  # limit of the process's start in seconds, on a busy machine
MEGABYTES = 512
LONGEST = 1_000_000  # characters of a rendering
LONGEST_TEMPLATE = 200_000  # characters

Turn = Mapping[str, str]


def render(tokenizer: Any, turns: Sequence[Turn], reply: bool) -> str:
    """The turns (`role`, `content`) as the tokenizer's chat template writes them; `reply` opens the assistant's.

    Raises PromptError: the template refuses these turns, or cannot be used.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if not isinstance(template, str) or len(template) > LONGEST_TEMPLATE:
        raise PromptError(
            "the language model's chat template is no text of a sensible length; give llm.chat_template in the config"
        )
    names = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    if template == CHATML:
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=reply)
        assert isinstance(text, str)
        return text
    request = {"template": template, "turns": [dict(turn) for turn in turns], "reply": reply, "names": names}
    return _rendered(json.dumps(request))


@lru_cache(maxsize=1024)
def _rendered(request: str) -> str:
    answer = _process.ask(request)
    if "text" in answer:
        return str(answer["text"])
    raise PromptError(f"the language model's chat template refuses this order of turns: {answer['error']}")


class _Process:
    """The process that renders; it starts with the first template, and again after it was killed."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[str] | None = None
        self._of_parent: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, request: str) -> dict[str, Any]:
        with self._lock:
            process = self._running or self._start()
            answer = self._line(process, request, SECONDS)
            self._running = process if answer else None
        if answer:
            result: dict[str, Any] = json.loads(answer)
            return result
        return {"error": f"it takes more than {SECONDS:g} seconds or {MEGABYTES} megabytes"}

    def forked(self) -> None:
        """Called in a forked child, which needs a renderer of its own.

        The parent's renderer stays referenced: its deletion would flush the parent's unsent bytes to it.
        """
        self._of_parent, self._running, self._lock = self._running, None, threading.Lock()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", str(Path(__file__).with_name("rendering.py")), str(MEGABYTES), str(LONGEST)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, env=env, encoding="utf-8", text=True, stdin=pipe, stdout=pipe, stderr=none)
        if not self._line(process, "", STARTS):
            raise PromptError("the process that renders chat templates does not start; see whether memory is left")
        self._running = process
        return process

    def _line(self, process: subprocess.Popen[str], request: str, seconds: float) -> str:
        """The next line of the process; empty after `seconds`, when the process is killed."""
        assert process.stdin and process.stdout
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            if request:
                process.stdin.write(request + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            process.kill()
            process.communicate()
            return ""
        return line


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)
