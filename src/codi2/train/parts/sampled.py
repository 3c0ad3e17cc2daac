"""Answers of training records with the features that a whole model samples for them, to adapt a decoder to it; or with
the joint vectors of their instructions, for the baseline that edits without a language model.

Sampled features differ from true ones, and a decoder that is not trained on them draws them worse. The records are
those whose answer follows from the request. For other records a model may sample another valid answer than the
record's, and the decoder would learn to ignore features. The source of an answer is the one that generation takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from codi2.data import cache
from codi2.data.record import Medium, Record, media_of
from codi2.data.tasks import TaskSampler, draw_record
from codi2.hub import sha256_of
from codi2.llm.generation import FeatureSegment
from codi2.modalities import Modality
from codi2.model import CoDi2, Options
from codi2.prompt.layout import words_of
from codi2.prompt.parts import Audio, Image, Part, Video
from codi2.prompt.sources import LAST, source_of
from codi2.train.parts.pairs import Pair

FAMILIES: dict[str, dict[str, float]] = {
    "image": {"instructions": 2.0, "examples": 2.0, "pictures": 1.0},
    "audio": {"instructions": 1.0, "examples": 1.0, "sounds": 2.0},
    "video": {"clips": 1.0},
}
"""Modality → families of tasks and their shares; records of other tasks than `SETTLED` are skipped."""
SETTLED = frozenset(
    {f"{kind}_{modality}" for kind in ("edit", "analogy") for modality in ("image", "audio", "video")}
    | {"restyle", "analogy_rendering", "next_image", "edit_by_sound"}
    | {"add", "remove", "replace", "fuse", "analogy_mix", "next_with_sound", "animate"}
)
"""Tasks whose answer follows from the request."""
CALL = 8  # conversations of one call of the model


class Answers(Protocol):
    """Numbered answers of one modality, functions of (seed, number)."""

    def __init__(self, modality: Modality, folder: Path, seed: int, split: str) -> None: ...

    def pair(self, number: int) -> Pair:
        """The source of the answer, if there is one, and the answer."""

    def features(self, places: Sequence[int]) -> Tensor:
        """The sampled features of these answers [n, K, D], as the decoder gets them."""

    def depends(self) -> dict[str, Any]:
        """The values on which the features depend, for the key of a bank."""


class SampledAnswers:
    """Answers of drawn records of the tasks.

    Args:
        folder: of the model.
        split: of the corpus.
    """

    families: ClassVar[dict[str, dict[str, float]]] = FAMILIES

    def __init__(self, modality: Modality, folder: Path, seed: int, split: str) -> None:
        self.modality, self.folder, self.seed = modality, folder, seed
        self.sampler = TaskSampler(cache.corpus(), (split,))
        self.numbers: list[int] = []  # of the records that can be used, in order

    @cached_property
    def model(self) -> CoDi2:
        return CoDi2.from_pretrained(self.folder)

    def record(self, number: int) -> Record:
        """The `number`-th record whose last answer follows from the request and has a medium of this modality."""
        for candidate in count(self.numbers[-1] + 1 if self.numbers else 0):
            if number < len(self.numbers):
                break
            if self._answer(self._draw(candidate)) is not None:
                self.numbers.append(candidate)
        return self._draw(self.numbers[number])

    def pair(self, number: int) -> Pair:
        record = self.record(number)
        answer = self._answer(record)
        assert answer is not None
        reads = self.model.decoders[self.modality].codec.reads
        part = source_of(record.messages()[:-1], LAST, reads)
        source = None if part is None else as_array(part)
        if source is not None and self.modality == "video" and source.ndim == 3:
            source = source[None]  # the first frame of the clip
        return source, as_array(answer.decode())

    @torch.inference_mode()
    def features(self, places: Sequence[int]) -> Tensor:
        rows = []
        for start in range(0, len(places), CALL):
            records = [self.record(place) for place in places[start : start + CALL]]
            readings = self.model.read([record.messages()[:-1] for record in records])
            options = [
                Options(want=tuple(m.modality for m in media_of(record.turns[-1:])), seed=place, max_new_tokens=0)
                for place, record in zip(places[start : start + CALL], records, strict=True)
            ]
            for segments in self.model.write(readings, options):
                items = [s for s in segments if isinstance(s, FeatureSegment) and s.modality == self.modality]
                rows.append(items[-1].features.float().cpu())
        # with the norm that the decoder gives them in generation
        return self.model.decoders[self.modality].rescaled(torch.stack(rows))

    def depends(self) -> dict[str, Any]:
        files = sorted(self.folder.rglob("*.safetensors"))
        hashes = {str(path.relative_to(self.folder)): sha256_of(path) for path in files}
        return {"model": hashes, "families": self.families[self.modality], "settled": sorted(SETTLED)}

    def _draw(self, number: int) -> Record:
        return draw_record(self.sampler, self.seed, number, self.families[self.modality])

    def _answer(self, record: Record) -> Medium | None:
        """The last medium of this modality in a record's answer; None: it has none, or does not follow."""
        media = [medium for medium in media_of(record.turns[-1:]) if medium.modality == self.modality]
        return media[-1] if media and record.task in SETTLED else None


class InstructedAnswers(SampledAnswers):
    """Answers of drawn records; the one feature of each is the joint vector of the user's last words, as AUDIT's
    (arXiv:2304.00830) and InstructPix2Pix's decoders have."""

    families: ClassVar[dict[str, dict[str, float]]] = {"audio": {"instructions": 1.0, "sounds": 2.0}}

    @torch.inference_mode()
    def features(self, places: Sequence[int]) -> Tensor:
        rows = torch.zeros(len(places), self.model.config.heads.num_slots[self.modality], self.model.encoder.dim)
        for row, place in zip(rows, places, strict=True):
            row[0] = self.model.encoder(words_of(self.record(place).turns[-2][1]), 1)[0, 0]  # type: ignore[arg-type]
        return rows

    def depends(self) -> dict[str, Any]:
        return super().depends() | {"features": "joint vector of the instruction"}


def as_array(part: Part) -> np.ndarray:
    """A medium of the corpus's size as an array: uint8 [64, 64, 3], int16 [40960] or uint8 [F, 64, 64, 3]."""
    if isinstance(part, Audio):
        return np.clip(np.round(part.samples * 32767), -32768, 32767).astype(np.int16)
    assert isinstance(part, (Image, Video))
    frames = part.frames if isinstance(part, Video) else (part.pixels,)
    pixels = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    return pixels if isinstance(part, Video) else pixels[0]
