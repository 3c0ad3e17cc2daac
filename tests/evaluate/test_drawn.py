"""Pictures from their true features: ceilings are ceilings, and blur lowers sharpness."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageFilter

from codi2.evaluate.judge import Judge
from codi2.evaluate.suites.drawn import Drawn, draw, figures, sharpness
from codi2.prompt.parts import Image


def pictures(count: int = 6) -> list[Image]:
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image(PILImage.fromarray(block).resize((64, 64), PILImage.Resampling.NEAREST)) for block in blocks]


def blurred(picture: Image) -> Image:
    return Image(picture.pixels.filter(ImageFilter.GaussianBlur(3)))


def test_blur_lowers_sharpness_and_likeness(judge: Judge) -> None:
    true = pictures()
    soft = [blurred(picture) for picture in true]
    centre = judge(true).mean(0)
    near, between, sharp = figures(Drawn(true, soft, soft), true, judge, centre).figures
    assert near.baselines["round trip of the autoencoder"].value == pytest.approx(1, abs=1e-4)
    assert near.baselines["another picture"].value < near.value < 1.0001
    assert between.value == pytest.approx(1, abs=1e-4)
    assert sharp.value < 0.8 and sharp.baselines["round trip"].value == pytest.approx(1, abs=1e-4)
    assert sharpness(true).shape == (6,)


def test_seeds_are_of_the_picture_and_differ_between_the_two_draws(judge: Judge) -> None:
    true, seen = pictures(20), []

    class Decoder:
        codec = SimpleNamespace(
            to_tensor=lambda parts: parts, encode=lambda x: x, decode=lambda x: x, to_parts=lambda x: list(x)
        )

        def generate(self, features: torch.Tensor, seeds: list[int]) -> list[Image]:
            seen.append((len(features), seeds))
            return true[: len(seeds)]

    drawn = draw(Decoder(), lambda parts: torch.zeros(len(parts), 2, 4), true, seed=7)  # type: ignore[arg-type]
    assert len(drawn.drawn) == len(drawn.again) == len(drawn.round_trip) == 20
    first, second = ([seed for _, seeds in seen[k::2] for seed in seeds] for k in (0, 1))
    assert first == list(range(7, 27)) and not set(first) & set(second)
