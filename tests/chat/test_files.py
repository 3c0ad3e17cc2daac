"""Conversations on disk: they continue as before, and damage is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.errors import OutputError, PromptError
from codi2.model import CoDi2
from codi2.prompt.parts import Audio, Image


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def chat(model: CoDi2) -> Chat:
    chat = Chat(model, system="Be kind.", seed=2)
    chat.send("Draw [image0]", Image(PILImage.new("RGB", (40, 40), "red"), "red.png"), want="image", max_new_tokens=4)
    hum = Audio(np.round(np.sin(np.arange(16_000) / 20) * 2**22).astype(np.float32) / 2**23, 16_000)
    chat.send("Play [audio0] for it", hum, want=["audio"], max_new_tokens=2)
    chat.send("And for the first image", want="text", max_new_tokens=6)
    return chat


def test_an_opened_conversation_continues_as_before(model: CoDi2, chat: Chat, tmp_path: Path):
    opened = Chat.open(model, chat.save(tmp_path / "kept"))
    assert list(opened.media) == list(chat.media) and opened.system == chat.system
    assert opened.rounds[2].prompt[1] is opened.rounds[0].prompt[1], "the same picture, not a second one"
    for after, before in zip(opened.rounds, chat.rounds, strict=True):
        assert after.reply.text == before.reply.text and after.options == before.options
    settings = {"want": ["image", "audio"], "max_new_tokens": 5}
    after_opening, original = (talk.send("Now mirror it", **settings) for talk in (opened, chat))
    assert after_opening.text == original.text
    assert np.array_equal(np.asarray(after_opening.images[0].pixels), np.asarray(original.images[0].pixels))
    assert np.array_equal(after_opening.sounds[0].samples, original.sounds[0].samples)


def test_equal_items_stay_two_and_an_item_that_occurs_again_stays_one(model: CoDi2, tmp_path: Path):
    chat = Chat(model, want="text", max_new_tokens=1)
    blue = [Image(PILImage.new("RGB", (40, 40), "blue")) for _ in range(2)]
    chat.send("See [image0] and [image1] and [image0]", *blue)
    chat.send("And the first image?")
    opened = Chat.open(model, chat.save(tmp_path))
    assert list(opened.media) == list(chat.media) == ["image0", "image1"]
    (again,) = (part for part in opened.rounds[1].prompt if isinstance(part, Image))
    assert any(again is item for item in opened.media.values())


def test_loud_sounds_are_kept_exactly(model: CoDi2, tmp_path: Path):
    chat = Chat(model, want="text", max_new_tokens=1)
    loud = Audio(np.array([1 - 2**-23, -1.0, 0.75, 0.6, -0.9999], np.float32).repeat(800), 16_000)
    loud = Audio(np.round(loud.samples * 2.0**23).astype(np.float32) / np.float32(2**23), 16_000)
    chat.send("Hear [audio0]", loud)
    (opened,) = Chat.open(model, chat.save(tmp_path)).media.values()
    assert isinstance(opened, Audio) and np.array_equal(opened.samples, loud.samples)


def test_equal_media_are_kept_once(model: CoDi2, tmp_path: Path):
    chat = Chat(model, want="text", max_new_tokens=1)
    for _ in range(3):
        chat.send("See [image9]", image9=Image(PILImage.new("RGB", (40, 40), "blue")))
    chat.save(tmp_path)
    assert len(list((tmp_path / "media").iterdir())) == 1


def test_damage_is_one_sentence(model: CoDi2, chat: Chat, tmp_path: Path):
    folder = chat.save(tmp_path / "kept")
    for damage, words in (
        ("{", "JSONDecodeError"),
        ('{"schema": 1}', "schema 1, this version of codi2 reads 2; open it with the version that wrote it"),
        ('{"schema": 7}', "schema 7, this version of codi2 reads 2"),
        ("[]", "no conversation"),
    ):
        (folder / "chat.json").write_text(damage)
        with pytest.raises(PromptError, match=words):
            Chat.open(model, folder)
    chat.save(folder)
    next((folder / "media").glob("*.png")).unlink()
    with pytest.raises(PromptError, match="holds no conversation that can be read"):
        Chat.open(model, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        chat.save(tmp_path / "file" / "kept")
    assert json.loads((folder / "chat.json").read_text())["codi2"]
