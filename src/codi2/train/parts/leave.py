"""The way out of the language model, taught apart from it.

What an edit or an example does to a feature is a map of the features given (see `heads.projection.Leave`), and such a
map takes more examples than a language model can read again and again. So it learns twice on its own: first on what
prompts give alone, with zeros for hidden states, so that the language model has a way out to start from; and once more
on the hidden states of the trained language model, each computed once.

Letters: P slots, N items, T features of an item, D joint width, W width of the language model.
"""

from __future__ import annotations

import hashlib
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
from codi2.hub import atomic_path, home, sha256_of
from codi2.llm.mllm import MLLM
from codi2.prompt.layout import MODALITIES, Message, collate, layout_for, words_of
from codi2.prompt.parts import Phrase
from codi2.train.config import TrainConfig
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.foretold import least_squares_features
from codi2.train.parts.llm import SLOTS, UNSEEN
from codi2.train.parts.predicted import draw_examples
from codi2.train.parts.store import Store, weights_folder, world

HELD_OUT = 64  # examples of each task
READ_AT_ONCE = 32  # conversations that the language model reads in one pass


@dataclass(frozen=True)
class LeaveOptions:
    tasks: dict[str, float] = field(default_factory=dict)  # task → share of the examples
    examples: int = 20_000  # that are drawn; their prompts' words are encoded once
    noise: float = 0.3  # standard deviation of the noise on the features given: what is learned of few things is coarse
    states: bool = False  # of the language model in `weights`, or zeros
    drop: float = 0.0  # rate at which a number of a state is dropped
    width: int = 576  # W
    weights: str = ""  # folder with encoder heads and language model; empty: the shipped ones


@dataclass
class Batch:
    """Slots and items of some examples, as `Leave` reads them."""

    modality: Tensor  # int64 [P]
    number: Tensor  # int64 [P]
    target: Tensor  # [P, D]
    states: Tensor  # [P, W], before the slots
    features: Tensor  # [N, T, D]
    item_states: Tensor  # [N, W], at the items' ends
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
        if options.states:
            self.read = _hidden_states(weights, self.store, self.everything)
        else:
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
        if self.options.drop:
            kept = torch.rand(batch.states.shape, generator=generator) >= self.options.drop
            batch.states = batch.states * kept
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
        states, item_states = torch.zeros(len(slots), self.options.width), torch.zeros(len(sample), self.options.width)
        if self.options.states:
            states = torch.cat([self.read[row][0] for row in rows]).float()
            item_states = torch.cat([self.read[row][1] for row in rows]).float()
        return Batch(
            modality=modality,
            number=number,
            target=torch.stack([answers[i][k] for i, _, k in slots]),
            states=states,
            features=fit_features(
                self.store.stacked([part for parts in given for part in parts]), max(self.heads.num_slots.values())
            ),
            item_states=item_states,
            sample=sample,
            visible=of[:, None] == sample,
        )

    def _predict(self, b: Batch) -> Tensor:
        memory = Memory(b.item_states, b.features, b.sample)
        found: Tensor = self.model(b.states, b.modality, b.number, memory, b.visible)
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
        """The way out alone or, where there is a language model, its projections with the new way out among them."""
        from codi2.tensors import read_tensors
        from codi2.train.export import export_tensors

        if not self.options.states:
            export_tensors(self.model.state_dict(), folder / "leave.safetensors", provenance)
            return
        heads = read_tensors(weights_folder(self.options.weights) / "heads.safetensors")
        heads |= {f"leave.{name}": value for name, value in self.model.state_dict().items()}
        export_tensors(heads, folder / "heads.safetensors", provenance)

    def restore(self, folder: Path) -> None:
        load_leave(self.model, folder)


def load_leave(leave: Leave, folder: Path) -> None:
    """What `LeaveRecipe.export` wrote, or the way out of a language model.

    Raises:
        WeightsError: it is missing or does not fit.
    """
    from codi2.errors import WeightsError
    from codi2.tensors import read_tensors

    path = folder / "leave.safetensors"
    if not path.is_file():
        path = folder / "heads.safetensors"
    tensors = {
        name.removeprefix("leave."): value
        for name, value in read_tensors(path).items()
        if not name.startswith("enter.")
    }
    try:
        leave.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the config: {error}") from error


def _given(example: Example) -> list[Any]:
    """The items of a prompt in reading order, its words last."""
    return [part for part in (*example.prompt, *words_of(example.prompt)) if isinstance(part, Ref | Phrase)]


def _hidden_states(weights: Path, store: Store, examples: list[Example]) -> list[tuple[Tensor, Tensor]]:
    """Of the language model in `weights`: before each example's slots [K, W] and at its items' ends [N, W], fp16."""
    parts = [sha256_of(weights / name) for name in ("adapter/adapter_model.safetensors", "heads.safetensors")]
    key = hashlib.sha256("|".join([*parts, *map(str, examples)]).encode()).hexdigest()[:12]
    path = home() / "cache" / f"states-{key}.pt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as aside:
            torch.save(_read(weights, store, examples), aside)
    found: list[tuple[Tensor, Tensor]] = torch.load(path, weights_only=True)
    return found


@torch.inference_mode()
def _read(weights: Path, store: Store, examples: list[Example]) -> list[tuple[Tensor, Tensor]]:
    """The slots are fed with what least squares foretell: much as a prediction, and nothing of the true answer."""
    from rich.progress import track

    from codi2.checkpoint import load_language, locate
    from codi2.llm.backbone import load_backbone

    config, _ = locate(weights)
    mllm = MLLM(load_backbone(config.llm), config.heads).eval()
    load_language(mllm, weights)
    layout = layout_for(config, mllm.backbone.tokenizer)
    foretold: dict[int, Tensor] = {}
    for modality in config.heads.num_slots:
        rows = [i for i, example in enumerate(examples) if example.answer.modality == modality]
        foretold |= dict(zip(rows, least_squares_features(store, [examples[i] for i in rows]), strict=True))
    sequences = [layout([Message("user", e.prompt), Message("assistant", (e.answer,))]) for e in examples]
    order = sorted(range(len(examples)), key=lambda i: len(sequences[i].ids))  # little padding
    read: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(examples)
    for start in track(range(0, len(order), READ_AT_ONCE), description="the language model reads", transient=True):
        rows = order[start : start + READ_AT_ONCE]
        batch = collate([sequences[i] for i in rows], mllm.backbone.pad_id)
        items: tuple[Any, ...] = batch.items
        features = store.stacked(items)
        answers = batch.slot_item[batch.slot_predicted].unique().tolist()
        for item, i in zip(answers, rows, strict=True):
            features[item, : len(foretold[i])] = foretold[i]
        hidden = mllm.backbone(mllm.rows(batch, features), batch.mask)
        before = hidden[batch.slot_sample, batch.slot_position - 1][batch.slot_predicted].half()
        of = batch.slot_sample[batch.slot_predicted]
        asked = torch.ones(len(items), dtype=torch.bool)
        asked[answers] = False
        ends = hidden[batch.item_sample, batch.item_end].half()
        for b, i in enumerate(rows):
            read[i] = (before[of == b].clone(), ends[(batch.item_sample == b) & asked].clone())
    return read


def build(config: TrainConfig) -> LeaveRecipe:
    return LeaveRecipe(config)
