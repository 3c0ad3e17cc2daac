"""Kill -9 in the middle of a run of the real command: the next start continues the same curve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

CONFIG = """
part = "image_codec"
steps = 24
batch_size = 4
learning_rate = 1e-3
warmup_steps = 2
ema_decay = 0.9
save_every = 4
log_every = 1
validate_every = 12
[options]
modality = "image"
channels = [8, 8, 8]
crop = [16, 16]
"""


def start(config: Path, out: Path, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "codi2", "train", str(config), "--out", str(out)]
    env = os.environ | {"CODI2_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def curve(lines: str) -> dict[int, str]:
    """Step → loss, from the progress lines."""
    rows = [line.split() for line in lines.splitlines() if line.startswith("training image_codec")]
    return {int(words[2].partition("/")[0]): words[4] for words in rows}


@pytest.mark.slow
def test_killed_runs_continue_the_same_curve(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "codec.toml"
    config.write_text(CONFIG)
    whole = start(config, tmp_path / "whole", home)
    _, lines = whole.communicate(timeout=300)
    assert whole.returncode == 0, lines
    truth = curve(lines)

    seen: dict[int, str] = {}
    for stop_after in (3, 9, 14, 19):
        run = start(config, tmp_path / "cut", home)
        assert run.stderr is not None
        for line in run.stderr:
            seen |= curve(line)
            if seen and max(curve(line), default=0) >= stop_after:
                time.sleep(0.02)  # somewhere in the next step, or in a checkpoint
                run.send_signal(signal.SIGKILL)
                break
        run.wait(timeout=60)
    last = start(config, tmp_path / "cut", home)
    _, lines = last.communicate(timeout=300)
    assert last.returncode == 0, lines
    seen |= curve(lines)
    assert seen == truth
    ours, theirs = (load_file(next((tmp_path / run / "export").glob("*.safetensors"))) for run in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
