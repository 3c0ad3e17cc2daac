"""Worker processes prepare batches ahead of the training loop, in the order of the steps: read, decoded and collated.

A thread of the training process receives them, so that the loop does not wait for other processes. A batch is a
function of the step and the share alone. So the number of workers does not change the batches, and a resumed run has
the batches of an uninterrupted one.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codi2.errors import CoDi2Error
from codi2.train.config import TrainConfig
from codi2.train.packing import Packed, pack

if TYPE_CHECKING:
    from codi2.train.contract import Recipe
    from codi2.train.shares import Share

AHEAD, MOST_AHEAD = 2, 8  # batches that a worker prepares ahead; the most where the steps of a block are drawn together
RECEIVED = 2  # batches that the training process has received from its workers in advance
MOST = 8  # most workers of a process by default


class Batches(Dataset[Any]):
    """(step, share) → a recipe's batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, key: tuple[int, Share]) -> Any:
        try:
            return pack(self.recipe.batch(*key))
        except CoDi2Error as error:
            return error  # raised in a worker, it would arrive as a traceback


def draw_ahead(
    recipe: Recipe, steps: range, shares: Sequence[Share], workers: int, pin_memory: bool = False
) -> Generator[Any]:
    """The batches of each step's shares, one after the other.

    Args:
        workers: number of worker processes; 0: this process draws each batch when it is needed.
        pin_memory: whether batches of workers are in page-locked memory, from which a GPU can copy while it computes.
    Raises:
        CoDi2Error: raised by the recipe, in this process or a worker.
    """
    if not workers:
        for step in steps:
            for share in shares:
                yield recipe.batch(step, share)
        return
    block = recipe.block
    lanes = [
        iter(_lane(recipe, [(s, share) for s in steps if s // block % workers == lane for share in shares], block))
        for lane in range(workers)
    ]
    # start the thread only after all workers are forked: a fork could copy a lock that the thread holds
    packed = (next(lanes[step // block % workers]) for step in steps for _ in shares)
    yield from _received_ahead(_unpacked(packed, RECEIVED + len(shares) + 1, pin_memory), RECEIVED)


def _unpacked(batches: Iterator[Packed | CoDi2Error], kept: int, pin_memory: bool) -> Iterator[Any]:
    """The batches. References to the memory of the last `kept` are held, so that it is freed here, in the thread."""
    numbers: deque[Tensor] = deque(maxlen=kept)
    for batch in batches:
        if isinstance(batch, CoDi2Error):
            raise batch
        numbers.append(batch.numbers)
        yield batch.unpack(pin_memory)


def _received_ahead(values: Iterator[Any], count: int) -> Generator[Any]:
    """The same values; a thread fetches `count` of them ahead."""
    end = object()
    with ThreadPoolExecutor(1, "batches") as pool:
        coming = deque(pool.submit(next, values, end) for _ in range(count))
        try:
            while (value := coming.popleft().result()) is not end:
                coming.append(pool.submit(next, values, end))
                yield value
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _lane(recipe: Recipe, keys: Sequence[tuple[int, Share]], block: int) -> DataLoader[Any]:
    """One worker, which draws whole blocks, as the steps of a block share data that is read once."""
    return DataLoader(
        Batches(recipe),
        batch_size=None,
        sampler=keys,
        num_workers=1,
        prefetch_factor=max(AHEAD, min(block, MOST_AHEAD)),
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        # a recipe holds networks; a fork shares their memory with the worker, which does not use them
        multiprocessing_context="fork",
    )


def workers_for(config: TrainConfig, device: torch.device, processes_here: int = 1) -> int:
    """The number of workers of a process: the config's, or by default one for each free core, up to MOST."""
    if config.num_workers >= 0:
        return config.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = cores // max(1, processes_here) - 1
    if not hasattr(os, "fork") or (device.type == "cpu" and cores <= 2):
        return 0
    return max(0 if device.type == "cpu" else 1, min(MOST, free))


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int) -> None:
    """Limits a worker to one core. It ignores Ctrl-C, as the training process ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
