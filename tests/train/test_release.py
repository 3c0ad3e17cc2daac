"""The last step of a recipe: exports of the parts put together as a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from small_parts import Numbers, config, denoiser_options, small_exports

from codi2.checkpoint import save_language
from codi2.config import DEBUG, TINY, CoDi2Config, DecoderConfig, EncoderConfig, JointConfig
from codi2.diffuse.build import FRAMES, new_unet
from codi2.diffuse.joint import joint_attention
from codi2.diffuse.load import load_decoder
from codi2.diffuse.vocoder import ISTFTVocoder
from codi2.encode import tiny
from codi2.errors import ConfigError, DataError
from codi2.heads.prior import Prior
from codi2.heads.projection import Projection
from codi2.llm.backbone import load_backbone
from codi2.llm.mllm import MLLM
from codi2.modalities import Modality
from codi2.model import CoDi2
from codi2.prompt.parts import Audio, Image, Phrase, Text, Video
from codi2.train import release, run
from codi2.train.assemble import MODELS
from codi2.train.config import load_config
from codi2.train.parts import denoiser
from codi2.train.parts.autoencoder import VAE, AutoencoderOptions, Compact
from codi2.train.parts.sampled import InstructedAnswers, SampledAnswers
from codi2.train.recipe import configs_of, recipe_folder, run_recipe
from codi2.weight_files import export_module

MODEL = replace(
    DEBUG,
    name="small",
    encoder=EncoderConfig(kind="tiny", num_features={"image": 4, "audio": 6, "video": 5, "phrase": 1}),
    heads=replace(DEBUG.heads, num_slots={"image": 4, "audio": 6, "video": 5}, prior=None),
    decoders={
        modality: DecoderConfig(kind="tiny", length=length, num_inference_steps=2, first_frame=modality == "video")
        for modality, length in (("image", 1), ("audio", 160), ("video", 8))
    },
    joint=JointConfig(("audio", "video"), num_inference_steps=2),
)
PLACES = {
    ".": "llm", "encoder": "encoder", "encoder/image": "image_features", "encoder/audio": "audio_features",
    "encoder/video": "video_features", "image": "image_decoder", "image/vae": "image_vae", "audio": "audio_decoder",
    "audio/vae": "audio_vae", "audio/vocoder": "vocoder", "video": "video_decoder", "joint": "joint",
}  # fmt: skip
VAES: dict[Modality, str] = {"audio": "audio_vae", "video": "image_vae"}


@pytest.fixture
def runs(rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every part's export, at small size and with random weights."""
    runs = tmp_path / "runs"
    exports = small_exports(runs, monkeypatch)
    monkeypatch.setattr(tiny, "load_trunk", Numbers)
    monkeypatch.setitem(MODELS, "small", MODEL)
    for modality in ("image", "audio", "video"):
        made = config(f"{modality}_denoiser", denoiser_options(modality, exports))
        denoiser.build(made).export(runs / f"{modality}_decoder" / "export", {"config": {"start": "@encoder"}})
    export_module(ISTFTVocoder(channels=16, blocks=1), runs / "vocoder/export", {})
    codecs = {m: denoiser.load_vae(m, runs / f"{vae}/export") for m, vae in VAES.items()}
    decoders = {m: load_decoder(m, runs / f"{m}_decoder/export", TINY.decoders[m], codecs[m]) for m in VAES}
    export_module(joint_attention(decoders), runs / "joint/export", {})
    save_language(MLLM(load_backbone(MODEL.llm), MODEL.heads), runs / "llm/export")
    (runs / "llm/export/training.json").write_text("{}")
    return runs


def made(**parts: str) -> Any:
    options = {"parts": {place: f"@{name}" for place, name in PLACES.items()} | parts, "model": "small"}
    return replace(config("model", options), steps=0)


