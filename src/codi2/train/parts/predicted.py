"""Features as the language model predicts them, for decoders to train on.

A regressed feature is smoother than a true one, and a decoder that never saw one turns it to mush. Examples of the
training tasks are run through the trained language model once, and what it predicts is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi2.checkpoint import load_language, locate
from codi2.data.tasks import TASKS, Example, World
from codi2.hub import atomic_path, home, sha256_of
from codi2.llm.backbone import load_backbone
from codi2.llm.decode import Conversation, FeatureSegment, ReplyOptions, generate
from codi2.llm.mllm import MLLM
from codi2.prompt.layout import Batch, Message, collate, layout_for
from codi2.train.parts.store import Store

BATCH = 32  # conversations of one forward pass


def draw_examples(world: World, tasks: Mapping[str, float], modality: str, count: int, seed: int) -> list[Example]:
    """`count` examples of these tasks whose answer is of `modality`."""
    draw = np.random.default_rng((seed, 13))
    names = list(tasks)
    shares = np.array(list(tasks.values()), dtype=np.float64)
    examples: list[Example] = []
    while len(examples) < count:
        example = TASKS[names[int(draw.choice(len(names), p=shares / shares.sum()))]](world, draw)
        if example.answer.modality == modality:
            examples.append(example)
    return examples


def predicted_features(weights: Path, store: Store, examples: list[Example]) -> Tensor:
    """[n, K, D]: what the language model in `weights` predicts for the examples' answers."""
    parts = [sha256_of(weights / name) for name in ("adapter/adapter_model.safetensors", "heads.safetensors")]
    key = hashlib.sha256("|".join([*parts, *map(str, examples)]).encode()).hexdigest()[:12]
    path = home() / "cache" / f"predicted-{key}.npy"
    if not path.is_file():
        values = _predict(weights, store, examples)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as aside, open(aside, "wb") as file:
            np.save(file, values.half().numpy())
    return torch.from_numpy(np.load(path).astype(np.float32))


@torch.inference_mode()
def _predict(weights: Path, store: Store, examples: list[Example]) -> Tensor:
    from rich.progress import track

    config, _ = locate(weights)
    mllm = MLLM(load_backbone(config.llm), config.heads).eval()
    load_language(mllm, weights)
    layout = layout_for(config, mllm.backbone.tokenizer)
    sequences = [layout([Message("user", example.prompt)], reply=True) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: len(sequences[i].ids))  # little padding
    made: list[Tensor] = [torch.empty(0)] * len(examples)
    for start in track(range(0, len(order), BATCH), description="predicting features", transient=True):
        rows = order[start : start + BATCH]
        batch = collate([sequences[i] for i in rows], mllm.backbone.pad_id, left=True)
        items: tuple[Any, ...] = batch.items
        wants = [ReplyOptions(want=(examples[i].answer.modality,), max_new_tokens=0) for i in rows]
        replies = generate(Conversation(mllm, len(rows)), batch, store.stacked(items), wants)
        for i, reply in zip(rows, replies, strict=True):
            (made[i],) = [part.features for part in reply if isinstance(part, FeatureSegment)]
    return torch.stack(made)


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
