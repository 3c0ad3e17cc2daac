"""`edits` and `sound-edits`: held-out pictures and sounds edited as an instruction or one to four examples say.

Letters: n cases, K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from codi2.evaluate import baselines
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import CHUNK, Case
from codi2.evaluate.figure import Example, Findings
from codi2.evaluate.suites.edit_cases import GROUPS, SHOTS, WAYS
from codi2.evaluate.suites.edit_figures import control_figures, family_figures, way_figures
from codi2.prompt.parts import Part

EXAMPLES = 12  # shown
TITLES = {"known": "known edits", "values": "held-out values", "kinds": "held-out kinds"}
NAMES = {"words": "by instruction", "1": "1 example", **{str(n): f"{n} examples" for n in range(2, SHOTS + 1)}}


def ours(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The model's replies; where a case says so, drawn from features of zeros."""
    told = features(bench, some)
    zeroed = torch.tensor([case.about["way"] == "zeroed" for case in some], device=told.device)
    told = torch.where(zeroed[:, None, None], 0, told)
    return bench.decode(told, [case.prompt for case in some], some[0].want, _seeds(bench, some))


def _seeds(bench: Bench, some: Sequence[Case]) -> list[int]:
    return [bench.seed + case.about["seed"] for case in some]


SYSTEMS = {"ours": ours}


# features


def features(bench: Bench, some: Sequence[Case], regressed: bool = False) -> Tensor:
    """The features [n, K, D] that the decoder gets for the answers; each case is thought about once.

    Args:
        regressed: as the language model regresses them, without the prior. Raises WeightsError: there is no prior.
    """
    known: dict[str, Tensor] = bench.once(("edit features", some[0].want, regressed), dict)
    new = [case for case in some if case.id not in known]
    if new:
        prompts, want, seeds = [case.prompt for case in new], new[0].want, _seeds(bench, new)
        if regressed:
            with bench.without_prior():
                made = bench.think(prompts, want, seeds)
        else:
            made = bench.think(prompts, want, seeds)
        known.update(zip((case.id for case in new), made, strict=True))
    return torch.stack([known[case.id] for case in some])


def true_features(bench: Bench, some: Sequence[Case]) -> dict[str, Tensor]:
    """Features [n, K, D] of the true answers (`target`), and what can be guessed without training: a `copy` of the
    source's, and where all cases have examples, that plus their mean difference (`feature arithmetic`)."""
    slots = bench.num_slots(some[0].want)

    def encode(parts: Sequence[Part]) -> Tensor:
        return bench.encode(parts)[:, :slots].float()

    found = {"target": encode([case.target for case in some]), "copy": encode([c.truth["source"] for c in some])}
    if all(case.about["pairs"] for case in some):
        before, after = (
            torch.stack([encode([pair[side] for pair in case.about["pairs"]]).mean(0) for case in some])
            for side in (0, 1)
        )
        found["feature arithmetic"] = baselines.arithmetic(before, after, found["copy"])
    return found


def fed(bench: Bench, some: Sequence[Case]) -> dict[str, Tensor]:
    """The features of the answers (`ours`, and `regression` where there is a prior) beside `true_features`."""
    found = {"ours": features(bench, some), **true_features(bench, some)}
    if bench.model.prior is not None:
        found["regression"] = features(bench, some, regressed=True)
    return found


# figures


def score(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """By group and way: features, likeness, right answers among six; then families of kinds, and controls."""
    main, parts = next(iter(outputs.items()))
    answers = {case.id: part for case, part in zip(asked, parts, strict=True)}
    if main == "ours":  # in the batches in which cases are answered: what others answered is the same to the last bit
        for start in range(0, len(asked), CHUNK):
            features(bench, asked[start : start + CHUNK])
    figures = []
    for group in dict.fromkeys(case.about["of"] for case in asked):
        for way in WAYS:
            some = [case for case in asked if case.about["of"] == group and case.about["way"] == way]
            told = fed(bench, some) if main == "ours" else None  # another system has no features
            figures += way_figures(bench, title_of(some[0]), some, [answers[c.id] for c in some], told)
    figures += family_figures(bench, [case for case in asked if case.about["way"] == "words"], answers)
    figures += control_figures(bench, [case for case in asked if case.about["of"] == GROUPS[""][0]], answers)
    examples = [
        Example(f"{case.about['ask']} ({case.group})", case.prompt, {"target": case.target, "ours": answers[case.id]})
        for case in asked
        if case.about["way"] in ("words", "3") and case.about["edit"] < EXAMPLES // 4
    ]
    return Findings(figures, examples)


def title_of(case: Case) -> str:
    """The name of the group and how the edit is asked for."""
    return f"{TITLES[case.about['of']]}, {NAMES[case.about['way']]}"
