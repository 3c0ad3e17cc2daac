import numpy as np
import torch

from codi2.config import DecoderConfig
from codi2.diffuse.build import debug_decoder
from codi2.evaluate import baselines
from codi2.media import load_image
from codi2.prompt.parts import Audio

DIM, SLOTS = 16, 3


def pixels(part):
    return np.asarray(part.pixels, np.float64)


def test_arithmetic_applies_the_shown_change():
    before, change, given = torch.randn(3, 2, SLOTS, DIM)
    torch.testing.assert_close(baselines.arithmetic(before, before + change, given), given + change)


def test_silence_has_the_length_of_the_sound():
    silent = baselines.silence(Audio(np.ones(100, np.float32), 8000))
    assert len(silent.samples) == 100 and silent.rate == 8000 and not silent.samples.any()


def test_sdedit_keeps_more_of_the_source_the_less_it_is_noised(media, monkeypatch):
    """With a denoiser that leaves its input as it is, the result is the source with what noise it got."""
    decoder = debug_decoder("image", DIM, SLOTS, DecoderConfig(kind="debug", num_inference_steps=20))
    monkeypatch.setattr(decoder, "denoise", lambda latents, *condition: latents)
    source = [load_image(sorted(media.glob("*.png"))[0])]
    words = torch.randn(1, DIM, generator=torch.Generator().manual_seed(0))
    expected = pixels(baselines.round_trip(decoder, source)[0])
    errors = [
        np.abs(pixels(baselines.sdedit(decoder, words, words, source, [0], strength)[0]) - expected).mean()
        for strength in (0.05, 0.5, 1.0)
    ]
    assert errors[0] < errors[1] < errors[2]


def test_sdedit_depends_on_seed_and_words_and_leaves_the_scheduler_usable(media):
    decoder = debug_decoder("image", DIM, SLOTS, DecoderConfig(kind="debug", num_inference_steps=4))
    source = [load_image(sorted(media.glob("*.png"))[0])] * 2
    words = torch.randn(1, DIM, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    features = torch.zeros(1, SLOTS, DIM)
    drawn = pixels(decoder.generate(features, [0])[0])
    first, second = (pixels(part) for part in baselines.sdedit(decoder, words, words, source, [0, 1]))
    assert np.abs(first - second).max() > 0
    again = pixels(baselines.sdedit(decoder, words[:1], words[:1], source[:1], [0])[0])
    assert np.abs(first - again).max() <= 2  # one alone is as in a batch
    assert (pixels(decoder.generate(features, [0])[0]) == drawn).all()
