"""The queue: fair, bounded, batched, and nothing it gives depends on who else asked."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.chat.events import Done, Event, Step, TextDelta
from codi2.errors import BusyError, LateError, LimitError, PromptError
from codi2.media import load_image
from codi2.model import CoDi2, Options, Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Image, Text
from codi2.serve.engine import Engine
from codi2.serve.jobs import Failed
from codi2.stopping import Stopped, stops_when

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
        assert "".join(e.text for e in client.events if isinstance(e, TextDelta)).strip() == ours.text
    assert engine.stats.batches["write", 4] == 1 and engine.stats.batches["decode", 4] >= 1
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
    assert engine.stats.batches["write", 1] == 1 and engine.stats.asked["cancelled"] == 1


def test_leaving_in_the_middle_ends_the_text(engine: Engine):
    client = Client()
    job = engine.reply(say("Go on"), Options(want=(), max_new_tokens=1500), client)
    while not any(isinstance(event, TextDelta) for event in list(client.events)):
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
        patch.setattr(model, "decode", lambda *_: 1 / 0)
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


def test_several_replies_are_taken_all_or_none(engine: Engine):
    held = Held(engine)
    few = [engine.reply(say("x"), IMAGE, Client()) for _ in range(10)]
    clients = [Client() for _ in range(3)]
    with pytest.raises(BusyError, match="10 requests are waiting already, and 3 more are too many"):
        engine.replies(say("x"), [IMAGE] * 3, clients)
    assert engine.waiting == 10 and not any(client.events for client in clients)
    for job in few:
        job.cancel()
    jobs = engine.replies(say("x"), [IMAGE] * 3, clients)  # those that nobody waits for take no room
    assert len(jobs) == 3 and engine.waiting == 3
    held.free.set()
    assert all(isinstance(client.end, Done) for client in clients)


def test_a_request_that_fails_fails_alone(model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """In both stages; the others get what they get alone, and hear no word twice."""
    write, decode = model.write, model.decode
    asked = [(f"Draw {i}", Options(want=("image",), max_new_tokens=9, seed=i)) for i in range(4)]
    alone = [model.answer([say(words)], [options])[0] for words, options in asked]

    def writes(readings: Any, options: Any, *more: Any) -> Any:
        written = write(readings, options, *more)  # it has told its listeners when it fails
        if any(option.seed == 1 for option in options):
            raise ValueError("probabilities hold NaN")
        return written

    def decodes(written: Any, prompts: Any, options: Any, callback: Any) -> Any:
        if any(option.seed == 2 for option in options):
            raise ValueError("not finite")
        return decode(written, prompts, options, callback)

    monkeypatch.setattr(model, "write", writes)
    monkeypatch.setattr(model, "decode", decodes)
    held, clients = Held(engine), [Client() for _ in asked]
    for client, (words, options) in zip(clients, asked, strict=True):
        engine.reply(say(words), options, client)
    held.free.set()
    ends = [client.end for client in clients]
    assert [type(end) for end in ends] == [Done, Failed, Failed, Done]
    for i in (0, 3):
        assert ends[i].reply.text == alone[i].text
        pixels = [np.asarray(reply.images[0].pixels).astype(int) for reply in (ends[i].reply, alone[i])]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1
        assert "".join(e.text for e in clients[i].events if isinstance(e, TextDelta)).strip() == alone[i].text
    assert engine.stats.asked["done"] == 3 and engine.stats.asked["failed"] == 2  # with the one that held the others


def test_a_temperature_near_zero_is_greedy(model: CoDi2):
    greedy, cold = (
        model.answer([say("Go on")], [Options(want=(), max_new_tokens=12, temperature=t)])[0] for t in (0.0, 1e-38)
    )
    assert cold.text == greedy.text


LONG = Options(want=("image",), max_new_tokens=1, num_inference_steps=1000)


def steps(client: Client, stage: str = "decode") -> int:
    return sum(isinstance(event, Step) and event.stage == stage for event in list(client.events))


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_cancelling_ends_drawing_within_a_step(engine: Engine):
    client, other = Client(), Client()
    job = engine.reply(say("x"), LONG, client)
    wait_for(lambda: steps(client) > 3)
    job.cancel()
    seen = steps(client)
    engine.reply(say("y"), IMAGE, other)
    assert isinstance(other.end, Done) and isinstance(client.end, Failed)
    assert steps(client) <= seen + 2 and engine.stats.asked["cancelled"] == 1


@pytest.mark.parametrize("kept", [0.0, 1.0], ids=["plain", "with what its source loses"])
def test_every_sampler_stops(model: CoDi2, kept: float, monkeypatch: pytest.MonkeyPatch, media: Path):
    """Also those that run inside another's end: what is kept of a source is drawn with steps of its own."""
    from dataclasses import replace

    decoder = model.decoders["image"]
    monkeypatch.setattr(decoder, "sampling", replace(decoder.sampling, kept=kept))
    source = load_image(media / "goose-google.png")
    asked, count = [Message("user", (Text("Mirror "), source))], 0

    def over() -> bool:
        nonlocal count
        count += 1
        return count > limit

    limit = 10**9
    options = Options(want=("image",), max_new_tokens=1, num_inference_steps=20)
    with stops_when(over):
        model.answer([asked], [options])
    whole, limit, count = count, count - 2, 0
    assert whole >= (40 if kept else 20)
    with pytest.raises(Stopped), stops_when(over):
        model.answer([asked], [options])


