"""What a message speaks of."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.errors import PromptError
from codi2.prompt.parts import Audio, Image, Part, Text
from codi2.prompt.references import read, resolve
from codi2.prompt.sources import numbered

RED, BLUE, GREEN = (Image(PILImage.new("RGB", (8, 8), colour)) for colour in ("red", "blue", "green"))
HUM = Audio(np.zeros(8, np.float32), 16_000)
EARLIER = numbered([RED, HUM, BLUE])


def words(prompt: tuple[Part, ...]) -> str:
    """A prompt with its items by their names."""
    names = {id(item): name for name, item in {**EARLIER, "new": GREEN}.items()}
    return "".join(part.text if isinstance(part, Text) else f"<{names[id(part)]}>" for part in prompt)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Make the second image grey.", "Make the second image <image1> grey."),
        ("Make the FIRST picture grey.", "Make the FIRST picture <image0> grey."),
        ("Put rain under the last sound.", "Put rain under the last sound <audio0>."),
        ("Colour the drawing by your first sound", "Colour the drawing <image1> by your first sound <audio0>"),
        ("Now make it night.", "Now make it <image1> night."),
        ("Do that.", "Do that <image1>."),
        ("I know that you can draw it", "I know that you can draw it <image1>"),
        ("Make the sound of a flute.", "Make the sound of a flute."),
        ("Draw a goose.", "Draw a goose."),
        ("Mirror [image0].", "Mirror <image0>."),
        ("Make the first image like [image1]", "Make the first image <image0> like <image1>"),
        ("Lay [image0] over the picture", "Lay <image0> over the picture"),
        ("Mirror [IMAGE0] and then it.", "Mirror <image0> and then it."),
    ],
)
def test_words_that_speak_of_earlier_items(said: str, meant: str):
    assert words(resolve(read(said, [], EARLIER), EARLIER)) == meant


def test_a_new_item_takes_the_words_for_itself():
    prompt = read("Draw the picture [image2] like [image0], make it red", [GREEN], EARLIER)
    assert words(resolve(prompt, EARLIER)) == "Draw the picture <new> like <image0>, make it red"
    named = read("Like [image0]", {"image0": GREEN}, EARLIER)
    assert words(named) == "Like <new>"


@pytest.mark.parametrize(
    "said", ["Mirror the first picture", "Mirror it", "Lay the first picture over the second image"]
)
def test_what_was_put_there_is_not_put_there_again(said: str):
    once = resolve(read(said, [], EARLIER), EARLIER)
    assert resolve(once, EARLIER) == once and len(once) > 1


def test_what_is_not_there():
    with pytest.raises(PromptError, match="there is no third image: this conversation has 2"):
        resolve((Text("Mirror the third image"),), EARLIER)
    with pytest.raises(PromptError, match=r"no placeholder for the image that was given; write \[image2\]"):
        read("Mirror [image1]", [GREEN], EARLIER)
    with pytest.raises(PromptError, match=r"\[audio4\] but no audio"):
        read("Mix [audio4]", [], EARLIER)
    assert resolve((Text("Make it night."),), {}) == (Text("Make it night."),)
    assert resolve((), EARLIER) == ()
