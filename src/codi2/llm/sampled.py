"""A reply's features as the prior samples them, in place of those that the language model regresses.

Each item is sampled by itself, behind the items of the conversation and those of the reply before it: a sample is a
function of the conversation and its seed, to the last bit, whatever else is answered at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codi2.config import PriorConfig
from codi2.heads.prior import Context, Prior
from codi2.llm.decode import FeatureSegment, Segment
from codi2.llm.reading import Reading, items_of
from codi2.prompt.layout import MODALITIES

ItemFeatures = tuple[str, Tensor]
"""Modality and features [T, D]."""


def items_read(reading: Reading) -> list[ItemFeatures]:
    """The items of a conversation with their features, in reading order."""
    keys = [key for stretch in reading.stretches for key, _ in items_of(stretch)]
    return [(key[0], reading.features[key][1]) for key in keys]


def context_of(states: Tensor, modality: str, items: Sequence[ItemFeatures], num_items: int, num_slots: int) -> Context:
    """What one item is sampled after.

    Args:
        states: [K, W], the language model's before each slot.
        items: what came before, in reading order; the last `num_items` are seen.
        num_slots: T of the context, the most features of an item.
    """
    latest = list(items)[::-1][:num_items]
    dim = latest[0][1].shape[-1] if latest else 1
    features = states.new_zeros(len(latest), num_slots, dim, dtype=torch.float32)
    for row, (_, values) in zip(features, latest, strict=True):
        row[: len(values)] = values[:num_slots]
    kinds = [MODALITIES.index(name) for name, _ in latest]
    return Context(
        states.float()[None],
        torch.tensor([MODALITIES.index(modality)], device=states.device),
        features[None],
        torch.tensor([kinds], dtype=torch.long, device=states.device),
    )


@torch.no_grad()
def sampled(
    prior: Prior, config: PriorConfig, segments: Sequence[Segment], given: Sequence[ItemFeatures], seed: int
) -> list[Segment]:
    """The segments of a reply with sampled features; `given` are the items of its conversation, in reading order."""
    sizes, items = prior.config, list(given)
    reply: list[Segment] = []
    for n, segment in enumerate(segments):
        if isinstance(segment, FeatureSegment):
            assert segment.states is not None
            context = context_of(segment.states, segment.modality, items, sizes["num_items"], sizes["num_slots"])
            steps, scale = config.num_inference_steps, config.guidance_scale
            (features,) = prior.sample(context, [seed + n], steps, scale)
            segment = FeatureSegment(segment.modality, features, states=segment.states)
            items.append((segment.modality, features))
        reply.append(segment)
    return reply
