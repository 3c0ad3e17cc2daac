"""`audio-edit` (Table 5): add, remove and replace on held-out mixes, beside ways that need no language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codi2.evaluate import baselines
from codi2.evaluate.audio_metrics import fd, kl
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import closeness
from codi2.evaluate.figure import Example, Findings, known, mean
from codi2.evaluate.suites.answers import copy, ours, round_trip, silence
from codi2.evaluate.suites.sounds import KINDS, edits
from codi2.prompt.parts import Part, Phrase

NUMBER, QUICK, EXAMPLES = 48, 4, 3  # of each kind; shown of each
STRENGTHS = (0.75, 0.5, 0.25)  # of the noise schedule, as in the paper's table
QUOTED = {
    "SDEdit-3/4T": "LSD 1.54 / 1.54 / 1.63, KL 1.68 / 1.14 / 1.58, FD 28.87 / 29.66 / 28.78",
    "SDEdit-1/2T": "LSD 1.43 / 1.43 / 1.52, KL 1.38 / 1.05 / 1.27, FD 28.75 / 28.19 / 27.71",
    "SDEdit-1/4T": "LSD 1.38 / 1.40 / 1.46, KL 1.30 / 1.30 / 1.15, FD 28.25 / 31.31 / 26.72",
    "AUDIT": "LSD 1.35 / 1.37 / 1.37, KL .92 / .95 / .84, FD 21.80 / 22.40 / 21.65",
    "CoDi-2": "LSD 1.21 / 1.26 / 1.25, KL .88 / .90 / .80, FD 19.72 / 18.06 / 17.32",
}
"""The paper's Table 5, adding / dropping / replacement: PANNs on AudioSet clips, other numbers than aiSFX gives."""


def cases(bench: Bench, quick: bool) -> list[Case]:
    count = QUICK if quick else NUMBER
    return [
        Case(f"{kind}-{i:03d}", edit.prompt, "audio", {"target": edit.target, "source": edit.source}, kind,
             {"words": edit.words})
        for kind in KINDS
        for i, edit in enumerate(edits(bench, kind, count))
    ]  # fmt: skip


def sdedit(strength: float) -> System:
    """SDEdit on the same decoder, towards the caption of the wished result."""

    def answer(bench: Bench, some: Sequence[Case]) -> list[Part]:
        words = bench.encode([Phrase(case.about["words"]) for case in some])[:, 0]
        sources = [case.truth["source"] for case in some]
        seeds = [bench.seed + i for i in range(len(some))]
        return baselines.sdedit(bench.decoder("audio"), words, sources, seeds, strength)

    return answer


SYSTEMS: dict[str, System] = {
    "ours": ours,
    **{f"SDEdit from {strength:g} T": sdedit(strength) for strength in STRENGTHS},
    "codec round trip of the input": round_trip,
    "copy of the input": copy,
    "silence": silence,
}


def score(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """LSD, aiSFX-KL and aiSFX-FD of each kind of edit; FD has no interval, since it is of the set."""
    main, *others = outputs
    figures, examples = [], []
    for kind in KINDS:
        rows = [i for i, case in enumerate(asked) if case.group == kind]
        targets = [asked[i].target for i in rows]
        made = {name: [parts[i] for i in rows] for name, parts in outputs.items()}
        near = {name: closeness(bench, targets, parts) for name, parts in made.items()}
        lsd = mean(f"{kind}: LSD", near[main], {name: near[name] for name in others}, seed=bench.seed)
        must = [name for name in others if name not in ("copy of the input", "silence")]
        best = min((lsd.baselines[name].value for name in must), default=np.inf)
        figures.append(lsd.judged("below SDEdit and round trip", lsd.value < best))
        truth, logits = bench.hear(targets)
        heard = {name: bench.hear(parts) for name, parts in made.items()}
        diverged = {
            name: np.array([kl(logits[i : i + 1], theirs[i : i + 1]) for i in range(len(rows))])
            for name, (_, theirs) in heard.items()
        }
        figures.append(mean(f"{kind}: aiSFX-KL", diverged[main], {n: diverged[n] for n in others}, seed=bench.seed))
        apart = {name: fd(embedded, truth) for name, (embedded, _) in heard.items()}
        figure = known(f"{kind}: aiSFX-FD", apart[main], len(rows))
        figures.append(figure.beside(**{name: known(name, apart[name], len(rows)) for name in others}))
        for i in rows[:EXAMPLES]:
            shown = {"target": asked[i].target, **{name: parts[i] for name, parts in outputs.items()}}
            examples.append(Example(f"{kind}: {asked[i].about['words']}", asked[i].prompt, shown))
    return Findings(figures, examples)
