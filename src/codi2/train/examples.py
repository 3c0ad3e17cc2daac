"""Records of finished data sets with the features of their items, which parts of the model are trained on.

The examples of a step are a function of the seed and the step, as are the records of the mixture. Their features are
read from the cache of `encoded` when they are first used. `Record.edits` names the medium that an answer edits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from codi2.data.find import find_set
from codi2.data.mixture import Mixture, MixturePart
from codi2.data.record import PHASES, Medium, Record, media_of
from codi2.data.sets import load_report
from codi2.errors import ConfigError
from codi2.hub import sha256_of
from codi2.prompt.parts import Phrase
from codi2.train.encoded import Encodings, items_of


@dataclass(frozen=True)
class TrainingExample:
    """A record with the features of its items."""

    record: Record
    encodings: Encodings
    place: str = ""  # data set, shard and number

    @cached_property
    def items(self) -> list[tuple[str, Medium | Phrase]]:
        """Role and piece of each item."""
        return items_of(self.record, self.encodings.reads_words)

    @property
    def pieces(self) -> list[Medium | Phrase]:
        return [piece for _, piece in self.items]

    @cached_property
    def features(self) -> Sequence[Tensor]:
        """float32 [T, D] of each item; items that are not encoded yet are encoded now."""
        return self.encodings.of(self.pieces)

    @cached_property
    def answers(self) -> list[int]:
        """The indices of the media in the last turn, to which `Record.edits` refers."""
        count = len(media_of(self.record.turns[-1:]))
        return self._media[len(self._media) - count :]

    @cached_property
    def _media(self) -> list[int]:
        """The indices of the items that are media, in the order of the record."""
        return [i for i, (_, piece) in enumerate(self.items) if isinstance(piece, Medium)]

    def answer(self, modality: str) -> int:
        """The index of the last item of this modality in the answers."""
        return max(i for i, (role, piece) in enumerate(self.items) if (role, piece.modality) == ("assistant", modality))

    def source(self, modality: str, others: Sequence[str] = (), answer: int | None = None) -> int | None:
        """The index of the item that an answer edits, if a decoder of `modality` can read it; None: there is none.

        Args:
            others: modalities that the decoder's codec reads beside its own.
            answer: index of the answer; by default the last one of this modality.
        """
        answer = self.answer(modality) if answer is None else answer
        if self.record.edits is None or answer not in self.answers:
            return None
        item = self._media[self.record.edits]
        return item if self.items[item][1].modality in (modality, *others) else None

    def medium(self, item: int) -> Medium:
        piece = self.items[item][1]
        assert isinstance(piece, Medium)
        return piece


class ExampleSet:
    """A mixture with the features of its records.

    Args:
        data: folder of a finished data set, or its name under `$CODI2_HOME/data` → its weight; or sources.
        phases: see `Mixture`. Of several phases, those without records are left out, and the others share their steps.
    """

    def __init__(
        self,
        data: Mapping[str, float] | Sequence[MixturePart],
        encodings: Encodings,
        batch_size: int,
        phases: Mapping[str, float] | None,
        seed: int,
    ) -> None:
        """Raises ConfigError: no data. DataError: a set is missing, or not finished."""
        if not data:
            raise ConfigError("the config names no data; [options.data] should have the folder of a data set = weight")
        named = (
            [MixturePart(find_set(name), weight) for name, weight in data.items()]
            if isinstance(data, Mapping)
            else data
        )
        self.sources = list(named)
        phases = self._with_records(phases) if phases and len(phases) > 1 else phases
        self.mixture, self.encodings = Mixture(self.sources, batch_size, phases, seed), encodings

    def _with_records(self, phases: Mapping[str, float]) -> Mapping[str, float]:
        """The phases that have records, so that a data set that is not available need only be left out of `data`."""
        reports = [load_report(source.folder) for source in self.sources]
        available = {shard["phase"] for report in reports for shard in report["shards"] if shard["records"]}
        lacking = [phase for phase in phases if phase in PHASES and phase not in available]
        if not lacking or len(lacking) == len(phases):
            return phases
        print(
            f"codi2: no data set has records that answer with {', '.join(lacking)}: these phases are left out, and "
            "the others share their steps",
            file=sys.stderr,
            flush=True,
        )
        return {phase: share for phase, share in phases.items() if phase not in lacking}

    def provenance(self) -> dict[str, str]:
        """Data set → SHA-256 of its report, which lists every shard."""
        return {source.folder.name: sha256_of(source.folder / "build.json") for source in self.sources}

    @property
    def total(self) -> int:
        """The number of records of one pass."""
        return self.mixture.total

    def phase(self, step: int) -> str:
        """The phase of a step."""
        return self.mixture.phase(step)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[TrainingExample]:
        """A rank's examples of a step."""
        return [self.read(address) for address in self.mixture.addresses(step)[rank::world_size]]

    def every(self) -> list[TrainingExample]:
        """All examples, each once."""
        return [self.read(address) for address in self.mixture.every()]

    def of_steps(self, steps: range) -> list[TrainingExample]:
        """The examples of some steps, each once."""
        addresses = dict.fromkeys(address for step in steps for address in self.mixture.addresses(step))
        return [self.read(address) for address in addresses]

    def read(self, address: tuple[Path, int]) -> TrainingExample:
        shard, number = address
        return TrainingExample(self.mixture.read(address), self.encodings, f"{'/'.join(shard.parts[-3:])}:{number}")


def check_held_out(part: str, held_out: Mapping[str, float]) -> None:
    """Raises ConfigError: the config of a part that is validated on records names none."""
    if not held_out:
        raise ConfigError(
            f"the config of {part} names no held-out data; [options.held_out] should have the folder of a data set "
            "that is not trained on = weight"
        )


def encodings_for(config: Any, folder: Path | None) -> Encodings:
    """The features of a model's encoder. Raises WeightsError: it cannot be loaded."""
    from codi2.checkpoint import load_encoder
    from codi2.train.features.makers import encoder_key

    encoder = load_encoder(config, folder)
    key = encoder_key(encoder, config.encoder)
    return Encodings(lambda: encoder, key, config.encoder.reads_words, config.encoder.num_features)


def read_stores(encodings: Encodings, config: Any, options: Any) -> None:
    """Makes encodings read the stores of `codi2 data encode` for the data sets of a part: see `features.use.attach`.

    Args:
        config: of the model.
        options: of the part: `model`, `data`, `held_out`, `features`.

    Raises:
        DataError: a set is missing, or a named store does not fit.
    """
    from codi2.train.features.use import attach

    sets = [find_set(name) for name in {**options.data, **options.held_out}]
    for folder in sets:
        load_report(folder)
    attach(encodings, options.model, config.encoder.num_features, sets, options.features)
