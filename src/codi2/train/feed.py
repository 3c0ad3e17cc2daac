"""Batches drawn ahead by worker processes, in the order of the steps: the loop finds them read, decoded and collated.

A thread of the process that trains takes them from the workers, so that the loop waits for no other process either.
A batch is a function of the step and the share alone, so neither how many workers draw nor how far they are ahead
changes a number, and a run that resumes draws what an uninterrupted one would.
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
    from codi2.train.loop import Recipe
    from codi2.train.shares import Share

AHEAD, MOST_AHEAD = 2, 8  # batches that each worker holds ready; where the steps of a block are drawn together
TAKEN = 2  # batches that the process that trains has taken from its workers
MOST = 8  # workers of a process, unless the config says otherwise


class Batches(Dataset[Any]):
    """(step, share) → a recipe's batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, at: tuple[int, Share]) -> Any:
        try:
            return pack(self.recipe.batch(*at))
        except CoDi2Error as error:
            return error  # a worker's errors would arrive as tracebacks


def drawn(recipe: Recipe, steps: range, shares: Sequence[Share], workers: int, pins: bool = False) -> Generator[Any]:
    """The batches of each step's shares, one after the other.

    Args:
        workers: processes; 0: this one draws each batch when it is asked for.
        pins: whether workers' batches are put into page-locked memory, from which a GPU copies while it computes.
    Raises:
        CoDi2Error: what the recipe raised, in whichever process.
    """
    if not workers:
        for step in steps:
            for share in shares:
                yield recipe.batch(step, share)
        return
    block = getattr(recipe, "block", 1)
    lanes = [
        iter(_lane(recipe, [(s, share) for s in steps if s // block % workers == lane for share in shares], block))
        for lane in range(workers)
    ]
    # all workers are forked by now: a fork beside a running thread could copy a lock that nobody opens again
    order = (next(lanes[step // block % workers]) for step in steps for _ in shares)
    yield from _taken(_unpacked(order, TAKEN + len(shares) + 1, pins), TAKEN)


def _unpacked(batches: Iterator[Packed | CoDi2Error], kept: int, pins: bool) -> Iterator[Any]:
    """The batches; their memory is kept for as many, so that it is given back here and not where the loop waits."""
    numbers: deque[Tensor] = deque(maxlen=kept)
    for batch in batches:
        if isinstance(batch, CoDi2Error):
            raise batch
        numbers.append(batch.numbers)
        yield batch.unpack(pins)


def _taken(values: Iterator[Any], count: int) -> Generator[Any]:
    """The same values; a thread has `count` of them ready."""
    end = object()
    with ThreadPoolExecutor(1, "batches") as pool:
        coming = deque(pool.submit(next, values, end) for _ in range(count))
        try:
            while (value := coming.popleft().result()) is not end:
                coming.append(pool.submit(next, values, end))
                yield value
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _lane(recipe: Recipe, at: Sequence[tuple[int, Share]], block: int) -> DataLoader[Any]:
    """One worker, which draws whole blocks: what the steps of a block have in common is read once."""
    return DataLoader(
        Batches(recipe),
        batch_size=None,
        sampler=at,
        num_workers=1,
        prefetch_factor=max(AHEAD, min(block, MOST_AHEAD)),
        collate_fn=_as_it_is,
        worker_init_fn=_alone,
        # a recipe holds networks: they are shared with the worker, which looks at none, and not sent to it
        multiprocessing_context="fork",
    )


def workers_for(config: TrainConfig, device: torch.device, processes_here: int = 1) -> int:
    """How many workers a process of a run has: what the config says, and by default as many as the cores allow."""
    if config.num_workers >= 0:
        return config.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = cores // max(1, processes_here) - 1
    if not hasattr(os, "fork") or (device.type == "cpu" and cores <= 2):
        return 0
    return max(0 if device.type == "cpu" else 1, min(MOST, free))


def _as_it_is(batch: Any) -> Any:
    return batch


def _alone(_: int) -> None:
    """Workers share the cores: each keeps to one. Ctrl-C is for the process that trains, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
