"""What a decoder of pictures can draw at best: held-out pictures from their own, true features.

No language model takes part: this is the ceiling of every answer. Beside it stands the ceiling of the decoder, the
round trip through its autoencoder.

Letters: n pictures, K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi2.diffuse.codec import edges
from codi2.diffuse.decoder import Decoder
from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Findings, mean
from codi2.evaluate.judge import Judge, similarity
from codi2.media.prepare import pixels_to_tensor
from codi2.prompt.parts import Image, Part

BATCH = 16
SIDE = 64  # pixels at which sharpness is measured


@dataclass(frozen=True)
class Drawn:
    """Held-out pictures as a decoder gives them back."""

    round_trip: list[Any]  # through the autoencoder alone
    drawn: list[Any]  # from true features, without a source
    again: list[Any]  # the same with other seeds


def from_true_features(bench: Bench, n: int) -> Findings:
    """The model's decoder on pictures of held-out families."""
    decoder, slots = bench.decoder("image"), bench.num_slots("image")
    pictures: list[Image] = [bench.part(item) for item in bench.draw("image", "test_family", bench.count(n))]  # type: ignore[misc]
    drawn = draw(decoder, lambda some: bench.encode(some)[:, :slots], pictures, bench.seed)
    return figures(drawn, pictures, bench.judge, bench.centre, bench.seed)


@torch.no_grad()
def draw(
    decoder: Decoder, encode: Callable[[Sequence[Part]], Tensor], pictures: Sequence[Image], seed: int = 0
) -> Drawn:
    """Args: encode: pictures → features [n, K, D]."""
    round_trip: list[Any] = []
    drawn: list[Any] = []
    again: list[Any] = []
    for start in range(0, len(pictures), BATCH):
        some = pictures[start : start + BATCH]
        codec, features = decoder.codec, encode(some)
        round_trip += codec.to_parts(codec.decode(codec.encode(codec.to_tensor(some))))
        seeds = [seed + start + i for i in range(len(some))]
        drawn += decoder.generate(features, seeds)
        again += decoder.generate(features, [10_000 + one for one in seeds])
    return Drawn(round_trip, drawn, again)


def figures(drawn: Drawn, pictures: Sequence[Image], judge: Judge, centre: Tensor, seed: int = 0) -> Findings:
    """EffNet-sim to the true pictures, between two seeds, and sharpness; an interval each.

    Args:
        centre: [C], the judge's mean over held-out pictures.
    """
    truth, ours, other = judge(pictures), judge(drawn.drawn), judge(drawn.again)
    ceiling = similarity(judge(drawn.round_trip), truth, centre)
    strangers = similarity(truth.roll(1, 0), truth, centre)
    near = mean(
        "true features: EffNet-sim",
        similarity(ours, truth, centre),
        {"round trip of the autoencoder": ceiling, "another picture": strangers},
        seed=seed,
    )
    between = mean("true features: EffNet-sim of two seeds", similarity(ours, other, centre), seed=seed)
    ours_sharp, lossy, true = (sharpness(parts) for parts in (drawn.drawn, drawn.round_trip, pictures))
    sharp = mean("true features: sharpness", ours_sharp / true.mean(), {"round trip": lossy / true.mean()}, seed=seed)
    return Findings([near, between, sharp])


def sharpness(pictures: Sequence[Any]) -> np.ndarray:
    """`edges` of each picture [n] at SIDE pixels, in [-1, 1]."""
    arrays = np.stack([np.asarray(part.pixels.resize((SIDE, SIDE))) for part in pictures])
    return edges(pixels_to_tensor(arrays)).numpy()
