"""How long an encoder's joint vectors are, beside what each decoder was trained on, and what is done about it.

ImageBind gives pictures norm 1 and sounds norm 20, where unCLIP was trained on CLIP embeddings as they come: a feature
that is right in direction and wrong in length draws mush.
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
    given: float | None  # that joint vectors are brought to in front of the decoder; None: taken as they come
    expected: float | None  # by the network's own statistics; None: it has none
    rule: str


@torch.no_grad()
def encoder_norms(encoder: Encoder, media: Mapping[str, Sequence[Part]]) -> Iterator[EncoderNorm]:
    """Norms of the joint vectors of some media by modality."""
    for modality, parts in media.items():
        if modality in encoder.modalities and parts:
            norms = encoder(parts).values[:, 0].norm(dim=-1)
            spread = float(norms.std()) if len(parts) > 1 else 0.0
            yield EncoderNorm(modality, len(parts), float(norms.mean()), spread)


def decoder_norms(decoders: Mapping[str, Decoder]) -> Iterator[DecoderNorm]:
    """What is in force."""
    for modality, decoder in decoders.items():
        expected, asked = decoder.conditioner.expected_norm(), decoder.sampling.feature_norm
        if asked is None:
            rule = (
                "brought to what the decoder expects"
                if expected
                else "taken as it comes: the decoder has no statistics"
            )
            yield DecoderNorm(modality, expected, expected, rule)
        elif asked:
            yield DecoderNorm(modality, asked, expected, f"brought to {asked:g}, as the config says")
        else:
            yield DecoderNorm(modality, None, expected, "taken as it comes")
