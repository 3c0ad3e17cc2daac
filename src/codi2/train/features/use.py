"""Which stores a training run reads: those that it names, or those that lie beside its data sets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codi2.data.record import Medium
from codi2.diffuse.codec import Codec
from codi2.errors import DataError
from codi2.hub import sha256_of
from codi2.train.encoded import name_of
from codi2.train.features.encode import features_folder, latents_folder
from codi2.train.features.makers import LATENTS, latents_key
from codi2.train.features.store import REPORT, Job, Store

if TYPE_CHECKING:
    from codi2.train.encoded import Encodings


class Stores:
    """Several stores as one.

    Args:
        counts: modality → T that the model reads, the first of what a store may have more of; none: all.
        whole: whether the stores have every medium of the run's data sets.
    """

    def __init__(self, stores: Sequence[Store], counts: Mapping[str, int], whole: bool) -> None:
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
                f"{', '.join(str(store.folder) for store in self.stores)}, though its data set was encoded; "
                f"run {again} again for each set"
            )
        return None


class StoredLatents:
    """Latents of the media of data sets, where `codi2 data encode --latents` has made them."""

    def __init__(self, codec: Codec, sets: Sequence[Path]) -> None:
        """Raises DataError: a store beside a data set is damaged."""
        kind, key = LATENTS + codec.modality, latents_key(codec)
        folders = [latents_folder(folder, kind, key) for folder in sets]
        stores = [Store(folder) for folder in folders if (folder / REPORT).is_file()]
        self.modality = codec.modality
        self._stores = Stores(stores, {}, whole=False)

    def of(self, media: Sequence[Medium]) -> Tensor | None:
        """float32 [B, c, h, w], as the codec's `encode` gives them; None: those of a medium are not there.

        Raises DataError: a shard is damaged.
        """
        if not self._stores.stores or any(medium.modality != self.modality for medium in media):
            return None
        found = [self._stores.read(name_of(medium), self.modality) for medium in media]
        there = [value for value in found if value is not None]
        return torch.stack(there) if len(there) == len(media) else None


def attach(
    encodings: Encodings, model: str, counts: Mapping[str, int], sets: Sequence[Path], named: str | Sequence[str] = ""
) -> None:
    """Makes encodings read the stores of data sets; what of them no store has is encoded while training runs, which a
    line on stderr says, with the command that encodes it before.

    Args:
        model: preset or folder, whose encoder the encodings are of.
        counts: modality → T that it reads.
        sets: folders of the data sets of the run.
        named: folders of stores (`options.features`); none: those beside the data sets.

    Raises:
        DataError: a store that is named is not finished, of another encoder, of fewer features than the model reads, or
            of none of the data sets as they are now.
    """
    folders = [Path(named)] if isinstance(named, str) and named else [Path(name) for name in named]
    sets = list(dict.fromkeys(sets))
    stores = [Store(folder) for folder in folders]
    for store in stores:
        _check(store, encodings, model, counts, sets)
    if not folders:
        beside = [features_folder(folder, encodings.key, counts) for folder in sets]
        stores = [Store(folder) for folder in beside if (folder / REPORT).is_file()]
    reports = {store.job.report for store in stores if store.job.reads_words or not encodings.reads_words}
    lacking = [folder for folder in sets if sha256_of(folder / "build.json") not in reports]
    if stores:
        encodings.stores = Stores(stores, counts, not lacking)
    if lacking and os.environ.get("RANK", "0") == "0":
        several = "" if len(lacking) == 1 else f" and {len(lacking) - 1} more data sets"
        each = "" if len(lacking) == 1 else " and so on"
        print(
            f"codi2: the media of {lacking[0]}{several} are encoded while training runs, each when it is first met; "
            f"to encode them once before: codi2 data encode {lacking[0]} --model {model}{each}",
            file=sys.stderr,
            flush=True,
        )


def _check(store: Store, encodings: Encodings, model: str, counts: Mapping[str, int], sets: Sequence[Path]) -> None:
    """Raises DataError: a store that is named cannot serve the run."""
    job, folder = store.job, store.folder
    if job.kind != "features" or job.key != encodings.key:
        theirs = f"the encoder of {job.model} (key {job.key})" if job.kind == "features" else "an autoencoder"
        raise DataError(
            f"{folder} was encoded by {theirs}, and {model} reads the features of another (key {encodings.key}); "
            f"run `codi2 data encode {job.data} --model {model}` and name what it makes"
        )
    for modality, count in counts.items():
        there = job.shapes.get(modality, (0,))[0]
        if there != count and (there == 0 or count != 1):
            raise DataError(
                f"{folder} has {there} features of each {modality}, and {model} reads {count}; run `codi2 data encode "
                f"{job.data} --model {model}` and name what it makes"
            )
    if not any(sha256_of(path / "build.json") == job.report for path in sets):
        raise DataError(_other_set(job, folder, sets))


def _other_set(job: Job, folder: Path, sets: Sequence[Path]) -> str:
    if any(path.name == Path(job.data).name for path in sets):
        return f"{job.data} was built again after {folder} was encoded; run {job.command(folder)} again"
    return f"{folder} has the features of {job.data}, which this run does not read; leave it out of options.features"
