"""DreamBench on files in its authors' form, made here, and on the real classes of DINO and CLIP at a small size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.errors import ConfigError, DataError, WeightsError
from codi2.evaluate import run
from codi2.evaluate.backbones import Backbones, Clip, Dino, cropped
from codi2.evaluate.context import EvalContext
from codi2.evaluate.suites import dreambench
from codi2.evaluate.suites.answers import ours
from codi2.model import CoDi2
from codi2.prompt.parts import Image

LIST = """Classes

subject_name,class
clock,clock
dog6,dog
bear_plushie,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a santa hat'.format(unique_token, class_token),
'a wet {0} {1}'.format(unique_token, class_token)
]
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for subject, count in (("clock", 3), ("dog6", 2), ("bear_plushie", 2)):
        (tmp_path / "dataset" / subject).mkdir(parents=True)
        for n in range(count):
            pixels = np.kron(draw.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            PILImage.fromarray(pixels).save(tmp_path / "dataset" / subject / f"0{n}.jpg")
    (tmp_path / "dataset" / "prompts_and_classes.txt").write_text(LIST)
    return tmp_path / "dataset"


def test_cases_are_subjects_by_prompts_by_seeds(source: Path):
    cases = dreambench.cases(source)
    assert len(cases) == 3 * 2 * 4 and len({case.id for case in cases}) == len(cases)
    said = {case.group: case.about["words"] for case in cases if case.id.endswith("-00-0")}
    assert said == {
        "clock": "a clock in the jungle", "dog6": "a dog wearing a santa hat",
        "bear_plushie": "a stuffed animal in the jungle",
    }  # fmt: skip
    assert len({case.about["seed"] for case in cases}) == 4


def test_both_protocols_and_the_copy(source: Path, backbones: dict[str, str], tmp_path: Path):
    report = run("dreambench", "debug", tmp_path / "out", quick=True, source=source, backbones=backbones)
    (section,) = report["sections"]
    assert section["unavailable"] == "" and "DreamBooth" in section["quoted"]
    found = {figure["name"]: figure for figure in section["figures"]}
    crops = ("original crop", "processor")
    compared = [f"{name} to {to}" for name in ("DINO", "CLIP-I") for to in ("the picture given", "all real pictures")]
    assert found.keys() == {f"{name}, {crop}" for name in (*compared, "CLIP-T") for crop in crops}
    for crop in crops:
        copied = found[f"DINO to the picture given, {crop}"]["baselines"]["copy of the picture given"]["value"]
        assert copied == pytest.approx(1, abs=1e-4)
        assert "real images (oracle)" in found[f"CLIP-I to all real pictures, {crop}"]["baselines"]


def test_the_suite_runs_without_a_source(source: Path, monkeypatch: pytest.MonkeyPatch):
    cases = dreambench.cases(source, quick=True)[:2]
    assert {case.source for case in dreambench.cases(source)} == {"none"}
    context = EvalContext(CoDi2.from_pretrained("debug"))
    seen: list[object] = []
    decoder = context.decoder("image")
    state = decoder.sampler_state
    monkeypatch.setattr(decoder, "sampler_state", lambda *a: seen.extend(a[2].sources) or state(*a))
    assert len(ours(context, cases)) == 2 and seen == [None, None]


def test_the_original_crop_is_that_of_the_networks_makers(backbones: dict[str, str]):
    """Shorter side 256 of 224, centre square: what is beside it is not seen, and nothing is stretched."""
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, :20], wide[20:44, 52:76] = 255, 200  # at the edge, which a crop leaves out; a square in the middle
    picture = Image(PILImage.fromarray(wide))
    (values,) = cropped([picture], 256, 224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert values.shape == (3, 224, 224) and float(values.max()) < 0.95
    bright = (values[0] > 0.5).nonzero()
    height, across = (bright.max(0).values - bright.min(0).values + 1).tolist()
    assert height == across == pytest.approx(24 * 4, abs=2)
    dino = Dino(backbones["dino"])
    assert not torch.allclose(
        dino.pictures([picture], "original crop"), dino.pictures([picture], "processor"), atol=1e-3
    )


def test_vectors_are_those_of_the_networks(source: Path, backbones: dict[str, str]):
    from transformers import AutoImageProcessor, CLIPModel, CLIPProcessor, ViTModel

    pictures = [Image(PILImage.open(path).convert("RGB")) for path in sorted(source.glob("*/*.jpg"))]
    pixels = AutoImageProcessor.from_pretrained(backbones["dino"])([p.pixels for p in pictures], return_tensors="pt")
    with torch.no_grad():
        truth = ViTModel.from_pretrained(backbones["dino"], add_pooling_layer=False)(**pixels).last_hidden_state[:, 0]
    ours = Dino(backbones["dino"]).pictures(pictures)
    assert torch.allclose(ours, torch.nn.functional.normalize(truth, dim=-1), atol=1e-5)

    inputs = CLIPProcessor.from_pretrained(backbones["clip"])(
        text=["a dog", "a clock"], images=[p.pixels for p in pictures], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        out = CLIPModel.from_pretrained(backbones["clip"])(**inputs)
    clip = Clip(backbones["clip"])
    assert torch.allclose(clip.pictures(pictures), out.image_embeds, atol=1e-5)
    assert torch.allclose(clip.words(["a dog", "a clock"]), out.text_embeds, atol=1e-5)


def test_what_is_missing_is_named(source: Path, backbones: dict[str, str], tmp_path: Path):
    with pytest.raises(ConfigError, match="name it with --source"):
        run("dreambench", "debug", tmp_path / "out")
    with pytest.raises(WeightsError, match="DINO"):
        dreambench.score(*_answered(source), Backbones(dino=str(tmp_path / "nowhere")))
    shutil.rmtree(source / "dog6")
    with pytest.raises(DataError, match="the subject dog6 is missing"):
        dreambench.cases(source)
    (source / "prompts_and_classes.txt").unlink()
    with pytest.raises(DataError, match="name the `dataset` folder"):
        dreambench.cases(source)


def _answered(source: Path) -> tuple:
    cases = dreambench.cases(source, quick=True)
    return cases, {"ours": [case.truth["source"] for case in cases]}
