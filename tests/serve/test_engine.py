"""The engine: a fair queue with limits, and replies that do not depend on the other jobs of their batch."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.chat.events import Done, TextDelta
from codi2.errors import BusyError, PromptError
from codi2.model import CoDi2, Options, Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Image
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed

from .engine_jobs import IMAGE, BusyEngine, Client, message, wait_until


def assert_same_reply(client: Client, expected: Reply) -> None:
    """The reply of a client's job, and the text that was sent before it."""
    reply = client.last_event.reply
    assert reply.text == expected.text
    pixels, expected_pixels = (np.asarray(r.images[0].pixels).astype(int) for r in (reply, expected))
    assert np.abs(pixels - expected_pixels).max() <= 1
    assert "".join(e.text for e in client.events if isinstance(e, TextDelta)).strip() == expected.text


def test_replies_of_a_batch_are_those_of_the_model_alone(model: CoDi2, engine: Engine):
    busy = BusyEngine(engine)
    requests = [(f"Draw {i}", Options(want=("image",), max_new_tokens=3, seed=i)) for i in range(6)]
    clients = [Client() for _ in requests]
    for client, (text, options) in zip(clients, requests, strict=True):
        engine.submit_reply(message(text), options, client)
    busy.free.set()
    for client, (text, options) in zip(clients, requests, strict=True):
        assert_same_reply(client, model.answer([message(text)], [options])[0])
    assert engine.stats.batches["write", 4] == 1 and engine.stats.batches["decode", 4] >= 1
    assert engine.stats.outcomes["done"] >= 6


def test_a_client_with_many_jobs_does_not_delay_a_client_with_one(engine: Engine):
    busy, order = BusyEngine(engine), []

    class Ordered(Client):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def __call__(self, event: Any) -> None:
            if isinstance(event, Done):
                order.append(self.name)
            super().__call__(event)

    many = [Ordered(f"many {i}") for i in range(8)]
    for client in many:
        engine.submit_reply(message("x"), IMAGE, client, "many")
    single = Ordered("single")
    engine.submit_reply(message("y" * 200), IMAGE, single, "single")
    busy.free.set()
    assert all(isinstance(client.last_event, Done) for client in (single, *many))
    assert order.index("single") <= 4, order


def test_a_full_queue_says_when_to_come_back(engine: Engine):
    busy = BusyEngine(engine)
    jobs = [engine.submit_reply(message("x"), IMAGE, Client()) for _ in range(12)]
    with pytest.raises(BusyError, match="12 requests are waiting already") as refused:
        engine.submit_reply(message("x"), IMAGE, Client())
    assert refused.value.retry_after >= 1 and engine.stats.outcomes["refused"] == 1
    for job in jobs:
        job.cancel()
    busy.free.set()


def test_several_replies_are_taken_all_or_none(engine: Engine):
    busy = BusyEngine(engine)
    jobs = [engine.submit_reply(message("x"), IMAGE, Client()) for _ in range(10)]
    clients = [Client() for _ in range(3)]
    with pytest.raises(BusyError, match="10 requests are waiting already, and 3 more are too many"):
        engine.submit_replies(message("x"), [IMAGE] * 3, clients)
    assert engine.waiting == 10 and not any(client.events for client in clients)
    for job in jobs:
        job.cancel()
    engine.submit_replies(message("x"), [IMAGE] * 3, clients)  # cancelled jobs take no room
    assert engine.waiting == 3
    busy.free.set()
    assert all(isinstance(client.last_event, Done) for client in clients)


def test_media_that_wait_are_limited_in_bytes(model: CoDi2):
    engine = Engine(model, max_held=1 << 20)
    picture = [Message("user", (Image(PILImage.new("RGB", (500, 500))),))]  # 0.75 MB
    busy = BusyEngine(engine)
    first, second = Client(), Client()
    engine.submit_reply(picture, IMAGE, first)
    with pytest.raises(BusyError, match="hold 0 MB of media already"):
        engine.submit_reply(picture, IMAGE, second)
    engine.submit_reply(message("x"), IMAGE, second)
    busy.free.set()
    assert isinstance(first.last_event, Done) and isinstance(second.last_event, Done)
    wait_until(lambda: engine.running == 0)
    large = Client()
    engine.submit_reply([Message("user", (Image(PILImage.new("RGB", (900, 900))),))], IMAGE, large)
    assert isinstance(large.last_event, Done), "without other jobs it is accepted"
    assert engine.close(60) == 0


def test_a_prompt_that_the_model_cannot_answer_is_refused_at_once(
    model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(model.decoders, "video")
    with pytest.raises(PromptError, match="not video"):
        engine.submit_reply(message("x"), Options(want=("video",)), Client())
    with pytest.raises(PromptError, match="positions"):
        engine.submit_reply(message("x" * 5000), IMAGE, Client())


def test_an_unexpected_error_reaches_its_client_and_the_engine_continues(
    model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(model, "decode", lambda *_: 1 / 0)
        broken = Client()
        engine.submit_reply(message("x"), IMAGE, broken)
        assert isinstance(broken.last_event.error, ZeroDivisionError)
    healthy = Client()
    engine.submit_reply(message("x"), IMAGE, healthy)
    assert isinstance(healthy.last_event, Done)


def test_a_request_that_fails_fails_alone(model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """One job of a batch fails in the stage `write`, one in `decode`; the others get the replies that they get alone,
    and no text twice."""
    write, decode = model.write, model.decode
    requests = [(f"Draw {i}", Options(want=("image",), max_new_tokens=9, seed=i)) for i in range(4)]
    alone = [model.answer([message(text)], [options])[0] for text, options in requests]

    def failing_write(readings: Any, options: Any, *rest: Any) -> Any:
        written = write(readings, options, *rest)  # its text has been sent when it fails
        if any(option.seed == 1 for option in options):
            raise ValueError("probabilities hold NaN")
        return written

    def failing_decode(written: Any, prompts: Any, options: Any, callback: Any) -> Any:
        if any(option.seed == 2 for option in options):
            raise ValueError("not finite")
        return decode(written, prompts, options, callback)

    monkeypatch.setattr(model, "write", failing_write)
    monkeypatch.setattr(model, "decode", failing_decode)
    busy, clients = BusyEngine(engine), [Client() for _ in requests]
    for client, (text, options) in zip(clients, requests, strict=True):
        engine.submit_reply(message(text), options, client)
    busy.free.set()
    assert [type(client.last_event) for client in clients] == [Done, Failed, Failed, Done]
    for i in (0, 3):
        assert_same_reply(clients[i], alone[i])
    assert engine.stats.outcomes["done"] == 3 and engine.stats.outcomes["failed"] == 2  # with the job of BusyEngine


def test_closing_finishes_the_jobs_that_were_accepted(model: CoDi2):
    engine = Engine(model)
    clients = [Client() for _ in range(5)]
    for client in clients:
        engine.submit_reply(message("x"), IMAGE, client)
    assert engine.close(60) == 0
    assert all(isinstance(client.events[-1], Done) for client in clients)
    with pytest.raises(BusyError, match="shutting down"):
        engine.submit_reply(message("x"), IMAGE, Client())


def test_nothing_of_a_request_stays_in_memory_when_it_is_over(engine: Engine):
    client = Client()
    picture = Image(PILImage.new("RGB", (300, 300)))
    reference = weakref.ref(picture)
    job = engine.submit_reply([Message("user", (picture,))], IMAGE, client)
    del picture
    assert isinstance(client.last_event, Done) and not job.conversation
    wait_until(lambda: reference() is None)
