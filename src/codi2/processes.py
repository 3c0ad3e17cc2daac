"""Several processes that divide one piece of work: `torchrun --nproc_per_node 8 -m codi2 evaluate …`, or
`accelerate launch`.

Each makes its share of the outputs, in the chunks in which one process would make them, so that the outputs are the
same. The first process scores them and writes the report. Outputs go through the folder that all write to; the
processes tell each other that they are done over gloo, which needs no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from codi2.errors import CoDi2Error, ConfigError
from codi2.placement import Placement

T = TypeVar("T")
PATIENCE_DAYS = 7  # that a process waits for the slowest: suites take hours


@dataclass(frozen=True)
class Processes:
    """This process among `count`; `rank` 0 is the one that scores."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on this machine

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This process's part of what all divide."""
        return work[self.rank :: self.count]

    def placed(self, placement: Placement) -> Placement:
        """`cuda` is a GPU of its own for each process of a machine."""
        several = self.count > 1 and placement.device == "cuda"
        return replace(placement, device=f"cuda:{self.local_rank}") if several else placement

    def gather(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in each process, in the order of their ranks; every process waits for all of them.

        Raises the CoDi2Error of the lowest rank that has one, in every process.
        """
        if self.count == 1:
            return [work()]
        import torch.distributed as dist

        value: T | None = None
        fault: CoDi2Error | None = None
        try:
            value = work()
        except CoDi2Error as error:
            fault = error.with_traceback(None)
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, (value, fault))
        faults = [other for _, other in gathered if other is not None]
        if faults:
            raise faults[0]
        return [other for other, _ in gathered]


ALONE = Processes()


@contextmanager
def join() -> Iterator[Processes]:
    """While it lasts, this process among those that a launcher started; ALONE where none did.

    Raises ConfigError: the launcher's environment is not whole.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        yield ALONE
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", timeout=timedelta(days=PATIENCE_DAYS))
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"WORLD_SIZE is {count}, but the processes do not find each other ({reason}); start them with torchrun or "
            "accelerate launch"
        ) from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
