"""The outputs of systems as files: they say how they were made, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.evaluate.case import Case, Outputs
from codi2.media.write import read_recipe
from codi2.prompt.parts import Audio, Image, Part, Text, Video


def media() -> list[Part]:
    draw = np.random.default_rng(0)
    frames = [PILImage.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    return [Image(frames[0]), Audio(draw.uniform(-0.5, 0.5, 800).astype(np.float32), 16_000), Video(tuple(frames), 4.0)]


@pytest.mark.parametrize("part", media(), ids=lambda part: part.modality)
def test_an_output_says_how_it_was_made(part: Part, tmp_path: Path) -> None:
    outputs, case = Outputs(tmp_path), Case("a-1", (Text("x"),), part.modality)
    outputs.save("ours", case, part, {"model": "debug", "seed": 4, "quick": True})
    path = outputs.find("ours", case)
    assert path is not None
    recipe = read_recipe(path)
    assert {name: recipe[name] for name in ("system", "case", "model", "seed")} == {
        "system": "ours", "case": "a-1", "model": "debug", "seed": 4
    }  # fmt: skip
    again = outputs.load("ours", case)
    if isinstance(part, Image) and isinstance(again, Image):
        assert np.array_equal(np.asarray(part.pixels), np.asarray(again.pixels))
    elif isinstance(part, Audio) and isinstance(again, Audio):
        assert np.abs(part.samples - again.samples).max() < 1e-4
    else:
        assert isinstance(part, Video) and isinstance(again, Video) and len(again.frames) == 3
