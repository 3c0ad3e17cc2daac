"""`edits` and `sound-edits`: held-out pictures and sounds edited as an instruction or one to four examples say.

Letters: n cases, K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from codi2.evaluate import baselines
from codi2.evaluate.case import CHUNK, Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Figure, Findings
from codi2.evaluate.suites.answers import seeds_of
from codi2.evaluate.suites.edit_cases import GROUPS, SHOTS, WAYS
from codi2.evaluate.suites.edit_figures import control_figures, cosine_figure, example_gain, family_figures, way_figures
from codi2.prompt.parts import Part

EXAMPLES = 12  # shown
REGRESSED = ("words", "1", "3")  # ways beside which the regressed features stand
TITLES = {"known": "known edits", "values": "held-out values", "kinds": "held-out kinds"}
NAMES = {"words": "by instruction", "1": "1 example", **{str(n): f"{n} examples" for n in range(2, SHOTS + 1)}}


def ours(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The model's replies; where a case says so, decoded from features of zeros."""
    values = features(context, cases)
    zeroed = torch.tensor([case.about["way"] == "zeroed" for case in cases], device=values.device)
    values = torch.where(zeroed[:, None, None], 0, values)
    return context.decode(values, [case.prompt for case in cases], cases[0].want, seeds_of(context, cases))


SYSTEMS = {"ours": ours}


# features


def features(context: EvalContext, cases: Sequence[Case], regressed: bool = False) -> Tensor:
    """The features [n, K, D] that the decoder gets for the answers; computed once for each case.

    Args:
        regressed: as the language model regresses them, without the prior. Raises WeightsError: there is no prior.
    """
    known: dict[str, Tensor] = context.cached(("edit features", cases[0].want, regressed), dict)
    new = [case for case in cases if case.id not in known]
    if new:
        prompts, want, seeds = [case.prompt for case in new], new[0].want, seeds_of(context, new)
        if regressed:
            with context.without_prior():
                predicted = context.predict(prompts, want, seeds)
        else:
            predicted = context.predict(prompts, want, seeds)
        known.update(zip((case.id for case in new), predicted, strict=True))
    return torch.stack([known[case.id] for case in cases])


def true_features(context: EvalContext, cases: Sequence[Case]) -> dict[str, Tensor]:
    """Features [n, K, D] of the true answers (`target`), and what needs no training: a `copy` of the
    source's, and where all cases have examples, that plus their mean difference (`feature arithmetic`)."""
    slots = context.num_slots(cases[0].want)

    def encode(parts: Sequence[Part]) -> Tensor:
        return context.encode(parts)[:, :slots].float()

    values = {"target": encode([case.target for case in cases]), "copy": encode([c.truth["source"] for c in cases])}
    if all(case.about["pairs"] for case in cases):
        before, after = (
            torch.stack([encode([pair[side] for pair in case.about["pairs"]]).mean(0) for case in cases])
            for side in (0, 1)
        )
        values["feature arithmetic"] = baselines.arithmetic(before, after, values["copy"])
    return values


def features_and_rivals(context: EvalContext, cases: Sequence[Case]) -> dict[str, Tensor]:
    """The features of the answers (`ours`, and `regression` where there is a prior) beside `true_features`."""
    values = {"ours": features(context, cases), **true_features(context, cases)}
    if context.model.prior is not None and cases[0].about["way"] in REGRESSED:
        values["regression"] = features(context, cases, regressed=True)
    return values


# figures


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """By group and way: features, likeness, right answers among six; then families of kinds, and controls."""
    main, parts = next(iter(outputs.items()))
    answers = {case.id: part for case, part in zip(cases, parts, strict=True)}
    if main == "ours":
        # in the batches in which cases are answered, since sums of another batch are rounded differently
        for start in range(0, len(cases), CHUNK):
            features(context, cases[start : start + CHUNK])
    figures, cosines = [], dict[tuple[str, str], Figure]()
    for group in dict.fromkeys(case.about["of"] for case in cases):
        for way in WAYS:
            members = [case for case in cases if case.about["of"] == group and case.about["way"] == way]
            values = features_and_rivals(context, members) if main == "ours" else {}  # another system has no features
            if values:
                cosines[group, way] = cosine_figure(context, title_of(members[0]), values)
                figures.append(cosines[group, way])
            figures += way_figures(context, title_of(members[0]), members, [answers[c.id] for c in members])
    known_group = GROUPS[""][0]
    if cosines:
        figures.append(
            example_gain(
                context, "cosine, three examples over one", cosines[known_group, "3"], cosines[known_group, "1"]
            )
        )
    figures += family_figures(context, [case for case in cases if case.about["way"] == "words"], answers)
    figures += control_figures(context, [case for case in cases if case.about["of"] == known_group], answers)
    examples = [
        Example(f"{case.about['ask']} ({case.group})", case.prompt, {"target": case.target, "ours": answers[case.id]})
        for case in cases
        if case.about["way"] in ("words", "3") and case.about["edit"] < EXAMPLES // 4
    ]
    return Findings(figures, examples)


def title_of(case: Case) -> str:
    """The name of the group and how the edit is requested."""
    return f"{TITLES[case.about['of']]}, {NAMES[case.about['way']]}"
