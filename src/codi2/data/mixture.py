"""The records of every training step: phases alternate, data sets are drawn by weight, every record once an epoch.

The records of step s depend only on the seed and s. There is no shuffle buffer and no counter, so a run resumes exactly
at any step, and ranks and workers compute their part of a step without sharing state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from codi2.data.record import PHASES, Record
from codi2.data.sets import load_report
from codi2.data.shards import Shard
from codi2.errors import ConfigError

BLOCK = 1_000  # draws in which every share is exact
WINDOW = 8  # shards whose records are shuffled together
OPEN = 64  # shards a process keeps open


@dataclass(frozen=True)
class MixturePart:
    """A finished data set, or the part of it that a mixture takes.

    Args:
        folder: of a data set built by `codi2 data build`.
        weight: share of the draws, against those of the other sources that have the step's phase.
        only: file of a shard → numbers of the records that are drawn; None: all records of all shards.
    """

    folder: Path
    weight: float = 1.0
    only: Mapping[str, Sequence[int]] | None = None

    def shards(self) -> list[tuple[str, str, Sequence[int]]]:
        """File, phase and record numbers of each shard. Raises DataError: the set is not finished."""
        shards = load_report(self.folder)["shards"]
        if self.only is None:
            return [(s["file"], s["phase"], range(s["records"])) for s in shards]
        return [(s["file"], s["phase"], self.only[s["file"]]) for s in shards if s["file"] in self.only]


class Pool:
    """The records of one source and phase in an endless order: each epoch has every record once."""

    def __init__(self, folder: Path, shards: Sequence[tuple[str, Sequence[int]]], seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.files, self.records = [name for name, _ in shards], [records for _, records in shards]
        self.sizes = np.array([len(records) for records in self.records], dtype=np.int64)
        self.total = int(self.sizes.sum())

    def place(self, number: int) -> tuple[int, int]:
        """Shard and record of the `number`-th draw."""
        epoch, offset = divmod(number, self.total)
        order, starts = _order(self.seed, epoch, self.sizes.tobytes())
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        shards = order[window * WINDOW : (window + 1) * WINDOW]
        ends = self.sizes[shards].cumsum()
        shuffled = _shuffled(self.seed, epoch, window, int(ends[-1]))
        index = int(shuffled[offset - starts[window]])
        k = int(np.searchsorted(ends, index, side="right"))
        shard = int(shards[k])
        return shard, self.records[shard][index - int(ends[k] - self.sizes[shard])]


@lru_cache(maxsize=64)
def _order(seed: int, epoch: int, sizes: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The shards of an epoch in their order, and the first draw of each window of them."""
    counts = np.frombuffer(sizes, dtype=np.int64)
    order = np.random.default_rng((seed, 31, epoch)).permutation(len(counts))
    ends = counts[order].cumsum()
    return order, np.concatenate([[0], ends[WINDOW - 1 :: WINDOW], ends[-1:]])


@lru_cache(maxsize=64)
def _shuffled(seed: int, epoch: int, window: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 37, epoch, window)).permutation(count)


