"""Rounds on the `debug` preset: what is reused, taken back and forgotten changes nothing that is said."""

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
from codi2.chat.events import Done, MediaReady, Step, TextDelta
from codi2.errors import PromptError
from codi2.llm.decode import Conversation
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
    """To the bit."""
    match a, b:
        case Image(), Image():
            return np.array_equal(np.asarray(a.pixels), np.asarray(b.pixels))
        case Audio(), Audio():
            return a.rate == b.rate and np.array_equal(a.samples, b.samples)
        case Text(), Text():
            return a == b
    return False


def same(ours: Reply, theirs: Reply) -> bool:
    if len(ours.parts) != len(theirs.parts):
        return False
    return all(same_medium(a, b) for a, b in zip(ours.parts, theirs.parts, strict=True))


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


def test_what_is_reused_changes_nothing(model: CoDi2, red: Image, hum: Audio):
    """Every round of one conversation, against the same round of one that reads everything anew."""
    chat = Chat(model)
    replies = play(chat, red, hum)
    for i, reply in enumerate(replies):
        fresh = Chat(model)
        for round_ in chat.rounds[:i]:
            fresh.add(round_)
        assert same(fresh.send(chat.rounds[i].prompt, **vars(chat.rounds[i].options)), reply), i


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions the language model is fed at each step that reads: more than one."""
    lengths: list[int] = []
    honest = Conversation.advance

    def advance(self: Conversation, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if rows.shape[1] > 1:
            lengths.append(rows.shape[1])
        return honest(self, rows, mask)

    monkeypatch.setattr(Conversation, "advance", advance)
    return lengths


def test_only_what_is_new_is_read(
    model: CoDi2, red: Image, hum: Audio, fed: list[int], monkeypatch: pytest.MonkeyPatch
):
    encoded: list[int] = []
    honest = model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda items, count=None: encoded.append(len(items)) or honest(items, count)
    )
    chat = Chat(model)
    chat.send("What is [image0]?", red, **WORDS)
    chat.send("And [image0]?", **WORDS)
    assert len(fed) == 2 and fed[1] < 80, "the reply and the message, not the first round"
    assert sum(encoded) <= 1 + 2 * model.config.encoder.reads_words, "the picture once, and each message's words"


def test_undo_keeps_what_was_read_and_retry_draws_again(model: CoDi2, red: Image, hum: Audio, fed: list[int]):
    chat = Chat(model)
    first, _, _, fourth = play(chat, red, hum)
    chat.undo()
    fed.clear()
    assert same(chat.send("And the first image?", want="image", max_new_tokens=2, seed=4), fourth)
    assert len(fed) == 1, "only the message is read again"
    other = chat.retry(seed=9)
    assert not same(other, fourth) and len(chat.rounds) == 4 and len(fed) == 2
    for _ in range(4):
        chat.undo()
    with pytest.raises(PromptError, match="nothing to undo"):
        chat.undo()
    assert same(chat.send("What is [image0]?", red, **WORDS), first)


def test_a_cache_that_cannot_be_cut_is_read_anew(model: CoDi2, red: Image, hum: Audio, monkeypatch: pytest.MonkeyPatch):
    chat = Chat(model)
    *_, fourth = play(chat, red, hum)
    monkeypatch.setattr(Conversation, "rewind", lambda self, mark: False)
    assert same(chat.retry(), fourth)


@pytest.mark.parametrize("change", ["undo", "reopen", "settings"])
def test_what_came_before_is_all_that_counts(model: CoDi2, red: Image, hum: Audio, change: str):
    """A round that was undone, another way to hold the conversation, other seeds before: no trace in the next reply."""
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


def test_any_history_of_changes_answers_as_the_rounds_that_are_left(model: CoDi2, red: Image, hum: Audio):
    """After rounds, undos, retries, branches and failures in random order: a new conversation of the rounds that are
    left gives the same next reply."""
    choose = random.Random(3)
    settings: dict[str, Any] = {"max_new_tokens": 2, "num_inference_steps": 1}
    words = ("See [image9]", "Hear [audio9]", "Make it blue", "And the first image?", "No media")

    def send(chat: Chat, callback: Any = None) -> None:
        said, want = choose.choice(words), choose.choice(["image", "audio", "text"])
        given = {"image9": red} if "image9" in said else {"audio9": hum} if "audio9" in said else {}
        try:
            chat.send(said, callback=callback, want=want, seed=choose.randrange(3), **given, **settings)
        except (PromptError, ZeroDivisionError):
            return  # there is no first image yet; or it was made to fail

    def fail(stage: str, step: int, total: int) -> None:
        if stage == choose.choice(["read", "write", "decode"]):
            raise ZeroDivisionError

    chat = Chat(model)
    for _ in range(30):
        what = choose.random()
        if what < 0.5 or not chat.rounds:
            send(chat)
        elif what < 0.6:
            send(chat, fail)
        elif what < 0.75:
            chat.undo()
        elif what < 0.85:
            chat.retry(seed=choose.randrange(9))
        else:
            chat = chat.branch(choose.randrange(len(chat.rounds)) + 1)
        if choose.random() < 0.4:
            fresh = Chat(model)
            for round_ in chat.rounds:
                fresh.add(round_)
            assert list(fresh.media) == list(chat.media)
            ours, theirs = (talk.send("Draw it again", want="image", **settings) for talk in (chat, fresh))
            assert same(ours, theirs)
            chat.undo()


def test_the_oldest_rounds_leave_and_the_reply_says_so(model: CoDi2, red: Image, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.layout, "max_length", 220)
    chat = Chat(model)
    notes = [chat.send(f"Number {i} is [image0]", image0=red, **WORDS).notes for i in range(8)]
    told = [note for some in notes for note in some if "no longer read" in note]
    assert not any("no longer read" in note for note in notes[0]) and chat.left > 0
    assert told and told[-1].startswith(f"The first {chat.left} rounds are no longer read")
    assert len(told) < 7, "several leave at once"
    with pytest.raises(PromptError, match="positions, the model reads at most 220"):
        chat.send("x" * 300)
    assert len(chat.rounds) == 8
    assert chat.send("Still there?", **WORDS).text is not None


def test_events_come_in_order_and_make_the_reply(model: CoDi2, red: Image):
    events = list(Chat(model).stream("Say something, and draw", want=["image"], max_new_tokens=8, temperature=1.0))
    assert [e.stage for e in events if isinstance(e, Step) and e.step == 0] == ["read", "write", "decode"]
    assert isinstance(events[-1], Done)
    reply = events[-1].reply
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "".join(
        part.text for part in reply.parts if isinstance(part, Text)
    )
    (made,) = (e for e in events if isinstance(e, MediaReady))
    assert reply.parts[made.place] is made.part


def test_a_reader_who_leaves_ends_the_round(model: CoDi2):
    chat = Chat(model)
    events = chat.stream("Go on", want="text", max_new_tokens=500)
    for event in events:
        if isinstance(event, TextDelta):
            break
    events.close()  # type: ignore[attr-defined]
    assert chat.rounds == []
    assert chat.send("Hello", **WORDS).parts is not None


def test_asyncio(model: CoDi2):
    async def talk() -> tuple[Reply, list[Any]]:
        chat = Chat(model)
        reply = await chat.asend("Hello", **WORDS)
        return reply, [event async for event in chat.astream("Again", **WORDS)]

    reply, events = asyncio.run(talk())
    assert reply.recipe["seed"] == 0 and isinstance(events[-1], Done)


def test_a_failed_round_leaves_everything_as_it_was(model: CoDi2, red: Image, monkeypatch: pytest.MonkeyPatch):
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