def test_the_assembled_folder_is_a_model_that_answers_each_modality(runs: Path, tmp_path: Path) -> None:
    size = release.release(made(), runs, runs / "model")["bytes"]
    folder = runs / "model/export"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert 0 < size <= sum(path.stat().st_size for path in files)
    half = {value.dtype for path in folder.rglob("*.safetensors") for value in load_file(path).values()}
    assert half == {torch.float16}
    assert not (folder / "video/vae").exists()  # that of pictures
    model = CoDi2.from_pretrained(folder)
    picture = Image(PILImage.fromarray(np.full((64, 64, 3), 90, np.uint8)))
    kinds = {"image": Image, "audio": Audio, "video": Video}
    for want, kind in kinds.items():
        (part,) = (
            p
            for p in model.generate("Change [image0].", picture, want=want, max_new_tokens=0).parts
            if p.modality == want
        )
        assert isinstance(part, kind)
    both = model.generate("A thing and its sound.", want=("video", "audio"), max_new_tokens=0)
    assert {part.modality for part in both.parts} >= {"video", "audio"}
    model.save_pretrained(tmp_path / "again")
    again = CoDi2.from_pretrained(tmp_path / "again").generate("A thing.", want="video", max_new_tokens=0, seed=1)
    theirs = model.generate("A thing.", want="video", max_new_tokens=0, seed=1)
    ours, theirs = (np.stack([np.asarray(f) for f in reply.parts[-1].frames]) for reply in (again, theirs))  # type: ignore[union-attr, assignment]
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1  # type: ignore[union-attr, attr-defined]


def test_the_model_samples_the_features_of_records(runs: Path) -> None:
    """What adapts a decoder: answers of records, with the features that the model makes of the request."""
    release.release(made(), runs, runs / "model")
    answers = SampledAnswers("image", runs / "model/export", 0, "train")
    pairs = [answers.pair(number) for number in range(4)]
    assert all(target.shape == (64, 64, 3) for _, target in pairs)
    assert all(source is not None and source.shape == (64, 64, 3) for source, _ in pairs)  # each edits a picture
    both, second = answers.features([0, 1]), answers.features([1])
    assert both.shape == (2, 4, 16) and torch.allclose(both[1], second[0], atol=1e-5)
    assert not torch.allclose(both[0], both[1])
    again = SampledAnswers("image", runs / "model/export", 0, "train")
    assert np.array_equal(again.pair(3)[1], pairs[3][1])


def test_the_joint_vector_of_an_instruction_in_place_of_features(runs: Path) -> None:
    release.release(made(), runs, runs / "model")
    answers = InstructedAnswers("audio", runs / "model/export", 0, "train")
    features = answers.features([0, 1, 2])
    assert features.shape == (3, 6, 16) and not features[:, 1:].any()
    user = answers.record(1).turns[-2][1]
    words = " ".join(" ".join(piece.text for piece in user if isinstance(piece, Text)).split())
    assert words and not torch.equal(features[0, 0], features[1, 0])
    assert torch.equal(features[1, 0], answers.model.encoder([Phrase(words)], 1)[0, 0])
    assert answers.pair(1)[0] is not None


def test_hashes_lead_from_the_recipe_to_the_files(runs: Path) -> None:
    release.release(made(), runs, runs / "model")
    report = json.loads((runs / "model/export/training.json").read_text())
    assert set(report["parts"]) == set(PLACES.values())
    for place, name in PLACES.items():
        for file, digest in report["parts"][name]["sha256"].items():
            assert report["sha256"][str(Path(place) / file)] == digest
    assert release.is_current(report, made(), runs)
    shutil.copyfile(
        runs / "audio_vae/export/diffusion_pytorch_model.safetensors", runs / "joint/export/other.safetensors"
    )
    assert not release.is_current(report, made(), runs)


def test_what_is_missing_or_too_large_is_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="needs the export of prior"):
        release.release(made(prior="@prior"), runs, runs / "model")
    with pytest.raises(ConfigError, match="'elsewhere'; expected a part of the recipe"):
        release.release(made(prior="elsewhere"), runs, runs / "model")
    monkeypatch.setattr(release, "LARGEST", 1000)
    with pytest.raises(DataError, match=r"the model has .* MB, at most"):
        release.release(made(), runs, runs / "model")
    assert not (runs / "model/export").exists()


PART = """
part = "{part}"
steps = {steps}
batch_size = 4
learning_rate = 1e-3
save_every = 1
log_every = 1
num_workers = 0

[options]
channels = [8, 8, 8]
latent_channels = {channels}
feature_dim = 64
"""


RELEASE = """
part = "model"
steps = 0
batch_size = 1
learning_rate = 0.0
[options.parts]
first = "@01_first"
second = "@02_second"
"""


