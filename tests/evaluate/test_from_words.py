"""The suites of pictures and sounds from words, answered by made-up systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageFilter

from codi2.config import DEBUG
from codi2.errors import WeightsError
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure
from codi2.evaluate.suites import from_words
from codi2.model import CoDi2
from codi2.prompt.parts import Image, Part

KNOWN, UNSEEN = "known concepts", "unseen concepts"


@pytest.fixture
def context(rich_home: Path, judge: object) -> EvalContext:
    return EvalContext(CoDi2.build(DEBUG), items=8)


def scored(context: EvalContext, answer: Callable[[Case], Part]) -> dict[str, Figure]:
    asked = from_words.cases("image")(context)
    found = from_words.score(context, asked, {"ours": [answer(case) for case in asked]})
    assert all(len(example.shown) == 1 + from_words.SEEDS for example in found.examples)
    return {figure.name: figure for figure in found.figures}


def test_true_pictures_are_the_concept_alike_and_as_sharp(
    context: EvalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_words, "TOP", 1)  # the corpus of the tests has few concepts
    true = scored(context, lambda case: case.target)
    for title in (KNOWN, UNSEEN):
        size = len(from_words.gallery(context, "test_family"))
        assert true[f"{title}: top-1 among {size}"].value == 1 and true[f"{title}: top-1 among {size}"].passes
        assert true[f"{title}: top-1, seed 3"].value == 1
        assert true[f"{title}: EffNet-sim to the true one"].value == pytest.approx(1, abs=1e-4)
        alike = true[f"{title}: EffNet-sim between seeds"]
        assert alike.value == pytest.approx(1, abs=1e-4) and not alike.passes
        assert true[f"{title}: Lite2-FD"].value < true[f"{title}: Lite2-FD"].baselines[from_words.HALVES].value
        assert true[f"{title}: sharpness"].value == pytest.approx(1)


def test_pictures_of_other_things_blurs_and_chance(context: EvalContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_words, "TOP", 1)
    real = {split: from_words.gallery(context, split) for split in from_words.KINDS["image"].groups}
    other = scored(context, lambda case: real[case.group][(case.about["row"] + 1) % len(real[case.group])])
    soft = scored(context, lambda case: Image(case.target.pixels.filter(ImageFilter.GaussianBlur(4))))  # type: ignore[attr-defined]
    draw = np.random.default_rng(0)
    noise = scored(context, lambda case: Image(PILImage.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8))))
    top, alike = f"{KNOWN}: top-1 among {len(real['test_rendering'])}", f"{KNOWN}: EffNet-sim between seeds"
    assert other[top].value == 0 and not other[top].passes
    assert abs(noise[top].value - noise[top].baselines["chance"].value) < 0.15
    assert soft[f"{KNOWN}: sharpness"].value < 0.8 < 2 < noise[f"{KNOWN}: sharpness"].value
    assert not soft[f"{KNOWN}: sharpness"].passes and soft[top].value > noise[top].value
    assert noise[alike].value < soft[alike].value
    assert noise[f"{KNOWN}: Lite2-FD"].value > soft[f"{KNOWN}: Lite2-FD"].value > 0


def test_choices_are_made_on_the_validation_split(context: EvalContext) -> None:
    choices = EvalContext(context.model, items=3, validation=True)
    asked = from_words.cases("image")(choices)
    assert len(asked) == 3 * from_words.SEEDS and all("val thing" in case.about["words"] for case in asked)


def test_regression_differs_from_the_prior_and_needs_one(context: EvalContext) -> None:
    (case, *_) = from_words.cases("image")(context)
    sampled, regressed = (system(context, [case])[0] for system in from_words.SYSTEMS.values())
    assert (np.asarray(sampled.pixels) != np.asarray(regressed.pixels)).any()  # type: ignore[union-attr]
    assert context.model.prior is not None
    context.model.prior = None
    with pytest.raises(WeightsError, match="has no prior"):
        from_words.regression(context, [case])


def test_sounds_of_the_concept_are_told_from_others(
    context: EvalContext, ears: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_words, "TOP", 1)
    asked = from_words.cases("audio")(context)
    real = from_words.gallery(context, "test_rendering", "audio")
    assert asked[0].want == "audio" and asked[0].prompt[0].text.startswith("Make the sound of ")  # type: ignore[union-attr]
    answers = {
        "true": [case.target for case in asked],
        "another": [real[(case.about["row"] + 1) % len(real)] for case in asked],
        "faint": [replace(case.target, samples=case.target.samples / 4) for case in asked],  # type: ignore[type-var, attr-defined]
    }
    true, other, faint = (
        {figure.name: figure for figure in from_words.score(context, asked, {name: parts}).figures}
        for name, parts in answers.items()
    )
    top, level = f"{KNOWN}: top-1 among {len(real)}", f"{KNOWN}: level within 3 dB"
    assert true[top].value == 1 and true[top].passes and other[top].value == 0
    assert true[level].value == 1 and faint[level].value == 0
    assert true[f"{KNOWN}: aiSFX-FD"].value < faint[f"{KNOWN}: aiSFX-FD"].value
    assert not any("training" in name or "sharpness" in name for name in true)
