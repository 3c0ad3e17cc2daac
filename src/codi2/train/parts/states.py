"""What the language model's states are where it answers with media: for its way out to learn from, many times over.

Reading is nearly all of a language model's step, and its way out is a hundredth of its weights. So records are read
once, with noise on the answers' own features as in training, and their states are kept.

Letters: P predicted slots and N items of a record, W width of the language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codi2.checkpoint import load_language, locate
from codi2.config import CoDi2Config
from codi2.hub import atomic_path, home, sha256_of
from codi2.llm.backbone import load_backbone
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import Message, collate, layout_for
from codi2.train.lessons import Lesson

BATCH = 16  # records of one forward pass
NOISE = 0.8  # most noise on the features of an answer that are fed back


@dataclass(frozen=True)
class States:
    """Of one record, in reading order."""

    slots: Tensor  # [P, W], before each predicted slot
    items: Tensor  # [N, W], at each item's end token


def language_states(model: str, lessons: Sequence[Lesson]) -> list[States]:
    """The states of the language model of a preset or folder, from the cache or read now, data set by data set."""
    config, folder = locate(model)
    names = ("adapter/adapter_model.safetensors", "heads.safetensors")
    weights = "|".join(sha256_of(folder / name) for name in names) if folder else model
    sets: dict[str, list[int]] = {}
    for i, lesson in enumerate(lessons):
        sets.setdefault(lesson.place.split("/")[0], []).append(i)
    made: dict[int, States] = {}
    for rows in sets.values():
        some = [lessons[i] for i in rows]
        drawn = "|".join(f"{lesson.place}:{lesson.record.key}" for lesson in some)
        path = home() / "cache" / f"states-{hashlib.sha256(f'{weights}|{drawn}'.encode()).hexdigest()[:12]}.safetensors"
        if not path.is_file():
            _keep(_read(config, folder, some), path)
        made |= zip(rows, _kept(path), strict=True)
    return [made[i] for i in range(len(lessons))]


def _keep(found: Sequence[States], path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.cat([getattr(one, name) for one in found]) for name in ("slots", "items")}
    counts = torch.tensor([[len(one.slots), len(one.items)] for one in found])
    with atomic_path(path) as aside:
        save_file({**tensors, "counts": counts}, aside)


def _kept(path: Path) -> list[States]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    of_slots, of_items = tensors["counts"].T.tolist()
    pairs = zip(tensors["slots"].split(of_slots), tensors["items"].split(of_items), strict=True)
    return [States(*pair) for pair in pairs]


@torch.inference_mode()
def _read(config: CoDi2Config, folder: Path | None, lessons: Sequence[Lesson]) -> list[States]:
    from rich.progress import track

    mllm = MLLM(load_backbone(config.llm), config.heads).eval()
    if folder is not None:
        load_language(mllm, folder)
    layout, generator = layout_for(config, mllm.backbone.tokenizer), torch.Generator().manual_seed(0)
    sequences = [layout([Message(role, pieces) for role, pieces in lesson.record.turns]) for lesson in lessons]  # type: ignore[arg-type]
    order = sorted(range(len(lessons)), key=lambda i: len(sequences[i].ids))  # little padding
    made: dict[int, States] = {}
    for start in track(range(0, len(order), BATCH), description="reading records", transient=True):
        rows = order[start : start + BATCH]
        batch = collate([sequences[i] for i in rows], mllm.backbone.pad_id)
        features = stack_features([value for i in rows for value in lessons[i].features], config.heads.feature_dim)
        answers = torch.zeros(len(features), 1, 1)
        answers[batch.slot_item[batch.slot_predicted]] = NOISE
        amount = torch.rand(len(features), 1, 1, generator=generator) * answers
        noise = torch.randn(features.shape, generator=generator)
        fed = ((1 - amount**2).sqrt() * features + amount * noise) * (features.abs().amax(-1, keepdim=True) > 0)
        hidden = mllm.backbone(mllm.rows(batch, fed), batch.mask)
        predicted = batch.slot_predicted
        sample = batch.slot_sample[predicted]
        slots, ends = hidden[sample, batch.slot_position[predicted] - 1], hidden[batch.item_sample, batch.item_end]
        for n, i in enumerate(rows):
            made[i] = States(slots[sample == n].half(), ends[batch.item_sample == n].half())
    return [made[i] for i in range(len(lessons))]
