"""Draws docs/curves.png, the validation curves of each trained part: `python docs/curves.py [training.json]`.

The report of a model has the figures of every validation of its parts.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from codi2.errors import CoDi2Error, DataError
from codi2.hub import shipped, write_atomic

DENOISER = {"edits": "edit", "from features alone": "alone", "answers of the model": "sampled"}
LINES: dict[str, dict[str, str]] = {
    "image_vae": {"PSNR in dB": "psnr"},
    "audio_vae": {"PSNR in dB": "psnr"},
    "image_features": {"PSNR in dB": "psnr"},
    "audio_features": {"PSNR in dB": "psnr"},
    "video_features": {"PSNR in dB": "psnr"},
    "vocoder": {"log-spectral distance": "lsd"},
    "image_denoiser": DENOISER,
    "audio_denoiser": DENOISER,
    "video_denoiser": DENOISER,
    "llm": {
        "cosine of the joint vector": "*/joint",
        "cosine of the other features": "*/feature_*",
        "text loss": "*/loss",
    },
    "prior": {"cosine, sampled": "*/sampled", "cosine, regressed": "*/regressed"},
    "joint_attention": {"L_DM together": "*_together", "L_DM alone": "*_alone"},
}
"""Part of a config → name of a line → pattern of the figures whose mean is drawn."""
COLUMNS, SIZE = 3, (3.4, 2.4)  # of one plot, in inches


def curves(parts: Mapping[str, Any]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Name of a part → line → (step, value) of each validation, for the parts with two validations or more."""
    drawn: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, report in sorted(parts.items()):
        points = report.get("curve", [])
        for line, pattern in LINES.get(report["config"]["part"], {}).items():
            values = [(p["step"], [v for key, v in p.items() if fnmatchcase(key, pattern)]) for p in points]
            if len(values) > 1 and all(matching for _, matching in values):
                drawn.setdefault(name, {})[line] = [(step, fmean(matching)) for step, matching in values]
    return drawn


def draw(parts: Mapping[str, Any], path: Path) -> None:
    """Writes the curves as a PNG. Raises DataError: no part has a curve."""
    drawn = curves(parts)
    if not drawn:
        raise DataError("no part of this report has two validations or more, so there is no curve to draw")
    rows = -(-len(drawn) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(COLUMNS * SIZE[0], rows * SIZE[1]), squeeze=False)
    for plot in axes.flat[len(drawn) :]:
        plot.axis("off")
    for plot, (name, lines) in zip(axes.flat, drawn.items(), strict=False):
        for line, points in lines.items():
            plot.plot(*zip(*points, strict=True), marker=".", label=line)
        plot.set_title(name, fontsize=9)
        plot.tick_params(labelsize=7)
        plot.set_ylim(bottom=0 if min(value for points in lines.values() for _, value in points) >= 0 else None)
        plot.legend(fontsize=7)
    figure.tight_layout()
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    plt.close(figure)
    write_atomic(path, written.getvalue())


if __name__ == "__main__":
    report = Path(sys.argv[1]) if len(sys.argv) > 1 else shipped("tiny") / "training.json"
    try:
        draw(json.loads(report.read_text(encoding="utf-8"))["parts"], Path(__file__).with_name("curves.png"))
    except CoDi2Error as error:
        sys.exit(str(error))
