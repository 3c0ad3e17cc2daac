"""Table 4 right and Table 5 on data in its official form, made here, with the published networks' classes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.checkpoint import load_one_decoder
from codi2.config import preset
from codi2.diffuse.load import save_decoder
from codi2.errors import ConfigError, DataError, WeightsError
from codi2.evaluate import run
from codi2.evaluate.backbones import Backbones
from codi2.evaluate.context import EvalContext
from codi2.evaluate.inception import Inception
from codi2.evaluate.suites import audio_edit, coco_edit
from codi2.hub import home

from ..data.builders import official


@pytest.fixture(autouse=True)
def in_few_steps(monkeypatch):
    """SDEdit takes as long as its schedule."""
    monkeypatch.setattr(coco_edit, "STEPS", 4)
    monkeypatch.setattr(audio_edit, "STEPS", 4)


BY_INSTRUCTION = "by instruction, no language model"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three pictures with two captions each, as COCO releases them."""
    folder, draw = tmp_path / "coco", np.random.default_rng(0)
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, notes = [], []
    for i in (139, 285, 632):
        name = f"{i:012d}.jpg"
        pixels = np.kron(draw.integers(0, 255, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        PILImage.fromarray(pixels).save(folder / "val2017" / name)
        images.append({"id": i, "file_name": name, "height": 60, "width": 80})
        notes += [{"id": 10 * i + k, "image_id": i, "caption": f"A thing number {i}, caption {k}. "} for k in (1, 0)]
    about = {"info": {}, "licenses": [], "images": images, "annotations": notes}
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def inception(tmp_path: Path) -> str:
    torch.manual_seed(0)
    network = Inception()
    for name, value in network.named_parameters():
        if name.endswith("conv.weight"):  # of a size that lets something through
            torch.nn.init.normal_(value, std=(2 / value[0].numel()) ** 0.5)
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    return str(tmp_path / "inception.pth")


@pytest.fixture
def instructed(tmp_path: Path) -> dict[str, Path]:
    """Decoders as training runs of the instructed baselines would leave them."""
    config = preset("debug")
    folders = {modality: tmp_path / f"{modality}_instructed" for modality in ("image", "audio")}
    for modality, folder in folders.items():
        save_decoder(load_one_decoder(modality, config, None), folder)
    return folders


def test_each_picture_gets_an_edit_and_its_first_caption(coco: Path):
    asked = coco_edit.cases(coco)
    assert len(asked) == 3 and [case.id for case in asked] == [case.id for case in coco_edit.cases(coco)]
    for case in asked:
        assert case.about["before"].endswith("caption 0") and case.about["words"].startswith(
            case.about["before"] + ", "
        )
        words = case.about["words"].removeprefix(case.about["before"] + ", ")
        assert words and case.prompt[0].text[0].isupper() and case.prompt[0].text.endswith(": ")
    other = coco_edit.cases(coco, seed=1)
    assert [c.about["words"] for c in asked] != [c.about["words"] for c in other]


def test_edits_of_ones_own_replace_the_draw(coco: Path):
    line = {"image": "val2017/000000000285.jpg", "caption": "a bear", "edit": "make it a cat.", "result": "a cat"}
    (coco / "edits.jsonl").write_text(json.dumps(line) + "\n")
    (case,) = coco_edit.cases(coco)
    assert case.prompt[0].text == "Make it a cat: " and case.about["words"] == "a cat"
    (coco / "edits.jsonl").write_text(json.dumps({**line, "result": None}) + "\n" + '{"image": "x"}\n')
    with pytest.raises(DataError, match=r"edits.jsonl, line 2 should hold image, caption, edit, result"):
        coco_edit.cases(coco)


def test_what_is_missing_of_coco_is_named(coco: Path, tmp_path: Path):
    (coco / "val2017" / "000000000285.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000285.jpg is missing"):
        coco_edit.cases(coco)
    (coco / "annotations" / "captions_val2017.json").write_text('{"images": 3}')
    with pytest.raises(DataError, match="is no caption file of COCO"):
        coco_edit.cases(coco)
    with pytest.raises(DataError, match=r"holds neither edits.jsonl nor annotations/captions_val2017.json"):
        coco_edit.cases(tmp_path)


def test_coco_edit_has_its_rows_and_a_copy_is_at_zero_direction(
    coco: Path, backbones: dict[str, str], inception: str, instructed: dict[str, Path], tmp_path: Path
):
    named = {"clip": backbones["clip"], "inception": inception}
    report = run("coco-edit", "debug", tmp_path / "out", source=coco, backbones=named, instructed=instructed["image"])
    (section,) = report["sections"]
    assert section["unavailable"] == "" and section["absent"] == {}
    figures = {figure["name"]: figure for figure in section["figures"]}
    rows = {"SDEdit from 0.5 T", f"{BY_INSTRUCTION} (InstructPix2Pix)", "copy of the picture"}
    assert all(figure["baselines"].keys() == rows for figure in figures.values())
    copied = {name: figure["baselines"]["copy of the picture"]["value"] for name, figure in figures.items()}
    for crop in ("original crop", "processor"):
        assert copied[f"CLIPSIM, directional, {crop}"] == pytest.approx(0, abs=1e-5)
        assert copied[f"CLIP similarity to the picture given, {crop}"] == pytest.approx(1, abs=1e-5)
        assert f"CLIPSIM, plain, {crop}" in figures
    assert copied["FID"] == pytest.approx(0, abs=1e-3) and figures["FID"]["value"] > 1e-3
    assert section["networks"]["Inception-v3"].startswith("inception.pth sha256:")
    assert section["networks"]["CLIP"].startswith("clip sha256:")


def test_rows_that_cannot_be_had_say_how_to_get_them(coco: Path, backbones: dict[str, str], tmp_path: Path):
    named = {"clip": backbones["clip"]}
    (section,) = run("coco-edit", "debug", tmp_path / "out", source=coco, backbones=named)["sections"]
    assert "name the file pt_inception-2015-12-05-6726825d.pth with --inception" in section["absent"]["FID"]
    assert "with --instructed" in section["absent"][f"{BY_INSTRUCTION} (InstructPix2Pix)"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Not measured: FID" in page


def test_similarities_are_those_of_instruct_pix2pix():
    given, made, before, wished = (torch.nn.functional.normalize(torch.randn(5, 8), dim=1) for _ in range(4))
    plain, directional, image = coco_edit.similarities(given, made, before, wished)
    a, b = (made - given).numpy(), (wished - before).numpy()
    np.testing.assert_allclose(
        directional, (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(plain, np.einsum("nc,nc->n", made.numpy(), wished.numpy()), rtol=1e-5)
    np.testing.assert_allclose(image, np.einsum("nc,nc->n", made.numpy(), given.numpy()), rtol=1e-5)


def test_audio_edit_on_audioset_by_panns(tmp_path: Path, instructed: dict[str, Path], monkeypatch):
    class Ears:  # the network itself is tested elsewhere, and takes a second a sound
        def sounds(self, sounds):
            loud = np.array([[np.sqrt((part**2).mean()) for part in np.array_split(s.samples, 6)] for s in sounds])
            return loud, loud * 10

    monkeypatch.setattr("codi2.evaluate.backbones.panns_network", lambda *_: Ears())
    source = official.audioset(tmp_path / "audioset", 8)
    (tmp_path / "panns.pth").write_bytes(b"weights")
    report = run(
        "audio-edit", "debug", tmp_path / "out", quick=True, source=source,
        backbones={"panns": str(tmp_path / "panns.pth")}, instructed=instructed["audio"],
    )  # fmt: skip
    (section,) = report["sections"]
    assert section["unavailable"] == "" and "clips left out: " in section["about"]
    figures = {figure["name"]: figure for figure in section["figures"]}
    kinds = ("add", "remove", "replace")
    names = ("LSD", "LSD without floor", "PANNs-KL", "PANNs-FD", "difference in level", "level within 3 dB")
    assert figures.keys() == {f"{kind}: {name}" for kind in kinds for name in names}
    rows = set(audio_edit.systems()) - {"ours", "AudioLDM2 from the caption"}  # whose weights are named by nobody
    for name, figure in figures.items():
        assert figure["baselines"].keys() - rows == ({audio_edit.HALVES} if name.endswith("FD") else set())
        assert figure["baselines"].keys() >= rows
    assert "FD is biased upwards" in section["about"] and figures["add: PANNs-FD"]["n"] == 4
    assert all(math.isfinite(figure["value"]) for figure in figures.values())
    assert figures["remove: LSD"]["baselines"]["copy of the input"]["value"] > 0


def test_the_number_of_items_is_chosen(coco: Path, tmp_path: Path):
    assert len(coco_edit.cases(coco, 2)) == 2
    suite = coco_edit.suite(coco, Backbones(), EvalContext(None, items=2))  # type: ignore[arg-type]
    assert "biased upwards" in suite.about and "against the 2 pictures" in suite.about
    drawn, _ = audio_edit._draw_cases(official.audioset(tmp_path / "audioset", 8), 3, 0)
    assert len(drawn) == 9
    with pytest.raises(ConfigError, match="--items is 1; it takes 2 or more"):
        run("audio-edit", "debug", tmp_path / "out", items=1)


def test_published_figures_of_sounds_need_panns(tmp_path: Path):
    source = official.audioset(tmp_path / "audioset", 8)
    with pytest.raises(WeightsError, match="with --panns"):
        run("audio-edit", "debug", tmp_path / "out", quick=True, source=source)
    with pytest.raises(DataError, match=r"fewer than two mixes; clips left out: .* no partner"):
        audio_edit.suite(official.audioset(tmp_path / "few", 2), Backbones(), EvalContext(None, quick=True))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--val draws from the corpus of `tiny`; coco-edit is measured on your data"):
        run("coco-edit", "debug", tmp_path / "out", source=source, validation=True)
    with pytest.raises(ConfigError, match="--source is for dreambench, coco-edit and audio-edit"):
        run("rounds", "debug", tmp_path / "out", source=source)


def test_the_baselines_run_is_found_under_its_name(coco, backbones, instructed, tmp_path, monkeypatch):
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    run_of_it = home() / "runs" / "debug" / "image_instructed" / "export"
    run_of_it.parent.mkdir(parents=True)
    instructed["image"].rename(run_of_it)
    (section,) = run("coco-edit", "debug", tmp_path / "o", source=coco, backbones={"clip": backbones["clip"]})[
        "sections"
    ]
    assert section["absent"].keys() == {"FID"}
