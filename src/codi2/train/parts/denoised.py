"""Draws the answers that a decoder is trained on, with the inputs that its network has in sampling.

L_DM and the training of a published decoder use the same function: it reads the answer and the source of a record with
the decoder's codec and, if the decoder is trained, drops the feature, the source or both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codi2.diffuse.decoder import Decoder
from codi2.train.examples import TrainingExample
from codi2.train.parts.draw import draw_dropped, numpy_at, torch_at
from codi2.train.parts.language_batch import DiffusionBatch

Answer = tuple[TrainingExample, int, int]
"""A example, its item to denoise, and the sample's number in the run, which seeds its random values."""


def draw_denoised(
    decoder: Decoder, answers: Sequence[Answer], slots: Tensor, width: int, seed: int, training: bool
) -> DiffusionBatch:
    """Answers [n] of the decoder's modality.

    Args:
        slots: int64 [n, K], indices of their features.
        width: D.
        seed: of the run.
        training: whether the decoder is trained; only then conditions are dropped.
    """
    width = decoder.conditioner.embedding_width(width)  # features are noised as they reach the network
    codec, draws = decoder.codec, [torch_at(seed + 1, number) for *_, number in answers]
    t = torch.cat([decoder.process.times(1, draw) for draw in draws])
    noise = torch.stack([torch.randn(decoder.latent_shape, generator=draw) for draw in draws])
    feature_noise = torch.stack([torch.randn(slots.shape[1], width, generator=draw) for draw in draws])
    without = [draw_dropped(numpy_at(seed + 4, number), 1) if training else _NOTHING for *_, number in answers]
    sources = [example.source(codec.modality, codec.others, item) for example, item, _ in answers]
    rows = [n for n, source in enumerate(sources) if source is not None and not without[n][1]]
    media = codec.read([example.medium(item).decode() for example, item, _ in answers])
    source_media = [answers[n][0].medium(sources[n]).decode() for n in rows]  # type: ignore[arg-type]
    return DiffusionBatch(
        slots,
        media,
        torch.tensor(rows, dtype=torch.long),
        codec.read(source_media) if rows else media[:0],
        t,
        noise,
        feature_noise,
        torch.cat([feature for feature, _ in without]),
    )


_NOTHING = (torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool))
