"""Rounds on the `debug` preset: caches, undone rounds and skipped rounds do not change a reply."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.chat.events import Done, MediaReady, StageProgress, TextDelta
from codi2.errors import PromptError
from codi2.llm.generation import CachedConversation
from codi2.model import CoDi2, Reply
from codi2.prompt.parts import Audio, Image, Part, Text

WORDS: dict[str, Any] = {"want": "text", "max_new_tokens": 5}


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def red() -> Image:
    return Image(PILImage.new("RGB", (40, 40), "red"))


@pytest.fixture
def hum() -> Audio:
    return Audio(np.sin(np.arange(16_000) / 20).astype(np.float32) / 2, 16_000)


def same_medium(a: Part, b: Part) -> bool:
    """Bit for bit."""
    match a, b:
        case Image(), Image():
            return np.array_equal(np.asarray(a.pixels), np.asarray(b.pixels))
        case Audio(), Audio():
            return a.rate == b.rate and np.array_equal(a.samples, b.samples)
        case Text(), Text():
            return a == b
    return False


def same(a: Reply, b: Reply) -> bool:
    return len(a.parts) == len(b.parts) and all(map(same_medium, a.parts, b.parts))


def play(chat: Chat, red: Image, hum: Audio) -> list[Reply]:
    return [
        chat.send("What is [image0]?", red, **WORDS),
        chat.send("Draw [audio0]", hum, want="image", max_new_tokens=3),
        chat.send("Now make it night", want=["image", "audio"], max_new_tokens=3),
        chat.send("And the first image?", want="image", max_new_tokens=2, seed=4),
    ]


def test_rounds_are_numbered_and_named(model: CoDi2, red: Image, hum: Audio):
    chat = Chat(model)
    replies = play(chat, red, hum)
    assert list(chat.media) == ["image0", "audio0", "image1", "image2", "audio1", "image3"]
    assert chat.media["image0"] is red and chat.media["image1"] is replies[1].images[0]
    assert replies[1].images[0] in chat.rounds[2].prompt, "`it` is the newest item"
    assert red in chat.rounds[3].prompt


def test_the_cache_changes_no_reply(model: CoDi2, red: Image, hum: Audio):
    """Every round of a conversation is the same round of a conversation that reads all earlier ones again."""
    chat = Chat(model)
    replies = play(chat, red, hum)
    for i, reply in enumerate(replies):
        fresh = Chat(model)
        for round_ in chat.rounds[:i]:
            fresh.add(round_)
        assert same(fresh.send(chat.rounds[i].prompt, **vars(chat.rounds[i].options)), reply), i


@pytest.fixture
def read_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of positions in each step of the language model that reads more than one."""
    lengths: list[int] = []
    honest = CachedConversation.advance

    def advance(self: CachedConversation, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if rows.shape[1] > 1:
            lengths.append(rows.shape[1])
        return honest(self, rows, mask)

    monkeypatch.setattr(CachedConversation, "advance", advance)
    return lengths


def test_only_new_messages_and_items_are_read(
    model: CoDi2, red: Image, hum: Audio, read_lengths: list[int], monkeypatch: pytest.MonkeyPatch
):
    encoded: list[int] = []
    honest = model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda items, count=None: encoded.append(len(items)) or honest(items, count)
    )
    chat = Chat(model)
    chat.send("What is [image0]?", red, **WORDS)
    chat.send("And [image0]?", **WORDS)
    assert len(read_lengths) == 2 and read_lengths[1] < 80, "the reply and the message, not the first round"
    assert sum(encoded) <= 1 + 2 * model.config.encoder.reads_words, "the picture once, and each message's words"


def test_undo_keeps_the_cache_and_retry_makes_another_reply(
    model: CoDi2, red: Image, hum: Audio, read_lengths: list[int]
):
    chat = Chat(model)
    first, _, _, fourth = play(chat, red, hum)
    chat.undo()
    read_lengths.clear()
    assert same(chat.send("And the first image?", want="image", max_new_tokens=2, seed=4), fourth)
    assert len(read_lengths) == 1, "only the message is read again"
    other = chat.retry(seed=9)
    assert not same(other, fourth) and len(chat.rounds) == 4 and len(read_lengths) == 2
    for _ in range(4):
        chat.undo()
    with pytest.raises(PromptError, match="nothing to undo"):
        chat.undo()
    assert same(chat.send("What is [image0]?", red, **WORDS), first)


def test_a_cache_that_cannot_be_cut_is_built_again(
    model: CoDi2, red: Image, hum: Audio, monkeypatch: pytest.MonkeyPatch
):
    chat = Chat(model)
    *_, fourth = play(chat, red, hum)
    monkeypatch.setattr(CachedConversation, "rewind", lambda self, mark: False)
    assert same(chat.retry(), fourth)


@pytest.mark.parametrize("change", ["undo", "reopen", "settings"])
def test_a_reply_depends_on_the_earlier_rounds_only(model: CoDi2, red: Image, hum: Audio, change: str):
    """It does not depend on undone rounds, on a reopened conversation, or on earlier attempts with other seeds."""
    chat, other = Chat(model), Chat(model)
    for talk in (chat, other):
        talk.send("What is [image0]?", red, **WORDS)
    if change == "undo":
        other.send("Sing [audio0]", hum, want="audio", max_new_tokens=2, seed=8)
        other.undo()
    elif change == "reopen":
        rounds = other.rounds
        other = Chat(model)
        for round_ in rounds:
            other.add(round_)
    else:
        for seed in range(3):
            other.retry(seed=seed)
        other.retry(seed=0)
    settings = {"want": ["image", "audio"], "max_new_tokens": 3, "seed": 2}
    assert same(chat.send("Make it blue", **settings), other.send("Make it blue", **settings))


