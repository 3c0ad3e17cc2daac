"""What tests of the engine share: clients that record events, and a job that keeps the engine busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from codi2.chat.events import Done, Event, StageProgress
from codi2.model import Options, Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed

IMAGE = Options(want=("image",), max_new_tokens=2)
LONG_IMAGE = Options(want=("image",), max_new_tokens=1, num_inference_steps=1000)
LONG_TEXT = Options(want=(), max_new_tokens=1500)
PATIENCE = 60.0  # seconds in which anything on a busy machine should have happened


class BusyEngine:
    """Keeps the engine's thread busy until `free` is set, so that other jobs have to wait."""

    def __init__(self, engine: Engine) -> None:
        self.free, self.begun = threading.Event(), threading.Event()

        def play(forward: Any) -> Reply:
            self.begun.set()
            assert self.free.wait(PATIENCE)
            return Reply(())

        engine._submit("round", [lambda event: None], "busy", 600, 0, [{"play": play}])
        assert self.begun.wait(PATIENCE)


class Client:
    """Records the events of its job."""

    def __init__(self) -> None:
        self.events: list[Event | Failed] = []
        self.over = threading.Event()

    def __call__(self, event: Event | Failed) -> None:
        self.events.append(event)
        if isinstance(event, Done | Failed):
            self.over.set()

    @property
    def last_event(self) -> Any:
        """Waits until the job has ended."""
        assert self.over.wait(PATIENCE)
        return self.events[-1]

    @property
    def steps(self) -> int:
        """Steps of the stage `decode` so far."""
        return sum(isinstance(event, StageProgress) and event.stage == "decode" for event in list(self.events))


def message(text: str) -> list[Message]:
    return [Message("user", (Text(text),))]


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)
