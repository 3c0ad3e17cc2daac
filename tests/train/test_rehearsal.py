"""A whole step of every part with module, batch and frozen parts on the virtual GPU, in float32 and under autocast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_set import write_task_set
from torch import Tensor, nn

from codi2.data import cache
from codi2.dry_run.virtual import DEVICE, Misplaced, VirtualGPU
from codi2.encode.efficientnet import EfficientNetLite
from codi2.encode.trunks import TRUNK_CHANNELS
from codi2.heads.prior import Context, Prior
from codi2.train.parts import autoencoder, denoiser, encoder, joint_attention, llm, published_joint, vocoder
from codi2.train.parts.reconstruction import Perception
from codi2.train.plan import plan
from codi2.train.rehearsal import rehearse

from .small_recipes import SMALL, Encoded, config, language
from .test_loop import Line

LOW = [pytest.param(None, id="float32"), pytest.param(torch.bfloat16, id="bf16")]


@pytest.fixture
def data(rich_home: Path, tmp_path: Path) -> dict[str, float]:
    """Records that answer with text, pictures and sounds."""
    return write_task_set(rich_home, tmp_path / "set", 38)


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("part", ["image_vae", "audio_vae", "image_features", "audio_features", "video_features"])
def test_an_autoencoder(part: str, low: torch.dtype | None, rich_home: Path) -> None:
    other = {"audio_features": {"latent_channels": 2}, "video_features": {"channels": (8, 8, 8), "latent_channels": 1}}
    made = config(part, **SMALL | other.get(part, {}))
    recipe = autoencoder.build(made)
    if part.startswith("image"):
        net = EfficientNetLite().eval().requires_grad_(False)
        recipe.perception = recipe.frozen = Perception(net, 32)
    found = rehearse(recipe, made, low=low)
    assert found.peak > found.model + found.states + found.average > 3 * found.trained > 0


@pytest.mark.parametrize("low", LOW)
def test_the_vocoder(low: torch.dtype | None, rich_home: Path) -> None:
    made = config("vocoder", crop=4096, channels=16, blocks=1)
    assert rehearse(vocoder.build(made), made, low=low).peak


@pytest.mark.parametrize("low", LOW)
def test_the_encoders_heads(low: torch.dtype | None, rich_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def features(modality: str, name: str = "plain") -> np.ndarray:
        return np.ones((len(cache.items(modality)), 4, TRUNK_CHANNELS[modality]), dtype=np.float16)

    monkeypatch.setattr(cache, "trunk_features", features)
    monkeypatch.setattr(cache, "phrase_features", lambda texts: np.ones((len(texts), 1, 384), dtype=np.float16))
    made = config("encoder", dim=16, edited_views=1)
    recipe = encoder.build(made)
    assert recipe.batch(0).pairs
    assert rehearse(recipe, made, low=low).peak


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_a_denoiser(modality: str, low: torch.dtype | None, rich_home: Path) -> None:
    made = config(f"{modality}_denoiser", samples=8, channels=(8, 16))
    recipe = denoiser.DenoiserRecipe(made, Encoded(modality))  # type: ignore[arg-type]
    assert rehearse(recipe, made, low=low).peak


class Numbered(Encoded):
    """Notes which pairs are encoded; a pair's latents are its number."""

    def __init__(self, modality: str) -> None:
        super().__init__(modality)
        self.places: list[int] = []

    def many(self, pair: Any, places: Sequence[int]) -> dict[str, Tensor]:
        self.places += places
        numbers = torch.tensor(places).float()
        return {n: numbers.view(-1, *[1] * len(s)).expand(-1, *s).clone() for n, s in self.shapes.items()}


def test_a_short_run_encodes_the_pairs_that_it_uses_and_a_longer_one_begins_with_them(rich_home: Path) -> None:
    def drawn(steps: int) -> tuple[set[float], list[list[float]]]:
        encoding = Numbered("image")
        made = replace(config("image_denoiser", samples=1500, channels=(8, 16)), steps=steps, batch_size=300)
        recipe = denoiser.DenoiserRecipe(made, encoding)  # type: ignore[arg-type]
        latents = [recipe.batch(step).latents[:, 0, 0, 0].tolist() for step in range(steps)]
        return set(recipe.encoded["latents"][:, 0, 0, 0].tolist()), latents

    short, first = drawn(2)
    long, all_of_them = drawn(10)
    assert short == set(range(1000)) and long == set(range(1500))
    assert first == all_of_them[:2]
    epochs = np.array(all_of_them).reshape(2, 1500)
    assert (np.sort(epochs) == np.arange(1500)).all() and (epochs[0] != epochs[1]).any()  # each has all once


def test_a_plan_encodes_no_more_than_a_step_needs(rich_home: Path) -> None:
    encoding = Numbered("image")
    made = replace(config("image_denoiser", samples=60_000, channels=(8, 16)), steps=9_000)
    found = plan(made, lambda made: denoiser.DenoiserRecipe(made, encoding))
    assert set(encoding.places) == set(range(1000)) and found.samples == 4 * 9_000