def test_any_history_of_changes_gives_the_reply_of_its_rounds(model: CoDi2, red: Image, hum: Audio):
    """After rounds, undos, retries, branches and failures in random order, the next reply is that of a new conversation
    of the same rounds."""
    choose = random.Random(3)
    settings: dict[str, Any] = {"max_new_tokens": 2, "num_inference_steps": 1}
    words = ("See [image9]", "Hear [audio9]", "Make it blue", "And the first image?", "No media")

    def send(chat: Chat, callback: Any = None) -> None:
        text, want = choose.choice(words), choose.choice(["image", "audio", "text"])
        media = {"image9": red} if "image9" in text else {"audio9": hum} if "audio9" in text else {}
        try:
            chat.send(text, callback=callback, want=want, seed=choose.randrange(3), **media, **settings)
        except (PromptError, ZeroDivisionError):
            return  # there is no first image yet; or it was made to fail

    def fail(stage: str, step: int, total: int) -> None:
        if stage == choose.choice(["read", "write", "decode"]):
            raise ZeroDivisionError

    chat = Chat(model)
    for _ in range(30):
        action = choose.random()
        if action < 0.5 or not chat.rounds:
            send(chat)
        elif action < 0.6:
            send(chat, fail)
        elif action < 0.75:
            chat.undo()
        elif action < 0.85:
            chat.retry(seed=choose.randrange(9))
        else:
            chat = chat.branch(choose.randrange(len(chat.rounds)) + 1)
        if choose.random() < 0.4:
            fresh = Chat(model)
            for round_ in chat.rounds:
                fresh.add(round_)
            assert list(fresh.media) == list(chat.media)
            assert same(*(talk.send("Draw it again", want="image", **settings) for talk in (chat, fresh)))
            chat.undo()


def test_the_oldest_rounds_are_skipped_and_the_reply_has_a_note(
    model: CoDi2, red: Image, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model.layout, "max_length", 220)
    chat = Chat(model)
    notes = [chat.send(f"Number {i} is [image0]", image0=red, **WORDS).notes for i in range(8)]
    skips = [note for reply_notes in notes for note in reply_notes if "no longer read" in note]
    assert not any("no longer read" in note for note in notes[0]) and chat.skipped > 0
    assert skips and skips[-1].startswith(f"The first {chat.skipped} rounds are no longer read")
    assert len(skips) < 7, "several are skipped at once"
    with pytest.raises(PromptError, match="positions, the model reads at most 220"):
        chat.send("x" * 300)
    assert len(chat.rounds) == 8
    assert len(model.layout(chat.messages("Still there?"), reply=True).ids) <= 220
    chat.send("Still there?", **WORDS)
    assert len(chat.rounds) == 9, "a message that is too long does not end the conversation"


def test_events_come_in_order_and_make_the_reply(model: CoDi2, red: Image):
    events = list(Chat(model).stream("Say something, and draw", want=["image"], max_new_tokens=8, temperature=1.0))
    assert [e.stage for e in events if isinstance(e, StageProgress) and e.step == 0] == ["read", "write", "decode"]
    assert isinstance(events[-1], Done)
    reply = events[-1].reply
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "".join(
        part.text for part in reply.parts if isinstance(part, Text)
    )
    (ready,) = (e for e in events if isinstance(e, MediaReady))
    assert reply.parts[ready.place] is ready.part


def test_closing_a_stream_ends_the_round(model: CoDi2):
    chat = Chat(model)
    events = chat.stream("Go on", want="text", max_new_tokens=500)
    for event in events:
        if isinstance(event, TextDelta):
            break
    events.close()  # type: ignore[attr-defined]
    assert chat.rounds == []
    assert same(chat.send("Hello", **WORDS), Chat(model).send("Hello", **WORDS))


def test_asyncio(model: CoDi2):
    async def talk() -> tuple[Reply, list[Any]]:
        chat = Chat(model)
        reply = await chat.asend("Hello", **WORDS)
        return reply, [event async for event in chat.astream("Again", **WORDS)]

    reply, events = asyncio.run(talk())
    assert reply.recipe["seed"] == 0 and isinstance(events[-1], Done)


def test_cancelling_a_task_that_reads_a_stream_ends_the_round(model: CoDi2):
    chat = Chat(model)

    async def read() -> None:
        async for _ in chat.astream("Go on", want="text", max_new_tokens=2000):
            pass

    async def leave() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert chat.rounds == []
    assert same(chat.send("Hello", **WORDS), Chat(model).send("Hello", **WORDS))


def test_a_failed_round_leaves_the_conversation_unchanged(model: CoDi2, red: Image, monkeypatch: pytest.MonkeyPatch):
    chat = Chat(model)
    chat.send("What is [image0]?", red, **WORDS)
    expected = Chat(model)
    expected.send("What is [image0]?", red, **WORDS)

    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model, "decode", broken)
        with pytest.raises(MemoryError):
            chat.send("Draw it", want="image", max_new_tokens=2)
    assert len(chat.rounds) == 1
    settings = {"want": "image", "max_new_tokens": 2}
    assert same(chat.send("Draw it", **settings), expected.send("Draw it", **settings))


def test_settings_of_the_conversation_and_of_a_message(model: CoDi2):
    chat = Chat(model, system="Be brief.", want="text", max_new_tokens=2, seed=3)
    assert chat.send("Hello").recipe["seed"] == 3
    assert chat.send("Hello", seed=4).recipe["seed"] == 4
    assert chat._history(0)[0].role == "system"
