"""Batches drawn ahead by worker processes, in the order of the steps: the loop finds them read, decoded and collated.

A batch is a function of the step and the share alone, so neither how many workers draw nor how far they are ahead
changes a number, and a run that resumes draws what an uninterrupted one would.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from codi2.errors import CoDi2Error
from codi2.train.config import TrainConfig

if TYPE_CHECKING:
    from codi2.train.loop import Recipe
    from codi2.train.shares import Share

AHEAD, MOST_AHEAD = 2, 8  # batches that each worker holds ready; where the steps of a block are drawn together
MOST = 8  # workers of a process, unless the config says otherwise


class Batches(Dataset[Any]):
    """(step, share) → a recipe's batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, at: tuple[int, Share]) -> Any:
        try:
            return self.recipe.batch(*at)
        except CoDi2Error as error:
            if get_worker_info() is None:
                raise
            return _Failed(error)  # a worker's errors would arrive as tracebacks


class _Failed:
    def __init__(self, error: CoDi2Error) -> None:
        self.error = error


def drawn(recipe: Recipe, steps: range, shares: Sequence[Share], workers: int) -> Generator[Any]:
    """The batches of each step's shares, one after the other.

    Args:
        workers: processes; 0: this one draws each batch when it is asked for.
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
    for step in steps:
        for _ in shares:
            batch = next(lanes[step // block % workers])
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch


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
    """Workers share the cores: each keeps to one."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
