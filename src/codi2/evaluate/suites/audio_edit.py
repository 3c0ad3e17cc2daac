"""`audio-edit` (Table 5): add, remove and replace, beside ways that need no language model.

On held-out mixes of the corpus of `tiny`, judged by aiSFX; or on the user's AudioSet, judged by PANNs as published
figures are. AUDIT's test set is not public, so every row is measured again on the same seeded mixes.
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
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import closeness, distance_without_floor
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Findings, known, mean
from codi2.evaluate.frechet import projected
from codi2.evaluate.suite import Suite
from codi2.evaluate.suites.answers import (
    copy,
    instructed,
    ours,
    round_trip,
    seeds_of,
    silence,
    without_source,
    words_alone,
)
from codi2.evaluate.suites.edit_figures import HALVES, level_figures
from codi2.evaluate.suites.mixes import KINDS, edits
from codi2.metrics.audio import fd, kl
from codi2.prompt.parts import Audio, Part

if TYPE_CHECKING:
    from codi2.evaluate.backbones import Backbones
    from codi2.evaluate.panns import Cnn14

NUMBER, EXAMPLES = 48, 3  # of each kind; shown of each
SOURCED = 200  # of each kind, of the user's own
STEPS = 100  # of SDEdit on the user's own
STRENGTHS = (0.75, 0.5, 0.25)  # of the noise schedule, as in the paper's table
WITHOUT_SOURCE = "ours, --source none"
INSTRUCTED = "by instruction, no language model"
REPORTED = ("copy of the input", "silence", WITHOUT_SOURCE)  # reported, not to be beaten
BIAS = (
    "FD is biased upwards, the more the fewer sounds there are (n, of each kind): compare it only with an FD of as "
    "many. The row of halves is what the bias alone gives at half the number; --items sets the number."
)
"""Of a Fréchet distance, for the report."""
REQUIRED = (INSTRUCTED, *(f"SDEdit from {strength:g} T" for strength in STRENGTHS))  # rows of a verdict
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
Hear = Callable[[EvalContext, Sequence[Part]], tuple[np.ndarray, np.ndarray]]
"""Sounds → embeddings [n, C] and logits [n, classes]."""


def corpus_cases(context: EvalContext) -> list[Case]:
    """Mixes of held-out recordings."""
    count = context.count(NUMBER)
    if count > (most := len(context.mixes())):
        raise DataError(f"--items is {count}, and the corpus has {most} held-out mixes; ask for {most} or fewer")
    return [
        Case(f"{kind}-{i:03d}", edit.prompt, "audio", {"target": edit.target, "source": edit.source}, kind,
             {"words": edit.words, "seed": i})
        for kind in KINDS
        for i, edit in enumerate(edits(context, kind, count))
    ]  # fmt: skip


def suite(source: Path, backbones: Backbones, context: EvalContext) -> Suite:
    """The suite on a folder of AudioSet, as the builder `audio-edits` reads it, judged by PANNs.

    Raises:
        DataError: the folder is not AudioSet's, or too little of it can be read.
        WeightsError: there are no weights of PANNs.
    """
    from codi2.evaluate.backbones import panns_network

    cases, left_out = _draw_cases(source, context.count(SOURCED), context.seed)
    network = panns_network(backbones.panns, backbones.device)
    about = (
        f"Mixes of clips of {source.name}, 10 s at 16 kHz, drawn with seed {context.seed}; {left_out}. {LSDS} "
        "KL and FD by PANNs Cnn14 at 16 kHz: the mean over pairs of KL "
        "between softmaxes of 527 logits, and the Fréchet distance of 2048 numbers; resampled by soxr. SDEdit runs on "
        f"the same decoder, {STEPS} steps. {BIAS}"
    )
    return Suite(
        "audio-edit", "Sounds added, removed, replaced", about,
        partial(score, judge="PANNs", hear=partial(_by_panns, network)), lambda context: cases, systems(STEPS),
        networks={"PANNs Cnn14": backbones.panns}, quoted=QUOTED,
    )  # fmt: skip


def _draw_cases(source: Path, count: int, seed: int) -> tuple[list[Case], str]:
    """`count` cases of each kind, and what was left out and why."""
    import tempfile

    from codi2.data.builders.audio_edits import AudioEdits, Options
    from codi2.data.builders.contract import BadRecord, LeftOut, Raw
    from codi2.data.record import decode_pieces

    cases: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    reasons: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        builder = AudioEdits(source, Path(scratch), Options(), seed)
        for unit in builder.units():
            for raw in builder.read(unit):
                if min(map(len, cases.values())) >= count:
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
                    (_, question), (_, answer) = draft.turns
                    prompt, (target,) = decode_pieces(question), decode_pieces(answer)
                    source_part = next(part for part in prompt if isinstance(part, Audio))
                    truth, number = {"target": target, "source": source_part}, len(cases[draft.task])
                    name, about = f"{draft.task}-{number:03d}", {"words": draft.meta["result"], "seed": number}
                    cases[draft.task].append(Case(name, prompt, "audio", truth, draft.task, about))
    if min(map(len, cases.values())) < 2:
        raise DataError(f"{source} gives fewer than two mixes; {_reasons_text(reasons)}")
    return [case for kind in KINDS for case in cases[kind][:count]], _reasons_text(reasons)


def _reasons_text(reasons: Mapping[str, int]) -> str:
    return "clips left out: " + (", ".join(f"{n} × {reason}" for reason, n in sorted(reasons.items())) or "none")


def sdedit(strength: float, steps: int) -> System:
    """SDEdit on the same decoder, towards the caption of the wished result."""

    def answer(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
        decoder = context.decoder(cases[0].want)
        joint, words = context.read_texts(decoder, [case.about["words"] for case in cases])
        sources = [case.truth["source"] for case in cases]
        return baselines.sdedit(decoder, joint, words, sources, seeds_of(context, cases), strength, steps)

    return answer


def systems(steps: int = 20) -> dict[str, System]:
    """The rows of the table.

    Args:
        steps: of SDEdit.
    """
    return {
        "ours": ours,
        WITHOUT_SOURCE: without_source,
        **{f"SDEdit from {strength:g} T": sdedit(strength, steps) for strength in STRENGTHS},
        INSTRUCTED: instructed,
        "AudioLDM2 from the caption": words_alone,
        "codec round trip of the input": round_trip,
        "copy of the input": copy,
        "silence": silence,
    }


def _by_aisfx(context: EvalContext, sounds: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    embeddings, logits = context.sound_embeddings(sounds)
    return projected(context, "audio", embeddings), logits


def _by_panns(network: Cnn14, context: EvalContext, sounds: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    return network.sounds(sounds)  # type: ignore[arg-type]


def score(
    context: EvalContext,
    cases: Sequence[Case],
    outputs: Mapping[str, Sequence[Part]],
    judge: str = "aiSFX",
    hear: Hear = _by_aisfx,
) -> Findings:
    """LSD, KL and FD of each kind of edit; FD has no interval, since it is of the set."""
    main, *others = outputs
    figures, examples = [], []
    for kind in KINDS:
        rows = [i for i, case in enumerate(cases) if case.group == kind]
        targets = [cases[i].target for i in rows]
        sounds = {name: [parts[i] for i in rows] for name, parts in outputs.items()}
        truth, logits = hear(context, targets)
        embedded = {name: hear(context, parts) for name, parts in sounds.items()}
        lsd = {name: closeness(context, targets, parts) for name, parts in sounds.items()}
        divergence = {
            name: np.array([kl(logits[i : i + 1], other_logits[i : i + 1]) for i in range(len(rows))])
            for name, (_, other_logits) in embedded.items()
        }
        apart = {name: fd(vectors, truth) for name, (vectors, _) in embedded.items()}
        of_set = known(f"{kind}: {judge}-FD", apart[main], len(rows))
        of_set = of_set.beside(**{name: known(name, apart[name], len(rows)) for name in others})
        if len(rows) >= 4:
            of_set = of_set.beside(**{HALVES: known(HALVES, fd(truth[::2], truth[1::2]), len(rows) // 2)})
        bare = {name: distance_without_floor(context, targets, parts) for name, parts in sounds.items()}
        rivals = [name for name in others if name not in REPORTED]
        for figure in (
            mean(f"{kind}: LSD", lsd[main], {name: lsd[name] for name in others}, seed=context.seed),
            mean(
                f"{kind}: {judge}-KL", divergence[main], {name: divergence[name] for name in others}, seed=context.seed
            ),
            of_set,
        ):
            best = min((figure.baselines[name].value for name in rivals), default=np.inf)
            bar = "below all but copy, silence and ours without source"
            complete = all(name in rivals for name in REQUIRED)  # without one of them there is no verdict
            figures.append(figure.judged(bar, figure.value < best) if complete else figure)
        title = f"{kind}: LSD without floor"
        figures.append(mean(title, bare[main], {name: bare[name] for name in others}, seed=context.seed))
        figures += level_figures(context, kind, targets, sounds[main], {name: sounds[name] for name in others})
        for i in rows[:EXAMPLES]:
            media = {"target": cases[i].target, **{name: parts[i] for name, parts in outputs.items()}}
            examples.append(Example(f"{kind}: {cases[i].about['words']}", cases[i].prompt, media))
    return Findings(figures, examples)
