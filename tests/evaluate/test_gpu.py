"""Evaluation on a virtual GPU: what the model makes, and what judges it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from virtual_device import DeviceMismatch, virtual_gpu

from codi2.encode.aisfx import AiSFX
from codi2.evaluate import bench as benches
from codi2.evaluate import run
from codi2.evaluate.bench import Bench
from codi2.evaluate.judge import Judge
from codi2.evaluate.sound_judge import SoundJudge
from codi2.evaluate.suites import clips, subjects, texts
from codi2.evaluate.suites.smoke import SMOKE
from codi2.model import CoDi2
from codi2.placement import Placement

SUITES = ("subject", "together", "caption")
"""They answer with pictures, with clips and sounds, and with words."""


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges of the real classes, with networks that need no download."""

    def see(device: str) -> Judge:
        return Judge(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(3, 8, 1)), device)

    torch.manual_seed(0)
    monkeypatch.setattr(benches, "load_judge", see)
    monkeypatch.setattr(benches, "load_sound_judge", lambda device: SoundJudge(AiSFX(), nn.Linear(512, 5), device))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two cases of everything."""
    monkeypatch.setattr(benches, "QUICK", 2)
    for suite, count in ((clips, 2), (subjects, 1), (texts, 1)):
        monkeypatch.setattr(suite, "QUICK", count)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_suites_of_every_modality(dtype: str, rich_home: Path, judges: None, few: None, tmp_path: Path):
    with virtual_gpu() as gpu:
        for suite in SUITES:
            before = gpu.count
            report = run(suite, "debug", tmp_path / suite, quick=True, placement=Placement("cuda", dtype))
            (section,) = report["sections"]
            assert section["unavailable"] == "" and section["figures"] and gpu.count - before > 1000, suite
    assert report["placement"]["device"] == "cuda" and report["placement"]["hardware"] == "virtual GPU"


@pytest.mark.slow
@pytest.mark.parametrize("offload", [False, True], ids=["resident", "offload"])
def test_sections_that_look_at_features(offload: bool, rich_home: Path, judges: None, few: None):
    """All of `smoke` but the seconds, which run a process: retrieval, decoding of true features, SDEdit, perplexity."""
    with virtual_gpu():
        bench = Bench(CoDi2.from_pretrained("debug", device="cuda", dtype="bfloat16", offload=offload), quick=True)
        for plan in SMOKE[1:]:
            assert plan.measure(bench).figures, plan.title


def test_a_judge_left_on_the_cpu_is_found(rich_home: Path, judges: None):
    with virtual_gpu():
        bench = Bench(CoDi2.from_pretrained("debug", device="cuda"))
        picture = [bench.part(item) for item in bench.draw("image", "test_family", 1)]
        assert bench.judge(picture).device.type == "cpu"  # what it says is
        bench.judge.net.cpu()
        with pytest.raises(DeviceMismatch):
            bench.judge(picture)
