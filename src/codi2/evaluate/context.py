"""What suites measure with: one model, held-out items, the networks that judge.

Letters: n prompts or items, K features of an answer, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from codi2.checkpoint import load_one_decoder
from codi2.data import cache
from codi2.data.items import Corpus, Item
from codi2.data.mixes import Mix, draw_mixes
from codi2.data.prepare import FPS
from codi2.data.world import ADDED_RENDERINGS
from codi2.decoding import read_words
from codi2.diffuse.codec import AudioCodec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.text_pipelines import load_text_pipeline
from codi2.errors import ConfigError, DataError, WeightsError
from codi2.evaluate.judge import Judge, load_judge
from codi2.evaluate.sound_judge import SoundJudge, load_sound_judge
from codi2.hub import home
from codi2.llm.generation import FeatureSegment
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Image, Part, Phrase, Prompt, Video

RATE = 16_000  # Hz, of the corpus's sounds
BATCH = 16  # prompts answered at once: the fastest of 1 to 16, by benchmarks/evaluate.py
QUICK = 4  # items a figure in a quick run
MIXES, MIX_SEED = 160, 14  # of held-out sounds; the seed is added to a thousand times the context's

T = TypeVar("T")


@dataclass(eq=False)
class EvalContext:
    """A model and what it is measured with. Corpus and judges are loaded when a figure first needs them."""

    model: CoDi2
    seed: int = 0
    quick: bool = False
    instructed: Path | None = None
    """Folder of the decoder that was trained on instructions alone; None: that of the training run of this name."""
    text_pipeline: str = ""
    """Hub id or folder of a pipeline that generates from a text alone; empty: that of the model's own decoder."""
    items: int | None = None
    """Items of a figure; None: as many as the suite has by itself."""
    validation: bool = False
    """Whether items are drawn from the validation split, for choices; else from the test splits."""
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def corpus(self) -> Corpus:
        """Without `ADDED_RENDERINGS`, so that a seed draws the items of all earlier figures.

        Raises DataError where it was not built.
        """
        return self.cached("corpus", lambda: cache.corpus().without(ADDED_RENDERINGS))

    @property
    def device(self) -> torch.device:
        """Where the judges run: beside the model; on the CPU where outputs are scored without one."""
        return self.model.device if self.model is not None else torch.device("cpu")

    @cached_property
    def judge(self) -> Judge:
        return load_judge(self.device)

    @cached_property
    def sound_judge(self) -> SoundJudge:
        return load_sound_judge(self.device)

    def picture_embeddings(self, pictures: Sequence[Part]) -> Tensor:
        """The judge's embeddings [n, C]; those of a picture that is one side of many pairs are computed once."""
        return torch.stack(self._judged("image", pictures, lambda parts: list(self.judge(parts))))  # type: ignore[arg-type]

    def sound_embeddings(self, sounds: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
        """The sound judge's embeddings [n, 512] and logits [n, 69]; those of each sound are computed once."""
        rows = self._judged("audio", sounds, lambda parts: list(zip(*self.sound_judge(parts), strict=True)))  # type: ignore[arg-type]
        embeddings, logits = zip(*rows, strict=True)
        return np.stack(embeddings), np.stack(logits)

    def embeddings(self, modality: str, parts: Sequence[Part]) -> np.ndarray:
        """The embeddings [n, C] of the judge of pictures or of sounds."""
        return self.picture_embeddings(parts).numpy() if modality == "image" else self.sound_embeddings(parts)[0]

    def spectra(self, target: Audio, compute: Callable[[Audio], np.ndarray]) -> np.ndarray:
        """The spectra of a target, computed once for all sounds that are compared with it."""
        spectra: np.ndarray = self._judged("spectra", [target], lambda parts: [compute(parts[0])])[0]  # type: ignore[arg-type]
        return spectra

    def _judged(self, kind: str, parts: Sequence[Part], judge: Callable[[list[Part]], list[Any]]) -> list[Any]:
        """What a judge computes of each part; `parts` may hold one object more than once."""
        known: dict[int, tuple[Part, Any]] = self.cached(("judged", kind), dict)
        new = list({id(part): part for part in parts if id(part) not in known}.values())
        if new:  # the part is kept beside its result: an address must not come to mean another
            known.update({id(part): (part, result) for part, result in zip(new, judge(new), strict=True)})
        return [known[id(part)][1] for part in parts]

    @cached_property
    def centre(self) -> Tensor:
        """[C]: the judge's mean over held-out pictures, the zero of EffNet-sim."""
        return self.judge([self.part(item) for item in self.draw("image", "test_family", 100)]).mean(0)  # type: ignore[misc]

    @cached_property
    def sound_centre(self) -> np.ndarray:
        """[512]: the sound judge's mean over held-out sounds, the zero of its similarities."""
        embeddings, _ = self.sound_embeddings([self.part(item) for item in self.draw("audio", "test_rendering", 100)])
        mean: np.ndarray = embeddings.mean(0)
        return mean

    def count(self, n: int) -> int:
        """The items of a figure: the number that was chosen, else a few in a quick run, else `n`."""
        return self.items or (min(n, QUICK) if self.quick else n)

    def splits(self, *test: str) -> tuple[str, ...]:
        """The splits that items come from: `test`, or the validation split in their place."""
        return ("val",) if self.validation else test

    def cached(self, key: Any, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed once for all figures."""
        if key not in self._cache:
            self._cache[key] = compute()
        value: T = self._cache[key]
        return value

    def decoder(self, modality: str) -> Decoder:
        """On the model's device. Raises WeightsError where the model has none."""
        if modality not in self.model.decoders:
            raise WeightsError(f"the model {self.model.config.name!r} has no {modality} decoder")
        decoder = self.model.decoders[modality]
        if isinstance(decoder.codec, AudioCodec) and decoder.codec.vocoder is None:
            raise WeightsError(f"the audio decoder of {self.model.config.name!r} has no vocoder")
        if self.model.offload:
            decoder.to(self.model.device)  # until the model's next reply
        return decoder

    def instructed_folder(self, modality: str) -> Path:
        """Of the decoder that was trained to edit by instruction, without a language model."""
        return self.instructed or home() / "runs" / self.model.config.name / f"{modality}_instructed" / "export"

    def instructed_decoder(self, modality: str) -> Decoder:
        """Raises WeightsError where it was not trained."""
        folder = self.instructed_folder(modality)
        if not folder.is_dir():
            raise WeightsError(
                f"there is no {modality} decoder that was trained on instructions alone in {folder}; "
                "name one with --instructed"
            )
        own = self.decoder(modality)
        decoder = self.cached(
            ("instructed", modality), lambda: load_one_decoder(modality, self.model.config, folder, own.codec).eval()
        )
        like = next(own.unet.parameters())
        return decoder.to(like.device, like.dtype)

    def published_pipeline(self, modality: str) -> Any:
        """The published pipeline that generates from a text alone. Raises WeightsError: none is named, or it is
        missing.
        """
        decoder = self.model.config.decoders.get(modality)
        source = self.text_pipeline or (decoder.id if decoder and decoder.kind == "pipeline" else "")
        if not source:
            raise WeightsError(
                f"the {modality} decoder of {self.model.config.name!r} is no published pipeline; name one of the "
                "published text pipelines with --text-pipeline"
            )
        like = next(self.decoder(modality).unet.parameters())
        try:
            load = partial(load_text_pipeline, modality, source, like.device, like.dtype)
            return self.cached(("text pipeline", modality), load)
        except ConfigError as error:
            raise WeightsError(str(error)) from error

    def read_texts(self, decoder: Decoder, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Joint vectors of texts [n, D], and the texts as the decoder reads words [n, …]; None where it has no text
        encoder of its own: it would read the joint vectors twice."""
        joint = self.encode([Phrase(text) for text in texts])[:, 0]
        if decoder.conditioner.read_words("") is None:
            return joint, None
        return joint, read_words(decoder, texts, self.encode).to(self.model.device)

    def num_slots(self, modality: str) -> int:
        return int(self.model.config.heads.num_slots[modality])

    def release(self) -> None:
        """Lets go of the model and of all that was computed with it, so that another model has the memory."""
        self.model = None  # type: ignore[assignment]
        self._cache.clear()

    # held-out items

    def draw(self, modality: str, split: str, n: int) -> list[Item]:
        """Up to `n` items of a split, each of another concept, in seeded order.

        Raises:
            DataError: the split has none.
        """
        first: dict[str, Item] = {}
        (split,) = self.splits(split)
        for item in self.shuffled(self.corpus.select(modality=modality, split=split)):
            first.setdefault(item.concept, item)
        if not first:
            raise DataError(f"the corpus holds no {modality} of the split {split}: run `codi2 data build tiny` again")
        return list(first.values())[:n]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """In an order that the seed determines."""
        return [values[int(i)] for i in np.random.default_rng(self.seed).permutation(len(values))]

    def part(self, item: Item) -> Image | Audio | Video:
        match item.modality:
            case "image":
                return Image(self.corpus.image(item), item.caption)
            case "audio":
                return Audio(self.corpus.sound(item), RATE, item.caption)
        frames = tuple(PILImage.fromarray(frame) for frame in self.corpus.media(item))
        return Video(frames, FPS, item.caption)

    def mixes(self) -> list[Mix]:
        """Mixes of held-out sounds, in fours (see `data.mixes`)."""
        if self.validation:
            raise DataError("mixes are made of test sounds alone; leave --val out")
        rows, concepts = cache.rows("audio", "test_rendering"), [item.concept for item in cache.items("audio")]
        if len({concepts[row] for row in rows}) < 4:
            raise DataError("mixes need held-out sounds of four concepts: run `codi2 data build tiny` again")
        return draw_mixes(rows, concepts, MIXES, 1000 * self.seed + MIX_SEED)

    # what the model computes of them

    @torch.no_grad()
    def encode(self, parts: Sequence[Part]) -> Tensor:
        """True features [n, T, D]."""
        return torch.cat([self.model.encode(parts[i : i + 32]) for i in range(0, len(parts), 32)])

    @torch.no_grad()
    def predict(self, prompts: Sequence[Prompt], modality: str, seeds: Sequence[int] | None = None) -> Tensor:
        """The features [n, K, D] that a decoder gets for answers of one modality.

        Args:
            seeds: one for each prompt, with which a prior samples the features; None: they count up from the context's.
        """
        features = []
        for start in range(0, len(prompts), BATCH):
            rows = range(start, min(start + BATCH, len(prompts)))
            options = [
                Options(want=modality, seed=seeds[i] if seeds else self.seed + i, max_new_tokens=0) for i in rows
            ]
            readings = self.model.read([[Message("user", prompts[i])] for i in rows])
            replies = self.model.write(readings, options)
            features += [part.features for parts in replies for part in parts if isinstance(part, FeatureSegment)]
        return torch.stack(features)

    def decode(
        self, features: Tensor, prompts: Sequence[Prompt], modality: str, seeds: Sequence[int] | None = None
    ) -> list[Any]:
        """Features [n, K, D] → media [n] in answer to `prompts`, decoded as in a reply of the model.

        Args:
            seeds: one for each prompt; None: they count up from the context's.
        """
        self.decoder(modality)
        media: list[Any] = []
        for start in range(0, len(prompts), BATCH):
            rows = range(start, min(start + BATCH, len(prompts)))
            segments = [[FeatureSegment(modality, features[i])] for i in rows]
            options = [Options(want=modality, seed=seeds[i] if seeds else self.seed + i) for i in rows]
            conversations = [[Message("user", prompts[i])] for i in rows]
            replies = self.model.decode(segments, conversations, options, lambda stage, done, total: None)
            media += [parts[0] for parts in replies]
        return media

    @contextmanager
    def without_prior(self) -> Iterator[None]:
        """While it lasts, decoders get the features that the language model regresses.

        Raises WeightsError: the model has no prior.
        """
        prior = self.model.prior
        if prior is None:
            raise WeightsError(
                f"the model {self.model.config.name!r} has no prior; name one whose config has heads.prior"
            )
        self.model.prior = None
        try:
            yield
        finally:
            self.model.prior = prior
