"""A batch of any shape as one piece of shared memory, in which a worker hands it to the process that trains.

torch sends each tensor separately, with a file descriptor that the receiver requests from the sender while the device
waits. A process may hold about a thousand descriptors.
"""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNED = 64  # bytes; a tensor starts at a multiple of it


@dataclass(frozen=True)
class Packed:
    """A pickled value without its tensors, and the numbers of the tensors in one block."""

    outline: bytes  # the pickle, with the place of each tensor in `numbers`
    numbers: Tensor  # uint8 [bytes], in shared memory

    def unpack(self, pin_memory: bool = False) -> Any:
        """The value; its tensors lie in `numbers`, which `pin_memory` copies into page-locked memory."""
        return _Reader(self.outline, self.numbers.pin_memory() if pin_memory else self.numbers).load()


def pack(value: Any) -> Packed:
    """Packs a picklable value; its tensors must be on the CPU and without a gradient."""
    outline = io.BytesIO()
    writer = _Writer(outline)
    writer.dump(value)
    numbers = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(max(1, writer.size)))
    for start, tensor in writer.tensors:
        _numbers_of(numbers, start, tensor.dtype, tensor.shape).copy_(tensor)
    return Packed(outline.getvalue(), numbers)


def _numbers_of(numbers: Tensor, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A view of the tensor that starts at byte `start` of `numbers`."""
    return numbers[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


class _Writer(pickle.Pickler):
    """Writes the place of a tensor, its type and its shape instead of its numbers."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.size, self.tensors = 0, list[tuple[int, Tensor]]()

    def persistent_id(self, value: Any) -> tuple[int, torch.dtype, tuple[int, ...]] | None:
        if type(value) is not Tensor:
            return None
        start = -(-self.size // ALIGNED) * ALIGNED
        self.size = start + value.numel() * value.element_size()
        self.tensors.append((start, value))
        return start, value.dtype, tuple(value.shape)


class _Reader(pickle.Unpickler):
    def __init__(self, outline: bytes, numbers: Tensor) -> None:
        super().__init__(io.BytesIO(outline))
        self.numbers = numbers

    def persistent_load(self, place: tuple[int, torch.dtype, tuple[int, ...]]) -> Tensor:
        return _numbers_of(self.numbers, *place)
