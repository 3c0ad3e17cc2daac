"""The suite `prior`: sampled features against those that the language model regresses, and what needs no training.

Its figures are those of `pictures` and `edits`; of edits nothing is drawn.
"""

from __future__ import annotations

import numpy as np

from codi2.data.edits import HeldOut
from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Findings, mean
from codi2.evaluate.suites import edit_cases, edits, from_words
from codi2.evaluate.suites.edit_figures import cosine_figure
from codi2.evaluate.suites.smoke import Plan

WORDS, EDITS = 60, 60  # captions; edits of each kind
WAYS: dict[HeldOut, tuple[str, ...]] = {"": ("words", "1", "3"), "values": ("words",), "kinds": ("words",)}
"""What is held out → how the edits are asked for."""


def pictures(bench: Bench, split: str) -> Findings:
    """Pictures of captions, each with several seeds, beside those of regressed features."""
    return from_words.findings(bench, split, WORDS, from_words.SEEDS, prior=True)


def nearness(bench: Bench, modality: str, number: int = EDITS) -> Findings:
    """Cosine of sampled features to the true ones, by instruction and by one and three examples.

    Raises WeightsError: the model has no prior.
    """
    figures = {}
    for held_out, ways in WAYS.items():
        asked = edit_cases.drawn(bench, modality, held_out, bench.count(number))
        for way in ways:
            some = [case for case in asked if case.about["way"] == way]
            edits.features(bench, some, regressed=True)
            figures[held_out, way] = cosine_figure(bench, edits.title_of(some[0]), edits.fed(bench, some))
    more = np.subtract(figures["", "3"].values, figures["", "1"].values)
    gain = mean("three examples over one", more, seed=bench.seed)
    return Findings([*figures.values(), gain.judged("interval above 0", gain.low > 0)])


ABOUT = (
    "Held-out items. The cosine is of all features together; a copy is of the given item's features; feature "
    "arithmetic adds the mean difference of the examples to these."
)

PRIOR = (
    Plan(
        "Pictures from words, known concepts",
        f"Held-out renderings of known concepts, {from_words.SEEDS} seeds each. EfficientNet-Lite2 judges; regression "
        "draws the same captions from the features that the language model regresses.",
        lambda bench: pictures(bench, "test_rendering"),
    ),
    Plan(
        "Pictures from words, unseen concepts",
        "Concepts of which training showed nothing.",
        lambda bench: pictures(bench, "test_family"),
    ),
    Plan("Edits of pictures", ABOUT, lambda bench: nearness(bench, "image")),
    Plan("Edits of sounds", ABOUT, lambda bench: nearness(bench, "audio")),
)
