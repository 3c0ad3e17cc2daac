"""The outputs of systems as files: they say how they were made, and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.evaluate.case import SETTINGS, Case, Outputs
from codi2.evaluate.figure import Findings
from codi2.evaluate.suite import Suite, score_run
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


@pytest.mark.parametrize(("seed", "quick", "validation"), [(4, False, False), (3, True, False), (3, False, True)])
def test_outputs_of_other_cases_of_the_same_names_are_refused(
    tmp_path: Path, seed: int, quick: bool, validation: bool
) -> None:
    """An earlier run is scored only where seed and splits are those of the run beside it."""
    outputs = tmp_path / "outputs" / "kind" / "ours"
    outputs.mkdir(parents=True)
    (outputs / SETTINGS).write_text(json.dumps({"seed": 3, "quick": False}))
    suite = Suite("kind", "Kind", "", lambda *_: Findings(()), lambda context: [], {"ours": lambda *_: []})
    same = SimpleNamespace(seed=3, quick=False, validation=False)
    assert not score_run(suite, same, tmp_path).unavailable  # type: ignore[arg-type,union-attr]
    other = SimpleNamespace(seed=seed, quick=quick, validation=validation)
    section = score_run(suite, other, tmp_path)  # type: ignore[arg-type]
    assert section is not None and "give the same options" in section.unavailable
