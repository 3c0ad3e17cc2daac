"""The documented launch as a command: every part at a small size in mixed precision, in one process and in two."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from task_set import TASKS, write_task_set
from torch import Tensor

from codi2.encode.trunks import TRUNK_CHANNELS

HEAD = "steps = 2\nbatch_size = 4\nlearning_rate = 1e-3\nema_decay = 0.5\nnum_workers = 0\ntrackers = []\n"
FOUR = {"channels": [8, 8, 8, 8], "feature_dim": 16, "perception_weight": 0.0}
MEDIA: dict[str, tuple[str, dict[str, Any]]] = {
    "01_encoder": ("encoder", {"dim": 16, "edited_views": 1}),
    "02_image_vae": ("image_vae", {"channels": [8, 8, 8], "latent_channels": 4, "perception_weight": 0.0}),
    "03_image_features": ("image_features", FOUR | {"latent_channels": 3}),
    "04_image_decoder": ("image_denoiser", {"samples": 8, "channels": [8, 16]}),
    "05_audio_vae": ("audio_vae", {"channels": [8, 8, 8], "latent_channels": 4}),
    "06_audio_features": ("audio_features", FOUR | {"latent_channels": 2}),
    "07_vocoder": ("vocoder", {"crop": 4096, "channels": 16, "blocks": 1}),
    "08_audio_decoder": ("audio_denoiser", {"samples": 8, "channels": [8, 16]}),
}
"""The parts on the media of the corpus."""
EXPORTS = {
    "04_image_decoder": ("02_image_vae", "03_image_features"),
    "08_audio_decoder": ("05_audio_vae", "06_audio_features"),
}


class Trunk:
    """Random features in place of a frozen trunk's."""

    def __init__(self, modality: str) -> None:
        self.shape = (1, 384) if modality == "phrase" else (4, TRUNK_CHANNELS[modality])

    def __call__(self, media: Sequence[Any]) -> Tensor:
        return torch.randn(len(media), *self.shape, generator=torch.Generator().manual_seed(len(media)))


def write(path: Path, part: str, options: dict[str, Any]) -> None:
    """A config. Strings, numbers, lists and tables of one level are alike in JSON and TOML, but for the colon."""
    values = []
    for name, value in options.items():
        text = json.dumps(value)
        values.append(f"{name} = {text.replace(': ', ' = ') if isinstance(value, dict) else text}\n")
    path.write_text(f'part = "{part}"\n{HEAD}[options]\n{"".join(values)}')


@pytest.fixture
def records(rich_home: Path, tmp_path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """The parts on records."""
    options: dict[str, dict[str, Any]] = {}
    for name, names in (("tasks", tuple(TASKS)), ("clips", ("clip_in_time",))):
        data = write_task_set(rich_home, tmp_path / name, 38, names)
        options[name] = {"data": data, "held_out": data, "model": "debug"}
    phases = {"text": 0.4, "image": 0.6}
    return {
        "11_llm": ("llm", options["tasks"] | {"phases": phases, "diffusion_share": 1.0, "diffusion_items": 2}),
        "12_joint": ("joint", options["clips"] | {"phases": {"video": 1}}),
    }


def launched(folder: Path, out: Path, home: Path, *options: str) -> None:
    """Runs the recipe of a folder, in mixed precision."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--mixed_precision", "bf16", *options]
    settings = ["--num_machines", "1", "--dynamo_backend", "no"]  # else accelerate warns that it chose them
    command = [*launch, *settings, "-m", "codi2", "train", str(folder), "--out", str(out), "--device", "cpu"]
    env = os.environ | {"CODI2_HOME": str(home), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-5000:]


def trained(out: Path) -> None:
    """All steps were trained and exported; what is kept is in float32."""
    reports = [json.loads(path.read_text()) for path in (out / "export").rglob("training.json")]
    assert reports and all(report["steps"] == 2 and report["skipped"] == 0 for report in reports), out
    assert all(math.isfinite(value) for value in reports[0]["figures"].values()), reports[0]["figures"]
    for stem in ("model", "average"):
        tensors = load_file(out / "checkpoints" / "step-0000002" / f"{stem}.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}, (out, stem)


@pytest.mark.slow
def test_every_part_in_one_process(
    rich_home: Path, records: dict[str, tuple[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = Path.home() / ".cache" / "codi2" / "wheels"
    if wheels.is_dir():  # of the trunks, which the denoisers' features need: else they are fetched
        (rich_home / "wheels").symlink_to(wheels)
    with monkeypatch.context() as patch:
        from codi2.train.config import TrainConfig
        from codi2.train.parts import encoder

        patch.setattr("codi2.encode.trunks.load_trunk", Trunk)
        encoder.build(TrainConfig("encoder", 2, 4, 1e-3, options=MEDIA["01_encoder"][1]))  # fills the cache
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, (part, options) in (MEDIA | records).items():
        if name in EXPORTS:
            vae, features = EXPORTS[name]
            options = options | {"encoder": "@01_encoder", "vae": f"@{vae}", "features": f"@{features}"}
        write(folder / f"{name}.toml", part, options)
    launched(folder, tmp_path / "runs", rich_home, "--num_processes", "1")
    for name in MEDIA | records:
        trained(tmp_path / "runs" / name)


@pytest.mark.slow
def test_parts_one_after_the_other_in_two_processes(
    rich_home: Path, records: dict[str, tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    folder, parts = tmp_path / "recipe", {"07_vocoder": MEDIA["07_vocoder"], "11_llm": records["11_llm"]}
    folder.mkdir()
    for name, (part, options) in parts.items():
        write(folder / f"{name}.toml", part, options)
    launched(folder, tmp_path / "runs", rich_home, "--num_processes", "2")
    for name in parts:
        trained(tmp_path / "runs" / name)
