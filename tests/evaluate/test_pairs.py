"""Two models on the same draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from codi2.config import DEBUG
from codi2.evaluate import run
from codi2.evaluate.figure import Findings, Section, known, mean
from codi2.evaluate.pairs import paired
from codi2.model import CoDi2


def test_a_distance_of_a_set_has_the_ratio_to_the_other_model() -> None:
    ours, theirs = ([Section("t", "", Findings([known("FD", value, n=5)]))] for value in (3.0, 2.0))
    (section,) = paired(ours, theirs, "nine")
    assert {name: figure.value for name, figure in section.findings.figures[0].baselines.items()} == {
        "nine": 2.0, "ours / nine": 1.5
    }  # fmt: skip


def test_figures_stand_beside_those_of_the_same_name_with_the_paired_difference() -> None:
    noise = [0.0, 5.0, 10.0, 15.0]
    ours = [mean("likeness", [x + 0.5 for x in noise], {"copy": noise}), known("FD", 3.0), mean("ours alone", [1.0])]
    theirs = [mean("likeness", noise), known("FD", 2.0), mean("more", [1.0])]
    (section,) = paired([Section("t", "", Findings(ours))], [Section("t", "", Findings(theirs))], "nine")
    near, apart, alone = section.findings.figures
    assert set(near.baselines) == {"copy", "nine", "ours - nine"} and near.baselines["nine"].value == 7.5
    difference = near.baselines["ours - nine"]
    assert difference.value == difference.low == difference.high == 0.5  # however much the items differ
    assert near.low < 5 and set(apart.baselines) == {"nine"} and not alone.baselines
    (lacking,) = paired([Section("t", "", Findings(ours))], [Section("t", "", unavailable="no decoder")], "nine")
    assert lacking.absent == {"nine": "no decoder"} and lacking.findings.figures == ours


def test_other_items_are_not_paired() -> None:
    both = [Section("t", "", Findings([mean("x", values)])) for values in ([1.0, 2.0], [1.0, 2.0, 3.0])]
    (section,) = paired(both[:1], both[1:], "nine")
    assert set(section.findings.figures[0].baselines) == {"nine"}


def test_a_model_beside_itself_differs_by_nothing(rich_home: Path, judge, ears, tmp_path: Path) -> None:
    report = run("pictures", "debug", tmp_path / "out", items=2, beside="debug", seed=5)
    assert report["beside"]["model"] == "debug" and report["seed"] == 5
    figures = report["sections"][0]["figures"]
    for figure in figures:
        assert figure["baselines"]["debug"]["value"] == pytest.approx(figure["value"])
        difference = figure["baselines"].get("ours - debug")
        assert (difference is None) == figure["name"].endswith("FD")
        assert difference is None or difference["value"] == difference["low"] == difference["high"] == 0
        assert "values" not in figure
    theirs = json.loads((tmp_path / "out" / "beside" / "report.json").read_text())
    assert [figure["name"] for figure in theirs["sections"][0]["figures"]] == [figure["name"] for figure in figures]
    assert "ours - debug" in (tmp_path / "out" / "index.html").read_text()


def test_models_with_and_without_a_prior_are_compared(rich_home: Path, judge, ears, tmp_path: Path) -> None:
    CoDi2.build(replace(DEBUG, name="regressing", heads=replace(DEBUG.heads, prior=None))).save_pretrained(
        tmp_path / "regressing"
    )
    report = run("edits", "debug", tmp_path / "out", items=2, beside=tmp_path / "regressing")
    (section,) = report["sections"]
    assert section["unavailable"] == "" and all("regressing" in figure["baselines"] for figure in section["figures"])
    assert "regression" in section["figures"][0]["baselines"]
    differences = [figure["baselines"]["ours - regressing"]["value"] for figure in section["figures"]]
    assert any(value != 0 for value in differences)


def test_an_earlier_run_is_scored_beside_a_model(rich_home: Path, judge, ears, tmp_path: Path) -> None:
    """Also one of a version that this one cannot load: of the run, only the outputs are read."""
    earlier = tmp_path / "earlier"
    run("rounds", "debug", earlier, items=2)
    kept = sorted((earlier / "outputs" / "rounds" / "ours").glob("*.png"))
    files = sorted(path for path in earlier.rglob("*"))
    for path in kept:
        path.write_bytes(kept[0].read_bytes())
    report = run("rounds", "debug", tmp_path / "out", items=2, beside=earlier)
    (section,) = report["sections"]
    for figure in section["figures"]:
        other, difference = figure["baselines"]["earlier"], figure["baselines"]["ours - earlier"]
        assert difference["value"] == pytest.approx(figure["value"] - other["value"])
    assert any(figure["baselines"]["ours - earlier"]["value"] != 0 for figure in section["figures"])
    assert sorted(path for path in earlier.rglob("*")) == files and not (tmp_path / "out" / "beside").exists()
    (section,) = run("caption", "debug", tmp_path / "other", items=2, beside=earlier)["sections"]
    assert "lacks 6 of 6 outputs" in section["absent"]["earlier"]
