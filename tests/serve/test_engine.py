"""The queue: fair, bounded, batched, and nothing it gives depends on who else asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from codi2.chat.events import Done, Event, Said
from codi2.errors import BusyError, LateError, PromptError
from codi2.model import CoDi2, Options, Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed

IMAGE = Options(want=("image",), max_new_tokens=2)


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def engine(model: CoDi2) -> Iterator[Engine]:
    engine = Engine(model, max_batch=4, max_waiting=12)
    yield engine
    engine.close(10)


class Held:
    """Holds the engine's thread until it is let go, so that others have to wait."""

    def __init__(self, engine: Engine) -> None:
        self.free, self.begun = threading.Event(), threading.Event()

        def play(hear: Any) -> Reply:
            self.begun.set()
            assert self.free.wait(20)
            return Reply(())

        engine._submit("round", [lambda event: None], "holder", 60, 0, [{"play": play}])
        assert self.begun.wait(20)


class Client:
    """Hears what becomes of its jobs."""

    def __init__(self) -> None:
        self.events: list[Event | Failed] = []
        self.over = threading.Event()

    def __call__(self, event: Event | Failed) -> None:
        self.events.append(event)
        if isinstance(event, Done | Failed):
            self.over.set()

    @property
    def end(self) -> Any:
        assert self.over.wait(60)
        return self.events[-1]


def say(words: str) -> list[Message]:
    return [Message("user", (Text(words),))]


def test_replies_are_those_of_the_model_alone(model: CoDi2, engine: Engine):
    held = Held(engine)
    asked = [(f"Draw {i}", Options(want=("image",), max_new_tokens=3, seed=i)) for i in range(6)]
    clients = [Client() for _ in asked]
    for client, (words, options) in zip(clients, asked, strict=True):
        engine.reply(say(words), options, client)
    held.free.set()
    assert all(isinstance(client.end, Done) for client in clients)
    for client, (words, options) in zip(clients, asked, strict=True):
        ours, theirs = client.end.reply, model.answer([say(words)], [options])[0]
        assert ours.text == theirs.text
        pixels = [np.asarray(reply.images[0].pixels).astype(int) for reply in (ours, theirs)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1
        assert "".join(e.text for e in client.events if isinstance(e, Said)).strip() == ours.text
    assert engine.stats.batches["think", 4] == 1 and engine.stats.batches["diffuse", 4] >= 1
    assert engine.stats.asked["done"] >= 6


def test_who_asks_much_waits_behind_who_asks_little(engine: Engine):
    held, order = Held(engine), []
    for i in range(8):
        engine.reply(say("x"), IMAGE, lambda e, i=i: order.append(f"much {i}") if isinstance(e, Done) else None, "much")  # type: ignore[misc]
    little = Client()
    engine.reply(
        say("y" * 200), IMAGE, lambda e: (order.append("little") if isinstance(e, Done) else None, little(e)), "little"
    )  # type: ignore[func-returns-value, arg-type]
    held.free.set()
    assert little.end
    time.sleep(0.1)
    assert order.index("little") <= 4, order


def test_a_full_queue_says_when_to_come_back(engine: Engine):
    held = Held(engine)
    jobs = [engine.reply(say("x"), IMAGE, Client()) for _ in range(12)]
    with pytest.raises(BusyError, match="12 requests are waiting already") as refused:
        engine.reply(say("x"), IMAGE, Client())
    assert refused.value.retry_after >= 1
    for job in jobs:
        job.cancel()
    held.free.set()


def test_who_has_left_costs_nothing(engine: Engine):
    held = Held(engine)
    gone, stays = Client(), Client()
    engine.reply(say("x"), IMAGE, gone).cancel()
    engine.reply(say("y"), IMAGE, stays)
    held.free.set()
    assert isinstance(stays.end, Done) and isinstance(gone.end, Failed)
    assert engine.stats.batches["think", 1] == 1 and engine.stats.asked["cancelled"] == 1


def test_leaving_in_the_middle_ends_the_text(engine: Engine):
    client = Client()
    job = engine.reply(say("Go on"), Options(want=(), max_new_tokens=1500), client)
    while not any(isinstance(event, Said) for event in list(client.events)):
        time.sleep(0.01)
    job.cancel()
    assert isinstance(client.end, Failed)


def test_deadlines(engine: Engine):
    held, late = Held(engine), Client()
    engine.reply(say("x"), IMAGE, late, timeout=0.05)
    time.sleep(0.1)
    held.free.set()
    assert isinstance(late.end.error, LateError) and "before its deadline" in str(late.end.error)
    slow = Client()
    engine.reply(say("Go on"), Options(want=(), max_new_tokens=1500), slow, timeout=0.3)
    assert isinstance(slow.end.error, LateError)


def test_what_cannot_be_done_never_waits(model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(model.decoders, "video")
    with pytest.raises(PromptError, match="not video"):
        engine.reply(say("x"), Options(want=("video",)), Client())
    with pytest.raises(PromptError, match="positions"):
        engine.reply(say("x" * 5000), IMAGE, Client())


def test_an_error_of_ours_reaches_who_asked_and_the_engine_goes_on(
    model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(model, "diffuse", lambda *_: 1 / 0)
        broken = Client()
        engine.reply(say("x"), IMAGE, broken)
        assert isinstance(broken.end.error, ZeroDivisionError)
    well = Client()
    engine.reply(say("x"), IMAGE, well)
    assert isinstance(well.end, Done)


def test_closing_finishes_what_was_taken(model: CoDi2):
    engine = Engine(model)
    clients = [Client() for _ in range(5)]
    for client in clients:
        engine.reply(say("x"), IMAGE, client)
    assert engine.close(30) == 0
    assert all(isinstance(client.events[-1], Done) for client in clients)
    with pytest.raises(BusyError, match="shutting down"):
        engine.reply(say("x"), IMAGE, Client())
