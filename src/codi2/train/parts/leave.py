"""The way out of the language model, taught apart from it.

What an edit or an example does to a feature is a map of the features given (see `heads.projection`), and such a
map takes more examples than a language model can read. So it is taught first, on what prompts give alone, with zeros
for hidden states: the language model then has a way out to start from. And it is taught once more at the end (`reads`),
when the language model stays as it is: records are read once, and their states give many epochs.

Letters: P slots, N items, T features of an item, D joint width, W width of the language model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi2.checkpoint import locate
from codi2.encode.tiny import load_heads
from codi2.heads.loss import mean
from codi2.heads.projection import Memory, OutputProjection, fit_features, kept_in_bytes
from codi2.llm.mllm import stack_features
from codi2.prompt.layout import MODALITIES
from codi2.train.config import TrainConfig, options_of
from codi2.train.lessons import Lesson, Lessons, encodings_for
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.draw import torch_at
from codi2.train.parts.llm import SLOTS, held_out_by_task
from codi2.train.parts.operators import fit_operators, known_changes
from codi2.train.parts.states import States, language_states

HEADS = "heads.safetensors"  # of a model: its ways in and out


@dataclass(frozen=True)
class LeaveOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the examples
    held_out: dict[str, float] = field(default_factory=dict)  # the same, of what it is validated on
    noise: float = 0.3  # standard deviation of the noise on the features given: what is learned of few things is coarse
    width: int = 576  # W
    phases: dict[str, float] = field(default_factory=lambda: {"image": 1.0, "audio": 1.0})  # answers → share
    reads: bool = False  # whether the language model of `model` has read the records, and its way out goes on
    drop: float = 0.0  # rate at which numbers are withheld from the projection, against learning by heart
    joint_weight: float = 1.0  # of joint vectors, which say most of what no prompt tells
    points: bool = False  # whether it learns where to point; without, as the language model has learned it
    gone: float = 1.0  # share of the way from the weights that it went on from, of what is exported (arXiv:2109.01903)
    operators: bool = False  # whether it begins with operators that are fitted to known changes, and learns to use them
    # alone: the rest stays as it is
    # added to the logits of the operators' shares, where something was shown and where not: they learn beside
    # predictions of records that the rest knows by heart, and so too little
    bold: tuple[float, float] = (0.0, 0.0)
    # tasks that it is taught, while what it makes of others is to stay as it is; without, all
    taught: tuple[str, ...] = ()
    maps: int = 0  # linear maps (`heads.maps`) of a model that has none yet; 0: as it has them
    model: str = "tiny"  # preset or folder: its encoder


@dataclass
class Batch:
    """Slots and items of some examples, as `OutputProjection` reads them."""

    modality: Tensor  # int64 [P]
    number: Tensor  # int64 [P]
    target: Tensor  # [P, D]
    taught: Tensor  # bool [P], whether the target is learned
    features: Tensor  # [N, T, D]
    sample: Tensor  # int64 [N]
    item_modality: Tensor  # int64 [N]
    visible: Tensor  # bool [P, N]
    hidden: Tensor  # [P, W], zeros where nothing was read
    ends: Tensor  # [N, W], likewise


class LeaveRecipe:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(LeaveOptions, config)
        self.base, folder = locate(options.model)
        self.heads = replace(self.base.heads, maps=options.maps or self.base.heads.maps)
        known = known_changes(self.heads) if options.operators else {}
        if known:
            counts = {name: len(some) for name, (_, some) in known.items()}
            self.heads = replace(self.heads, operators=counts)
        torch.manual_seed(config.seed)
        self.model = OutputProjection(self.heads, options.width)
        self.model.withheld.p = options.drop
        encodings = encodings_for(self.base, folder)
        if known:
            assert self.model.operators is not None and folder is not None
            encoder = load_heads(folder / "encoder" / "heads.safetensors", self.heads.feature_dim)
            fit_operators(self.model.operators.maps, known, encoder)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith("operators.") and ".maps." not in name)
        self.lessons = Lessons(options.data, encodings, config.batch_size, options.phases, config.seed)
        held_out = Lessons(options.held_out or options.data, encodings, 16, options.phases, 1)
        by_task = held_out_by_task(held_out)
        self.held_out = {task: some for task, some in by_task.items() if _answered(some[0], self.heads.num_slots)}
        self.states: dict[str, States] = {}
        self.began: dict[str, Tensor] = {}
        self.before: OutputProjection | None = None  # as it was, where other tasks than the taught ones are to stay so
        self.folder = folder if options.reads else None
        late = (self.model.late,) if options.reads else ()
        for asking in () if known else (self.model.query, self.model.key, *late):
            asking.requires_grad_(options.points)
        if options.reads:
            self._read([*self.lessons.every(), *(lesson for some in self.held_out.values() for lesson in some)])
            if config.start:
                self.restore(Path(config.start))
            self.began = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.before = copy.deepcopy(self.model).eval().requires_grad_(False) if options.taught else None
            return
        for mlp in self.model.projection.maps.values():
            first = next(mlp.children())
            assert isinstance(first, nn.Linear)
            nn.init.zeros_(first.weight.data[:, : options.width])  # hidden states say nothing yet

    def _read(self, lessons: Sequence[Lesson]) -> None:
        """The states of all records, and the way out as the language model has it."""
        for lesson, found in zip(lessons, language_states(self.options.model, lessons), strict=True):
            self.states[lesson.place] = found
        if self.folder is not None:
            self.restore(self.folder)

    def batch(self, step: int, share: Share = WHOLE) -> Batch:
        batch = self._collate(self.lessons.batch(step))
        noise = torch.randn(batch.features.shape, generator=torch_at(self.config.seed, step))
        batch.features = batch.features + self.options.noise * noise * (batch.features != 0)
        return batch

    def _collate(self, lessons: Sequence[Lesson]) -> Batch:
        """The answers of each, from the items before them; without states the last answer alone."""
        slots, given, sample, kinds, targets, taught, hidden, ends = [], [], [], [], [], [], [], []
        nothing, i = torch.zeros(1, self.options.width), 0
        for lesson in lessons:
            states, first = self.states.get(lesson.place), 0
            answers = _answered(lesson, self.heads.num_slots)
            for answer in answers if states else answers[-1:]:
                modality = lesson.items[answer][1].modality
                count = self.heads.num_slots[modality]
                slots += [(i, MODALITIES.index(modality), number) for number in range(count)]
                targets.append(lesson.features[answer][:count])
                taught += [not self.options.taught or lesson.record.task in self.options.taught] * count
                given += list(lesson.features[:answer])
                sample += [i] * answer
                kinds += [MODALITIES.index(part.modality) for _, part in lesson.items[:answer]]
                hidden.append(states.slots[first : first + count].float() if states else nothing.expand(count, -1))
                ends.append(states.items[:answer].float() if states else nothing.expand(answer, -1))
                first, i = first + count, i + 1
        of, kind, number = torch.tensor(slots).unbind(1)
        of_items = torch.tensor(sample, dtype=torch.long)
        features = stack_features(given, self.heads.feature_dim)
        return Batch(
            modality=kind,
            number=number,
            target=torch.cat(targets),
            taught=torch.tensor(taught),
            features=fit_features(features, max(self.heads.num_slots.values())),
            sample=of_items,
            item_modality=torch.tensor(kinds, dtype=torch.long),
            visible=of[:, None] == of_items,
            hidden=torch.cat(hidden),
            ends=torch.cat(ends),
        )

    def _predict(self, b: Batch, leave: nn.Module | None = None) -> Tensor:
        memory = Memory(b.ends, b.features, b.sample, b.item_modality)
        found: Tensor = (leave or self.model)(b.hidden, b.modality, b.number, memory, b.visible)
        return found

    def losses(self, model: nn.Module, b: Batch) -> dict[str, Tensor]:
        target = b.target
        if self.before is not None:
            with torch.no_grad():
                target = torch.where(b.taught[:, None], target, self._predict(b, self.before))
        error = (self._predict(b) - target).square().mean(1)
        return {"loss": mean(error * torch.where(b.number == 0, self.options.joint_weight, 1.0))}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true features on held-out items, by task and slot."""
        figures: dict[str, float] = {}
        for task, lessons in self.held_out.items():
            b = self._collate(lessons)
            cosines = torch.cosine_similarity(self._predict(b), b.target, dim=-1)
            for number in range(int(b.number.max()) + 1):
                figures[f"{task}/{SLOTS[number]}"] = float(cosines[b.number == number].mean())
        return figures

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.lessons.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.hub import write_atomic
        from codi2.tensors import read_tensors
        from codi2.weight_files import export_tensors

        found = self._gone()
        if self.folder is None:
            export_tensors(found, folder / "leave.safetensors", provenance)
        else:  # both ways of a model: this one is half of a file
            whole = read_tensors(self.folder / "heads.safetensors")
            ours = {f"output_projection.{name}": value for name, value in found.items()}
            heads = whole | ours
            export_tensors(heads, folder / HEADS, provenance, kept_in_bytes(heads, self.model))
            if self.heads != self.base.heads:
                write_atomic(folder / "config.json", replace(self.base, heads=self.heads).to_json().encode())

    def _gone(self) -> dict[str, Tensor]:
        """The weights, or `gone` of the way to them: what is learned of few things is in the rest. What chooses linear
        maps and operators had nothing to go on from.
        """
        kept = ("edits.choose", "edits.favour", "operators.asked", "operators.trust", "operators.certain")
        share, bold = self.options.gone, torch.tensor(self.options.bold)
        found = {
            name: torch.lerp(self.began[name], value, share)
            if name in self.began and share < 1 and not name.startswith(kept)
            else value
            for name, value in self.model.state_dict().items()
        }
        shares = [name for name in found if name.startswith("operators.share") and name.endswith("bias")]
        return found | {name: found[name] + bold for name in shares}

    def restore(self, folder: Path) -> None:
        load_leave(self.model, folder, begins=("edits.", "operators."))


