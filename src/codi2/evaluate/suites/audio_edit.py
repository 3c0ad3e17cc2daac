"""`audio-edit` (Table 5): add, remove and replace, beside ways that need no language model.

On held-out mixes of the embedded corpus, judged by aiSFX; or on the user's AudioSet, judged by PANNs as published
figures are. AUDIT's test set is not public, so every row is made anew on the same seeded mixes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi2.errors import DataError
from codi2.evaluate import baselines
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import closeness, distance_without_floor
from codi2.evaluate.figure import Example, Findings, known, mean
from codi2.evaluate.suite import Suite
from codi2.evaluate.suites.answers import copy, instructed, ours, round_trip, silence, without_source, words_alone
from codi2.evaluate.suites.edit_figures import HALVES, level_figure
from codi2.evaluate.suites.sounds import KINDS, edits
from codi2.metrics.audio import fd, kl
from codi2.prompt.parts import Audio, Part

if TYPE_CHECKING:
    from codi2.evaluate.backbones import Backbones
    from codi2.evaluate.panns import Cnn14

NUMBER, QUICK, EXAMPLES = 48, 4, 3  # of each kind; shown of each
SOURCED = 200  # of each kind, of the user's own
STEPS = 100  # of SDEdit on the user's own
STRENGTHS = (0.75, 0.5, 0.25)  # of the noise schedule, as in the paper's table
FROM_NOTHING = "ours, --source none"
MINE = ("copy of the input", "silence", FROM_NOTHING)  # reported, not to be beaten
BIAS = (
    "FD is biased upwards, the more the fewer sounds there are (n, of each kind): compare it only with an FD of as "
    "many. The row of halves is what the bias alone gives at half the number; --items sets the number."
)
"""Of a Fréchet distance, for the report."""
QUOTED = {
    "SDEdit-3/4T": "LSD 1.54 / 1.54 / 1.63, KL 1.68 / 1.14 / 1.58, FD 28.87 / 29.66 / 28.78",
    "SDEdit-1/2T": "LSD 1.43 / 1.43 / 1.52, KL 1.38 / 1.05 / 1.27, FD 28.75 / 28.19 / 27.71",
    "SDEdit-1/4T": "LSD 1.38 / 1.40 / 1.46, KL 1.30 / 1.30 / 1.15, FD 28.25 / 31.31 / 26.72",
    "AUDIT": "LSD 1.35 / 1.37 / 1.37, KL .92 / .95 / .84, FD 21.80 / 22.40 / 21.65",
    "CoDi-2": "LSD 1.21 / 1.26 / 1.25, KL .88 / .90 / .80, FD 19.72 / 18.06 / 17.32",
}
"""The paper's Table 5, adding / dropping / replacement: PANNs on AudioSet clips, other numbers than aiSFX gives."""

LSDS = (
    "LSD floors both spectra at -80 dB below the target's strongest bin; without floor it is the published formula, "
    "which bins of digital silence decide."
)
Hear = Callable[[Bench, Sequence[Part]], tuple[np.ndarray, np.ndarray]]
"""Sounds → embeddings [n, C] and logits [n, classes]."""


def embedded_cases(bench: Bench, quick: bool) -> list[Case]:
    """Mixes of held-out recordings."""
    count = bench.items or (QUICK if quick else NUMBER)
    if count > (most := len(bench.mixes())):
        raise DataError(f"--items is {count}, and the corpus has {most} held-out mixes; ask for {most} or fewer")
    return [
        Case(f"{kind}-{i:03d}", edit.prompt, "audio", {"target": edit.target, "source": edit.source}, kind,
             {"words": edit.words})
        for kind in KINDS
        for i, edit in enumerate(edits(bench, kind, count))
    ]  # fmt: skip


def sourced(source: Path, quick: bool, seed: int, backbones: Backbones, items: int | None = None) -> Suite:
    """The suite on a folder of AudioSet, as the builder `audio-edits` reads it, judged by PANNs.

    Args:
        items: cases of each kind; None: SOURCED, or QUICK where it is to be quick.

    Raises:
        DataError: the folder is not AudioSet's, or too little of it can be read.
        WeightsError: there are no weights of PANNs.
    """
    from codi2.evaluate.backbones import panns_network

    cases, left_out = _drawn(source, items or (QUICK if quick else SOURCED), seed)
    network = panns_network(backbones.panns, backbones.device)
    about = (
        f"Mixes of clips of {source.name}, 10 s at 16 kHz, drawn with seed {seed}; {left_out}. {LSDS} "
        "KL and FD by PANNs Cnn14 at 16 kHz: the mean over pairs of KL "
        "between softmaxes of 527 logits, and the Fréchet distance of 2048 numbers; resampled by soxr. SDEdit runs on "
        f"the same decoder, {STEPS} steps. {BIAS}"
    )
    return Suite(
        "audio-edit", "Sounds added, removed, replaced", about, lambda bench, quick: cases, systems(STEPS),
        partial(score, judge="PANNs", hear=partial(_by_panns, network)), networks={"PANNs Cnn14": backbones.panns},
        quoted=QUOTED,
    )  # fmt: skip


