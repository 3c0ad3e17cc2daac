"""The way out of the language model, taught on what prompts give alone, before any language model runs.

What an edit or an example does to a feature is a map of the features given (see `heads.projection.Leave`), and such a
map takes more examples than a language model can read in an hour. Here the heads point at their places from the end and
hidden states are zeros; the language model starts from that and adds what it understands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import preset
from codi2.data.tasks import TASKS, Example, Ref
from codi2.heads.loss import mean
from codi2.heads.projection import Leave, Memory, fit_features
from codi2.prompt.layout import MODALITIES, words_of
from codi2.prompt.parts import Phrase
from codi2.train.config import TrainConfig
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.llm import SLOTS, UNSEEN
from codi2.train.parts.predicted import draw_examples
from codi2.train.parts.store import Store, weights_folder, world

HELD_OUT = 64  # examples of each task


@dataclass(frozen=True)
class LeaveOptions:
    tasks: dict[str, float] = field(default_factory=dict)  # task → share of the examples
    examples: int = 20_000  # that are drawn; their prompts' words are encoded once
    noise: float = 0.3  # standard deviation of the noise on the features given: what is learned of few things is coarse
    width: int = 576  # of the language model's states
    weights: str = ""  # folder with encoder heads; empty: the shipped ones


@dataclass
class Batch:
    """Slots and items of some examples, as `Leave` reads them; P slots, N items, T features."""

    modality: Tensor  # int64 [P]
    number: Tensor  # int64 [P]
    target: Tensor  # [P, D]
    features: Tensor  # [N, T, D]
    sample: Tensor  # int64 [N]
    visible: Tensor  # bool [P, N]


class LeaveRecipe:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = LeaveOptions(**config.options)
        self.heads = preset("tiny").heads
        torch.manual_seed(config.seed)
        self.model = Leave(self.heads, options.width)
        for asking in (self.model.query, self.model.key):
            asking.requires_grad_(False)
        for mlp in self.model.projection.maps.values():
            nn.init.zeros_(mlp[0].weight.data[:, : options.width])  # hidden states say nothing yet
        self.store = Store(weights_folder(options.weights), self.heads.feature_dim)
        everything = world(("train",), "mix", {})
        self.examples = [
            example
            for modality in self.heads.num_slots
            for example in draw_examples(
                everything, options.tasks, modality, options.examples // len(self.heads.num_slots), config.seed
            )
        ]
        known, unseen = (world(splits, "test_mix", {}) for splits in (("test_rendering", "val"), ("test_family",)))
        self.held_out = {"known": known, "unseen": unseen}
        self.store.stacked([part for example in self.examples for part in _given(example)[-1:]])

    def batch(self, step: int) -> Batch:
        draw = numpy_at(self.config.seed, step)
        rows = draw.integers(len(self.examples), size=self.config.batch_size)
        batch = self._collate([self.examples[int(i)] for i in rows])
        noise = torch.randn(batch.features.shape, generator=torch_at(self.config.seed, step))
        batch.features = batch.features + self.options.noise * noise * (batch.features != 0)
        return batch

    def _collate(self, examples: list[Example]) -> Batch:
        given = [_given(example) for example in examples]
        items = [part for parts in given for part in parts]
        sample = torch.tensor([i for i, parts in enumerate(given) for _ in parts])
        slots = [
            (i, MODALITIES.index(example.answer.modality), number)
            for i, example in enumerate(examples)
            for number in range(self.heads.num_slots[example.answer.modality])
        ]
        of, modality, number = torch.tensor(slots).unbind(1)
        answers = [self.store.features(example.answer) for example in examples]
        return Batch(
            modality=modality,
            number=number,
            target=torch.stack([answers[i][k] for i, _, k in slots]),
            features=fit_features(self.store.stacked(items), max(self.heads.num_slots.values())),
            sample=sample,
            visible=of[:, None] == sample,
        )

    def _predict(self, b: Batch) -> Tensor:
        memory = Memory(torch.zeros(len(b.sample), self.options.width), b.features, b.sample)
        states = torch.zeros(len(b.number), self.options.width)
        found: Tensor = self.model(states, b.modality, b.number, memory, b.visible)
        return found

    def losses(self, model: nn.Module, b: Batch) -> dict[str, Tensor]:
        return {"loss": mean((self._predict(b) - b.target).square().mean(1))}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true features on held-out items, by task and slot."""
        figures = {}
        for name in self.options.tasks:
            held_out, draw = self.held_out["unseen" if name in UNSEEN else "known"], np.random.default_rng(0)
            if name == "subject":
                continue
            examples = [TASKS[name](held_out, draw) for _ in range(HELD_OUT)]
            b = self._collate(examples)
            cosines = torch.cosine_similarity(self._predict(b), b.target, dim=-1)
            for number in range(int(b.number.max()) + 1):
                figures[f"{name}/{SLOTS[number]}"] = float(cosines[b.number == number].mean())
        return figures

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.train.export import export_tensors

        export_tensors(self.model.state_dict(), folder / "leave.safetensors", provenance)

    def restore(self, folder: Path) -> None:
        load_leave(self.model, folder)


def load_leave(leave: Leave, folder: Path) -> None:
    """What `LeaveRecipe.export` wrote. Raises WeightsError when it is missing or does not fit."""
    from codi2.checkpoint import read_tensors
    from codi2.errors import WeightsError

    path = folder / "leave.safetensors"
    try:
        leave.load_state_dict({name: value.float() for name, value in read_tensors(path).items()})
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the config: {error}") from error


def _given(example: Example) -> list[Any]:
    """The items of a prompt in reading order, its words last."""
    return [part for part in (*example.prompt, *words_of(example.prompt)) if isinstance(part, Ref | Phrase)]


def build(config: TrainConfig) -> LeaveRecipe:
    return LeaveRecipe(config)
