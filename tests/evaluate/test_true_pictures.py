"""Pictures from their true features: ceilings are ceilings, blur lowers sharpness, and steps and seeds matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageFilter

from codi2.config import DEBUG
from codi2.evaluate.closeness import sharpness
from codi2.evaluate.context import EvalContext
from codi2.evaluate.suites import true_pictures
from codi2.model import CoDi2
from codi2.prompt.parts import Image, Part, Video


@pytest.fixture
def context(rich_home: Path, judge: object) -> EvalContext:
    return EvalContext(CoDi2.build(DEBUG), items=4)


def blurred(part: Part) -> Image:
    assert isinstance(part, Image)
    return Image(part.pixels.filter(ImageFilter.GaussianBlur(3)))


def test_true_pictures_reach_the_ceiling_and_blurred_ones_do_not(context: EvalContext) -> None:
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    true = [Image(PILImage.fromarray(block).resize((64, 64), PILImage.Resampling.NEAREST)) for block in blocks]
    cases = [
        replace(case, truth={"target": part}) for case, part in zip(true_pictures.cases(context), true, strict=True)
    ]
    soft = [blurred(picture) for picture in true]
    parts = {"ours": soft, true_pictures.AGAIN: soft, "codec round trip": true}
    near, sharp, codec, between = true_pictures.score(context, cases, parts).figures
    assert near.baselines["codec round trip"].value == pytest.approx(1, abs=1e-4)
    assert near.baselines["another picture"].value < near.value < 1
    assert [codec.value, between.value] == pytest.approx([1, 1], abs=1e-4)
    assert sharp.value < 0.9 and sharp.baselines["codec round trip"].value == pytest.approx(1, abs=1e-4)


def test_steps_and_seeds_change_a_picture_and_the_batch_does_not(context: EvalContext) -> None:
    cases = true_pictures.cases(context)
    assert len({case.about["seed"] for case in cases}) == len(cases) == 4
    outputs = {
        name: np.stack([np.asarray(part.pixels, int) for part in system(context, cases)])  # type: ignore[union-attr]
        for name, system in true_pictures.SYSTEMS.items()
    }
    first = outputs.pop("ours")
    assert all((pixels != first).any() for pixels in outputs.values())
    (alone,) = true_pictures.SYSTEMS["ours"](context, cases[2:3])
    assert np.abs(np.asarray(alone.pixels, int) - first[2]).max() <= 1  # type: ignore[union-attr]


def test_sharpness_of_a_clip_is_that_of_its_frames() -> None:
    draw = np.random.default_rng(0)
    frames = [PILImage.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(8)]
    plain = PILImage.new("RGB", (64, 64))
    stills = sharpness([Image(frame) for frame in frames])
    clip, half, blank = sharpness([Video(tuple(c), 4.0) for c in (frames, [*frames[:4], *[plain] * 4], [plain] * 8)])
    assert clip == pytest.approx(stills.mean()) and half == pytest.approx(stills[:4].mean() / 2) and blank == 0
