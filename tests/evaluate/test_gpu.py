"""Evaluation on a virtual GPU: what the model makes, and what judges it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from virtual_device import DeviceMismatch, virtual_gpu

from codi2.encode.aisfx import AiSFX
from codi2.evaluate import GROUPS, run
from codi2.evaluate import context as contexts
from codi2.evaluate.context import EvalContext
from codi2.evaluate.judge import Judge
from codi2.evaluate.sound_judge import SoundJudge
from codi2.evaluate.suite import run_suite
from codi2.evaluate.suites import CORPUS_SUITES
from codi2.model import CoDi2
from codi2.placement import Placement

PARTS = (*GROUPS["smoke"], "prior")
SUITES = ("subject", "together", "caption")
"""They answer with pictures, with clips and sounds, and with words."""


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges of the real classes, with networks that need no download."""

    def see(device: str) -> Judge:
        return Judge(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(3, 8, 1)), device)

    torch.manual_seed(0)
    monkeypatch.setattr(contexts, "load_judge", see)
    monkeypatch.setattr(contexts, "load_sound_judge", lambda device: SoundJudge(AiSFX(), nn.Linear(512, 5), device))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_suites_of_every_modality(dtype: str, rich_home: Path, judges: None, tmp_path: Path):
    with virtual_gpu() as gpu:
        for suite in SUITES:
            before = gpu.count
            report = run(suite, "debug", tmp_path / suite, items=2, placement=Placement("cuda", dtype))
            (section,) = report["sections"]
            assert section["unavailable"] == "" and section["figures"] and gpu.count - before > 1000, suite
    assert report["placement"]["device"] == "cuda" and report["placement"]["hardware"] == "virtual GPU"


@pytest.mark.slow
@pytest.mark.parametrize("offload", [False, True], ids=["resident", "offload"])
@pytest.mark.parametrize("name", [name for name in PARTS if name != "cost"])  # which starts processes
def test_parts_of_the_model(name: str, offload: bool, rich_home: Path, judges: None, tmp_path: Path):
    """Retrieval, decoding of true features, the vocoder, the language model without its adapters, features of edits."""
    with virtual_gpu():
        context = EvalContext(CoDi2.from_pretrained("debug", device="cuda", dtype="bfloat16", offload=offload), items=2)
        section = run_suite(CORPUS_SUITES[name], context, tmp_path, {})
        assert section is not None and section.unavailable == "" and section.findings.figures


def test_a_judge_left_on_the_cpu_is_found(rich_home: Path, judges: None):
    with virtual_gpu():
        context = EvalContext(CoDi2.from_pretrained("debug", device="cuda"))
        picture = [context.part(item) for item in context.draw("image", "test_family", 1)]
        assert context.judge(picture).device.type == "cpu"  # what it says is
        context.judge.net.cpu()
        with pytest.raises(DeviceMismatch):
            context.judge(picture)
