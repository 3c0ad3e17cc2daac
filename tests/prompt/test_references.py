"""What a message speaks of."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.errors import PromptError
from codi2.prompt.parts import Audio, Image, Part, Text
from codi2.prompt.references import parse_message, resolve_references
from codi2.prompt.sources import name_items

RED, BLUE, GREEN = (Image(PILImage.new("RGB", (8, 8), colour)) for colour in ("red", "blue", "green"))
HUM = Audio(np.zeros(8, np.float32), 16_000)
EARLIER = name_items([RED, HUM, BLUE])


def words(prompt: tuple[Part, ...]) -> str:
    """A prompt with its items by their names."""
    names = {id(item): name for name, item in {**EARLIER, "new": GREEN}.items()}
    return "".join(part.text if isinstance(part, Text) else f"<{names[id(part)]}>" for part in prompt)


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_phrases_that_refer_to_earlier_items(text: str, expected: str):
    assert words(resolve_references(parse_message(text, [], EARLIER), EARLIER)) == expected


def test_a_new_item_takes_the_words_for_itself():
    prompt = parse_message("Draw the picture [image2] like [image0], make it red", [GREEN], EARLIER)
    assert words(resolve_references(prompt, EARLIER)) == "Draw the picture <new> like <image0>, make it red"
    named = parse_message("Like [image0]", {"image0": GREEN}, EARLIER)
    assert words(named) == "Like <new>"


@pytest.mark.parametrize(
    "text", ["Mirror the first picture", "Mirror it", "Lay the first picture over the second image"]
)
def test_references_are_resolved_once(text: str):
    once = resolve_references(parse_message(text, [], EARLIER), EARLIER)
    assert resolve_references(once, EARLIER) == once and len(once) > 1


def test_what_is_not_there():
    with pytest.raises(PromptError, match="there is no third image: this conversation has 2"):
        resolve_references((Text("Mirror the third image"),), EARLIER)
    with pytest.raises(PromptError, match=r"no placeholder for an item of the modality image; write \[image2\]"):
        parse_message("Mirror [image1]", [GREEN], EARLIER)
    with pytest.raises(PromptError, match=r"\[audio4\] has no audio"):
        parse_message("Mix [audio4]", [], EARLIER)
    assert resolve_references((Text("Make it night."),), {}) == (Text("Make it night."),)
    assert resolve_references((), EARLIER) == ()
