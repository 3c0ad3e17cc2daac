"""A text and attached media → the prompt of a round."""

from __future__ import annotations

import pytest
from PIL import Image as PILImage

from codi2.chat.compose import compose
from codi2.errors import PromptError
from codi2.prompt.parts import Image, Text


def picture() -> Image:
    return Image(PILImage.new("RGB", (4, 4)))


def test_a_placeholder_takes_the_attached_medium_of_its_number():
    old, first, second = picture(), picture(), picture()
    message = compose((Text("Make [image2] look like [image1]"), first, second), {"image0": old})
    assert message.prompt == (Text("Make "), second, Text(" look like "), first)
    assert message.new_media == (first, second), "numbered as attached, whatever the order in the words"
    assert message.words == "Make [image2] look like [image1]"


def test_media_without_a_placeholder_stand_where_they_are():
    first, second = picture(), picture()
    message = compose((Text("Draw "), first, Text(" like "), second), {})
    assert message.prompt == (Text("Draw "), first, Text(" like "), second)
    assert message.words == "Draw [image0] like", "among the words as a placeholder; behind them it is attached"


def test_words_are_kept_as_they_were_written():
    message = compose((Text("  Now\n make it  *night*  "),), {"image0": picture()})
    assert message.words == "Now\n make it  *night*" and message.prompt == (Text("  Now\n make it  *night*  "),)


def test_an_earlier_item_is_no_new_one():
    old = picture()
    message = compose((Text("Mirror [image0] and "), old), {"image0": old})
    assert message.new_media == () and message.prompt == (Text("Mirror "), old, Text(" and "), old)


def test_a_placeholder_of_nothing_is_refused():
    with pytest.raises(PromptError, match=r"\[image1\]"):
        compose((Text("Mirror [image1]"), picture()), {})
