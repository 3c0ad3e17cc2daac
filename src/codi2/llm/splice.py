"""Puts features into the input rows of the language model."""

from __future__ import annotations

from torch import Tensor


def splice(rows: Tensor, values: Tensor, sample: Tensor, position: Tensor) -> Tensor:
    """`rows` [B, L, W] with row `position[s]` of sample `sample[s]` replaced by `values[s]`, for every slot s at once.

    `values` [S, W]; `sample`, `position` int64 [S], all pairs distinct, in any order. `rows` is not changed, and
    gradients reach `values` and the rows that are not replaced.
    """
    return rows.index_put((sample, position), values.to(rows.dtype))
