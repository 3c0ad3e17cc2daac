"""How near outputs are to their targets, one number a pair, by modality: the measure that most suites report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Resampling

from codi2.diffuse.codec import edges
from codi2.errors import DataError
from codi2.evaluate.context import RATE, EvalContext
from codi2.evaluate.judge import similarity
from codi2.media import to_clip
from codi2.media.prepare import fit_square, pixels_to_tensor, spread
from codi2.metrics.audio import FLOOR_DB, power_spectra, spectral_distance
from codi2.prompt.parts import Audio, Image, Part, Video


@dataclass(frozen=True)
class Measure:
    """A name for tables, and whether more is better."""

    name: str
    rises: bool

    def gain(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How much better `values` [n] are than `others` [n]."""
        return values - others if self.rises else others - values


MEASURES = {
    "image": Measure("EffNet-sim", rises=True),
    "audio": Measure("LSD", rises=False),
    "video": Measure("EffNet-sim of frames", rises=True),
}
FRAMES = 8  # of a clip that are compared with another's, one by one
QUIET = 1e-4  # root mean square below which a sound counts as silence
PLACES = 16  # along a side of a picture, whose mean colours are compared
SHARP = (0.85, 1.15)  # times as sharp as real media, of a drawn picture or clip
SIDE = 64  # pixels at which sharpness is measured


def closeness(context: EvalContext, targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: the measure of the outputs' modality, each with its target. Raises DataError: it has none."""
    if len(targets) != len(outputs) or not targets:
        raise DataError(f"{len(outputs)} outputs cannot be compared with {len(targets)} targets")
    if all(isinstance(part, Image) for part in (*targets, *outputs)):
        truth, embeddings = (context.picture_embeddings(parts) for parts in (targets, outputs))
        return similarity(embeddings, truth, context.centre)
    if all(isinstance(part, Audio) for part in (*targets, *outputs)):
        pairs = zip(targets, outputs, strict=True)
        return np.array([_lsd(context, a, b) for a, b in pairs])  # type: ignore[arg-type]
    if all(isinstance(part, Video) for part in (*targets, *outputs)):
        truth, embeddings = (
            context.picture_embeddings([Image(frame) for clip in clips for frame in spread(clip.frames, FRAMES)])  # type: ignore[union-attr]
            for clips in (targets, outputs)
        )
        return similarity(embeddings, truth, context.centre).reshape(len(targets), FRAMES).mean(1)
    kinds = {part.modality for part in (*targets, *outputs)}
    raise DataError(
        f"closeness is measured between pictures, between sounds or between clips, not {', '.join(sorted(kinds))}"
    )


def colour_distance(targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: root mean square difference of the mean colours of 16 × 16 places, 0 … 255, of pictures or clips.

    It depends on light, colour, place and pattern, and little on what is shown.
    """

    def places(part: Part) -> np.ndarray:
        frames = spread(part.frames, FRAMES) if isinstance(part, Video) else (part.pixels,)  # type: ignore[union-attr]
        small = [fit_square(frame, 4 * PLACES).resize((PLACES, PLACES), Resampling.BOX) for frame in frames]
        return np.stack([np.asarray(frame, dtype=np.float32) for frame in small])

    pairs = zip(targets, outputs, strict=True)
    return np.array([np.sqrt(np.square(places(a) - places(b)).mean()) for a, b in pairs])


def appearance_distance(targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: by what tells edits of one thing apart: colours of pictures and clips, log-spectral distance of sounds."""
    if not all(isinstance(part, Audio) for part in outputs):
        return colour_distance(targets, outputs)
    known: dict[tuple[int, int], np.ndarray] = {}  # one output is compared with several targets

    def spectra(sound: Part, length: int) -> np.ndarray:
        if (key := (id(sound), length)) not in known:
            known[key] = power_spectra(finite_clip(sound, length), RATE)  # type: ignore[arg-type]
        return known[key]

    distances = []
    for target, output in zip(targets, outputs, strict=True):
        length = _length(target)  # type: ignore[arg-type]
        distances.append(spectral_distance(spectra(target, length), spectra(output, length)))
    return np.array(distances)


def first_is_nearest(context: EvalContext, output: Part, candidates: Sequence[Part], one_thing: bool) -> bool:
    """Whether the first candidate is the nearest to an output.

    Args:
        one_thing: whether the candidates are edits of one thing, which other measures tell apart than other things.
    """
    copies = [output] * len(candidates)
    if one_thing:
        distances = appearance_distance(candidates, copies)
    elif output.modality == "audio":
        distances = embedding_distance(context, candidates, copies)
    else:
        distances = closeness(context, candidates, copies) * (-1 if MEASURES[output.modality].rises else 1)
    return bool((distances[0] < distances[1:]).all())


def level_difference(targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n], dB: the level of a sound over that of its target, by root mean squares; the lowest level is QUIET."""

    def level(sound: Part) -> float:
        assert isinstance(sound, Audio)
        mean_square = float(np.square(sound.samples, dtype=np.float64).mean())
        return 10 * float(np.log10(max(mean_square, QUIET**2)))

    return np.array([level(output) - level(truth) for truth, output in zip(targets, outputs, strict=True)])


def embedding_distance(context: EvalContext, targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: cosine distance of sounds in aiSFX's embedding, 0 … 2: of what is heard, and not of when or how loud."""
    (truth, _), (embeddings, _) = context.sound_embeddings(targets), context.sound_embeddings(outputs)
    a, b = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (truth - context.sound_centre, embeddings - context.sound_centre)
    )
    apart: np.ndarray = 1 - (a * b).sum(1)
    return apart


def distance_without_floor(context: EvalContext, targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: the log-spectral distance by its published formula, which has no floor."""
    return np.array([_lsd(context, a, b, None) for a, b in zip(targets, outputs, strict=True)])  # type: ignore[arg-type]


def _lsd(context: EvalContext, target: Audio, output: Audio, floor_db: float | None = FLOOR_DB) -> float:
    """At 16 kHz, over the target's length: a longer output is cut, a shorter one padded with silence."""
    length = _length(target)

    def spectra(sound: Audio) -> np.ndarray:
        return power_spectra(finite_clip(sound, length), RATE)

    return spectral_distance(context.spectra(target, spectra), spectra(output), floor_db)


def _length(target: Audio) -> int:
    """Samples of a target at 16 kHz."""
    return round(len(target.samples) * RATE / target.rate)


def finite_clip(sound: Audio, length: int) -> np.ndarray:
    """Samples [length] at 16 kHz. Raises DataError: one is NaN or infinite, or there is none."""
    if not len(sound.samples) or not np.isfinite(sound.samples).all():
        raise DataError(f"the sound {sound.name!r} is empty or holds NaN; whatever made it is at fault")
    return to_clip(sound, RATE, length)


def sharpness(parts: Sequence[Part]) -> np.ndarray:
    """[n]: mean absolute difference of neighbouring pixels, in [-1, 1], of pictures, or of the frames of clips."""

    def pixels(part: Part) -> np.ndarray:
        frames = spread(part.frames, FRAMES) if isinstance(part, Video) else (part.pixels,)  # type: ignore[union-attr]
        return np.stack([np.asarray(frame.convert("RGB").resize((SIDE, SIDE))) for frame in frames])

    return np.array([edges(pixels_to_tensor(pixels(part))).mean().item() for part in parts])
