"""How near outputs are to their targets, one number a pair, by modality: the measure that most suites report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Resampling

from codi2.errors import DataError
from codi2.evaluate.bench import RATE, Bench
from codi2.evaluate.judge import similarity
from codi2.media import to_clip
from codi2.media.prepare import fit_square, spread
from codi2.metrics.audio import FLOOR_DB, power_spectra, spectral_distance
from codi2.prompt.parts import Audio, Image, Part, Video


@dataclass(frozen=True)
class Measure:
    """A name for tables, and whether more is better."""

    name: str
    rises: bool

    def gain(self, ours: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How much better `ours` is than `others`, pair by pair."""
        return ours - others if self.rises else others - ours


MEASURES = {
    "image": Measure("EffNet-sim", rises=True),
    "audio": Measure("LSD", rises=False),
    "video": Measure("EffNet-sim of frames", rises=True),
}
FRAMES = 8  # of a clip that are held against another's, one by one
PLACES = 16  # along a side of a picture, whose mean colours are compared


def closeness(bench: Bench, targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: the measure of the outputs' modality, each with its target. Raises DataError: it has none."""
    if len(targets) != len(outputs) or not targets:
        raise DataError(f"{len(outputs)} outputs cannot be held against {len(targets)} targets")
    if all(isinstance(part, Image) for part in (*targets, *outputs)):
        truth, ours = (bench.see(parts) for parts in (targets, outputs))
        return similarity(ours, truth, bench.centre)
    if all(isinstance(part, Audio) for part in (*targets, *outputs)):
        pairs = zip(targets, outputs, strict=True)
        return np.array([_lsd(bench, a, b) for a, b in pairs])  # type: ignore[arg-type]
    if all(isinstance(part, Video) for part in (*targets, *outputs)):
        truth, ours = (
            bench.see([Image(frame) for clip in clips for frame in spread(clip.frames, FRAMES)])  # type: ignore[union-attr]
            for clips in (targets, outputs)
        )
        return similarity(ours, truth, bench.centre).reshape(len(targets), FRAMES).mean(1)
    kinds = {part.modality for part in (*targets, *outputs)}
    raise DataError(
        f"closeness is measured between pictures, between sounds or between clips, not {', '.join(sorted(kinds))}"
    )


def colour_distance(targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: root mean square difference of the mean colours of 16 × 16 places, 0 … 255, of pictures or clips.

    It sees light, colour, place and pattern, and not what is shown.
    """

    def places(part: Part) -> np.ndarray:
        frames = spread(part.frames, FRAMES) if isinstance(part, Video) else (part.pixels,)  # type: ignore[union-attr]
        small = [fit_square(frame, 4 * PLACES).resize((PLACES, PLACES), Resampling.BOX) for frame in frames]
        return np.stack([np.asarray(frame, dtype=np.float32) for frame in small])

    pairs = zip(targets, outputs, strict=True)
    return np.array([np.sqrt(np.square(places(a) - places(b)).mean()) for a, b in pairs])


def heard_distance(bench: Bench, targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: cosine distance of sounds as aiSFX hears them, 0 … 2: what is heard, and not when or how loud."""
    (truth, _), (ours, _) = bench.hear(targets), bench.hear(outputs)
    one, other = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (truth - bench.sound_centre, ours - bench.sound_centre)
    )
    apart: np.ndarray = 1 - (one * other).sum(1)
    return apart


def distance_without_floor(bench: Bench, targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: the log-spectral distance by its published formula, which has no floor."""
    return np.array([_lsd(bench, a, b, None) for a, b in zip(targets, outputs, strict=True)])  # type: ignore[arg-type]


def _lsd(bench: Bench, target: Audio, output: Audio, floor_db: float | None = FLOOR_DB) -> float:
    """At 16 kHz, over the target's length: a longer output is cut, a shorter one padded with silence."""
    length = round(len(target.samples) * RATE / target.rate)

    def spectra(sound: Audio) -> np.ndarray:
        return power_spectra(finite_clip(sound, length), RATE)

    return spectral_distance(bench.spectra(target, spectra), spectra(output), floor_db)


def finite_clip(sound: Audio, length: int) -> np.ndarray:
    """Samples [length] at 16 kHz. Raises DataError: one is NaN or infinite, or there is none."""
    if not len(sound.samples) or not np.isfinite(sound.samples).all():
        raise DataError(f"the sound {sound.name!r} is empty or holds NaN; whatever made it is at fault")
    return to_clip(sound, RATE, length)
