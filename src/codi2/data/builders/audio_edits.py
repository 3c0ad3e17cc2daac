"""Edits of mixed sounds: add, remove and replace (section 4.1, after AUDIT), and examples of them.

From a base a and overlays b and c: a → a+b, a+b → a, a+b → a+c. All are cut or padded to one length. The level of an
overlay relative to the base is drawn in decibels, measured where the sounds are audible. If a mix would clip, all are
attenuated by the same factor, so that the mix without the overlay is exactly the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from codi2.data.builders.audioset import LICENCE, AudioSet, Segment, parse_segment
from codi2.data.builders.contract import BadRecord, Draft, LeftOut, Raw, exchange
from codi2.data.checks import decoded
from codi2.data.drafts import flac
from codi2.data.mixes import loudness
from codi2.data.record import Medium, Piece
from codi2.data.templates import listing, write_prompt
from codi2.media import to_clip
from codi2.prompt.parts import Audio

PEAK = 0.95  # of full scale: the largest peak of a mix
_TRIES = 50  # partners that are drawn before an entry is left out
Wave = np.ndarray


@dataclass(frozen=True)
class Options:
    rate: int = 16_000
    """Hz."""
    seconds: float = 10.0
    """Of every clip."""
    quietest: float = -6.0
    """Level of an overlay against its base, in dB of root mean square: drawn evenly from here …"""
    loudest: float = 6.0
    """… to here."""


@dataclass(frozen=True)
class Sound:
    """A clip of the source at one rate and length."""

    wave: Wave  # float32 [N] in [-1, 1]
    caption: str
    labels: tuple[str, ...]


class AudioEdits(AudioSet):
    """Reads the files of `AudioSet`; each clip is the base of three edits."""

    about = "a sound added, removed or replaced, named in words"
    Options = Options

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        base = self.sound(parse_segment(raw.entry))
        first = self.partner([base], draw)
        second = self.partner([base, first], draw)
        levels = [self.level(draw), self.level(draw)]
        alone, (one, other) = mixes(base.wave, [first.wave, second.wave], levels)
        source, added, exchanged = (self.medium(wave) for wave in (alone, one, other))
        meta = {"levels_db": [round(level, 2) for level in levels], "base": base.caption}
        results = (f"{base.caption} and {first.caption}", base.caption, f"{base.caption} and {second.caption}")
        added_is, removed_is, replaced_is = ({**meta, "result": result} for result in results)
        names = {"caption": first.caption, "media": [source]}
        yield Draft("add", exchange(write_prompt("add", draw, names), [added]), LICENCE, added_is, source)
        names = {"caption": first.caption, "media": [added]}
        yield Draft("remove", exchange(write_prompt("remove", draw, names), [source]), LICENCE, removed_is, added)
        names = {"caption": first.caption, "other": second.caption, "media": [added]}
        yield Draft("replace", exchange(write_prompt("replace", draw, names), [exchanged]), LICENCE, replaced_is, added)

    def sound(self, segment: Segment) -> Sound:
        """Raises BadRecord and LeftOut."""
        media = decoded(self.files.clip(segment))
        if not isinstance(media, Audio):
            raise BadRecord("undecodable", f"the clip of {segment.video} is no sound")
        wave = to_clip(media, self.options.rate, self.length)
        return Sound(wave, self.files.caption(segment.labels), segment.labels)

    @property
    def length(self) -> int:
        """Samples."""
        return round(self.options.rate * self.options.seconds)

    def level(self, draw: np.random.Generator) -> float:
        return float(draw.uniform(self.options.quietest, self.options.loudest))

    def partner(self, others: list[Sound], draw: np.random.Generator) -> Sound:
        """A sound of the source that shares no label with the others. Raises LeftOut: none was found."""
        used_labels = set().union(*(self.files.related(sound.labels) for sound in others))
        for _ in range(_TRIES):
            try:
                segment = parse_segment(self.files.lines[int(draw.integers(len(self.files.lines)))])
                if not used_labels & self.files.related(segment.labels):
                    return self.sound(segment)
            except (BadRecord, LeftOut):
                continue
        raise LeftOut("no partner", f"in {_TRIES} tries")

    def medium(self, wave: Wave) -> Medium:
        return flac(wave, self.options.rate)


class AudioEditsInContext(AudioEdits):
    """The template of section 4.1 for sounds: one example of adding (or removing, or replacing), then another base."""

    about = "the sound edit that an example shows, applied to another sound"

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        shown = self.sound(parse_segment(raw.entry))
        other = self.partner([shown], draw)
        first = self.partner([shown, other], draw)
        second = self.partner([shown, other, first], draw)
        levels = [self.level(draw), self.level(draw)]
        overlays = [first.wave, second.wave]
        shown_alone, shown_mixes = mixes(shown.wave, overlays, levels)
        other_alone, other_mixes = mixes(other.wave, overlays, levels)
        meta = {"levels_db": [round(level, 2) for level in levels]}
        pairs = {
            "add": ((shown_alone, shown_mixes[0]), (other_alone, other_mixes[0])),
            "remove": ((shown_mixes[0], shown_alone), (other_mixes[0], other_alone)),
            "replace": (shown_mixes, other_mixes),
        }
        kind = str(draw.choice(list(pairs)))
        (before, after), (source, target) = pairs[kind]
        example: list[list[Piece]] = [[self.medium(before), self.medium(after)]]
        base = self.medium(source)
        prompt = write_prompt("analogy", draw, {"pairs": listing(example, between=", "), "media": [base]})
        yield Draft("analogy_audio", exchange(prompt, [self.medium(target)]), LICENCE, {**meta, "edit": kind}, base)


def mixes(base: Wave, overlays: list[Wave], levels_db: list[float]) -> tuple[Wave, tuple[Wave, ...]]:
    """The base alone and with each overlay, all with one gain that keeps them within `PEAK`."""
    raised = [
        overlay * (loudness(base) / max(loudness(overlay), 1e-9) * 10 ** (level / 20))
        for overlay, level in zip(overlays, levels_db, strict=True)
    ]
    mixed = [base + overlay for overlay in raised]
    gain = min(1.0, *(PEAK / max(float(np.abs(wave).max()), 1e-9) for wave in (base, *mixed)))
    return base * gain, tuple(wave * gain for wave in mixed)
