"""Jobs that end early: cancelled ones, late ones, and the steps at which the model stops."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PILImage

from codi2.cancellation import Cancelled, cancel_when
from codi2.chat import Chat
from codi2.chat.events import Done, TextDelta
from codi2.errors import LateError, PromptError
from codi2.media import load_image
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Image, Text
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed

from .engine_jobs import IMAGE, LONG_IMAGE, LONG_TEXT, BusyEngine, Client, message, wait_until


def test_a_job_that_is_cancelled_while_it_waits_does_not_run(engine: Engine):
    busy = BusyEngine(engine)
    cancelled, other = Client(), Client()
    engine.submit_reply(message("x"), IMAGE, cancelled).cancel()
    engine.submit_reply(message("y"), IMAGE, other)
    busy.free.set()
    assert isinstance(other.last_event, Done) and isinstance(cancelled.last_event, Failed)
    assert engine.stats.batches["write", 1] == 1 and engine.stats.outcomes["cancelled"] == 1


def test_cancelling_ends_the_text_within_a_step(engine: Engine):
    client = Client()
    job = engine.submit_reply(message("Go on"), LONG_TEXT, client)
    wait_until(lambda: any(isinstance(event, TextDelta) for event in list(client.events)))
    job.cancel()
    assert isinstance(client.last_event, Failed) and engine.stats.outcomes["cancelled"] == 1


def test_cancelling_ends_decoding_within_a_step(engine: Engine):
    client, other = Client(), Client()
    job = engine.submit_reply(message("x"), LONG_IMAGE, client)
    wait_until(lambda: client.steps > 3)
    job.cancel()
    steps = client.steps
    engine.submit_reply(message("y"), IMAGE, other)
    assert isinstance(other.last_event, Done) and isinstance(client.last_event, Failed)
    assert client.steps <= steps + 2 and engine.stats.outcomes["cancelled"] == 1


def test_a_job_whose_deadline_passes_while_it_waits_is_late(engine: Engine):
    busy, late = BusyEngine(engine), Client()
    job = engine.submit_reply(message("x"), IMAGE, late, timeout=0.01)
    wait_until(lambda: job.over)
    busy.free.set()
    assert isinstance(late.last_event.error, LateError) and "before its deadline" in str(late.last_event.error)


def test_a_job_whose_deadline_passes_while_it_runs_is_late(engine: Engine):
    client = Client()
    job = engine.submit_reply(message("Go on"), LONG_TEXT, client, timeout=600)
    wait_until(lambda: any(isinstance(event, TextDelta) for event in list(client.events)))
    job.deadline = 0.0
    assert isinstance(client.last_event.error, LateError) and engine.stats.outcomes["late"] == 1


def test_a_waiting_job_learns_of_its_deadline_while_another_runs(engine: Engine):
    running, waiting = Client(), Client()
    job = engine.submit_reply(message("x"), LONG_IMAGE, running)
    wait_until(lambda: running.steps > 0)
    engine.submit_reply(message("y"), IMAGE, waiting, timeout=0.01)
    assert "not begun before its deadline" in str(waiting.last_event.error) and not running.over.is_set()
    job.cancel()


def test_a_late_job_does_not_end_the_others_of_its_batch(engine: Engine):
    busy = BusyEngine(engine)
    late, running = Client(), Client()
    late_job = engine.submit_reply(message("x"), LONG_IMAGE, late, timeout=600)
    job = engine.submit_reply(message("x"), LONG_IMAGE, running)
    busy.free.set()
    wait_until(lambda: late.steps > 0 and running.steps > 0)
    late_job.deadline = 0.0
    assert isinstance(late.last_event.error, LateError) and not running.over.is_set()
    job.cancel()
    assert isinstance(running.last_event, Failed)


def test_a_sampler_stops(model: CoDi2, media: Path):
    source = load_image(media / "goose-google.png")
    conversation, checks = [Message("user", (Text("Mirror "), source))], 0

    def over() -> bool:
        nonlocal checks
        checks += 1
        return checks > limit

    limit = 10**9
    options = Options(want=("image",), max_new_tokens=1, num_inference_steps=20)
    with cancel_when(over):
        model.answer([conversation], [options])
    all_checks, limit, checks = checks, checks - 2, 0
    assert all_checks >= 20
    with pytest.raises(Cancelled), cancel_when(over):
        model.answer([conversation], [options])


def test_encoding_stops_between_items(model: CoDi2, monkeypatch: pytest.MonkeyPatch):
    encoded: list[int] = []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda *a, **k: (encoded.append(1), forward(*a, **k))[1])
    pictures = tuple(Image(PILImage.new("RGB", (8, 8), (i, 0, 0))) for i in range(9))
    with pytest.raises(Cancelled), cancel_when(lambda: len(encoded) >= 3):
        model.answer([[Message("user", pictures)]], [IMAGE])
    assert len(encoded) == 3


def test_text_that_is_too_long_is_refused_before_it_is_tokenized(
    model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    text = "x" * (16 << 20)

    def of_words(*_: str) -> list[int]:
        raise AssertionError("it was tokenized, which takes many seconds")

    monkeypatch.setattr(model.layout.token_ids, "of_words", of_words)
    for call in (
        lambda: engine.submit_reply(message(text), IMAGE, Client()),
        lambda: engine.submit_round(Chat(model), text, Client()),
        lambda: model.generate(text),
        lambda: Chat(model).send(text),
    ):
        with pytest.raises(PromptError, match="16777216 characters, which take more than 2048 positions"):
            call()
