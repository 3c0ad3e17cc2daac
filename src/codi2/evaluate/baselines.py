"""What the model is held against: ways to an answer without a language model, or without any model.

Letters: n items, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from codi2.diffuse.decoder import Decoder
from codi2.prompt.parts import Audio, Image, Part


def nearest(queries: Tensor, gallery: Tensor) -> list[int]:
    """Row of `gallery` [m, D] with the highest cosine to each of `queries` [n, D]."""
    return (F.normalize(queries, dim=-1) @ F.normalize(gallery, dim=-1).T).argmax(1).tolist()


def mean_picture(pictures: Iterable[np.ndarray]) -> Image:
    """The mean, pixel by pixel, of uint8 pictures [H, W, 3]."""
    mean: np.ndarray = np.stack(list(pictures)).mean(0)
    return Image(PILImage.fromarray(np.round(mean).astype(np.uint8)))


def arithmetic(before: Tensor, after: Tensor, given: Tensor) -> Tensor:
    """The analogy as a sum of features [n, K, D]: given + after − before."""
    return given + after - before


def silence(like: Audio) -> Audio:
    """Nothing, of the same length."""
    return Audio(np.zeros_like(like.samples), like.rate)


@torch.no_grad()
def round_trip(decoder: Decoder, parts: Sequence[Part]) -> list[Part]:
    """Media through the decoder's codec and back: the least that any output of the decoder loses."""
    codec = decoder.codec
    return codec.to_parts(codec.decode(codec.encode(codec.to_tensor(parts))))


def sdedit(
    decoder: Decoder,
    joint: Tensor,
    words: Tensor,
    sources: Sequence[Part],
    seeds: Sequence[int],
    strength: float = 0.5,
    num_inference_steps: int = 20,
    guidance_scale: float | None = None,
) -> list[Part]:
    """SDEdit (Meng et al. 2022, arXiv:2108.01073): noise the source part of the way, denoise it towards a caption.

    Args:
        joint: vectors [n, D] of captions of the wished results; they stand in for what is regressed.
        words: the captions as the decoder reads words, [n, …].
        strength: share of the noise schedule that the source goes up.
        num_inference_steps: of the whole schedule; the baseline has its own, as a decoder that draws in few has no half
            way to start from.
    """
    return decoder.generate(
        joint[:, None], seeds, words=words, start=sources, strength=strength,
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
    )  # fmt: skip


def instructed(
    decoder: Decoder, joint: Tensor, words: Tensor, sources: Sequence[Part], seeds: Sequence[int]
) -> list[Part]:
    """Editing by an instruction without a language model: AUDIT's way (arXiv:2304.00830), and InstructPix2Pix's.

    Args:
        decoder: one that was trained to be told instructions.
        joint, words: of the instructions, as for `sdedit`.
    """
    return decoder.generate(joint[:, None], seeds, sources=sources, words=words)
