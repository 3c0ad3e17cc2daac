"""The suite `prior` on a debug model with a prior: figures, their rivals, and what a model without one gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codi2.config import DEBUG, PriorConfig
from codi2.errors import WeightsError
from codi2.evaluate import run
from codi2.evaluate.bench import Bench
from codi2.evaluate.judge import Judge
from codi2.evaluate.suites import modalities
from codi2.evaluate.suites.prior import nearness, pictures
from codi2.model import CoDi2

SAMPLED = replace(DEBUG, heads=replace(DEBUG.heads, copies=0, prior=PriorConfig(num_inference_steps=2)))


@pytest.fixture
def bench(rich_home: Path, judge: Judge) -> Bench:
    return Bench(CoDi2.build(SAMPLED), quick=True)


def test_pictures_of_four_seeds_differ_as_those_of_regression_do_not(bench: Bench) -> None:
    found = {figure.name.split(": ")[1]: figure for figure in pictures(bench, "test_rendering").figures}
    assert set(found["top-5 among 11"].baselines) == {"regression", "chance"}
    assert found["EffNet-sim between seeds"].baselines["regression"].value <= 1.0001
    assert bench.model.prior is not None


def test_edits_have_their_rivals(bench: Bench) -> None:
    *each, gain = nearness(bench, "audio", 3).figures
    assert len(each) == 5 and all(figure.passes is not None for figure in each)
    said, one, three, values, kinds = each
    assert set(one.baselines) == {"regression", "copy", "feature arithmetic"} == set(three.baselines)
    assert set(said.baselines) == set(values.baselines) == set(kinds.baselines) == {"regression", "copy"}
    assert gain.value == pytest.approx(three.value - one.value) and gain.low <= gain.value <= gain.high


def test_a_prior_that_copies_has_the_cosine_of_a_copy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = bench.model.prior
    assert prior is not None

    def copy(context: object, *_: object) -> torch.Tensor:
        items = context.items  # type: ignore[attr-defined]
        return items[:, 1, : SAMPLED.heads.num_slots["image"]]  # behind the words

    monkeypatch.setattr(prior, "sample", copy)
    _, one, *_ = nearness(bench, "image", 2).figures
    assert one.value == pytest.approx(one.baselines["copy"].value, abs=1e-5)
    assert one.baselines["copy"].value < 0.999 and one.baselines["regression"].value != one.value


def test_without_a_prior(bench: Bench) -> None:
    with bench.without_prior(), pytest.raises(WeightsError, match="has no prior"):
        nearness(bench, "image", 2)
    with pytest.raises(RuntimeError), bench.without_prior():
        raise RuntimeError
    assert bench.model.prior is not None


@pytest.mark.slow
def test_the_suite_runs_as_a_command_does(rich_home: Path, judge: Judge, tmp_path: Path) -> None:
    CoDi2.build(SAMPLED).save_pretrained(tmp_path / "model")
    report = run("prior", tmp_path / "model", tmp_path / "out", quick=True)
    assert len(report["sections"]) == 4
    assert not any(section["unavailable"] for section in report["sections"])
    assert "has no prior" in run("prior", "debug", tmp_path / "none", quick=True)["sections"][0]["unavailable"]


def test_modalities_of_answers_are_compared_with_those_asked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers every request with a picture is right where one is asked for."""
    wanted: list[frozenset[str]] = []
    plain = modalities.of_parts
    monkeypatch.setattr(modalities, "of_parts", lambda parts: wanted.append(plain(parts)) or wanted[-1])
    monkeypatch.setattr(modalities, "modalities", lambda reply: frozenset({"image"}))
    bench.quick = False
    whole, *each = modalities.asked_for(bench, 24).figures
    assert whole.n == 24 and sum(figure.n for figure in each) == 24
    assert whole.value == pytest.approx(sum(one == {"image"} for one in wanted) / 24)
    assert 0 < whole.value < 1 and not whole.passes
