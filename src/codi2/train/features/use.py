"""Chooses the stores that a training run reads: those that its config names, or those of its data sets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from codi2.errors import DataError
from codi2.hub import sha256_of
from codi2.train.features.encode import features_folder
from codi2.train.features.store import REPORT, EncodingJob, FeatureStore

if TYPE_CHECKING:
    from codi2.train.encoded import Encodings


class FeatureStores:
    """Several stores as one.

    Args:
        counts: modality → T that the model reads; a store may have more. A modality without entry: all.
        whole: whether the stores have every medium of the run's data sets.
    """

    def __init__(self, stores: Sequence[FeatureStore], counts: Mapping[str, int], whole: bool) -> None:
        self.stores, self.counts, self.whole = stores, counts, whole

    def read(self, name: bytes, modality: str) -> Tensor | None:
        """float32 [T, D]; None: no store has the medium.

        Raises DataError: no store has it and all should, or a shard is damaged.
        """
        for store in self.stores:
            value = store.read(name, modality)
            if value is not None:
                return value[: self.counts.get(modality)].float()
        if self.whole:
            again = self.stores[0].again
            raise DataError(
                f"a medium ({modality} {name.hex()}) of the data is in none of "
                f"{', '.join(str(store.folder) for store in self.stores)}, but its data set was encoded; "
                f"run {again} again for each set"
            )
        return None


def attach(
    encodings: Encodings, model: str, counts: Mapping[str, int], sets: Sequence[Path], named: str | Sequence[str] = ""
) -> None:
    """Makes encodings read the stores of data sets.

    Media without a store are encoded during training; a line on stderr says so, with the command that encodes them.

    Args:
        model: preset or folder of the encoder.
        counts: modality → T that it reads.
        sets: folders of the data sets of the run.
        named: folders of stores (`options.features`); none: the stores of the data sets.

    Raises:
        DataError: a named store is not finished, of another encoder, of fewer features than the model reads, or not of
            the present state of any data set.
    """
    folders = [Path(named)] if isinstance(named, str) and named else [Path(name) for name in named]
    sets = list(dict.fromkeys(sets))
    stores = [FeatureStore(folder) for folder in folders]
    for store in stores:
        _check(store, encodings, model, counts, sets)
    if not folders:
        candidates = [features_folder(folder, encodings.key, counts) for folder in sets]
        stores = [FeatureStore(folder) for folder in candidates if (folder / REPORT).is_file()]
    reports = {store.job.report for store in stores if store.job.reads_words or not encodings.reads_words}
    lacking = [folder for folder in sets if sha256_of(folder / "build.json") not in reports]
    if stores:
        encodings.stores = FeatureStores(stores, counts, not lacking)
    if lacking and os.environ.get("RANK", "0") == "0":
        several = "" if len(lacking) == 1 else f" and {len(lacking) - 1} more data sets"
        each = "" if len(lacking) == 1 else " and so on"
        print(
            f"codi2: the media of {lacking[0]}{several} are encoded during training, each when it first occurs; "
            f"to encode them before: codi2 data encode {lacking[0]} --model {model}{each}",
            file=sys.stderr,
            flush=True,
        )


def _check(
    store: FeatureStore, encodings: Encodings, model: str, counts: Mapping[str, int], sets: Sequence[Path]
) -> None:
    """Raises DataError: a named store does not fit the run."""
    job, folder = store.job, store.folder
    if job.key != encodings.key:
        raise DataError(
            f"{folder} was encoded by the encoder of {job.model} (key {job.key}), but {model} reads the features of "
            f"another (key {encodings.key}); run `codi2 data encode {job.data} --model {model}` and name its store"
        )
    for modality, count in counts.items():
        stored = job.shapes.get(modality, (0, 0))[0]
        if stored != count and (stored == 0 or count != 1):
            raise DataError(
                f"{folder} has {stored} features of each {modality}, but {model} reads {count}; run `codi2 data encode "
                f"{job.data} --model {model}` and name its store"
            )
    if not any(sha256_of(path / "build.json") == job.report for path in sets):
        raise DataError(_other_set(job, folder, sets))


def _other_set(job: EncodingJob, folder: Path, sets: Sequence[Path]) -> str:
    if any(path.name == Path(job.data).name for path in sets):
        return f"{job.data} was built again after {folder} was encoded; run {job.command(folder)} again"
    return f"{folder} has the features of {job.data}, which this run does not read; remove it from options.features"
