"""`prior`: sampled features against those that the language model regresses, and what needs no training.

The cosines are those of `edits` and `sound-edits`; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codi2.data.edits import HeldOut
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure, Findings
from codi2.evaluate.suites import edit_cases, edits
from codi2.evaluate.suites.edit_figures import cosine_figure, example_gain
from codi2.prompt.parts import Part

NUMBER = 60  # edits of each group
WAYS: dict[HeldOut, tuple[str, ...]] = {"": ("words", "1", "3"), "values": ("words",), "kinds": ("words",)}
"""What is held out → how the edits are requested."""
MODALITIES = {"image": "pictures", "audio": "sounds"}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Cosine of sampled features to the true ones, by instruction and by one and three examples.

    Raises WeightsError: the model has no prior.
    """
    figures: list[Figure] = []
    for modality, plural in MODALITIES.items():
        for held_out, ways in WAYS.items():
            group = edit_cases.draw_cases(context, modality, held_out, context.count(NUMBER))
            by_way: dict[str, Figure] = {}
            for way in ways:
                members = [case for case in group if case.about["way"] == way]
                edits.features(context, members, regressed=True)
                title = f"{plural}, {edits.title_of(members[0])}"
                by_way[way] = cosine_figure(context, title, edits.features_and_rivals(context, members))
            figures += by_way.values()
            if "3" in by_way:
                figures.append(example_gain(context, f"{plural}, three examples over one", by_way["3"], by_way["1"]))
    return Findings(figures)
