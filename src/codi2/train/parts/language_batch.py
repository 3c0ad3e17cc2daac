"""The batches of the language model's training: see `llm`.

N: items, T: features of an item, D: joint width, K: slots of an answer, n: answers with L_DM.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from codi2.data.record import Medium
from codi2.prompt.layout import Batch, TokenSequence
from codi2.prompt.parts import Phrase


@dataclass(frozen=True)
class KeptText:
    """A text on which the model's predictions should stay those of the base model; both have the same labels."""

    base: TokenSequence  # the input of the base model
    trained: TokenSequence  # the input of the trained model
    phrases: tuple[Tensor, ...] = ()  # features [T, D] of the items of `trained`


@dataclass
class DiffusionBatch:
    """The n answers of one modality on which L_DM is computed, g of them with a source."""

    slots: Tensor  # int64 [n, K], indices in `TeacherForced.prediction`
    media: Tensor  # [n, …], inputs of the codec
    edited: Tensor  # int64 [g], indices of the answers that edit a source
    sources: Tensor  # [g, …], inputs of the codec
    t: Tensor  # [n]
    noise: Tensor  # in the shape of the latents
    feature_noise: Tensor  # [n, K, D], noise for the features' noise level
    unconditional: Tensor  # bool [n], answers whose feature is dropped


@dataclass
class Drift:
    """A batch of `KeptText`."""

    base: Batch
    trained: Batch
    phrases: Tensor  # [N, T, D]


@dataclass
class LanguageBatch:
    """A share of a step's batch."""

    batch: Batch
    features: Tensor  # [N, T, D]
    amount: Tensor  # [N, 1, 1], of noise on the inputs of the slots; zero except for answers
    noise: Tensor  # [N, T, D]
    denoised: dict[str, DiffusionBatch]  # by modality
    drift: Drift | None
    counts: Tensor  # float32 [3]: predicted slots, labels and denoised media of the share
    unseen: dict[int, Medium | Phrase]  # items that are not encoded yet
    held: Tensor | tuple[float, ...] = (1.0, 1.0, 1.0)  # counts over the mean of all shares' counts: see `shares.weigh`

    @property
    def needs(self) -> tuple[str, ...]:
        """The decoders that the losses use."""
        return tuple(self.denoised)
