"""The suite `prior`: figures, their rivals, and the error of a model without a prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codi2.config import DEBUG
from codi2.errors import WeightsError
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure
from codi2.evaluate.suites import prior
from codi2.model import CoDi2


@pytest.fixture
def context(rich_home: Path) -> EvalContext:
    return EvalContext(CoDi2.build(DEBUG), items=2)


def scored(context: EvalContext) -> dict[str, Figure]:
    return {figure.name: figure for figure in prior.score(context, [], {}).figures}


def test_edits_have_their_rivals(context: EvalContext) -> None:
    figures = scored(context)
    assert len(figures) == 2 * 6 and all(figure.passes is not None for figure in figures.values())
    for plural in prior.MODALITIES.values():
        words, one, three, values, kinds = (
            figures[f"{plural}, {title}: cosine to the true features"]
            for title in (
                "known edits, by instruction",
                "known edits, 1 example",
                "known edits, 3 examples",
                "held-out values, by instruction",
                "held-out kinds, by instruction",
            )
        )
        assert set(one.baselines) == {"regression", "copy", "feature arithmetic"} == set(three.baselines)
        assert set(words.baselines) == set(values.baselines) == set(kinds.baselines) == {"regression", "copy"}
        gain = figures[f"{plural}, three examples over one"]
        assert gain.value == pytest.approx(three.value - one.value) and gain.low <= gain.value <= gain.high


def test_a_prior_that_copies_has_the_cosine_of_a_copy(context: EvalContext, monkeypatch: pytest.MonkeyPatch) -> None:
    assert context.model.prior is not None
    monkeypatch.setattr(prior, "MODALITIES", {"image": "pictures"})

    def copy(state: object, *_: object) -> torch.Tensor:
        items = state.items  # type: ignore[attr-defined]
        return items[:, 1, : DEBUG.heads.num_slots["image"]]  # the latest one is the text of the prompt

    monkeypatch.setattr(context.model.prior, "sample", copy)
    one = scored(context)["pictures, known edits, 1 example: cosine to the true features"]
    assert one.value == pytest.approx(one.baselines["copy"].value, abs=1e-5)
    assert one.baselines["copy"].value < 0.999 and one.baselines["regression"].value != one.value


def test_without_a_prior(context: EvalContext) -> None:
    with context.without_prior(), pytest.raises(WeightsError, match="has no prior"):
        scored(context)
    with pytest.raises(RuntimeError), context.without_prior():
        raise RuntimeError
    assert context.model.prior is not None
