"""Examples of records that are drawn on the fly (`codi2.data.tasks`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from codi2.data.record import Medium, Record
from codi2.data.tasks import WEIGHTS, TaskSampler, check_weights, draw_record
from codi2.train.encoded import Encodings
from codi2.train.examples import TrainingExample

KEY_RECORDS = 24  # number of records that are hashed for a key


class DrawnExamples:
    """As `ExampleSet`, with drawn records in place of finished data sets.

    Args:
        weights: family of tasks → share; empty: the default shares of `data.tasks`.
        total: number of records of one pass; 0: unlimited.
    """

    def __init__(
        self,
        sampler: TaskSampler,
        encodings: Encodings,
        batch_size: int,
        weights: Mapping[str, float],
        seed: int,
        total: int = 0,
    ) -> None:
        """Raises ConfigError: a family is unknown."""
        self.sampler, self.encodings, self.batch_size, self.seed = sampler, encodings, batch_size, seed
        self.weights, self.total = dict(weights) or WEIGHTS, total
        check_weights(self.weights)

    def phase(self, step: int) -> str:
        """Steps have no phases: each batch holds all tasks."""
        return ""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[TrainingExample]:
        """The examples of a rank in a step."""
        first = step * self.batch_size
        return [self.example(n) for n in range(first + rank, first + self.batch_size, world_size)]

    def example(self, number: int) -> TrainingExample:
        record = draw_record(self.sampler, self.seed, number, self.weights)
        return TrainingExample(record, self.encodings, f"tasks:{number}")

    def provenance(self) -> dict[str, Any]:
        return {"tasks": drawn_key(self.sampler, self.seed, self.weights), "corpus": self.sampler.corpus.version}


def drawn_key(sampler: TaskSampler, seed: int, weights: Mapping[str, float], media: bool = False) -> str:
    """A hash of the first records, which differs for another corpus, seed or version of the tasks."""
    digest = hashlib.sha256(f"{seed}|{dict(weights)}".encode())
    for number in range(KEY_RECORDS):
        _add(digest, draw_record(sampler, seed, number, weights, media))
    return digest.hexdigest()


def _add(digest: Any, record: Record) -> None:
    for role, pieces in record.turns:
        digest.update(role.encode())
        for piece in pieces:
            digest.update(piece.data if isinstance(piece, Medium) else piece.text.encode())
