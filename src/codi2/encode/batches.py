"""Encodes items of several modalities with one encoder.

Letters: N items, T features of an item, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from codi2.cancellation import check_cancelled
from codi2.encode.contract import Encoder
from codi2.llm.mllm import stack_features
from codi2.prompt.parts import Part


def encode_each(
    encoder: Encoder, items: Sequence[tuple[Part, int]], progress: Callable[[int, int], None] | None = None
) -> list[Tensor]:
    """Features [count, D] of each item with its count. Items are encoded one by one, since in a batch the last bits of
    the features differ.

    `progress` is called with (items encoded, items in all) after each; it may raise.
    """
    features = []
    for i, (item, count) in enumerate(items, start=1):
        check_cancelled()
        features.append(encoder([item], count)[0, :count])
        if progress:
            progress(i, len(items))
    return features


def encode_mixed(encoder: Encoder, items: Sequence[Part]) -> Tensor:
    """All features of N items [N, T, D], zero beyond an item's own; items of one modality run in one batch."""
    features: list[Tensor] = [torch.empty(0)] * len(items)
    for modality in dict.fromkeys(item.modality for item in items):
        check_cancelled()
        rows = [i for i, item in enumerate(items) if item.modality == modality]
        values = encoder([items[i] for i in rows])
        for i, value in zip(rows, values, strict=True):
            features[i] = value
    return stack_features(features, encoder.dim)