def load_leave(leave: OutputProjection, folder: Path, begins: tuple[str, ...] = ()) -> None:
    """What `LeaveRecipe.export` wrote, or that part of a model's heads. Tensors whose names begin with `begins` may
    be missing, and then stay as they are.

    Raises:
        WeightsError: it is missing or does not fit.
    """
    from codi2.errors import WeightsError
    from codi2.tensors import read_tensors

    path = folder / "leave.safetensors"
    path = path if path.is_file() or not (folder / HEADS).is_file() else folder / HEADS
    tensors = {name: value.float() for name, value in read_tensors(path).items()}
    if path.name == HEADS:
        tensors = {
            name.partition(".")[2]: value
            for name, value in tensors.items()
            if name.startswith(("leave.", "output_projection."))  # the first in earlier checkpoints
        }
    begun = {name: value for name, value in leave.state_dict().items() if name.startswith(begins)} if begins else {}
    try:
        leave.load_state_dict(begun | tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the config: {error}") from error


def _answered(lesson: Lesson, num_slots: Mapping[str, int]) -> list[int]:
    """Which items the assistant answers with, of the modalities that have slots."""
    return [i for i, (role, p) in enumerate(lesson.items) if role == "assistant" and p.modality in num_slots]


def build(config: TrainConfig) -> LeaveRecipe:
    return LeaveRecipe(config)
