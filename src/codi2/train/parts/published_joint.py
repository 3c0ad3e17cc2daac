"""Trains joint attention between published decoders on records of a data set (CoDi, arXiv:2305.11846).

The last answer of a record has media of two or more modalities that belong together, such as a clip and its sound. The
decoders are frozen, and have the true features of the answer. Each modality has its own timestep.

Letters: n samples, K features of an answer, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from codi2.checkpoint import load_joint, load_one_decoder, locate
from codi2.errors import ConfigError, DataError
from codi2.tensors import device_of, to_device
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.encoded import Piece
from codi2.train.examples import ExampleSet, TrainingExample, check_held_out, encodings_for, read_stores
from codi2.train.parts.denoised import draw_denoised
from codi2.train.parts.diffusion_loss import Latents, diffusion_loss, encode, for_training, save_memory
from codi2.train.parts.language_batch import DiffusionBatch
from codi2.train.place import mixed, placement_of
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_module, restore_module

VALIDATED = 16  # held-out samples of each phase
SEEDS = 100  # between the seeds of the modalities, which have different noise and timesteps


@dataclass(frozen=True)
class PublishedJointOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the samples
    held_out: dict[str, float] = field(default_factory=dict)  # data set for validation → share
    phases: dict[str, float] = field(default_factory=dict)  # phase → share of the steps; empty: all mixed
    gradient_checkpointing: bool = False  # less memory, more work
    model: str = "paper"  # preset or folder: its encoder and its decoders
    features: str | Sequence[str] = ""  # stores of `codi2 data encode`; empty: those of the data sets


@dataclass
class PublishedJointBatch:
    """By modality."""

    denoised: dict[str, DiffusionBatch]
    features: dict[str, Tensor]  # [n, K, D]
    unseen: dict[str, dict[int, Piece]]  # samples whose features are not encoded yet


class PublishedJointRecipe(Recipe):
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(PublishedJointOptions, config)
        options = self.options
        check_held_out(config.part, options.held_out)
        model, folder = locate(options.model)
        if model.joint is None:
            raise ConfigError(f"the model {options.model!r} has no [joint]; name the modalities in its config")
        decoders = {m: load_one_decoder(m, model, folder and folder / m) for m in model.joint.modalities}
        encodings = encodings_for(model, folder)
        read_stores(encodings, model, options)
        self.slots, self.width = model.heads.num_slots, model.heads.feature_dim
        self.examples = ExampleSet(options.data, encodings, config.batch_size, options.phases or None, config.seed)
        self.held_out = {
            phase: ExampleSet(options.held_out, encodings, VALIDATED, {phase: 1.0} if phase else None, 1)
            for phase in options.phases or [""]
        }
        torch.manual_seed(config.seed)
        self._take(decoders, load_joint(model, decoders, folder))

    def _take(self, decoders: dict[str, Any], joint: Any) -> None:
        """Sets the trained module `joint` and the frozen decoders."""
        self.dtype = placement_of(self.config).dtype
        if self.options.gradient_checkpointing:
            decoders = {m: save_memory(decoder) for m, decoder in decoders.items()}
        self.decoders, self.unets = decoders, {m: decoder.unet for m, decoder in decoders.items()}
        self.joint = joint.train().requires_grad_(True)
        self.model = nn.ModuleDict({"joint": self.joint})
        self.frozen = nn.ModuleList([for_training(decoder) for decoder in decoders.values()])

    def batch(self, step: int, share: Share = WHOLE) -> PublishedJointBatch:
        """Raises DataError: the records of the step do not all answer with media of the same two or more modalities."""
        size = self.config.batch_size
        examples = self.examples.batch(step, share.index, share.count)
        batch = self._draw(examples, [step * size + row for row in share.rows(size)], self.config.seed)
        return batch if get_worker_info() else self.finish(batch)

    def _draw(self, examples: Sequence[TrainingExample], numbers: Sequence[int], seed: int) -> PublishedJointBatch:
        """The random values of a sample depend on `seed` and its number in the run."""
        kinds = {tuple(m for m in self.decoders if m in _modalities(example)) for example in examples}
        if len(kinds) > 1 or min(map(len, kinds)) < 2:
            raise DataError(
                f"the records of a step answer with {', '.join(map(str, sorted(kinds)))}; all should answer with media "
                "of the same two or more modalities: name other data sets, or phases in [options.phases]"
            )
        batch = PublishedJointBatch({}, {}, {})
        for number, modality in enumerate(kinds.pop(), 1):
            items = [example.answer(modality) for example in examples]
            answers = list(zip(examples, items, numbers, strict=True))
            slots = torch.arange(len(examples) * self.slots[modality]).view(len(examples), -1)
            batch.denoised[modality] = draw_denoised(
                self.decoders[modality], answers, slots, self.width, seed + SEEDS * number, training=False
            )
            media: list[Piece] = [example.medium(item) for example, item in zip(examples, items, strict=True)]
            known = self.examples.encodings.known(media)
            batch.features[modality] = torch.zeros(len(examples), self.slots[modality], self.width)
            batch.unseen[modality] = {i: media[i] for i, value in enumerate(known) if value is None}
            self._set(batch, modality, {i: value for i, value in enumerate(known) if value is not None})
        return batch

    def _set(self, batch: PublishedJointBatch, modality: str, values: dict[int, Tensor]) -> None:
        for i, value in values.items():
            batch.features[modality][i] = value[: self.slots[modality]]

    def finish(self, batch: PublishedJointBatch) -> PublishedJointBatch:
        """Encodes the samples of `unseen`, in the training process."""
        for modality, pieces in batch.unseen.items():
            if pieces:
                values = self.examples.encodings.encode_on(device_of(self.model), list(pieces.values()))
                self._set(batch, modality, dict(zip(pieces, values, strict=True)))
        batch.unseen = {}
        return batch

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return [f"{example.record.source}:{example.record.key}" for example in self.examples.batch(step)]

    def losses(self, model: nn.Module, batch: PublishedJointBatch) -> dict[str, Tensor]:
        losses = self._joint_losses(batch, self._latents(batch))
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _latents(self, batch: PublishedJointBatch) -> dict[str, Latents]:
        return {m: encode(self.decoders[m], denoised) for m, denoised in batch.denoised.items()}

    def _joint_losses(self, batch: PublishedJointBatch, latents: dict[str, Latents]) -> dict[str, Tensor]:
        """L_DM of the decoders with joint attention."""
        t = {m: denoised.t for m, denoised in batch.denoised.items()}
        noisy = {m: self.decoders[m].noisy(x, batch.denoised[m].noise, t[m]) for m, (x, _) in latents.items()}
        with mixed(self.dtype, device_of(self.model)), self.joint.attached(noisy, t, self.unets):
            return self._separate_losses(batch, latents)

    def _separate_losses(self, batch: PublishedJointBatch, latents: dict[str, Latents]) -> dict[str, Tensor]:
        """L_DM of each decoder."""
        dtype = getattr(torch, self.dtype)
        return {
            m: diffusion_loss(
                self.decoders[m], denoised, batch.features[m].flatten(0, 1), dtype, latents=latents[m]
            ).mean()
            for m, denoised in batch.denoised.items()
        }

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """By phase and modality: L_DM on held-out records, with joint attention and without."""
        figures: dict[str, float] = {}
        for phase, examples in self.held_out.items():
            batch = self.finish(self._draw(examples.batch(0), range(VALIDATED), 0))
            batch = to_device(batch, device_of(self.model))
            latents, prefix = self._latents(batch), f"{phase}/" if phase else ""
            figures |= {f"{prefix}{m}/together": float(x) for m, x in self._joint_losses(batch, latents).items()}
            figures |= {f"{prefix}{m}/alone": float(x) for m, x in self._separate_losses(batch, latents).items()}
        return figures

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.examples.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_module(self.joint, folder, provenance)

    def restore(self, folder: Path) -> None:
        restore_module(self.joint, folder)


def _modalities(example: TrainingExample) -> set[str]:
    """Those of the media of the last answer."""
    return {example.items[item][1].modality for item in example.answers}


def build(config: TrainConfig) -> PublishedJointRecipe:
    return PublishedJointRecipe(config)
