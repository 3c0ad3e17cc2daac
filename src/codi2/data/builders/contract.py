"""What a builder is: it plans units of a source, reads each as a stream of raw entries, and makes records of one.

A unit becomes one shard for each phase. It is the same wherever and whenever it is built, so a build can be killed,
spread over machines, and resumed: what is missing is built, nothing else.
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
"""Which part of a source: JSON values, as the builder planned them."""


@dataclass(frozen=True)
class Raw:
    """One entry of a source, as its official files hold it."""

    key: str
    """Unique in the source; seeds whatever is drawn for the entry."""
    entry: Any
    content: tuple[bytes | str, ...] = ()
    """What makes it the same as another: entries of equal content are duplicates. Empty: never one."""


@dataclass(frozen=True)
class NoOptions:
    """For builders that have none."""


class Builder(ABC):
    """One source, opened.

    Args:
        source: what the user names: the folder or file in the official form.
        scratch: folder for what planning wants to keep (indices); every worker sees it, `units` writes it.
        options: an instance of `Options`.
    """

    about: ClassVar[str]
    """What records it makes, in a line."""
    reads: ClassVar[str]
    """The official files that it expects below `source`."""
    Options: ClassVar[type] = NoOptions

    def __init__(self, source: Path, scratch: Path, options: Any) -> None:
        self.source, self.scratch, self.options = source, scratch, options

    @property
    def root(self) -> Path:
        """The folder that everything is read in."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def version(self) -> str:
        """What tells this state of the source from a later one, where the source is made by us; else empty."""
        return ""

    @property
    def gpus(self) -> int:
        """That a task of a cluster has for itself."""
        return 0

    @abstractmethod
    def units(self) -> list[dict[str, Any]]:
        """Plans the work, once, before anything is read. Raises DataError: the source is not what `reads` says."""

    @abstractmethod
    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        """The entries of a unit in their order; a BadRecord stands for what cannot even be told apart."""

    @abstractmethod
    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        """The records of one entry, the same for the same draw. Raises BadRecord and LeftOut."""
