"""What Python code hands over: pictures of any mode, arrays of any type, or one sentence."""

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2 import Audio, Image, Text, Video
from codi2.errors import MediaError, PromptError
from codi2.reply import Options

RED = np.zeros((4, 6, 3), np.uint8) + np.array([200, 0, 50], np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK", "I;16", "F", "I"])
def test_pictures_of_any_mode_become_rgb(mode):
    pixels = PILImage.new("L", (4, 4), 255)
    if mode in ("I;16", "F", "I"):
        pixels = PILImage.fromarray(
            np.full((4, 4), {"I;16": 65_535, "F": 1, "I": 255}[mode], {"I;16": "u2", "F": "f4", "I": "i4"}[mode])
        )
    part = Image(pixels if pixels.mode == mode else pixels.convert(mode))
    assert part.pixels.mode == "RGB" and part.pixels.getpixel((1, 1)) == (255, 255, 255)
    clear = PILImage.new("RGBA", (2, 2), (9, 9, 9, 0))
    assert Image(clear).pixels.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "array",
    [
        RED, RED.astype(np.float32) / 255, RED.transpose(2, 0, 1), RED.astype(np.uint16) * 257,
        np.dstack([RED, np.full((4, 6), 255, np.uint8)]),
    ],
    ids=["uint8", "float", "channels first", "uint16", "alpha"],
)  # fmt: skip
def test_arrays_are_pictures(array):
    part = Image(array)
    assert part.pixels.size == (6, 4) and part.pixels.getpixel((2, 2)) == (200, 0, 50)
    assert Image(array[..., :1] if array.shape[2] > 1 and array.shape[0] != 3 else array[:1]).pixels.size == (6, 4)
    assert Video((array, array), 8).frames[1].getpixel((2, 2)) == (200, 0, 50)


@pytest.mark.parametrize(
    "value",
    ["cat.png", None, b"abc", np.zeros(5), np.zeros((5, 5, 7)), np.full((4, 4, 3), 90.0), np.zeros((0, 4, 3)), [["a"]]],
)
def test_what_is_no_picture_is_one_sentence(value):
    with pytest.raises(MediaError) as caught:
        Image(value, "cat")
    assert str(caught.value).startswith("cat ") and "give" in str(caught.value) and "\n" not in str(caught.value)


WAVE = (0.5 * np.sin(np.arange(4000) / 7)).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [
        WAVE, WAVE.astype(np.float64), (WAVE * 32_768).astype(np.int16), (WAVE * 2.0**31).astype(np.int32),
        ((WAVE + 1) * 128).astype(np.uint8), np.stack([WAVE, WAVE]), np.stack([WAVE, WAVE], 1), WAVE[None],
        WAVE[:, None],
        (np.stack([WAVE, WAVE]) * 32_768).astype(np.int16), WAVE.tolist(),
    ],
    ids=lambda value: f"{getattr(value, 'dtype', 'list')} {getattr(value, 'shape', '')}",
)  # fmt: skip
def test_samples_of_any_type_and_order_are_one_channel(samples):
    part = Audio(samples, 16_000)
    assert part.samples.dtype == np.float32 and part.samples.shape == (4000,)
    np.testing.assert_allclose(part.samples, WAVE, atol=1 / 64)


@pytest.mark.parametrize(
    "value", ["a.wav", None, np.zeros((20, 30)), np.zeros((2, 2, 9)), np.float32(1), [[1], [1, 2]]]
)
def test_what_is_no_sound_is_one_sentence(value):
    with pytest.raises(MediaError) as caught:
        Audio(value, 16_000, "a.wav")
    assert str(caught.value).startswith("a.wav is ") and "give" in str(caught.value)
    with pytest.raises(MediaError, match="give a rate above 0"):
        Audio(WAVE, 0)


def test_clips_have_frames_of_one_size_and_a_pace():
    for frames, fps in (((), 8), ((RED, RED[:2]), 8), ((RED,), 0), ((RED,), float("nan"))):
        with pytest.raises(MediaError, match="one size, and a rate above 0"):
            Video(frames, fps)


@pytest.mark.parametrize("words", ["half \ud83d of it", "caf\udce9", b"bytes", None])
def test_words_that_are_no_text_are_one_sentence(words):
    with pytest.raises(PromptError, match=r"half of a surrogate pair|decode bytes first"):
        Text(words)


def test_a_seed_of_none_is_random():
    seeds = {Options(seed=None).seed for _ in range(4)}
    assert len(seeds) == 4 and all(0 <= seed < 2**63 for seed in seeds) and Options().seed == 0
    with pytest.raises(PromptError):
        Options(negative_prompt="\ud800")
