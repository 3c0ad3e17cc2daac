"""Trains a published decoder on records, without the language model: its head or its whole network.

The decoder learns from the answers of a data set, their true features and, in the fidelity path, their sources.
Features and sources are dropped at the rates that guidance needs (InstructPix2Pix). The network has the inputs of
sampling (`parts.denoised`).

Letters: n samples, K features of a sample, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from codi2.checkpoint import load_one_decoder, locate
from codi2.config import CoDi2Config
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import TRAINED, load_trained, save_decoder, trained_modules
from codi2.errors import ConfigError
from codi2.tensors import device_of, masked_mean, to_device
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.encoded import Piece
from codi2.train.examples import ExampleSet, TrainingExample, check_held_out, encodings_for, read_stores
from codi2.train.parts.denoised import draw_denoised
from codi2.train.parts.diffusion_loss import diffusion_loss, for_training, save_memory
from codi2.train.parts.draw import noised_features, torch_at
from codi2.train.parts.language_batch import DiffusionBatch
from codi2.train.parts.lora import add_lora, merged
from codi2.train.place import placement_of, training_device
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import write_provenance

VALIDATED = 16  # held-out samples


@dataclass(frozen=True)
class PublishedOptions:
    modality: str  # image, audio or video
    model: str = "paper"  # preset or folder: its encoder and its decoder
    # head: the head and the input convolution; network: also the whole network; lora: also LoRA on its attention
    trained: Literal["head", "network", "lora"] = "head"
    lora_rank: int = 64
    feature_noise: float = 0.0  # most noise on the features, 0 … 1, since predicted features differ from true ones
    features: str | Sequence[str] = ""  # stores of `codi2 data encode`; empty: those of the data sets
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the samples
    held_out: dict[str, float] = field(default_factory=dict)  # data set for validation → share
    gradient_checkpointing: bool = False  # less memory, more work


@dataclass
class PublishedBatch:
    denoised: DiffusionBatch
    features: Tensor  # [n, K, D], without noise
    unseen: dict[int, Piece]  # samples whose features are not encoded yet
    amount: Tensor  # [n, 1, 1], of noise on the features
    augmentation_noise: Tensor  # [n, K, D], that noise


class PublishedRecipe(Recipe):
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(PublishedOptions, config)
        self.placement = replace(placement_of(config), device=str(training_device(config)))
        modality = self.options.modality
        model, folder = locate(self.options.model)
        check_modality(modality, model)
        if self.options.trained not in ("head", "network", "lora"):
            raise ConfigError(f"options.trained is {self.options.trained!r}; expected 'head', 'network' or 'lora'")
        check_held_out(config.part, self.options.held_out)
        encodings, phases = encodings_for(model, folder), {modality: 1.0}
        read_stores(encodings, model, self.options)
        self.examples = ExampleSet(self.options.data, encodings, config.batch_size, phases, config.seed)
        self.held_out = ExampleSet(self.options.held_out, encodings, VALIDATED, phases, config.seed + 1)
        self.slots, self.width = model.heads.num_slots[modality], model.heads.feature_dim
        torch.manual_seed(config.seed)
        self.decoder = self._decoder(load_one_decoder(modality, model, folder and folder / modality))
        self.frozen = for_training(self.decoder)

    def _decoder(self, decoder: Decoder) -> Decoder:
        """Prepares the decoder for training. Raises ConfigError: it is not a published pipeline."""
        heads = trained_modules(decoder)
        if not heads:
            raise ConfigError(
                f"the {self.options.modality} decoder of {self.options.model!r} is not a published pipeline; name a "
                "model whose decoders have kind 'pipeline'"
            )
        self.model = nn.ModuleDict({"head": nn.ModuleList(heads)})
        if self.options.trained == "network":
            self.model["network"] = decoder.unet
        if self.options.trained == "lora":
            self.model["lora"] = add_lora(decoder.unet, self.options.lora_rank)
        self.model.requires_grad_(True)
        return save_memory(decoder) if self.options.gradient_checkpointing else decoder

    def batch(self, step: int, share: Share = WHOLE) -> PublishedBatch:
        size = self.config.batch_size
        rows = share.rows(size)
        examples = self.examples.batch(step, share.index, share.count)
        batch = self._draw(examples, [step * size + row for row in rows], training=True)
        return batch if get_worker_info() else self.finish(batch)

    def _draw(self, examples: Sequence[TrainingExample], numbers: Sequence[int], training: bool) -> PublishedBatch:
        items = [example.answer(self.options.modality) for example in examples]
        slots = torch.arange(len(examples) * self.slots).view(-1, self.slots)
        answers = list(zip(examples, items, numbers, strict=True))
        denoised = draw_denoised(self.decoder, answers, slots, self.width, self.config.seed, training)
        media = [example.medium(item) for example, item in zip(examples, items, strict=True)]
        features = torch.zeros(len(examples), self.slots, self.width)
        known = self.examples.encodings.known(media)
        for row, value in zip(features, known, strict=True):
            if value is not None:
                row[:] = value[: self.slots]
        unseen: dict[int, Piece] = {i: media[i] for i, value in enumerate(known) if value is None}
        draws = [torch_at(self.config.seed + 5, number) for number in numbers]
        most = self.options.feature_noise if training else 0.0
        amount = most * torch.stack([torch.rand(1, 1, generator=draw) for draw in draws])
        augmentation_noise = torch.stack([torch.randn(self.slots, self.width, generator=draw) for draw in draws])
        return PublishedBatch(denoised, features, unseen, amount, augmentation_noise)

    def finish(self, batch: PublishedBatch) -> PublishedBatch:
        """Encodes the samples of `unseen`, in the training process."""
        if batch.unseen:
            device = torch.device(self.placement.device)
            values = self.examples.encodings.encode_on(device, list(batch.unseen.values()))
            for i, value in zip(batch.unseen, values, strict=True):
                batch.features[i] = value[: self.slots]
            batch.unseen = {}
        return batch

    def losses(self, model: nn.Module, batch: PublishedBatch) -> dict[str, Tensor]:
        loss = self._loss(batch)
        edits = torch.zeros(len(loss), dtype=torch.bool, device=loss.device)
        edits[batch.denoised.edited] = True
        return {"loss": loss.mean(), "edit": masked_mean(loss, edits), "alone": masked_mean(loss, ~edits)}

    def _loss(self, batch: PublishedBatch) -> Tensor:
        """L_DM of each sample [n]."""
        dtype = getattr(torch, self.placement.dtype)
        features = noised_features(batch.features, batch.amount, batch.augmentation_noise)
        return diffusion_loss(self.decoder, batch.denoised, features.flatten(0, 1), dtype)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """L_DM on held-out records with their features, another record's and none; with and without the source."""
        examples = self.held_out.batch(0)
        batch = to_device(
            self.finish(self._draw(examples, range(len(examples)), training=False)), device_of(self.decoder)
        )
        features, with_sources = batch.features, batch.denoised
        figures: dict[str, float] = {}
        for name, denoised in (("", with_sources), ("no_source/", _without_sources(with_sources))):
            batch.denoised, batch.features = denoised, features
            figures[f"{name}own_feature"] = float(self._loss(batch).mean())
            batch.features = features.roll(1, dims=0)
            figures[f"{name}others_feature"] = float(self._loss(batch).mean())
            batch.denoised = replace(denoised, unconditional=torch.ones_like(denoised.unconditional))
            figures[f"{name}no_feature"] = float(self._loss(batch).mean())
        return figures

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return [f"{example.record.source}:{example.record.key}" for example in self.examples.batch(step)]

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.examples.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_decoder(self.decoder, folder, provenance, with_network=self.options.trained != "head")

    def restore(self, folder: Path) -> None:
        load_trained(self.decoder, folder / TRAINED)


def check_modality(modality: str, model: CoDi2Config) -> None:
    """Raises ConfigError: the model has no decoder of the modality."""
    if modality not in model.decoders:
        raise ConfigError(
            f"options.modality is {modality!r}, but {model.name} has decoders of {', '.join(model.decoders)}; choose "
            "one"
        )


def export_decoder(decoder: Decoder, folder: Path, provenance: dict[str, Any], with_network: bool = False) -> None:
    """Writes the trained tensors of a published decoder and their provenance; `with_network`: its network too."""
    with merged(decoder.unet):
        save_decoder(decoder, folder, with_network)
    write_provenance(folder, provenance)


def _without_sources(denoised: DiffusionBatch) -> DiffusionBatch:
    return replace(denoised, edited=denoised.edited[:0], sources=denoised.sources[:0])


def build(config: TrainConfig) -> PublishedRecipe:
    return PublishedRecipe(config)
