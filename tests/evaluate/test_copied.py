"""The nearest training picture, the share that is nearer to one than held-out pictures are, and the sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner

from codi2.cli import app
from codi2.config import DEBUG
from codi2.evaluate.context import EvalContext
from codi2.evaluate.copied import copied, nearest_training
from codi2.evaluate.sheet import GAP, LINE, SHOWN, SIDE, laid_out, sheet
from codi2.evaluate.suites import from_words
from codi2.model import CoDi2
from codi2.prompt.parts import Image


@pytest.fixture
def context(rich_home: Path, judge: object) -> EvalContext:
    return EvalContext(CoDi2.build(DEBUG), quick=True)


def of_split(context: EvalContext, split: str) -> list[Image]:
    return [context.part(item) for item in context.draw("image", split, 8)]  # type: ignore[misc]


def test_a_training_picture_is_found_though_it_was_changed_a_little(context: EvalContext) -> None:
    train = of_split(context, "train")
    noise = np.random.default_rng(0).normal(0, 6, (64, 64, 3))
    grainy = [
        Image(PILImage.fromarray((np.asarray(one.pixels) + noise).clip(0, 255).astype(np.uint8))) for one in train
    ]
    for exact, near, one in zip(
        nearest_training(context, train), nearest_training(context, grainy), train, strict=True
    ):
        assert exact.likeness == pytest.approx(1, abs=1e-4)
        assert (np.asarray(near.picture.pixels) == np.asarray(one.pixels)).all()
    assert nearest_training(context, []) == []


def test_copies_of_training_are_told_from_held_out_pictures(context: EvalContext) -> None:
    real, train = of_split(context, "test_family"), of_split(context, "train")
    recalled, fresh = (copied(context, "x", some, real) for some in (train, real))
    assert recalled.value == 1 and fresh.value == pytest.approx(0.5)
    assert fresh.baselines["held-out pictures"].value == 0.5
    mixed = [Image(PILImage.blend(a.pixels, b.pixels, 0.2)) for a, b in zip(train, real, strict=True)]
    assert fresh.value < copied(context, "x", mixed, real).value <= 1


def test_the_suite_reports_the_share(context: EvalContext) -> None:
    asked = from_words.captions(context, "test_family", 3, seeds=2)
    real = from_words.score(context, asked, {"ours": [case.target for case in asked]})
    share = next(figure for figure in real.figures if "nearer to a training picture" in figure.name)
    assert share.value == pytest.approx(0.5) and share.n == 3


def test_the_sheet_shows_the_first_answers_with_what_they_were_made_of(context: EvalContext, tmp_path: Path) -> None:
    asked = from_words.captions(context, "test_family", 7, seeds=1)
    black = [Image(PILImage.new("RGB", (64, 64)))] * 7
    whole = np.asarray(laid_out(asked, black, black))
    top, left = 2 * GAP + LINE, GAP + SIDE
    assert (whole[top : top + SIDE, left : left + SIDE] == 0).all()  # the answer, behind an empty place
    assert (whole[top : top + SIDE, GAP : GAP + SIDE] == 255).all()
    target = whole[top : top + SIDE, left + SIDE : left + 2 * SIDE]
    assert (target == np.asarray(asked[0].target.pixels)).all()  # type: ignore[attr-defined]
    assert len(SHOWN) == 4 and whole.shape[0] > top + 2 * SIDE  # seven cells are two rows
    sheet(context, tmp_path / "a.png")
    sheet(EvalContext(context.model, quick=True), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_command_writes_the_sheet_alone(rich_home: Path, judge: object, tmp_path: Path) -> None:
    line = ["gallery", "--sheet", "--quick", "--model", "debug", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0 and "sheet.png" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]