def test_encoding_stops_between_items(model: CoDi2, monkeypatch: pytest.MonkeyPatch):
    encoded: list[int] = []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda *a, **k: (encoded.append(1), forward(*a, **k))[1])
    pictures = tuple(Image(PILImage.new("RGB", (8, 8), (i, 0, 0))) for i in range(9))
    with pytest.raises(Stopped), stops_when(lambda: len(encoded) >= 3):
        model.answer([[Message("user", pictures)]], [IMAGE])
    assert len(encoded) == 3


def test_a_deadline_is_told_while_others_work(engine: Engine):
    long, waits, beside = Client(), Client(), Client()
    job = engine.reply(say("x"), LONG, long)
    wait_for(lambda: steps(long) > 0)
    engine.reply(say("y"), IMAGE, waits, timeout=0.05)
    assert "not begun before its deadline" in str(waits.end.error) and not long.over.is_set()
    job.cancel()
    held = Held(engine)  # and in one batch with a job that has time
    engine.reply(say("x"), LONG, beside, timeout=1.0)
    job = engine.reply(say("x"), LONG, long := Client())
    held.free.set()
    assert isinstance(beside.end.error, LateError) and not long.over.is_set()
    job.cancel()
    assert isinstance(long.end, Failed)


def test_media_that_wait_are_bounded_in_bytes(model: CoDi2):
    engine = Engine(model, max_held=1 << 20)
    picture = [Message("user", (Image(PILImage.new("RGB", (500, 500))),))]  # 0.75 MB
    held = Held(engine)
    first, second = Client(), Client()
    engine.reply(picture, IMAGE, first)
    with pytest.raises(BusyError, match="hold 0 MB of media already"):
        engine.reply(picture, IMAGE, second)
    engine.reply(say("x"), IMAGE, second)
    held.free.set()
    assert isinstance(first.end, Done) and isinstance(second.end, Done)
    large = Client()
    engine.reply([Message("user", (Image(PILImage.new("RGB", (900, 900))),))], IMAGE, large)  # alone it is taken
    assert isinstance(large.end, Done)
    assert engine.close(10) == 0


def test_nothing_of_a_request_is_kept_when_it_is_over(engine: Engine):
    client = Client()
    picture = Image(PILImage.new("RGB", (300, 300)))
    there = weakref.ref(picture)
    job = engine.reply([Message("user", (picture,))], IMAGE, client)
    del picture
    assert isinstance(client.end, Done) and not job.conversation
    wait_for(lambda: engine.running == 0)
    time.sleep(0.05)
    assert there() is None


def test_text_that_is_too_long_is_refused_before_it_is_tokenized(model: CoDi2, engine: Engine):
    words = "x" * (16 << 20)
    for ask in (
        lambda: engine.reply(say(words), IMAGE, Client()),
        lambda: engine.round(Chat(model), words, Client()),
        lambda: model.generate(words),
        lambda: Chat(model).send(words),
    ):
        began = time.process_time()
        with pytest.raises(PromptError, match="16777216 characters, which take more than 2048 positions"):
            ask()
        assert time.process_time() - began < 1, "tokenizing them takes many seconds"


def test_a_round_is_kept_while_the_model_works_for_others(model: CoDi2, engine: Engine):
    free, kept, order = threading.Event(), Client(), []
    chat = Chat(model)
    engine.round(
        chat,
        "Hello",
        kept,
        keep=lambda: order.append("kept") if free.wait(20) else None,
        end=lambda: order.append("free"),
        want=(),
        max_new_tokens=2,
    )
    wait_for(lambda: len(chat.rounds) == 1)
    other = Client()
    engine.reply(say("x"), IMAGE, other)
    assert isinstance(other.end, Done) and not kept.over.is_set()
    free.set()
    assert isinstance(kept.end, Done) and order == ["kept", "free"]
    broken = Client()
    engine.round(chat, "Hello", broken, keep=lambda: [][0], end=lambda: order.append("free"), want=(), max_new_tokens=2)
    assert isinstance(broken.end.error, IndexError) and order == ["kept", "free", "free"]


def test_a_conversation_that_is_held_has_room_for_so_many_media(
    model: CoDi2, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    from codi2.serve import engine as module

    monkeypatch.setattr(module, "MOST_OF_CHAT", 100_000)
    chat, client = Chat(model), Client()
    prompt = (Text("Look: "), Image(PILImage.new("RGB", (150, 150))))  # 67,500 bytes
    engine.round(chat, prompt, client, want=(), max_new_tokens=1)
    assert isinstance(client.end, Done)
    with pytest.raises(LimitError, match="start a new one"):
        engine.round(chat, (Text("And: "), Image(PILImage.new("RGB", (150, 150)))), Client())
    engine.round(chat, "Thanks", client := Client(), want=(), max_new_tokens=1)
    assert isinstance(client.end, Done)


def test_conversations_that_nobody_uses_leave_the_memory(
    model: CoDi2, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from codi2.chat import Round
    from codi2.serve import sessions
    from codi2.serve.store import Store

    monkeypatch.setattr(sessions, "MOST_OPEN", 100_000)
    store = Store(tmp_path / "store")
    chats, names = sessions.Chats(engine, store), []
    for i in range(4):
        names.append(store.create("").id)
        picture = Image(PILImage.new("RGB", (150, 150), (i, 0, 0)))
        store.keep("", names[-1], 0, Round((picture,), Reply((Text("Yes"),), model.recipe(Options(), {})), Options()))
    opened = [weakref.ref(chats.get("", name)[0]) for name in names]
    assert [chat() is not None for chat in opened] == [False, False, True, True]
    assert len(chats.get("", names[0])[0].rounds) == 1, "it is read again"
    store.close()
