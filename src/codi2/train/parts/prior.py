"""Trains the prior on cached hidden states of the language model and the items of each conversation.

The trained language model reads records of the tasks (`codi2.data.tasks`) once; the prior learns from the cached states
for many epochs. States are dropped at a rate, as classifier-free guidance needs it.

Letters: B samples, K slots, S the most of them, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.checkpoint import locate
from codi2.config import CoDi2Config, PriorConfig
from codi2.data import cache
from codi2.data.record import media_of
from codi2.data.tasks import WEIGHTS, TaskSampler, draw_record
from codi2.heads.prior import Context, Prior, sample_noise_levels
from codi2.prompt.layout import MODALITIES
from codi2.tensors import device_of
from codi2.train.answers import Answer, AnswerReader, Rows, context_of_rows, modality_of, write_prior
from codi2.train.bank import bank
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.drawn import drawn_key
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.prior_figures import figures
from codi2.train.place import placement_of, training_device
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_module, restore_module

DROPOUT = 0.1  # of the prior: its rows are few, and each is used in many epochs
BLOCK = 8  # steps whose answers are drawn together: those of a step have about equally many items


@dataclass(frozen=True)
class PriorOptions:
    model: str = ""  # preset or folder, of the language model's export
    tasks: dict[str, float] = field(default_factory=dict)  # family of tasks → share; empty: default shares
    samples: int = 16_000  # answers that are read once, and used in every epoch
    held_out: int = 400  # answers of the validation split
    num_items: int = 12  # latest items of a conversation
    width: int = 256  # of the transformer
    layers: int = 6
    heads: int = 8
    without_states: float = 0.1  # rate at which the language model's states are dropped


@dataclass
class PriorBatch:
    context: Context
    target: Tensor  # [B, K, D]
    noise: Tensor  # [B, K, D]
    sigma: Tensor  # [B]


def projection_groups(config: CoDi2Config) -> tuple[int, ...]:
    """The group of each modality: those that share a projection."""
    names = [config.heads.groups.get(modality, modality) for modality in MODALITIES]
    return tuple(names.index(name) for name in names)


class PriorRecipe(Recipe):
    divides = True
    block = BLOCK

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(PriorOptions, config)
        self.whole = _with_prior(locate(options.model)[0])
        placement = replace(placement_of(config), device=str(training_device(config)))
        reader = AnswerReader(options.model, options.num_items, placement).to(training_device(config))
        weights = options.tasks or WEIGHTS
        training, validation = (TaskSampler(cache.corpus(), (split,)) for split in ("train", "val"))
        self.key = drawn_key(training, config.seed, weights, media=True)
        depends = {**reader.depends(), "drawn": self.key}
        self.rows = bank(
            "answers",
            depends,
            options.samples,
            lambda places: reader.rows(answers(training, config.seed, places, weights)),
        )
        held = answers(validation, 1, range(options.held_out), weights)
        self.held_out, self.held_tasks = reader.rows(held), [answer.record.task for answer in held]
        self.depends, self.folder = depends, reader.folder
        self.num_slots = dict(self.whole.heads.num_slots)
        self.of_modality = _groups(self.rows)
        self.lengths = (self.rows["items"].abs().amax(-1) > 0).sum((1, 2)).numpy()  # features of the items before it
        torch.manual_seed(config.seed)
        states, target = self.rows["states"], self.rows["target"]
        self.prior = Prior(
            target.shape[-1],
            states.shape[-1],
            num_slots=states.shape[1],
            num_items=options.num_items,
            width=options.width,
            layers=options.layers,
            heads=options.heads,
            groups=projection_groups(self.whole),
            dropout=DROPOUT,
        )
        self.model = nn.ModuleDict({"prior": self.prior})

    def batch(self, step: int, share: Share = WHOLE) -> PriorBatch:
        """Answers of one modality, since those of several would have different numbers of slots."""
        size, (modality, places) = self.config.batch_size, self._places(step)
        slots, generator = self.num_slots[modality], torch_at(self.config.seed, step)
        noise = torch.randn(size, slots, self.rows["target"].shape[-1], generator=generator)
        sigma, kept = (
            sample_noise_levels(size, generator),
            torch.rand(size, generator=generator) >= self.options.without_states,
        )
        rows = share.rows(size)
        context = context_of_rows(self.rows, torch.from_numpy(places[rows]), slots)
        states = context.states * kept[rows].view(-1, 1, 1)
        target = self.rows["target"][places[rows], :slots].float()
        return PriorBatch(replace(context, states=states), target, noise[rows], sigma[rows])

    def _places(self, step: int) -> tuple[str, np.ndarray]:
        """Modality and rows of a step."""
        block, index = divmod(step, BLOCK)
        draw, size = numpy_at(self.config.seed, block), self.config.batch_size
        names = list(self.of_modality)
        counts = np.array([len(self.of_modality[name]) for name in names])
        modality = names[int(draw.choice(len(names), p=counts / counts.sum()))]
        candidates = self.of_modality[modality]
        rows = candidates[draw.integers(len(candidates), size=size * BLOCK)]
        ordered = rows[np.argsort(self.lengths[rows], kind="stable")].reshape(BLOCK, size)
        return modality, ordered[draw.permutation(BLOCK)[index]]

    def losses(self, model: nn.Module, batch: PriorBatch) -> dict[str, Tensor]:
        return {"loss": self.prior.loss(batch.target, batch.noise, batch.sigma, batch.context).mean()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """By task: see `prior_figures`."""
        held = {name: value.to(device_of(self.prior)) for name, value in self.held_out.items()}
        return figures(self.prior, held, self.held_tasks, self.num_slots)

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": {"tasks": self.key, "corpus": cache.corpus().version}, "read_with": self.depends}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """The language model's export with the prior added."""
        write_prior(self.folder, self.whole, folder)
        export_module(self.prior, folder / "prior", provenance)

    def restore(self, folder: Path) -> None:
        restore_module(self.prior, folder / "prior")


def _with_prior(config: CoDi2Config) -> CoDi2Config:
    """The config with a prior. Raises ConfigError: the model's heads cannot be combined with a prior."""
    return replace(config, heads=replace(config.heads, prior=config.heads.prior or PriorConfig()))


def answers(sampler: TaskSampler, seed: int, numbers: Sequence[int], weights: dict[str, float]) -> list[Answer]:
    """Answers with media; one is drawn of a record that has several."""
    drawn = []
    for number in numbers:
        record = draw_record(sampler, seed, number, weights, media=True)
        count = len(media_of(record.turns[-1:]))
        drawn.append(Answer(record, int(numpy_at(seed, number).integers(count))))
    return drawn


def _groups(rows: Rows) -> dict[str, np.ndarray]:
    """Modality → the indices of its rows."""
    kinds = np.array(modality_of(rows))
    return {name: np.flatnonzero(kinds == name) for name in MODALITIES if (kinds == name).any()}


def build(config: TrainConfig) -> PriorRecipe:
    return PriorRecipe(config)
