"""Chat templates of models from elsewhere, rendered where they can do no harm.

A template is a program: sandboxed, it can still loop or double a string without end. So it runs in a process of its own
with a bounded memory, which is ended when it takes too long. Templates of this package are rendered here.
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

SECONDS = 10.0  # of a rendering; those of models take a thousandth of one
STARTS = 120.0  # seconds until the process is there, on a machine that is busy
MEGABYTES = 512
LONGEST = 1_000_000  # characters of a rendering
LONGEST_TEMPLATE = 200_000  # characters

Turn = Mapping[str, str]


def render(tokenizer: Any, turns: Sequence[Turn], reply: bool) -> str:
    """The turns (`role`, `content`) as the tokenizer's chat template writes them; `reply` opens the assistant's.

    Raises PromptError: the template refuses these turns, or is none that can be used.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if not isinstance(template, str) or len(template) > LONGEST_TEMPLATE:
        raise PromptError(
            "The language model's chat template is no text of a sensible length; give llm.chat_template in the config."
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
    raise PromptError(f"The language model's chat template refuses this order of turns: {answer['error']}")


class _Process:
    """The process that renders; it is started with the first template and again when it had to be ended."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, request: str) -> dict[str, Any]:
        with self._lock:
            process = self._running or self._start()
            answer = self._line(process, request, SECONDS)
            self._running = process if answer else None
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        return {"error": f"it takes more than {SECONDS:g} seconds or {MEGABYTES} megabytes"}

    def forked(self) -> None:
        """In a child process: the renderer that runs answers the parent, so this one gets its own.

        The parent's is kept: dropped, it would be sent what the parent has not sent yet.
        """
        self._parents, self._running, self._lock = self._running, None, threading.Lock()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", str(Path(__file__).with_name("rendering.py")), str(MEGABYTES), str(LONGEST)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, env=env, encoding="utf-8", text=True, stdin=pipe, stdout=pipe, stderr=none)
        if not self._line(process, "", STARTS):
            raise PromptError("The process that renders chat templates does not start; see whether memory is left.")
        self._running = process
        return process

    def _line(self, process: subprocess.Popen[str], request: str, seconds: float) -> str:
        """The next line of the process; empty, and it is ended, when that takes longer than `seconds`."""
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
