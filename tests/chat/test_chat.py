"""Rounds on the `debug` preset: what is reused, taken back and forgotten changes nothing that is said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.chat.events import Done, Made, Said, Step
from codi2.errors import PromptError
from codi2.model import CoDi2, Reply
from codi2.prompt.parts import Audio, Image, Text

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


def same(ours: Reply, theirs: Reply) -> bool:
    if [type(part) for part in ours.parts] != [type(part) for part in theirs.parts] or ours.text != theirs.text:
        return False
    pixels = [[np.asarray(image.pixels).astype(int) for image in reply.images] for reply in (ours, theirs)]
    return all(np.abs(a - b).max() <= 1 for a, b in zip(*pixels, strict=True))


def play(chat: Chat, red: Image, hum: Audio) -> list[Reply]:
    return [
        chat.send("What is [image0]?", red, **WORDS),
        chat.send("Draw [audio0]", hum, want="image", max_new_tokens=3),
        chat.send("Now make it night", want=["image", "audio"], max_new_tokens=3),
        chat.send("And the first image?", want="image", max_new_tokens=2, seed=4),
    ]


def test_rounds_are_numbered_and_named(model: CoDi2, red: Image, hum: Audio):
    chat = model.chat()
    replies = play(chat, red, hum)
    assert list(chat.media) == ["image0", "audio0", "image1", "image2", "audio1", "image3"]
    assert chat.media["image0"] is red and chat.media["image1"] is replies[1].images[0]
    assert replies[1].images[0] in chat.rounds[2].prompt, "`it` is the newest item"
    assert red in chat.rounds[3].prompt


def test_what_is_reused_changes_nothing(model: CoDi2, red: Image, hum: Audio):
    """Every round of one conversation, against the same round of one that reads everything anew."""
    chat = model.chat()
    replies = play(chat, red, hum)
    for i, reply in enumerate(replies):
        fresh = model.chat()
        for round_ in chat.rounds[:i]:
            fresh.add(round_)
        assert same(fresh.send(chat.rounds[i].prompt, **vars(chat.rounds[i].options)), reply), i


def test_only_what_is_new_is_read(model: CoDi2, red: Image, hum: Audio, monkeypatch: pytest.MonkeyPatch):
    encoded: list[int] = []
    honest = model.encode
    monkeypatch.setattr(model, "encode", lambda items, counts: encoded.append(len(items)) or honest(items, counts))
    chat = model.chat()
    chat.send("What is [image0]?", red, **WORDS)
    before = chat._state.mask.shape[1]  # type: ignore[union-attr]
    chat.send("And [image0]?", **WORDS)
    assert chat._state.mask.shape[1] - before < 40  # type: ignore[union-attr]
    media = [n for n in encoded if n]
    assert sum(media) <= 1 + 2 * model.config.encoder.reads_words, "the picture once, and each message's words"


def test_undo_cuts_the_cache_and_retry_draws_again(model: CoDi2, red: Image, hum: Audio):
    chat = model.chat()
    first, _, _, fourth = play(chat, red, hum)
    state = chat._state
    chat.undo()
    assert chat._state is state, "nothing is read again"
    assert same(chat.send("And the first image?", want="image", max_new_tokens=2, seed=4), fourth)
    other = chat.retry(seed=9)
    assert not same(other, fourth) and len(chat.rounds) == 4
    for _ in range(4):
        chat.undo()
    with pytest.raises(PromptError, match="nothing to undo"):
        chat.undo()
    assert same(chat.send("What is [image0]?", red, **WORDS), first)


def test_a_cache_that_cannot_be_cut_is_read_anew(model: CoDi2, red: Image, hum: Audio, monkeypatch: pytest.MonkeyPatch):
    chat = model.chat()
    *_, fourth = play(chat, red, hum)
    assert chat._state is not None
    for layer in chat._state.cache.layers:
        monkeypatch.setattr(layer, "is_sliding", True, raising=False)
    chat.undo()
    assert chat._state is None
    assert same(chat.send("And the first image?", want="image", max_new_tokens=2, seed=4), fourth)


def test_the_oldest_rounds_leave_and_the_reply_says_so(model: CoDi2, red: Image, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.layout, "max_length", 220)
    chat = model.chat()
    notes = [chat.send(f"Number {i} is [image0]", image0=red, **WORDS).notes for i in range(8)]
    assert notes[0] == () and chat.left > 0
    told = [note for some in notes for note in some]
    assert told and told[-1].startswith(f"The first {chat.left} rounds are no longer read")
    assert len(told) < 7, "several leave at once"
    with pytest.raises(PromptError, match="positions, the model reads at most 220"):
        chat.send("x" * 300)
    assert len(chat.rounds) == 8
    assert chat.send("Still there?", **WORDS).text is not None


def test_events_come_in_order_and_make_the_reply(model: CoDi2, red: Image):
    events = list(model.chat().stream("Say something, and draw", want=["image"], max_new_tokens=8, temperature=1.0))
    assert [e.stage for e in events if isinstance(e, Step) and e.step == 0] == ["encode", "think", "diffuse"]
    assert isinstance(events[-1], Done)
    reply = events[-1].reply
    assert "".join(e.text for e in events if isinstance(e, Said)) == "".join(
        part.text for part in reply.parts if isinstance(part, Text)
    )
    (made,) = (e for e in events if isinstance(e, Made))
    assert reply.parts[made.place] is made.part


def test_a_reader_who_leaves_ends_the_round(model: CoDi2):
    chat = model.chat()
    events = chat.stream("Go on", want="text", max_new_tokens=500)
    for event in events:
        if isinstance(event, Said):
            break
    events.close()  # type: ignore[attr-defined]
    assert chat.rounds == []
    assert chat.send("Hello", **WORDS).parts is not None


def test_asyncio(model: CoDi2):
    async def talk() -> tuple[Reply, list[Any]]:
        chat = model.chat()
        reply = await chat.asend("Hello", **WORDS)
        return reply, [event async for event in chat.astream("Again", **WORDS)]

    reply, events = asyncio.run(talk())
    assert reply.recipe["seed"] == 0 and isinstance(events[-1], Done)


def test_a_failed_round_leaves_everything_as_it_was(model: CoDi2, red: Image, monkeypatch: pytest.MonkeyPatch):
    chat = model.chat()
    chat.send("What is [image0]?", red, **WORDS)
    expected = model.chat()
    expected.send("What is [image0]?", red, **WORDS)

    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model, "diffuse", broken)
        with pytest.raises(MemoryError):
            chat.send("Draw it", want="image", max_new_tokens=2)
    assert len(chat.rounds) == 1
    settings = {"want": "image", "max_new_tokens": 2}
    assert same(chat.send("Draw it", **settings), expected.send("Draw it", **settings))


def test_settings_of_the_conversation_and_of_a_message(model: CoDi2):
    chat = model.chat(system="Be brief.", want="text", max_new_tokens=2, seed=3)
    assert chat.send("Hello").recipe["seed"] == 3
    assert chat.send("Hello", seed=4).recipe["seed"] == 4
    assert torch.is_tensor(chat._history()[0].parts) is False and chat._history()[0].role == "system"
