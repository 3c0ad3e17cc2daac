"""Every part trains in mixed precision; norms and projections stay in float32; a compiled step has the same loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from task_set import write_task_set
from torch import Tensor, nn

from codi2.data import cache
from codi2.encode.trunks import TRUNK_CHANNELS
from codi2.heads.projection import Projection
from codi2.placement import Placement
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts import autoencoder, denoiser, encoder, llm, published_joint, vocoder
from codi2.train.place import place
from codi2.train.rehearsal import rehearse

from .small_recipes import SMALL, Encoded, config, language

PARTS = ["image_vae", "audio_features", "vocoder", "encoder", "audio_denoiser", "joint", "llm"]


@pytest.fixture
def small(rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Any, TrainConfig]]:
    """Part → its recipe on small sizes, and the config."""

    def make(part: str) -> tuple[Any, TrainConfig]:
        if part in ("image_vae", "audio_features"):
            made = config(part, **SMALL | ({"latent_channels": 2} if part == "audio_features" else {}))
            return autoencoder.build(made), made
        if part == "vocoder":
            made = config(part, crop=4096, channels=16, blocks=1)
            return vocoder.build(made), made
        if part == "encoder":
            trunks = lambda m, name="plain": np.ones((len(cache.items(m)), 4, TRUNK_CHANNELS[m]), np.float16)  # noqa: E731
            monkeypatch.setattr(cache, "trunk_features", trunks)
            monkeypatch.setattr(cache, "phrase_features", lambda texts: np.ones((len(texts), 1, 384), np.float16))
            made = config(part, dim=16, edited_views=1)
            return encoder.build(made), made
        if part == "audio_denoiser":
            made = config(part, samples=8, channels=(8, 16))
            return denoiser.DenoiserRecipe(made, Encoded("audio")), made  # type: ignore[arg-type]
        if part == "joint":
            data = write_task_set(rich_home, tmp_path / "set", 12, ["clip_in_time"])
            made = config(part, data=data, held_out=data, phases={"video": 1.0}, model="debug")
            return published_joint.build(made), made
        made = language(write_task_set(rich_home, tmp_path / "set", 38), "image")
        return llm.build(made), made

    return make


@pytest.fixture
def fresh() -> Iterator[None]:
    """accelerate keeps its state for the life of a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_trains_in_mixed_precision_on_a_cpu(
    part: str,
    small: Callable[[str], tuple[Any, TrainConfig]],
    fresh: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `accelerate launch --mixed_precision bf16` sets it: batches, losses, figures, samples and the export."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    recipe, made = small(part)
    before = [p.detach().clone() for p in recipe.model.parameters() if p.requires_grad]
    plain, dtypes = recipe.losses, set()

    def losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        found = plain(model, batch)
        dtypes.update(value.dtype for value in found.values())
        return found

    recipe.losses = losses
    figures = train(recipe, replace(made, num_workers=1), tmp_path / "run")
    after = [p for p in recipe.model.parameters() if p.requires_grad]
    assert figures and all(np.isfinite(value) for value in figures.values())
    assert all(p.dtype is torch.float32 for p in after) and dtypes == {torch.float32}
    average = load_file(tmp_path / "run" / "checkpoints" / "step-0000003" / "average.safetensors")
    assert {value.dtype for value in average.values()} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


PRECISE = (nn.LayerNorm, nn.GroupNorm, Projection)


@pytest.mark.parametrize("part", ["image_vae", "audio_features", "audio_denoiser", "joint", "llm"])
def test_norms_and_projections_are_computed_in_float32_under_autocast(
    part: str, small: Callable[[str], tuple[Any, TrainConfig]]
) -> None:
    """As on a GPU: on a CPU autocast leaves norms in the dtype of what comes in."""
    recipe, made = small(part)
    dtypes: dict[str, set[torch.dtype]] = {}

    def note(module: nn.Module, given: Any, out: Any) -> None:
        dtypes.setdefault(type(module).__name__, set()).add(out.dtype)

    modules = [m for m in recipe.model.modules() if isinstance(m, PRECISE) or type(m).__name__.endswith("RMSNorm")]
    others = [m for m in recipe.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for module in modules:
        module.register_forward_hook(note)
    low: set[torch.dtype] = set()
    for module in others:
        module.register_forward_hook(lambda _module, _given, out: low.add(out.dtype))
    rehearse(recipe, made, low=torch.bfloat16)
    assert torch.bfloat16 in low  # autocast is on
    assert dtypes and set().union(*dtypes.values()) == {torch.float32}, dtypes


@pytest.mark.slow
def test_a_compiled_step_gives_the_loss_of_a_plain_one(
    small: Callable[[str], tuple[Any, TrainConfig]], fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nn.Module.compile
    compiled = []

    def eager(self: nn.Module) -> None:
        compiled.append(type(self).__name__)
        plain(self, backend="aot_eager")  # a C++ compiler is not everywhere

    monkeypatch.setattr(nn.Module, "compile", eager)
    recipe, _ = small("image_vae")
    batch = recipe.batch(0)
    loss = recipe.losses(recipe.model, batch)["loss"].detach()
    place(recipe, torch.device("cpu"), Placement(compile=True))
    torch.testing.assert_close(recipe.losses(recipe.model, batch)["loss"].detach(), loss, rtol=1e-4, atol=1e-4)
    assert "VAE" in compiled
