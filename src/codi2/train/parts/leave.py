"""The way out of the language model, taught apart from it.

What an edit or an example does to a feature is a map of the features given (see `heads.projection.Leave`), and such a
map takes more examples than a language model can read. So it is taught first, on what prompts give alone, with zeros
for hidden states: the language model then has a way out to start from.

Letters: P slots, N items, T features of an item, D joint width, W width of the language model.
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
    width: int = 576  # W
    weights: str = ""  # folder with encoder heads; empty: the shipped ones


@dataclass
class Batch:
    """Slots and items of some examples, as `Leave` reads them."""

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
        weights = weights_folder(options.weights)
        self.heads = preset("tiny").heads
        torch.manual_seed(config.seed)
        self.model = Leave(self.heads, options.width)
        self.store = Store(weights, self.heads.feature_dim)
        training = world(("train",), "mix", {})
        per_modality = options.examples // len(self.heads.num_slots)
        self.examples = [
            example
            for modality in self.heads.num_slots
            for example in draw_examples(training, options.tasks, modality, per_modality, config.seed)
        ]
        known, unseen = (world(splits, "test_mix", {}) for splits in (("test_rendering", "val"), ("test_family",)))
        self.held_out = [
            TASKS[name](unseen if name in UNSEEN else known, np.random.default_rng((0, i)))
            for name in options.tasks
            if name != "subject"
            for i in range(HELD_OUT)
        ]
        self.everything = [*self.examples, *self.held_out]
        self.store.stacked([part for example in self.everything for part in _given(example)[-1:]])
        for asking in (self.model.query, self.model.key):
            asking.requires_grad_(False)
        for mlp in self.model.projection.maps.values():
            first = next(mlp.children())
            assert isinstance(first, nn.Linear)
            nn.init.zeros_(first.weight.data[:, : options.width])  # hidden states say nothing yet

    def batch(self, step: int) -> Batch:
        draw, generator = numpy_at(self.config.seed, step), torch_at(self.config.seed, step)
        batch = self._collate(draw.integers(len(self.examples), size=self.config.batch_size).tolist())
        noise = torch.randn(batch.features.shape, generator=generator)
        batch.features = batch.features + self.options.noise * noise * (batch.features != 0)
        return batch

    def _collate(self, rows: list[int]) -> Batch:
        """Of the examples of these numbers; those held out come behind the training's."""
        examples = [self.everything[row] for row in rows]
        given = [_given(example) for example in examples]
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
            features=fit_features(
                self.store.stacked([part for parts in given for part in parts]), max(self.heads.num_slots.values())
            ),
            sample=sample,
            visible=of[:, None] == sample,
        )

    def _predict(self, b: Batch) -> Tensor:
        width = self.options.width
        memory = Memory(torch.zeros(len(b.sample), width), b.features, b.sample)
        found: Tensor = self.model(torch.zeros(len(b.number), width), b.modality, b.number, memory, b.visible)
        return found

    def losses(self, model: nn.Module, b: Batch) -> dict[str, Tensor]:
        return {"loss": mean((self._predict(b) - b.target).square().mean(1))}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true features on held-out items, by task and slot."""
        figures: dict[str, float] = {}
        for task in dict.fromkeys(example.task for example in self.held_out):
            rows = [len(self.examples) + i for i, example in enumerate(self.held_out) if example.task == task]
            b = self._collate(rows)
            cosines = torch.cosine_similarity(self._predict(b), b.target, dim=-1)
            for number in range(int(b.number.max()) + 1):
                figures[f"{task}/{SLOTS[number]}"] = float(cosines[b.number == number].mean())
        return figures

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.train.export import export_tensors

        export_tensors(self.model.state_dict(), folder / "leave.safetensors", provenance)

    def restore(self, folder: Path) -> None:
        load_leave(self.model, folder)


def load_leave(leave: Leave, folder: Path) -> None:
    """What `LeaveRecipe.export` wrote.

    Raises:
        WeightsError: it is missing or does not fit.
    """
    from codi2.errors import WeightsError
    from codi2.tensors import read_tensors

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
