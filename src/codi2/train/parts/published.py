"""A published decoder on records, without the language model: its head, or its whole network, with the fidelity path.

The decoder learns from the answers of a data set and their true features: with them, without them, with the source that
the record names and without it, at the rates that guidance needs (InstructPix2Pix). Its network is given what it is
given when it samples (`parts.denoised`).

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
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import TRAINED, load_trained, save_decoder, trained_modules
from codi2.errors import ConfigError
from codi2.tensors import device_of, to_device
from codi2.train.config import TrainConfig, options_of
from codi2.train.encoded import Piece
from codi2.train.lessons import Lesson, Lessons, check_held_out, encodings_for, read_stores
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.denoised import draw_denoised
from codi2.train.parts.diffusion_loss import diffusion_loss, for_training, save_memory
from codi2.train.parts.draw import noised_features, torch_at
from codi2.train.parts.language_batch import Denoised
from codi2.train.parts.lora import add_lora, merged
from codi2.train.place import placement_of, training_device

VALIDATED = 16  # held-out samples


@dataclass(frozen=True)
class PublishedOptions:
    modality: str  # image, audio or video
    model: str = "paper"  # preset or folder: its encoder and its decoder
    # head: what leads features and sources in; network: all of it as well; lora: LoRA on its attention as well
    trained: Literal["head", "network", "lora"] = "head"
    lora_rank: int = 64
    feature_noise: float = (
        0.0  # most noise on the features, 0 … 1: those that the language model predicts are no true ones
    )
    features: str | Sequence[str] = ""  # folders that `codi2 data encode` made; empty: those beside the data sets
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the samples
    held_out: dict[str, float] = field(default_factory=dict)  # the same, of what it is validated on
    gradient_checkpointing: bool = False  # less memory for more work


@dataclass
class Batch:
    denoised: Denoised
    features: Tensor  # [n, K, D]
    unseen: dict[int, Piece]  # samples whose features nobody has made yet
    amount: Tensor  # [n, 1, 1], of noise on the features
    haze: Tensor  # [n, K, D], that noise


class PublishedRecipe:
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(PublishedOptions, config)
        self.placement = replace(placement_of(config), device=str(training_device(config)))
        modality = self.options.modality
        model, folder = locate(self.options.model)
        if modality not in model.decoders:
            raise ConfigError(
                f"options.modality is {modality!r}; {model.name} has decoders of {', '.join(model.decoders)}"
            )
        if self.options.trained not in ("head", "network", "lora"):
            raise ConfigError(f"options.trained is {self.options.trained!r}; it should be 'head', 'network' or 'lora'")
        check_held_out(config.part, self.options.held_out)
        encodings, phases = encodings_for(model, folder), {modality: 1.0}
        read_stores(encodings, model, self.options)
        self.lessons = Lessons(self.options.data, encodings, config.batch_size, phases, config.seed)
        self.held_out = Lessons(self.options.held_out, encodings, VALIDATED, phases, config.seed + 1)
        self.slots, self.width = model.heads.num_slots[modality], model.heads.feature_dim
        torch.manual_seed(config.seed)
        self.decoder = self._decoder(load_one_decoder(modality, model, folder and folder / modality))
        self.frozen = for_training(self.decoder)

    def _decoder(self, decoder: Decoder) -> Decoder:
        """Ready to be trained. Raises ConfigError: it is none of a published pipeline."""
        heads = trained_modules(decoder)
        if not heads:
            raise ConfigError(
                f"the {self.options.modality} decoder of {self.options.model!r} is no published pipeline; name a model "
                "whose decoders have kind 'pipeline'"
            )
        self.model = nn.ModuleDict({"head": nn.ModuleList(heads)})
        if self.options.trained == "network":
            self.model["network"] = decoder.unet
        if self.options.trained == "lora":
            self.model["lora"] = add_lora(decoder.unet, self.options.lora_rank)
        self.model.requires_grad_(True)
        return save_memory(decoder) if self.options.gradient_checkpointing else decoder

    def batch(self, step: int, share: Share = WHOLE) -> Batch:
        size = self.config.batch_size
        rows = share.rows(size)
        lessons = self.lessons.batch(step, share.index, share.count)
        drawn = self._draw(lessons, [step * size + row for row in rows], learns=True)
        return drawn if get_worker_info() else self.finish(drawn)

    def _draw(self, lessons: Sequence[Lesson], numbers: Sequence[int], learns: bool) -> Batch:
        items = [lesson.answer(self.options.modality) for lesson in lessons]
        slots = torch.arange(len(lessons) * self.slots).view(-1, self.slots)
        answers = list(zip(lessons, items, numbers, strict=True))
        denoised = draw_denoised(self.decoder, answers, slots, self.width, self.config.seed, learns)
        media = [lesson.medium(item) for lesson, item in zip(lessons, items, strict=True)]
        features = torch.zeros(len(lessons), self.slots, self.width)
        known = self.lessons.encodings.known(media)
        for row, value in zip(features, known, strict=True):
            if value is not None:
                row[:] = value[: self.slots]
        unseen: dict[int, Piece] = {i: media[i] for i, value in enumerate(known) if value is None}
        draws = [torch_at(self.config.seed + 5, number) for number in numbers]
        most = self.options.feature_noise if learns else 0.0
        amount = most * torch.stack([torch.rand(1, 1, generator=draw) for draw in draws])
        haze = torch.stack([torch.randn(self.slots, self.width, generator=draw) for draw in draws])
        return Batch(denoised, features, unseen, amount, haze)

    def finish(self, drawn: Batch) -> Batch:
        """Encodes what nobody has encoded yet, where this process trains."""
        if drawn.unseen:
            device = torch.device(self.placement.device)
            values = self.lessons.encodings.encode_on(device, list(drawn.unseen.values()))
            for i, value in zip(drawn.unseen, values, strict=True):
                drawn.features[i] = value[: self.slots]
            drawn.unseen = {}
        drawn.features = noised_features(drawn.features, drawn.amount, drawn.haze)
        return drawn

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss = self._loss(batch)
        edits = torch.zeros(len(loss), dtype=torch.bool, device=loss.device)
        edits[batch.denoised.given] = True
        return {"loss": loss.mean(), "edit": _mean(loss, edits), "alone": _mean(loss, ~edits)}

    def _loss(self, batch: Batch) -> Tensor:
        """L_DM of each sample [n]."""
        dtype = getattr(torch, self.placement.dtype)
        return diffusion_loss(self.decoder, batch.denoised, batch.features.flatten(0, 1), dtype)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """L_DM on held-out records: with their features, with another's and with none; with and without the source."""
        lessons = self.held_out.batch(0)
        drawn = to_device(self.finish(self._draw(lessons, range(len(lessons)), learns=False)), device_of(self.decoder))
        own, told = drawn.features, drawn.denoised
        figures: dict[str, float] = {}
        for name, denoised in (("", told), ("no_source/", _without_sources(told))):
            drawn.denoised, drawn.features = denoised, own
            figures[f"{name}own_feature"] = float(self._loss(drawn).mean())
            drawn.features = own.roll(1, dims=0)
            figures[f"{name}others_feature"] = float(self._loss(drawn).mean())
            drawn.denoised = replace(denoised, unconditional=torch.ones_like(denoised.unconditional))
            figures[f"{name}no_feature"] = float(self._loss(drawn).mean())
        return figures

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return [f"{lesson.record.source}:{lesson.record.key}" for lesson in self.lessons.batch(step)]

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.lessons.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_decoder(self.decoder, folder, provenance, whole=self.options.trained != "head")

    def restore(self, folder: Path) -> None:
        load_trained(self.decoder, folder / TRAINED)


def export_decoder(decoder: Decoder, folder: Path, provenance: dict[str, Any], whole: bool = False) -> None:
    """What was trained of a published decoder, and where it comes from; `whole`: the network as well."""
    import json

    from codi2 import __version__
    from codi2.hub import write_atomic

    with merged(decoder.unet):
        save_decoder(decoder, folder, whole)
    about = {"codi2": __version__, **provenance}
    write_atomic(folder / "training.json", (json.dumps(about, indent=1) + "\n").encode())


def _without_sources(denoised: Denoised) -> Denoised:
    return replace(denoised, given=denoised.given[:0], sources=denoised.sources[:0])


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """Of the rows [n] that count; zero where none does."""
    return (values * rows).sum() / rows.sum().clamp(min=1)


def build(config: TrainConfig) -> PublishedRecipe:
    return PublishedRecipe(config)