@pytest.mark.parametrize("low", LOW)
def test_joint_attention(
    low: torch.dtype | None, rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings: dict[str, Any] = {modality: Encoded(modality) for modality in joint_attention.MODALITIES}
    for modality, encoding in encodings.items():
        one = config(f"{modality}_denoiser", samples=8, channels=(8, 16))
        denoiser.DenoiserRecipe(one, encoding).export(tmp_path / modality, {})
    made = config("joint_attention", samples=8, **{m: str(tmp_path / m) for m in encodings})
    monkeypatch.setattr(joint_attention, "FrozenNetworks", Encoded)
    assert rehearse(joint_attention.JointRecipe(made, encodings), made, low=low).peak


@pytest.mark.parametrize("low", LOW)
def test_joint_attention_of_published_decoders(low: torch.dtype | None, rich_home: Path, tmp_path: Path) -> None:
    names = write_task_set(rich_home, tmp_path / "set", 12, ["clip_in_time"])
    for more in ({}, {"placement": {"dtype": "bfloat16"}}):
        made = config("joint", data=names, held_out=names, phases={"video": 1.0}, model="debug", **more)
        assert rehearse(published_joint.build(made), made, low=low).peak


class Sampled(Line):
    """The prior on noise, as a recipe."""

    def __init__(self) -> None:
        self.model: Prior = Prior(16, 32, width=16, layers=2)

    def batch(self, step: int, share: Any = None) -> dict[str, Any]:
        kinds = torch.zeros(4, dtype=torch.long)
        context = Context(torch.randn(4, 3, 32), kinds, torch.randn(4, 5, 3, 16), torch.zeros(4, 5, dtype=torch.long))
        return {"of": (torch.randn(4, 3, 16), torch.randn(4, 3, 16), torch.rand(4)), "context": context}

    def losses(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"loss": self.model.loss(*batch["of"], batch["context"]).mean()}


@pytest.mark.parametrize("low", LOW)
def test_the_prior(low: torch.dtype | None) -> None:
    assert rehearse(Sampled(), config("prior"), low=low).peak  # type: ignore[arg-type]


PHASES = ["text", "image", "audio"]


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("phase", PHASES)
def test_the_language_model(phase: str, low: torch.dtype | None, data: dict[str, float]) -> None:
    for more in ({}, {"placement": {"dtype": "bfloat16"}, "gradient_checkpointing": True}):
        made = language(data, phase, **more)
        recipe = llm.build(made)
        assert rehearse(recipe, made, low=low).peak
        decoders = {m: {p.device.type for p in d.unet.parameters()} for m, d in recipe.decoders.items()}
        assert decoders == {m: {"meta" if m == phase else "cpu"} for m in decoders}  # the phase's alone is resident


class Left(llm.LLMRecipe):
    """Makes a tensor on the CPU in its loss."""

    def losses(self, model: nn.Module, drawn: llm.LanguageBatch) -> dict[str, Tensor]:
        found = super().losses(model, drawn)
        return {"loss": (found["loss"] * torch.ones(3)).mean()}


class Counts(llm.LLMRecipe):
    """Asks the GPU how many slots are predicted."""

    def losses(self, model: nn.Module, drawn: llm.LanguageBatch) -> dict[str, Tensor]:
        assert int(drawn.batch.slot_predicted.sum())
        return super().losses(model, drawn)


class Clashes(llm.LLMRecipe):
    """Multiplies bfloat16 by float32."""

    def losses(self, model: nn.Module, drawn: llm.LanguageBatch) -> dict[str, Tensor]:
        _ = drawn.features[0].bfloat16() @ drawn.features[0].T
        return super().losses(model, drawn)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(Left, r"\[3\] of torch.float32 on the CPU"), (Counts, "waits for the GPU"), (Clashes, "torch.bfloat16 and")],
)
def test_one_tensor_that_is_misplaced_fails_the_rehearsal(kind: Any, says: str, data: dict[str, float]) -> None:
    made = language(data, "image")
    with pytest.raises(Misplaced, match=says):
        rehearse(kind(made), made)


def test_a_frozen_part_that_stays_on_the_cpu_fails_the_rehearsal(data: dict[str, float]) -> None:
    made = language(data, "image")
    recipe = llm.build(made)
    recipe.swapped_modules = {m: nn.Module() for m in recipe.swapped_modules}
    with pytest.raises(Misplaced, match="on the CPU beside the GPU's"):
        rehearse(recipe, made)


def test_memory_is_that_of_the_tensors_alive() -> None:
    with VirtualGPU() as gpu:
        weight = torch.zeros(1024, 1024, device=DEVICE, requires_grad=True)
        rows = torch.zeros(256, 1024, device=DEVICE)
        held = gpu.live
        assert held == 4 * (1024 * 1024 + 256 * 1024)
        (rows @ weight).relu().sum().backward()
        assert gpu.live == held + 4 * 1024 * 1024  # the gradient
        assert gpu.peak >= held + 4 * 256 * 1024 + 4 * 1024 * 1024
        del weight, rows
        assert gpu.live == 0
    assert torch.softmax(torch.ones(3), 0).device.type == "cpu"  # all is as before


def test_attention_is_fused(data: dict[str, float]) -> None:
    recipe = llm.build(language(data, "image"))
    assert recipe.mllm.backbone.model.config._attn_implementation == "sdpa"
    names = {type(p).__name__ for d in recipe.decoders.values() for p in d.unet.attn_processors.values()}
    assert names == {"AttnProcessor2_0"}
