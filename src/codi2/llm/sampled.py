"""The prior samples the features of a reply, which replace those that the language model regresses.

Each item is sampled by itself, given the items of the conversation and the earlier items of the reply. So a sample
depends on the conversation and the seed only, bit for bit, whatever else is answered at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codi2.config import PriorConfig
from codi2.llm.generation import FeatureSegment, Segment
from codi2.llm.reading import Reading, items_of
from codi2.prompt.layout import MODALITIES
from codi2.tensors import OnDemand, loaded

if TYPE_CHECKING:  # diffusers comes with it
    from codi2.heads.prior import Context, Prior

ItemFeatures = tuple[str, Tensor]
"""Modality and features [T, D]."""


def items_read(reading: Reading) -> list[ItemFeatures]:
    """The items of a conversation with their features, in reading order."""
    keys = [key for stretch in reading.stretches for key, _ in items_of(stretch)]
    return [(key[0], reading.features[key][1]) for key in keys]


def context_of(states: Tensor, modality: str, items: Sequence[ItemFeatures], num_items: int, num_slots: int) -> Context:
    """The prior's condition for one item.

    Args:
        states: [K, W], the language model's hidden states before each slot.
        items: the items before it, in reading order; the last `num_items` are used.
        num_slots: T of the context, the most features of an item.
    """
    from codi2.heads.prior import Context

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
    prior: Prior | OnDemand[Prior], config: PriorConfig, segments: Sequence[Segment], reading: Reading, seed: int
) -> list[Segment]:
    """The segments of a reply to `reading` with sampled features; a reply of text needs no prior."""
    items, reply = items_read(reading), list[Segment]()
    for n, segment in enumerate(segments):
        if isinstance(segment, FeatureSegment):
            assert segment.states is not None
            network: Prior = loaded(prior)
            num_items, num_slots = network.config["num_items"], network.config["num_slots"]
            context = context_of(segment.states, segment.modality, items, num_items, num_slots)
            steps, scale = config.num_inference_steps, config.guidance_scale
            (features,) = network.sample(context, [seed + n], steps, scale)
            segment = FeatureSegment(segment.modality, features, segment.states)
            items.append((segment.modality, features))
        reply.append(segment)
    return reply
