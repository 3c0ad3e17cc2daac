"""The interface of builders: plan the units of a source, read each as a stream of raw entries, make records of these.

A unit becomes one shard for each phase. The result does not depend on the machine or the time, so a build can be
killed, spread over machines, and resumed: only the missing units are built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codi2.data.checks import BadRecord, LeftOut
from codi2.data.drafts import Draft, exchange

__all__ = ["BadRecord", "Builder", "Draft", "LeftOut", "Raw", "Unit", "exchange"]

Unit = Mapping[str, Any]
"""A part of a source: JSON values that the builder planned."""


@dataclass(frozen=True)
class Raw:
    """One entry of a source, in the form of its official files."""

    key: str
    """Unique in the source; seeds the random choices of the entry."""
    entry: Any
    content: tuple[bytes | str, ...] = ()
    """Entries of equal content are duplicates. Empty: the entry is never a duplicate."""


@dataclass(frozen=True)
class NoOptions:
    """For builders that have none."""


class Builder(ABC):
    """One source, opened.

    Args:
        source: the folder or file in the official form, named by the user.
        scratch: folder for indices, which `units` writes and every worker can read.
        options: an instance of `Options`.
        seed: of the build. The draws that `make` gets come from it.
    """

    about: ClassVar[str]
    """The records that it makes, in a line."""
    reads: ClassVar[str]
    """The official files that it expects below `source`."""
    Options: ClassVar[type] = NoOptions

    def __init__(self, source: Path, scratch: Path, options: Any, seed: int) -> None:
        self.source, self.scratch, self.options, self.seed = source, scratch, options, seed

    @property
    def root(self) -> Path:
        """The folder below which all files are read."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def version(self) -> str:
        """Identifies this state of a source that this package makes; empty for other sources."""
        return ""

    @property
    def gpus(self) -> int:
        """Number of GPUs that a task on a cluster needs."""
        return 0

    @abstractmethod
    def units(self) -> list[dict[str, Any]]:
        """Plans the work, once, before anything is read. Raises DataError: the source is not what `reads` says."""

    @abstractmethod
    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        """The entries of a unit in order; a BadRecord stands for data that cannot be divided into entries."""

    @abstractmethod
    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        """The records of one entry, the same for the same draw. Raises BadRecord and LeftOut."""
