"""The item that a reply edits: none, the last one, or one by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.errors import PromptError
from codi2.model import CoDi2
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Image, Part, Text
from codi2.prompt.sources import check_source, source_of
from codi2.reply import Options

RED, BLUE, GREEN = (Image(PILImage.new("RGB", (64, 64), colour)) for colour in ("red", "blue", "green"))
HUM = Audio(np.sin(np.arange(16_000) / 20).astype(np.float32) / 2, 16_000)
TALK = [Message("user", (RED, HUM)), Message("assistant", (BLUE,)), Message("user", (Text("as "), GREEN, Text("?")))]
STARTS = {"image": ("image",), "audio": ("audio",), "video": ("video", "image")}


@dataclass
class ModelWithSources:
    """A model, and the sources of all pictures that it has decoded."""

    model: CoDi2
    sources: list[Part | None]


@pytest.fixture(scope="module")
def loaded() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def with_sources(loaded: CoDi2, monkeypatch: pytest.MonkeyPatch) -> ModelWithSources:
    sources: list[Part | None] = []
    decoder = loaded.decoders["image"]
    real = decoder.sampler_state
    monkeypatch.setattr(decoder, "sampler_state", lambda *a: sources.extend(a[2].sources) or real(*a))
    return ModelWithSources(loaded, sources)


DRAW: dict[str, Any] = {"want": "image", "max_new_tokens": 0}


@pytest.mark.parametrize(
    ("source", "reads", "item"),
    [
        ("last", ("image",), GREEN), ("last", ("audio",), None), ("none", ("image",), None),
        ("image0", ("image",), RED), ("image1", ("video", "image"), BLUE), ("audio0", ("image",), None),
    ],
)  # fmt: skip
def test_a_source_is_an_item_of_the_conversation(source: str, reads: tuple[str, ...], item: Part | None):
    assert source_of(TALK, source, reads) is item


@pytest.mark.parametrize(
    ("source", "want", "words"),
    [
        ("image7", None, r"no item image7 to start from: this conversation has image0, audio0, image1, image2; name"),
        ("audio0", ("image",), r"the source audio0 fits nothing that is wanted: image from image; name another"),
    ],
)
def test_a_wrong_source_is_one_sentence(source: str, want: tuple[str, ...] | None, words: str):
    with pytest.raises(PromptError, match=words):
        check_source(TALK, source, want, STARTS)
    check_source(TALK, "image0", ("video", "audio"), STARTS)  # one of the two can


def test_what_is_no_name_is_refused_before_a_model_is_asked():
    with pytest.raises(PromptError, match="source is 'the first'; write none, last, or an item's name, such as image0"):
        Options(source="the first")


def test_placeholders_name_the_source_however_they_stand(with_sources: ModelWithSources):
    for source, item in (("image1", BLUE), ("image0", RED), ("last", RED), ("none", None)):
        with_sources.sources.clear()
        with_sources.model.generate("[image1] like [image0]", image0=RED, image1=BLUE, source=source, **DRAW)
        assert with_sources.sources == [item], source
    with pytest.raises(PromptError, match="no item image2 to start from: this conversation has image0, image1"):
        with_sources.model.generate("[image1] like [image0]", image0=RED, image1=BLUE, source="image2", **DRAW)


def test_a_conversation_names_its_items_over_all_rounds(
    with_sources: ModelWithSources, monkeypatch: pytest.MonkeyPatch
):
    chat: Chat = Chat(with_sources.model)
    first = chat.send("Draw [image0]", RED, **DRAW)
    with_sources.sources.clear()
    chat.send("Again, as a clay figure", source="image0", **DRAW)
    chat.send("Darker", source="image1", **DRAW)
    chat.retry(seed=3)
    assert with_sources.sources == [RED, first.images[0], first.images[0]]
    monkeypatch.setattr(Chat, "_count_skipped", lambda self, message, options: 2)
    chat.send("Take [image1]", source="image1", **DRAW)  # of another number where the first rounds are not read
    assert with_sources.sources[-1] is first.images[0]
    with pytest.raises(PromptError, match="the source image0 is in a round that is no longer read; attach it"):
        chat.send("Darker", source="image0", **DRAW)