class Mixture:
    """Records of several sources for every step of a run; a map from (step, place in the batch), usable by any loader.

    Args:
        sources: finished data sets.
        phases: phase → share of the steps (B.2); a step's records all answer in its phase. None: one phase of all.
        batch_size: records of a step, over all ranks.

    Raises:
        ConfigError: a share is not positive or is below 1 in `BLOCK`; no source has one of the phases.
        DataError: a source is not finished or of another version.
    """

    def __init__(
        self, sources: Sequence[MixturePart], batch_size: int, phases: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.phases = dict(phases) if phases else {"": 1.0}
        shards_by_source = [source.shards() for source in sources]
        self._pools: dict[str, list[Pool]] = {}
        self._shares: dict[str, np.ndarray] = {}
        for n, phase in enumerate(self.phases):
            if phase and phase not in PHASES:
                raise ConfigError(f"there is no phase {phase!r}; the phases are {', '.join(PHASES)}")
            pools, weights = [], []
            for k, (source, source_shards) in enumerate(zip(sources, shards_by_source, strict=True)):
                shards = [(file, records) for file, shard_phase, records in source_shards if phase in ("", shard_phase)]
                if shards:
                    pools.append(Pool(source.folder, shards, _mixed(seed, n, k)))
                    weights.append(source.weight)
            if not pools:
                raise ConfigError(f"no source has records of the phase {phase!r}; drop it or add a data set")
            self._pools[phase], self._shares[phase] = pools, _shares(weights, f"sources of phase {phase or 'all'}")
        self._phase_shares = _shares(list(self.phases.values()), "phases")
        self._shards: dict[Path, Shard] = {}

    @property
    def total(self) -> int:
        """Records of all sources and phases."""
        return sum(pool.total for pools in self._pools.values() for pool in pools)

    def every(self) -> list[tuple[Path, int]]:
        """Shard and number of every record of the mixture, each once."""
        pools = [pool for pools in self._pools.values() for pool in pools]
        shards = [
            (pool.folder / name, records)
            for pool in pools
            for name, records in zip(pool.files, pool.records, strict=True)
        ]
        return [(path, number) for path, records in shards for number in records]

    def phase(self, step: int) -> str:
        """The phase of a step; empty if there is one for all records."""
        return list(self.phases)[self._steps(step)[0]]

    def addresses(self, step: int) -> list[tuple[Path, int]]:
        """Shard and record of each place of a step's batch."""
        n, step_of_phase = self._steps(step)
        phase = list(self.phases)[n]
        first = step_of_phase * self.batch_size
        shares, seed = self._shares[phase].tobytes(), _mixed(self.seed, n, 0)
        addresses = []
        for draw in range(first, first + self.batch_size):
            k, number = _drawn(shares, seed, draw)
            pool = self._pools[phase][k]
            shard, record = pool.place(number)
            addresses.append((pool.folder / pool.files[shard], record))
        return addresses

    def _steps(self, step: int) -> tuple[int, int]:
        """Index of the step's phase, and the number of earlier steps of that phase."""
        return _drawn(self._phase_shares.tobytes(), self.seed, step)

    def read(self, address: tuple[Path, int]) -> Record:
        """Raises DataError: the shard is missing or damaged."""
        path, number = address
        if path not in self._shards:
            if len(self._shards) >= OPEN:
                self._shards.pop(next(iter(self._shards))).close()
            self._shards[path] = Shard(path)
        return self._shards[path][number]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[Record]:
        """A rank's records of a step. Raises DataError."""
        return [self.read(address) for address in self.addresses(step)[rank::world_size]]

    def steps(self, start: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[list[tuple[Path, int]]]:
        """The addresses of a rank, step by step and endless: the `batch_sampler` of a DataLoader over this mixture."""
        step = start
        while True:
            yield self.addresses(step)[rank::world_size]
            step += 1

    def __getitem__(self, address: tuple[Path, int]) -> Record:
        return self.read(address)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_shards": {}}  # every worker opens its own


def _shares(weights: Sequence[float], options: str) -> np.ndarray:
    """Cumulated shares float64 [n + 1], from 0 to 1. Raises ConfigError."""
    values = np.array(weights, dtype=np.float64)
    if not np.isfinite(values).all() or (values <= 0).any():
        raise ConfigError(f"the weights of the {options} are {list(weights)}; expected positive numbers")
    shares = values / values.sum()
    if shares.min() < 1 / BLOCK:
        raise ConfigError(
            f"the smallest of the {options} has the share {shares.min():g}, below the least possible {1 / BLOCK:g}; "
            "raise its weight or leave it out"
        )
    return np.concatenate([[0.0], shares.cumsum()])


def _mixed(seed: int, *numbers: int) -> int:
    return int(np.random.SeedSequence((seed, *numbers)).generate_state(1)[0])


def _drawn(shares: bytes, seed: int, draw: int) -> tuple[int, int]:
    """The option of a draw, and the number of earlier draws of that option."""
    block, offset = divmod(draw, BLOCK)
    choices, ranks, before = _block(shares, seed, block)
    return int(choices[offset]), int(before[choices[offset]] + ranks[offset])


@lru_cache(maxsize=32)
def _block(shares: bytes, seed: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a block of draws: their options, their ranks among the block's draws of the same option, and the counts in
    earlier blocks.

    Counts are rounded from the cumulated shares, so over any number of blocks they are exact to one draw.
    """
    edges = np.frombuffer(shares, dtype=np.float64)
    edges = np.append(edges[:-1], 1.0)
    before = np.diff(np.round(edges * block * BLOCK)).astype(np.int64)
    counts = np.diff(np.round(edges * (block + 1) * BLOCK)).astype(np.int64) - before
    choices = np.random.default_rng((seed, 41, block)).permutation(np.repeat(np.arange(len(counts)), counts))
    ranks = np.empty(BLOCK, dtype=np.int64)
    for option in range(len(counts)):
        has_option = choices == option
        ranks[has_option] = np.arange(has_option.sum())
    return choices, ranks, before
