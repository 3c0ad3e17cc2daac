"""docs/curves.py draws what the report of a model holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from codi2.errors import DataError

from .pages import script

LANGUAGE_MODEL = {
    "config": {"part": "llm"},
    "curve": [
        {"step": 10, "add/joint": 0.2, "add/feature_1": 0.4, "fuse/feature_1": 0.6, "chat/loss": 1.0},
        {"step": 20, "add/joint": 0.3, "add/feature_1": 0.5, "fuse/feature_1": 0.9, "chat/loss": 0.5},
    ],
}
WITHOUT = {"config": {"part": "image_vae"}, "curve": [{"step": 5, "psnr": 20.0}]}


def test_a_line_is_the_mean_of_its_figures_at_each_validation(tmp_path: Path) -> None:
    drawn = script("curves").curves({"02_image_vae": WITHOUT, "11_llm": LANGUAGE_MODEL})
    assert list(drawn) == ["11_llm"]
    assert drawn["11_llm"]["cosine of the other features"] == [(10, 0.5), (20, pytest.approx(0.7))]
    assert drawn["11_llm"]["text loss"] == [(10, 1.0), (20, 0.5)]


def test_the_picture_has_a_plot_for_each_part(tmp_path: Path) -> None:
    script("curves").draw({"11_llm": LANGUAGE_MODEL}, tmp_path / "one.png")
    script("curves").draw({f"{i}_llm": LANGUAGE_MODEL for i in range(4)}, tmp_path / "four.png")
    one, four = (Image.open(tmp_path / name).convert("L") for name in ("one.png", "four.png"))
    assert four.height == 2 * one.height
    assert four.crop((0, one.height, one.width, four.height)).getextrema()[0] < 50  # the fourth, in the second row
    with pytest.raises(DataError, match="no curve to draw"):
        script("curves").draw({"02_image_vae": WITHOUT}, tmp_path / "none.png")
