"""The tasks that are drawn on the fly in training, as files: to look at, to mix with other data, to measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, Raw, Unit
from codi2.data.builders.lines import ranges
from codi2.data.items import load_corpus
from codi2.data.tasks import WEIGHTS, TaskSampler, check_weights, draw_record
from codi2.errors import ConfigError

DRAWS = 500  # of a unit


@dataclass(frozen=True)
class Options:
    records: int = 20_000
    """Number of records to draw."""
    families: str = ""
    """Families of tasks to draw from and their shares, `pictures=3,clips`; a family without a number has the share 1.
    Empty: the default shares."""
    splits: str = "train"
    """Of the corpus: `train`, or `test_family,test_subject`, …"""

    def weights(self) -> dict[str, float]:
        """Family → share. Raises ConfigError: a family is unknown, or a share is not a number of 0 or more."""
        pairs = [entry.partition("=") for entry in self.families.split(",") if entry.strip()]
        try:
            weights = {name.strip(): float(share) if equals else 1.0 for name, equals, share in pairs} or WEIGHTS
        except ValueError as error:
            raise ConfigError(f"families is {self.families!r}; write each as NAME or NAME=NUMBER ({error})") from error
        check_weights(weights)
        return weights


class Tasks(Builder):
    about = "the tasks of training: captions, edits, examples, compositions, sequences, sounds, clips, conversations"
    reads = "the tiny corpus, as written by `codi2 data build tiny`"
    Options = Options

    @cached_property
    def _sampler(self) -> TaskSampler:
        return TaskSampler(load_corpus(self.source), [name.strip() for name in self.options.splits.split(",")])

    @property
    def version(self) -> str:
        return self._sampler.corpus.version

    def units(self) -> list[dict[str, Any]]:
        self.options.weights()  # raises before the work
        world = self._sampler.world
        return ranges(self.options.records, DRAWS) if world.images or world.sounds or self._sampler.clips else []

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        for number in range(unit["start"], unit["stop"]):
            yield Raw(str(number), number)

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        """The record that training draws for this number with the seed of the build; `draw` is not used."""
        record = draw_record(self._sampler, self.seed, raw.entry, self.options.weights())
        source = None if record.edits is None else record.media[record.edits]
        yield Draft(record.task, record.turns, record.licence, record.meta, source)
