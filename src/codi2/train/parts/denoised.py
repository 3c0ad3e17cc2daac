"""Answers that a decoder is trained on, drawn so that its network is given what it is given when it samples.

L_DM and the training of a published decoder by itself draw them alike: the answer and the source that its record names,
read by the decoder's codec, and, where the decoder learns, samples without a feature, without a source or without both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codi2.diffuse.decoder import Decoder
from codi2.train.lessons import Lesson
from codi2.train.parts.draw import numpy_at, torch_at, withheld
from codi2.train.parts.language_batch import Denoised

Answer = tuple[Lesson, int, int]
"""A lesson, the item of it that is drawn, and the sample's number in the run: its draws are its own, whatever the other
samples of its share are."""


def draw_denoised(
    decoder: Decoder, answers: Sequence[Answer], slots: Tensor, width: int, seed: int, learns: bool
) -> Denoised:
    """Answers [n] of the decoder's modality.

    Args:
        slots: int64 [n, K], where their features are.
        width: D.
        seed: of the run.
        learns: whether the decoder is trained; a frozen one has nothing to learn from samples without a condition.
    """
    width = decoder.conditioner.embedding_width(width)  # features are noised as they reach the network
    codec, draws = decoder.codec, [torch_at(seed + 1, number) for *_, number in answers]
    t = torch.cat([decoder.process.times(1, draw) for draw in draws])
    noise = torch.stack([torch.randn(decoder.latent_shape, generator=draw) for draw in draws])
    blur = torch.stack([torch.randn(slots.shape[1], width, generator=draw) for draw in draws])
    without = [withheld(numpy_at(seed + 4, number), 1) if learns else _NOTHING for *_, number in answers]
    sources = [lesson.source(codec.modality, codec.others, item) for lesson, item, _ in answers]
    rows = [n for n, source in enumerate(sources) if source is not None and not without[n][1]]
    media = codec.read([lesson.medium(item).decode() for lesson, item, _ in answers])
    given = [answers[n][0].medium(sources[n]).decode() for n in rows]  # type: ignore[arg-type]
    return Denoised(
        slots,
        media,
        torch.tensor(rows, dtype=torch.long),
        codec.read(given) if rows else media[:0],
        t,
        noise,
        blur,
        torch.cat([feature for feature, _ in without]),
    )


_NOTHING = (torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool))
