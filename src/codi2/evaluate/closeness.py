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
QUIET = 1e-4  # root mean square below which a sound counts as silence
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


def seen_distance(targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: by what tells edits of one thing apart: colours of pictures and clips, log-spectral distance of sounds."""
    if not all(isinstance(part, Audio) for part in outputs):
        return colour_distance(targets, outputs)
    known: dict[tuple[int, int], np.ndarray] = {}  # one output is held against several targets

    def spectra(sound: Part, length: int) -> np.ndarray:
        if (key := (id(sound), length)) not in known:
            known[key] = power_spectra(finite_clip(sound, length), RATE)  # type: ignore[arg-type]
        return known[key]

    far = []
    for target, output in zip(targets, outputs, strict=True):
        length = _length(target)  # type: ignore[arg-type]
        far.append(spectral_distance(spectra(target, length), spectra(output, length)))
    return np.array(far)


def first_is_nearest(bench: Bench, ours: Part, candidates: Sequence[Part], one_thing: bool) -> bool:
    """Whether the first is the nearest to ours, by what tells other things or (`one_thing`) other looks of one."""
    copies = [ours] * len(candidates)
    if one_thing:
        far = seen_distance(candidates, copies)
    elif ours.modality == "audio":
        far = heard_distance(bench, candidates, copies)
    else:
        far = closeness(bench, candidates, copies) * (-1 if MEASURES[ours.modality].rises else 1)
    return bool((far[0] < far[1:]).all())


def louder(targets: Sequence[Part], outputs: Sequence[Part]) -> np.ndarray:
    """[n], dB: how much louder a sound is than its target, by root mean squares; the softest is QUIET."""

    def level(sound: Part) -> float:
        assert isinstance(sound, Audio)
        mean_square = float(np.square(sound.samples, dtype=np.float64).mean())
        return 10 * float(np.log10(max(mean_square, QUIET**2)))

    return np.array([level(ours) - level(truth) for truth, ours in zip(targets, outputs, strict=True)])


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
    length = _length(target)

    def spectra(sound: Audio) -> np.ndarray:
        return power_spectra(finite_clip(sound, length), RATE)

    return spectral_distance(bench.spectra(target, spectra), spectra(output), floor_db)


def _length(target: Audio) -> int:
    """Samples of a target at 16 kHz."""
    return round(len(target.samples) * RATE / target.rate)


def finite_clip(sound: Audio, length: int) -> np.ndarray:
    """Samples [length] at 16 kHz. Raises DataError: one is NaN or infinite, or there is none."""
    if not len(sound.samples) or not np.isfinite(sound.samples).all():
        raise DataError(f"the sound {sound.name!r} is empty or holds NaN; whatever made it is at fault")
    return to_clip(sound, RATE, length)
