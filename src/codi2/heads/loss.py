"""The training loss of section 3.2: alpha * MSE(c_MLLM, C_x(x)) + L_DM + L_t."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from codi2.config import HeadsConfig

RELEASED_COSINE = 0.1  # weight of the cosine in the authors' published code


def codi2_loss(
    config: HeadsConfig,
    prediction: Tensor,
    target: Tensor,
    logits: Tensor,
    labels: Tensor,
    diffusion: Tensor | None = None,
    held: Tensor | Sequence[float] = (1.0, 1.0, 1.0),
) -> dict[str, Tensor]:
    """The total under "loss" and its unweighted parts under "feature", "diffusion" and "text", all scalars.

    `prediction`, `target` [P, D]: c_MLLM and C_x(x) of all slots; `logits` [M, V] and `labels` [M]: text positions;
    `diffusion` [n]: L_DM of each sample that a decoder was run on. Each part is a mean over its terms in the batch, and
    zero where the batch has none, so a batch may hold one modality, or text alone.

    `held`: for one of several parts of a batch, its numbers of slots, labels and diffused samples, each over the mean
    of the parts. The mean of the parts' losses is then the loss of the whole batch.
    """
    if config.loss == "paper":
        feature = mean(F.mse_loss(prediction, target, reduction="none").mean(-1))
        weight = config.alpha
    else:
        feature = mean(-F.cosine_similarity(prediction, target, dim=-1))
        weight = RELEASED_COSINE
    feature = feature * held[0]
    text = held[1] * mean(F.cross_entropy(logits.float(), labels, reduction="none"))
    denoising = prediction.new_zeros(()) if diffusion is None else mean(diffusion) * held[2]
    total = weight * feature + denoising + text
    return {"loss": total, "feature": feature, "diffusion": denoising, "text": text}


def mean(values: Tensor) -> Tensor:
    """Mean that is zero, with a gradient, when there is nothing to average."""
    return values.sum() / max(values.numel(), 1)
