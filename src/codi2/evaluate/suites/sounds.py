"""Sounds: overlays added, removed and replaced on held-out mixes, and the vocoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from codi2.data import cache
from codi2.data.mixes import overlay
from codi2.data.sound_transforms import BY_NAME
from codi2.diffuse.codec import AudioCodec
from codi2.evaluate import baselines
from codi2.evaluate.bench import BATCH, RATE, Bench
from codi2.evaluate.figure import Example, Findings, mean
from codi2.media import to_clip
from codi2.media.mel import griffin_lim
from codi2.metrics.audio import FLOOR_DB, log_spectral_distance
from codi2.prompt.parts import Audio, Prompt, Text

Kind = Literal["add", "remove", "replace"]
KINDS: tuple[Kind, ...] = ("add", "remove", "replace")
MASKING = (
    f"LSD floors both power spectra at {FLOOR_DB:g} dB below the target's strongest bin and leaves out frames in which "
    "both sounds are digital silence; a wrong gain counts."
)
EXAMPLES = 4


@dataclass(frozen=True)
class Edit:
    """One request, the sound it is about, and what should come of it."""

    prompt: Prompt
    source: Audio
    target: Audio
    words: str  # caption of the target


def edits(bench: Bench, kind: Kind, n: int) -> list[Edit]:
    """`n` requests, each about another mix."""
    mixes, names = bench.mixes(), {item.row: item.caption for item in cache.items("audio")}
    sounds = bench.corpus.sounds

    def mixed(i: int) -> Audio:
        return _audio(overlay(sounds[mixes[i].base], sounds[mixes[i].overlay], mixes[i].level_db))

    made = []
    for i in bench.shuffled(range(len(mixes)))[:n]:
        base, first = names[mixes[i].base], names[mixes[i].overlay]
        alone, both = _audio(BY_NAME["half"].apply(sounds[mixes[i].base])), mixed(i)
        if kind == "add":
            made.append(Edit((Text(f"Add {first} to "), alone, Text(".")), alone, both, f"{base} and {first}"))
        elif kind == "remove":
            made.append(Edit((Text(f"Remove {first} from "), both, Text(".")), both, alone, base))
        else:
            other = i ^ 1  # mixes 2i and 2i + 1 share their base
            second = names[mixes[other].overlay]
            prompt = (Text(f"Replace {first} with {second} in "), both, Text("."))
            made.append(Edit(prompt, both, mixed(other), f"{base} and {second}"))
    return made


def edited(bench: Bench, n: int) -> Findings:
    """LSD of each kind of edit to its true target, beside ways that need no language model."""
    found = [_edited(bench, kind, n) for kind in KINDS]
    return Findings(
        [figure for part in found for figure in part.figures], [example for part in found for example in part.examples]
    )


def _edited(bench: Bench, kind: Kind, n: int) -> Findings:
    bench.decoder("audio")
    asked = edits(bench, kind, bench.count(n))
    prompts, sources = [edit.prompt for edit in asked], [edit.source for edit in asked]
    ours = bench.decode(bench.think(prompts, "audio"), prompts, "audio")
    decoder, sdedited = bench.decoder("audio"), list[Audio]()
    for start in range(0, len(asked), BATCH):
        rows = slice(start, start + BATCH)
        seeds = [bench.seed + i for i in range(len(asked))][rows]
        joint, words = bench.told(decoder, [edit.words for edit in asked[rows]])
        sdedited += baselines.sdedit(decoder, joint, words, sources[rows], seeds)  # type: ignore[arg-type]
    rivals: dict[str, Sequence[Audio]] = {
        "SDEdit from half way": sdedited,
        "codec round trip of the input": baselines.round_trip(decoder, sources),  # type: ignore[dict-item]
        "copy of the input": sources,
        "silence": [baselines.silence(source) for source in sources],
    }
    targets = [edit.target for edit in asked]
    figure = mean(
        f"{kind}: LSD",
        distances(targets, ours),
        {name: distances(targets, sounds) for name, sounds in rivals.items()},
        seed=bench.seed,
    )
    must = ("SDEdit from half way", "codec round trip of the input")
    figure = figure.judged(
        "below SDEdit and round trip", all(figure.value < figure.baselines[name].value for name in must)
    )
    shown: Mapping[str, Sequence[Audio]] = {"target": targets, "ours": ours, **rivals}
    examples = [
        Example(f"{kind}: {edit.words}", edit.prompt, {name: sounds[i] for name, sounds in shown.items()})
        for i, edit in enumerate(asked[:EXAMPLES])
    ]
    return Findings([figure], examples)


def vocoder(bench: Bench, n: int) -> Findings:
    """Held-out sounds from their own log-mel: the vocoder against Griffin-Lim, LSD to the sound."""
    codec = bench.decoder("audio").codec
    assert isinstance(codec, AudioCodec)
    sounds: list[Audio] = [bench.part(i) for i in bench.draw("audio", "test_rendering", bench.count(n))]  # type: ignore[misc]
    log_mel = codec.to_tensor(sounds)
    ours = codec.to_parts(log_mel)
    generator = torch.Generator().manual_seed(bench.seed)
    waves = griffin_lim(codec.mel, codec.mel.magnitude(log_mel.float()), generator=generator)
    theirs = [Audio(wave.clip(-1, 1), codec.mel.rate) for wave in waves.cpu().numpy()]
    figure = mean("vocoder: LSD", distances(sounds, ours), {"Griffin-Lim": distances(sounds, theirs)}, seed=bench.seed)  # type: ignore[arg-type]
    figure = figure.judged("below Griffin-Lim", figure.value < figure.baselines["Griffin-Lim"].value)
    examples = [
        Example(sound.name, (Text(sound.name),), {"target": sound, "vocoder": a, "Griffin-Lim": b})
        for sound, a, b in zip(sounds, ours, theirs, strict=True)
    ]
    return Findings([figure], examples[:EXAMPLES])


def distances(targets: Sequence[Audio], ours: Sequence[Audio]) -> np.ndarray:
    """LSD [n] of each pair, both brought to clips of one length."""
    pairs = zip(targets, ours, strict=True)
    return np.array([log_spectral_distance(to_clip(target), to_clip(sound), RATE) for target, sound in pairs])


def _audio(clip: np.ndarray) -> Audio:
    """int16 [N] → a sound."""
    return Audio(clip.astype(np.float32) / 32767, RATE)
