"""What a prior learns from: states of the language model before an answer's slots, the items before it, the answer.

Records are read as in generation, each slot fed with the model's own feature: the states know nothing of the answer.

Letters: n answers, S the most features of an item, M items, D joint width, W width of the language model.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from codi2.checkpoint import load_language, locate
from codi2.config import CoDi2Config
from codi2.data.record import Medium, Record
from codi2.heads.prior import Context
from codi2.hub import sha256_of, write_atomic
from codi2.llm.backbone import load_backbone
from codi2.llm.decode import Conversation, FeatureSegment, ReplyOptions, generate
from codi2.llm.mllm import MLLM, stack_features
from codi2.llm.sampled import context_of
from codi2.placement import ON_CPU, Placement
from codi2.prompt.layout import MODALITIES, Message, collate, layout_for
from codi2.tensors import device_of
from codi2.train.assemble import REPORTS
from codi2.train.encoded import Encodings
from codi2.train.lessons import Lesson, encodings_for

BATCH = 32  # conversations read at once
Rows = dict[str, Tensor]
"""Of n answers: `states` [n, S, W], `target` and `regressed` [n, S, D], zero beyond an answer's own; `items`
[n, M, S, D], the latest first; `modality` [n], `item_modality` [n, M]."""


@dataclass(frozen=True)
class Asked:
    """One answer to learn from: a medium of a record's last turn."""

    record: Record
    number: int  # of its media in the last turn

    @property
    def answers(self) -> list[Medium]:
        """Media of the last turn, in order."""
        return [piece for piece in self.record.turns[-1][1] if isinstance(piece, Medium)]

    @property
    def medium(self) -> Medium:
        return self.answers[self.number]


class AnswerReader(nn.Module):
    """A trained language model with the features of its encoder.

    Args:
        model: preset, or folder of a model or of a language model's export.
        num_items: M.
    """

    def __init__(self, model: str, num_items: int, placement: Placement = ON_CPU) -> None:
        super().__init__()
        self.model_name, self.num_items = model, num_items
        self.base: CoDi2Config
        self.base, self.folder = locate(model)
        self.mllm = MLLM(load_backbone(self.base.llm, placement), self.base.heads).eval().requires_grad_(False)
        if self.folder is not None:
            load_language(self.mllm, self.folder)
        self.layout = layout_for(self.base, self.mllm.backbone.tokenizer)
        self.encodings: Encodings = encodings_for(self.base, self.folder)
        self.num_features = max(self.base.encoder.num_features.values())

    def depends(self) -> dict[str, str]:
        """What the rows depend on beside the records."""
        names = ("adapter/adapter_model.safetensors", "heads.safetensors")
        weights = {n: sha256_of(self.folder / n) for n in names} if self.folder else {"model": self.model_name}
        return {**weights, "encoder": self.encodings.path.stem, "items": str(self.num_items)}

    @torch.no_grad()
    def rows(self, asked: Sequence[Asked]) -> Rows:
        """The rows of n answers, in order, on the CPU."""
        conversations = [[Message(r, p) for r, p in one.record.turns[:-1]] for one in asked]  # type: ignore[arg-type]
        sequences = [self.layout(messages, reply=True) for messages in conversations]
        order = sorted(range(len(asked)), key=lambda i: len(sequences[i].ids))  # little padding
        found: list[Rows] = [{}] * len(asked)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            given = [
                [feature for _, feature in self._items(Lesson(asked[i].record, self.encodings), sequences[i].items)]
                for i in places
            ]
            batch = collate([sequences[i] for i in places], self.mllm.backbone.pad_id, left=True)
            features = stack_features([value for some in given for value in some], self.base.heads.feature_dim)
            wants = [ReplyOptions(tuple(m.modality for m in asked[i].answers), max_new_tokens=0) for i in places]
            device = device_of(self.mllm.input_projection)
            state = Conversation(self.mllm, len(places))
            replies = generate(state, batch.to(device), features.to(device), wants)
            for i, values, reply in zip(places, given, replies, strict=True):
                kinds = [item.modality for item in sequences[i].items]
                made = [segment for segment in reply if isinstance(segment, FeatureSegment)]
                found[i] = self._row(asked[i], list(zip(kinds, values, strict=True)), made[asked[i].number])
        return {key: torch.stack([row[key] for row in found]) for key in found[0]}

    def _items(self, lesson: Lesson, laid: Sequence[object]) -> list[tuple[str, Tensor]]:
        """Modality and features of the items before the last turn, which are those that are laid out."""
        pieces = lesson.pieces[: len(laid)]
        return [(p.modality, value) for p, value in zip(pieces, self.encodings.of(pieces), strict=True)]

    def _row(self, asked: Asked, items: list[tuple[str, Tensor]], made: FeatureSegment) -> Rows:
        before = [(medium.modality, self.encodings.of([medium])[0]) for medium in asked.answers[: asked.number]]
        (target,) = self.encodings.of([asked.medium])
        assert made.states is not None
        states, regressed = made.states.float().cpu(), made.features.float().cpu()
        context = context_of(states, made.modality, [*items, *before], self.num_items, self.num_features)
        missing = self.num_items - context.items.shape[1]
        return {
            "states": _fit(states, self.num_features),
            "target": _fit(target[: len(states)], self.num_features),
            "regressed": _fit(regressed, self.num_features),
            "modality": context.modality[0],
            "items": nn.functional.pad(context.items[0], (0, 0, 0, 0, 0, missing)),
            "item_modality": nn.functional.pad(context.item_modality[0], (0, missing)),
        }


def context_of_rows(rows: Rows, places: Tensor, slots: int) -> Context:
    """The context of some rows, which are of one modality with `slots` features; items that none has are left out."""
    items = rows["items"][places].float()
    count = int((items.abs().amax((2, 3)) > 0).sum(1).max()) if items.numel() else 0
    return Context(
        rows["states"][places, :slots].float(),
        rows["modality"][places].long(),
        items[:, :count],
        rows["item_modality"][places, :count].long(),
    )


def modality_of(rows: Rows) -> list[str]:
    """Of each row."""
    return [MODALITIES[int(kind)] for kind in rows["modality"]]


def _fit(values: Tensor, count: int) -> Tensor:
    """[K, X] → [count, X], zeros behind."""
    return nn.functional.pad(values, (0, 0, 0, count - len(values)))


def write_prior(model: Path | None, config: CoDi2Config, folder: Path) -> None:
    """The folder of a model in which a prior is exported: the other parts' files, and the config."""
    if model is not None:
        shutil.copytree(model, folder, dirs_exist_ok=True, ignore=REPORTS)
    write_atomic(folder / "config.json", config.to_json().encode())
