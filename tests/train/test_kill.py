"""Kill -9 at random moments of a run of the real command: the next start continues the same curve, bit for bit."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from task_set import write_task_set

CONFIG = """
part = "llm"
steps = 60
batch_size = 4
learning_rate = 1e-3
warmup_steps = 2
ema_decay = 0.9
save_every = 2
log_every = 1
validate_every = 20
[options]
model = "debug"
diffusion_share = 0.5
lookahead = 4
phases = {{ text = 0.3, image = 0.4, audio = 0.3 }}
[options.data]
"{data}" = 1
[options.held_out]
"{data}" = 1
"""
KILLS = 10


@pytest.fixture
def command(rich_home: Path, tmp_path: Path) -> list[str]:
    write_task_set(rich_home, tmp_path / "tasks")
    config = tmp_path / "llm.toml"
    config.write_text(CONFIG.format(data=tmp_path / "tasks"))
    return [sys.executable, "-m", "codi2", "train", str(config)]


def start(command: list[str], out: Path) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--out", str(out)], env=env, stderr=subprocess.PIPE, text=True)


def steps(lines: str) -> dict[int, str]:
    """Step → loss, from the progress lines."""
    return {int(step): loss for step, loss in re.findall(r"^training llm (\d+)/60 loss ([\d.]+)", lines, re.MULTILINE)}


@pytest.mark.slow
def test_killed_runs_continue_the_same_curve(command: list[str], tmp_path: Path) -> None:
    whole = start(command, tmp_path / "whole")
    _, lines = whole.communicate(timeout=300)
    assert whole.returncode == 0, lines
    truth = steps(lines)
    assert len(truth) == 60

    draw, seen = random.Random(0), {}
    for kill in range(KILLS):
        run = start(command, tmp_path / "cut")
        assert run.stderr is not None
        more = draw.randint(1, 5)  # steps before it falls
        for line in run.stderr:
            if found := steps(line):
                seen |= found
                more -= 1
            if more == 0:
                # half of them while a checkpoint is written, as far as a folder aside tells
                waits = time.monotonic() + draw.uniform(0, 0.15)
                while time.monotonic() < waits or (
                    kill % 2
                    and run.poll() is None
                    and time.monotonic() < waits + 5
                    and not list((tmp_path / "cut" / "checkpoints").glob(".*"))
                ):
                    time.sleep(0.0005)
                break
        run.kill()
        run.wait(timeout=60)
    last = start(command, tmp_path / "cut")
    _, lines = last.communicate(timeout=300)
    assert last.returncode == 0, lines
    seen |= steps(lines)
    assert seen.items() <= truth.items() and max(seen) == 60
    for name in ("heads.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = (load_file(tmp_path / run / "export" / name) for run in ("cut", "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list((tmp_path / "cut" / "checkpoints").glob(".*"))  # what a kill left half written is swept
