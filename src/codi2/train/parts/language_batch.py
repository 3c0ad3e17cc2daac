"""What a step of the language model's training is given: see `llm`.

N: items, T: features of an item, D: joint width, K: slots of an answer, n: answers that L_DM is taken of.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from codi2.data.record import Medium
from codi2.prompt.layout import Batch, TokenSequence
from codi2.prompt.parts import Phrase


@dataclass(frozen=True)
class Kept:
    """A text that the model is held to what the base model says of it: both have the same labels."""

    plain: TokenSequence  # as the base model reads it
    asked: TokenSequence  # as ours does
    phrases: tuple[Tensor, ...] = ()  # features [T, D] of the items of `asked`


@dataclass
class Denoised:
    """The answers of one modality that L_DM is taken of, n of them with g sources."""

    slots: Tensor  # int64 [n, K], places in `TeacherForced.prediction`
    media: Tensor  # [n, …], as the codec reads them
    given: Tensor  # int64 [g], those that edit a source
    sources: Tensor  # [g, …]
    t: Tensor  # [n]
    noise: Tensor  # as the latents
    blur: Tensor  # [n, K, D], noise of the features' own noise level
    unconditional: Tensor  # bool [n], those that are trained without their feature


@dataclass
class Drift:
    """Texts that the model is held to."""

    plain: Batch
    asked: Batch
    phrases: Tensor  # [N, T, D]


@dataclass
class Drawn:
    """A share of a step's batch."""

    batch: Batch
    features: Tensor  # [N, T, D]
    amount: Tensor  # [N, 1, 1], of noise on what the slots are fed; zero but for answers
    noise: Tensor  # [N, T, D]
    denoised: dict[str, Denoised]  # by modality
    drift: Drift | None
    counts: Tensor  # float32 [3]: predicted slots, labels and denoised media of the share
    unseen: dict[int, Medium | Phrase]  # items that are not encoded yet
    held: Tensor | tuple[float, ...] = (1.0, 1.0, 1.0)  # counts over the mean of all shares' counts: see `shares.weigh`

    @property
    def needs(self) -> tuple[str, ...]:
        """The decoders that take part."""
        return tuple(self.denoised)
