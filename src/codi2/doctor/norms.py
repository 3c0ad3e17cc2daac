"""Norms of an encoder's joint vectors, norms that each decoder expects, and the rule that adapts them.

ImageBind's vectors have norm 1 for pictures and 20 for sounds, while unCLIP was trained on unscaled CLIP embeddings. A
feature with the right direction and a wrong norm gives a bad picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from codi2.diffuse.decoder import Decoder
from codi2.encode.contract import Encoder
from codi2.prompt.parts import Part


@dataclass(frozen=True)
class EncoderNorm:
    modality: str
    samples: int
    mean: float
    spread: float  # standard deviation


@dataclass(frozen=True)
class DecoderNorm:
    modality: str
    given: float | None  # to which joint vectors are scaled before the decoder; None: they are not scaled
    expected: float | None  # by the network's own statistics; None: it has none
    rule: str


@torch.no_grad()
def encoder_norms(encoder: Encoder, media: Mapping[str, Sequence[Part]]) -> Iterator[EncoderNorm]:
    """Norms of the joint vectors of some media by modality."""
    for modality, parts in media.items():
        if modality in encoder.modalities and parts:
            norms = encoder(parts)[:, 0].norm(dim=-1)
            spread = float(norms.std()) if len(parts) > 1 else 0.0
            yield EncoderNorm(modality, len(parts), float(norms.mean()), spread)


def decoder_norms(decoders: Mapping[str, Decoder]) -> Iterator[DecoderNorm]:
    """The norm and the rule of each decoder."""
    for modality, decoder in decoders.items():
        expected, configured = decoder.conditioner.expected_norm(), decoder.config.feature_norm
        if configured is None:
            rule = (
                "brought to what the decoder expects"
                if expected
                else "taken as it comes: the decoder has no statistics"
            )
            yield DecoderNorm(modality, expected, expected, rule)
        elif configured:
            yield DecoderNorm(modality, configured, expected, f"brought to {configured:g}, as the config says")
        else:
            yield DecoderNorm(modality, None, expected, "taken as it comes")
