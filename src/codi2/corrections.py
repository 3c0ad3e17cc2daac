"""Corrections that the shipped embedded model needs, which has no prior; they are deleted with its weights.

A model with a prior, and `paper`, pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codi2.llm.decode import FeatureSegment, Segment
from codi2.llm.reading import Reading
from codi2.prompt.parts import Part
from codi2.prompt.sources import LAST, source_of
from codi2.reply import Options

if TYPE_CHECKING:
    from codi2.decoding import Run
    from codi2.model import CoDi2


def corrected_features(
    model: CoDi2,
    segments: Sequence[Segment],
    groups: Sequence[Sequence[tuple[int, FeatureSegment]]],
    reading: Reading,
    asked: Options,
) -> list[Segment]:
    """One reply: an edit as far from its source's features as `edit_scale` has it; what none of the inputs shows, as
    training items are (`recall`), unless more is known of what is decoded with it.

    Args:
        groups: its media with their places, those in one group that are decoded together.
    """

    def source(name: str, modality: str) -> Part | None:
        return source_of(reading.messages, name, model.decoders[modality].codec.reads)

    corrected = list(segments)
    given = {
        id(item): values
        for (modality, _, count), (item, values) in reading.features.items()
        if count == model.layout.num_features[modality]
    }
    for group in groups:
        recall = model.recall
        sources = [source(LAST, medium.modality) for _, medium in group]
        unseen = [medium for (_, medium), start in zip(group, sources, strict=True) if start is None]
        if recall is not None and any(recall.told_more(medium.modality, medium.features) for medium in unseen):
            recall = None
        for (n, medium), last in zip(group, sources, strict=True):
            features, chosen = medium.features, model.config.decoders[medium.modality]
            recalled = last is None and recall is not None and medium.modality in recall.items
            if last is None and recall is not None:
                features = recall(medium.modality, features, chosen.recall)
            else:
                start = given.get(id(source(asked.source, medium.modality)))
                if start is not None and len(start) >= len(features):
                    start = start[: len(features)]
                    features = start + chosen.edit_scale * (features - start)
            corrected[n] = replace(medium, features=features, recalled=recalled and chosen.recall > 0)
    return corrected


def corrected_media(model: CoDi2, run: Run, latents: Tensor) -> list[Part]:
    """Latents [n, …] → media, of which each keeps more of its source, and looks or sounds more as its features say."""
    decoder, sources = run.decoder, run.options.sources or ()
    # of all that it might be, the steps of joint decoding choose; what is predicted is the mean of that
    guessed = [
        run.joint and source is None and not request.segment.recalled
        for request, source in zip(run.requests, sources, strict=True)
    ]
    if decoder.sampling.kept and any(source is not None for source in sources):
        own = torch.zeros_like(run.features)
        rows = [i for i, source in enumerate(sources) if source is not None]
        own[rows] = model.encode([sources[i] for i in rows], [own.shape[1]] * len(rows))  # type: ignore[misc]
        latents = decoder.with_kept(latents, own, run.seeds, run.options)
    share = model.config.decoders[decoder.modality].agreement

    def agree(maps: Tensor) -> Tensor:
        known = ~torch.tensor(guessed, device=maps.device).view(-1, *[1] * (maps.ndim - 1))
        return torch.where(known, model.encoder.agree(decoder.modality, maps, run.features, share), maps)

    with model.resident(model.encoder) if share else nullcontext():
        media = decoder.media(latents, sources, agree if share else None)
    return [decoder.codec.perceptible(part) if unknown else part for part, unknown in zip(media, guessed, strict=True)]
