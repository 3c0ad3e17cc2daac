import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from codi2.errors import PromptError
from codi2.prompt.grammar import join_text, parse, render
from codi2.prompt.parts import Audio, Image, Phrase, Text

COUCH, CAT, DOG = (Image(PILImage.new("RGB", (4, 4), colour)) for colour in ("brown", "grey", "white"))
PURR = Audio(np.sin(np.linspace(0, 99, 800)).astype(np.float32), 16_000)


def test_the_papers_example():
    prompt = parse("A cat on [image0: an image of a couch] is making the sound of [Audio0].", [PURR, COUCH])
    assert prompt == (Text("A cat on "), COUCH, Text(" is making the sound of "), PURR, Text("."))


def test_files_fill_the_placeholders_in_order_by_modality():
    assert parse("[image2][image0][audio7][image1]", [COUCH, PURR, CAT, DOG]) == (COUCH, CAT, PURR, DOG)


def test_the_same_placeholder_is_the_same_item():
    assert parse("[image0] and [Image0] and [IMAGE00]", [CAT])[::2] == (CAT, CAT, CAT)


def test_names_may_have_any_case():
    assert parse("[image0]", {"Image0": CAT}) == (CAT,)


@pytest.mark.parametrize("plain", ["[foo0]", "[image]", "[image 0]", "[ımage0]", "image0", r"\image", "[image0", ""])
def test_other_brackets_are_plain_text(plain):
    assert parse(plain) == join_text([Text(plain)])


def test_a_backslash_keeps_a_placeholder_plain():
    assert parse(r"write \[image0] for [image0]", [CAT]) == (Text("write [image0] for "), CAT)


def test_phrases_come_from_the_mapping_or_from_their_note():
    assert parse("[text0] has [text1: soft fur]", {"text0": "a cat"}) == (
        Phrase("a cat"),
        Text(" has "),
        Phrase("soft fur"),
    )
    assert parse("[text0: a dog]", {"text0": "a cat"}) == (Phrase("a cat"),)


@pytest.mark.parametrize(
    ("template", "media", "message"),
    [
        ("[image0] to [image1]", [CAT], r"\[image1\] has no image"),
        ("[text0]", [], r"\[text0\] has no text"),
        ("[image0: a couch]", [], r"\[image0\] has no image"),
        ("[image1]", [CAT, DOG], r"no placeholder for an item of the modality image; write \[image2\]"),
        ("[video0]", [PURR], r"\[video0\] expects video, but .* is audio; write \[audio0\]"),
        ("hello", [PURR], r"no placeholder for an item of the modality audio; write \[audio0\]"),
        ("[image0]", {"image0": CAT, "image1": DOG}, r"no placeholder \[image1\]"),
        ("[image0]", {"image0": PURR}, r"\[image0\] expects image, but .* is audio"),
        ("[image0]", {"image0": "cat.png"}, r"\[image0\] expects image, but the item is text"),
        ("[image0]", {"image0": CAT.pixels}, r"\[image0\] expects image, but the item is Image"),
        ("hello", {"step": 3}, r"no placeholder \[step\] for an item of the modality int"),
    ],
)
def test_what_does_not_fit_is_said(template, media, message):
    with pytest.raises(PromptError, match=message):
        parse(template, media)


# texts that come close to placeholders, where a round trip could go wrong
fragments = st.sampled_from(
    ["[", "]", "\\", "image", "Text", "0", "[image0]", "[audio1: x]", "[text0", ": a", "\\[video0]"]
)
texts = st.builds(Text, st.lists(fragments | st.text(max_size=3), max_size=6).map("".join))
phrases = st.builds(Phrase, st.text(max_size=5))


@given(st.lists(texts | phrases | st.sampled_from([COUCH, CAT, PURR]), max_size=8))
def test_render_is_undone_by_parse(parts):
    template, media = render(tuple(parts))
    assert parse(template, media) == join_text(parts)


@given(st.lists(fragments | st.text(max_size=3), max_size=8).map("".join))
def test_parse_reads_any_text_without_media_or_says_why(template):
    try:
        prompt = parse(template)
    except PromptError as error:
        assert " has no " in str(error)
    else:
        assert parse(*render(prompt)) == prompt