@pytest.fixture
def recipe(rich_home: Path, tmp_path: Path) -> Path:
    """Two parts and the model that they make."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "01_first.toml").write_text(PART.format(part="video_features", steps=3, channels=4))
    (folder / "02_second.toml").write_text(PART.format(part="video_features", steps=30, channels=8))
    (folder / "03_model.toml").write_text(RELEASE)
    return folder


def test_a_recipe_ends_with_the_model_and_makes_it_again_of_other_parts(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert run_recipe(recipe, out, run) == ["01_first", "02_second", "03_model"]
    assert (out / "03_model/export/second/config.json").is_file()
    assert CoDi2Config.from_json((out / "03_model/export/config.json").read_bytes()) == TINY
    assert run_recipe(recipe, out, run) == []
    shutil.rmtree(out / "01_first")
    (recipe / "01_first.toml").write_text(PART.format(part="video_features", steps=4, channels=4))
    assert run_recipe(recipe, out, run) == ["01_first", "03_model"]


@pytest.mark.slow
def test_a_recipe_that_is_killed_goes_on(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "codi2", "train", str(recipe), "--out", str(tmp_path / "cut")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "5/30" in line:
            break
    process.kill()
    process.wait(timeout=60)
    assert (tmp_path / "cut/01_first/export").is_dir() and not (tmp_path / "cut/02_second/export").exists()
    first = (tmp_path / "cut/01_first/export/training.json").stat().st_mtime_ns
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert " 1/30" not in again.stderr  # the checkpoint was resumed
    assert (tmp_path / "cut/01_first/export/training.json").stat().st_mtime_ns == first
    run_recipe(recipe, tmp_path / "whole", run)
    cut, whole = (
        load_file(tmp_path / name / "02_second/export/diffusion_pytorch_model.safetensors") for name in ("cut", "whole")
    )
    assert all(torch.equal(cut[key], whole[key]) for key in whole)


SHIPPED_ADAPTER = 9.9e6  # bytes of a LoRA of rank 16


def test_the_recipe_makes_a_model_that_may_be_shipped() -> None:
    """The numbers of all parts at the sizes of the configs, two bytes each."""
    folder = recipe_folder(Path("tiny"))
    assert folder is not None
    options = {path.stem[3:]: load_config(path).options for path in configs_of(folder)}
    kinds = {"image": "image", "audio": "audio", "video": "image"}
    sizes: dict[str, float] = {"adapter": SHIPPED_ADAPTER}
    modules: dict[str, Any] = {"heads": tiny.joint_heads(256), "vocoder": ISTFTVocoder()}
    for modality in kinds:
        own = AutoencoderOptions(**options[f"{modality}_features"])
        modules[f"{modality} features"] = Compact(modality, own).encoder  # type: ignore[arg-type]
    for modality in ("image", "audio"):
        modules[f"{modality} vae"] = VAE(modality, AutoencoderOptions(**options[f"{modality}_vae"]))  # type: ignore[arg-type]
    compact = {m: AutoencoderOptions(**options[f"{m}_features"]).latent_shape(m) for m in kinds}  # type: ignore[arg-type]
    for modality, still in kinds.items():
        vae = AutoencoderOptions(**options[f"{still}_vae"]).latent_shape(still)  # type: ignore[arg-type]
        shape = (vae[0], FRAMES, *vae[1:]) if modality == "video" else vae
        maps = (compact["image"][0] + compact["video"][0], 4, 4) if modality == "video" else compact[modality]
        slots = TINY.heads.num_slots[modality]
        modules[f"{modality} unet"] = new_unet(
            modality, shape, options[f"{modality}_decoder"]["channels"], 256, slots, maps
        )
    state_width = 576  # of SmolLM2-135M
    modules["prior"] = Prior(256, state_width)
    modules["projections"] = torch.nn.ModuleList(
        [
            Projection(TINY.heads.groups, 256, TINY.heads.hidden, state_width, 1.0),
            Projection({m: TINY.heads.groups[m] for m in TINY.heads.num_slots}, state_width, TINY.heads.hidden, 256),
        ]
    )
    sizes |= {name: 2.0 * sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    assert max(sizes.values()) < release.LARGEST_FILE
    assert sum(sizes.values()) < release.LARGEST