def _drawn(source: Path, count: int, seed: int) -> tuple[list[Case], str]:
    """`count` cases of each kind, and what was left out on the way and why."""
    import tempfile

    from codi2.data.builders.audio_edits import AudioEdits, Options
    from codi2.data.builders.contract import BadRecord, LeftOut, Raw
    from codi2.data.record import decode_pieces

    made: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    reasons: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        builder = AudioEdits(source, Path(scratch), Options())
        for unit in builder.units():
            for raw in builder.read(unit):
                if min(map(len, made.values())) >= count:
                    break
                try:
                    if not isinstance(raw, Raw):
                        raise raw
                    draw = np.random.default_rng((seed, zlib.crc32(raw.key.encode())))
                    drafts = list(builder.make(raw, draw))
                except (BadRecord, LeftOut) as error:
                    reasons[error.reason] = reasons.get(error.reason, 0) + 1
                    continue
                for draft in drafts:
                    (_, asked), (_, answer) = draft.turns
                    prompt, (target,) = decode_pieces(asked), decode_pieces(answer)
                    given = next(part for part in prompt if isinstance(part, Audio))
                    truth, about = {"target": target, "source": given}, {"words": draft.meta["result"]}
                    name = f"{draft.task}-{len(made[draft.task]):03d}"
                    made[draft.task].append(Case(name, prompt, "audio", truth, draft.task, about))
    if min(map(len, made.values())) < 2:
        raise DataError(f"{source} gives fewer than two mixes; {_told(reasons)}")
    return [case for kind in KINDS for case in made[kind][:count]], _told(reasons)


def _told(reasons: Mapping[str, int]) -> str:
    return "clips left out: " + (", ".join(f"{n} × {reason}" for reason, n in sorted(reasons.items())) or "none")


def sdedit(strength: float, steps: int) -> System:
    """SDEdit on the same decoder, towards the caption of the wished result."""

    def answer(bench: Bench, some: Sequence[Case]) -> list[Part]:
        decoder = bench.decoder(some[0].want)
        joint, words = bench.told(decoder, [case.about["words"] for case in some])
        sources = [case.truth["source"] for case in some]
        seeds = [bench.seed + i for i in range(len(some))]
        return baselines.sdedit(decoder, joint, words, sources, seeds, strength, steps)

    return answer


def systems(steps: int = 20) -> dict[str, System]:
    """The rows of the table; `steps` are SDEdit's."""
    return {
        "ours": ours,
        FROM_NOTHING: without_source,
        **{f"SDEdit from {strength:g} T": sdedit(strength, steps) for strength in STRENGTHS},
        "by instruction, no language model": instructed,
        "AudioLDM2 from the caption": words_alone,
        "codec round trip of the input": round_trip,
        "copy of the input": copy,
        "silence": silence,
    }


def _by_aisfx(bench: Bench, sounds: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    return bench.hear(sounds)


def _by_panns(network: Cnn14, bench: Bench, sounds: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    return network.sounds(sounds)  # type: ignore[arg-type]


def score(
    bench: Bench,
    asked: Sequence[Case],
    outputs: Mapping[str, Sequence[Part]],
    judge: str = "aiSFX",
    hear: Hear = _by_aisfx,
) -> Findings:
    """LSD, KL and FD of each kind of edit; FD has no interval, since it is of the set."""
    main, *others = outputs
    figures, examples = [], []
    for kind in KINDS:
        rows = [i for i, case in enumerate(asked) if case.group == kind]
        targets = [asked[i].target for i in rows]
        made = {name: [parts[i] for i in rows] for name, parts in outputs.items()}
        truth, logits = hear(bench, targets)
        heard = {name: hear(bench, parts) for name, parts in made.items()}
        near = {name: closeness(bench, targets, parts) for name, parts in made.items()}
        diverged = {
            name: np.array([kl(logits[i : i + 1], theirs[i : i + 1]) for i in range(len(rows))])
            for name, (_, theirs) in heard.items()
        }
        apart = {name: fd(embedded, truth) for name, (embedded, _) in heard.items()}
        of_set = known(f"{kind}: {judge}-FD", apart[main], len(rows))
        bare = {name: distance_without_floor(bench, targets, parts) for name, parts in made.items()}
        must = [name for name in others if name not in MINE]
        for figure in (
            mean(f"{kind}: LSD", near[main], {name: near[name] for name in others}, seed=bench.seed),
            mean(f"{kind}: {judge}-KL", diverged[main], {name: diverged[name] for name in others}, seed=bench.seed),
            of_set.beside(**{name: known(name, apart[name], len(rows)) for name in others}),
        ):
            best = min((figure.baselines[name].value for name in must), default=np.inf)
            figures.append(figure.judged("below all but copy, silence and ours without source", figure.value < best))
        title = f"{kind}: LSD without floor"
        figures.append(mean(title, bare[main], {name: bare[name] for name in others}, seed=bench.seed))
        figures.append(level_figure(bench, kind, targets, made[main], {name: made[name] for name in others}))
        if len(rows) >= 4:
            halves = known(HALVES, fd(truth[::2], truth[1::2]), len(rows) // 2)
            figures[-3] = figures[-3].beside(**{HALVES: halves})
        for i in rows[:EXAMPLES]:
            shown = {"target": asked[i].target, **{name: parts[i] for name, parts in outputs.items()}}
            examples.append(Example(f"{kind}: {asked[i].about['words']}", asked[i].prompt, shown))
    return Findings(figures, examples)
