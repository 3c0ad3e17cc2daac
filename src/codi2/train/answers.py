"""The training data of a prior: states of the language model before an answer's slots, the items before it, the answer.

Records are read as in generation, and each slot is fed with the model's own feature, so the states do not depend on the
true answer.

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
from codi2.data.record import Medium, Record, media_of
from codi2.heads.prior import Context
from codi2.hub import sha256_of, write_atomic
from codi2.llm.backbone import load_backbone
from codi2.llm.generation import CachedConversation, FeatureSegment, GenerationOptions, generate
from codi2.llm.mllm import MLLM, stack_features
from codi2.llm.sampled import context_of
from codi2.placement import ON_CPU, Placement
from codi2.prompt.layout import MODALITIES, Message, collate, layout_for
from codi2.tensors import device_of
from codi2.train.assemble import REPORTS
from codi2.train.encoded import Encodings
from codi2.train.examples import TrainingExample, encodings_for

BATCH = 32  # conversations read at once
Rows = dict[str, Tensor]
"""Of n answers: `states` [n, S, W], `target` and `regressed` [n, S, D], zero beyond an answer's own; `items`
[n, M, S, D], the latest first; `modality` [n], `item_modality` [n, M]."""


@dataclass(frozen=True)
class Answer:
    """A medium of a record's last turn, which the prior learns to sample."""

    record: Record
    number: int  # index in `media`

    @property
    def media(self) -> list[Medium]:
        """Media of the last turn, in order."""
        return media_of(self.record.turns[-1:])

    @property
    def medium(self) -> Medium:
        return self.media[self.number]


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
        """The values on which the rows depend, except the records."""
        names = ("adapter/adapter_model.safetensors", "heads.safetensors")
        weights = {n: sha256_of(self.folder / n) for n in names} if self.folder else {"model": self.model_name}
        return {**weights, "encoder": self.encodings.path.stem, "items": str(self.num_items)}

    @torch.no_grad()
    def rows(self, answers: Sequence[Answer]) -> Rows:
        """The rows of n answers, in order, on the CPU."""
        conversations = [[Message(r, p) for r, p in answer.record.turns[:-1]] for answer in answers]  # type: ignore[arg-type]
        sequences = [self.layout(messages, reply=True) for messages in conversations]
        order = sorted(range(len(answers)), key=lambda i: len(sequences[i].ids))  # little padding
        rows: list[Rows] = [{}] * len(answers)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            items = [
                self._items(TrainingExample(answers[i].record, self.encodings), len(sequences[i].items)) for i in places
            ]
            batch = collate([sequences[i] for i in places], self.mllm.backbone.pad_id, left=True)
            features = stack_features([value for row in items for _, value in row], self.base.heads.feature_dim)
            options = [GenerationOptions(tuple(m.modality for m in answers[i].media), max_new_tokens=0) for i in places]
            device = device_of(self.mllm.input_projection)
            state = CachedConversation(self.mllm, len(places))
            replies = generate(state, batch.to(device), features.to(device), options)
            for i, item_features, reply in zip(places, items, replies, strict=True):
                segments = [segment for segment in reply if isinstance(segment, FeatureSegment)]
                rows[i] = self._row(answers[i], item_features, segments[answers[i].number])
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def _items(self, example: TrainingExample, count: int) -> list[tuple[str, Tensor]]:
        """Modality and features of the first `count` items, which are those before the last turn."""
        pieces = example.pieces[:count]
        return [(p.modality, value) for p, value in zip(pieces, self.encodings.of(pieces), strict=True)]

    def _row(self, answer: Answer, items: list[tuple[str, Tensor]], segment: FeatureSegment) -> Rows:
        before = [(medium.modality, self.encodings.of([medium])[0]) for medium in answer.media[: answer.number]]
        (target,) = self.encodings.of([answer.medium])
        assert segment.states is not None
        states, regressed = segment.states.float().cpu(), segment.features.float().cpu()
        context = context_of(states, segment.modality, [*items, *before], self.num_items, self.num_features)
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
    """The context of the rows `places`, all of one modality with `slots` features. It has as many items as the row with
    the most."""
    items = rows["items"][places].float()
    count = int((items.abs().amax((2, 3)) > 0).sum(1).max()) if items.numel() else 0
    return Context(
        rows["states"][places, :slots].float(),
        rows["modality"][places].long(),
        items[:, :count],
        rows["item_modality"][places, :count].long(),
    )


def modality_of(rows: Rows) -> list[str]:
    """The modality of each row's answer."""
    return [MODALITIES[int(kind)] for kind in rows["modality"]]


def _fit(values: Tensor, count: int) -> Tensor:
    """[K, X] → [count, X], zeros behind."""
    return nn.functional.pad(values, (0, 0, 0, count - len(values)))


def write_prior(model: Path | None, config: CoDi2Config, folder: Path) -> None:
    """The folder of a model in which a prior is exported: the other parts' files, and the config."""
    if model is not None:
        shutil.copytree(model, folder, dirs_exist_ok=True, ignore=REPORTS)
    write_atomic(folder / "config.json", config.to_json().encode())
