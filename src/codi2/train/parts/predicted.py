"""Features as the language model predicts them, for decoders to train on.

A regressed feature is smoother than a true one, and a decoder that never saw one turns it to mush. Records of the
training data are run through the trained language model once, and what it predicts is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codi2.checkpoint import load_language, locate
from codi2.config import CoDi2Config
from codi2.hub import atomic_path, home, sha256_of
from codi2.llm.backbone import load_backbone
from codi2.llm.decode import Conversation, FeatureSegment, ReplyOptions, generate
from codi2.llm.mllm import MLLM, stack_features
from codi2.progress import tracked
from codi2.prompt.layout import Batch, Message, collate, layout_for
from codi2.train.lessons import Lesson

BATCH = 32  # conversations of one forward pass


def predicted_features(model: str, lessons: Sequence[Lesson], modality: str) -> Tensor:
    """[n, K, D]: what the language model of a preset or folder predicts for the last answers of a modality."""
    config, folder = locate(model)
    names = ("adapter/adapter_model.safetensors", "heads.safetensors")
    parts = [sha256_of(folder / name) for name in names] if folder else [model]
    drawn = [f"{lesson.record.source}:{lesson.record.key}" for lesson in lessons]
    key = hashlib.sha256("|".join([*parts, modality, *drawn]).encode()).hexdigest()[:12]
    path = home() / "cache" / f"predicted-{key}.npy"
    if not path.is_file():
        values = _predict(config, folder, lessons, modality)
        with atomic_path(path) as aside, open(aside, "wb") as file:
            np.save(file, values.half().numpy())
    return torch.from_numpy(np.load(path).astype(np.float32))


@torch.inference_mode()
def _predict(config: CoDi2Config, folder: Path | None, lessons: Sequence[Lesson], modality: str) -> Tensor:
    mllm = MLLM(load_backbone(config.llm), config.heads).eval()
    if folder is not None:
        load_language(mllm, folder)
    layout = layout_for(config, mllm.backbone.tokenizer)
    sequences = [layout(_asked(lesson), reply=True) for lesson in lessons]
    order = sorted(range(len(lessons)), key=lambda i: len(sequences[i].ids))  # little padding
    made: list[Tensor] = [torch.empty(0)] * len(lessons)
    for start in tracked(range(0, len(order), BATCH), "predicting features"):
        rows = order[start : start + BATCH]
        batch = collate([sequences[i] for i in rows], mllm.backbone.pad_id, left=True)
        given = [value for i in rows for value in lessons[i].features[: len(sequences[i].items)]]
        wants = [ReplyOptions(want=(modality,), max_new_tokens=0)] * len(rows)
        features = stack_features(given, config.heads.feature_dim)
        replies = generate(Conversation(mllm, len(rows)), batch, features, wants)
        for i, reply in zip(rows, replies, strict=True):
            (made[i],) = [part.features for part in reply if isinstance(part, FeatureSegment)]
    return torch.stack(made)


def _asked(lesson: Lesson) -> list[Message]:
    """The conversation up to the last reply."""
    return lesson.record.messages()[:-1]


def own_predictions(mllm: MLLM, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
    """The n items that the assistant answers with [n], and what is predicted of them [n, K, D] where each slot is fed
    with the model's own, as in generation.

    `features` [N, T, D] of all items of the batch; the answers' own are not looked at.
    """
    fed, numbers = features.clone(), batch.slot_number[batch.slot_predicted]
    for number in range(int(numbers.max()) + 1):
        taught = mllm(batch, features, fed)
        here = numbers == number
        fed[taught.item[here], number] = taught.prediction[here]
    items = taught.item.unique_consecutive()
    return items, fed[items]
