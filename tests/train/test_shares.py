"""Two processes, or a batch in several passes, give the curve of one process and one pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codi2.data.build import Settings, build

LLM = """
part = "llm"
steps = 20
batch_size = 4
accumulate = {accumulate}
learning_rate = 1e-3
warmup_steps = 2
log_every = 1
save_every = 20
validate_every = 20
seed = 3
[options]
model = "debug"
diffusion_share = 0.5
diffusion_items = 3
lookahead = 4
phases = {{ text = 0.3, image = 0.4, audio = 0.3 }}
[options.data]
"{data}" = 1
"""
DECODER = """
part = "image_decoder"
steps = 20
batch_size = 4
accumulate = {accumulate}
learning_rate = 1e-4
warmup_steps = 2
log_every = 1
save_every = 20
validate_every = 20
ema_decay = 0.9
[options]
model = "debug"
modality = "image"
patch = 4
channels = [16, 32]
looked_at = 4
perception_weight = 0.0
[options.data]
"{data}" = 1
"""


@pytest.fixture
def data(rich_home: Path, tmp_path: Path) -> Path:
    settings = Settings("tables", str(rich_home / "data" / "tiny"), str(tmp_path / "tables"), options={"records": 76})
    build(settings)
    return tmp_path / "tables"


def curve(command: list[str], home: Path) -> list[float]:
    """The losses that a run prints, step by step."""
    env = os.environ | {"CODI2_HOME": str(home), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    found = dict(re.findall(r"^training \w+ (\d+)/20 loss ([\d.]+)", run.stderr, re.MULTILINE))
    assert len(found) == 20, run.stderr[-3000:]
    return [float(loss) for loss in found.values()]


@pytest.mark.slow
@pytest.mark.parametrize("text", [LLM, DECODER], ids=["llm", "decoder"])
def test_two_processes_and_two_passes_give_the_curve_of_one(
    text: str, data: Path, rich_home: Path, tmp_path: Path
) -> None:
    def command(name: str, accumulate: int) -> list[str]:
        config = tmp_path / f"{name}.toml"
        config.write_text(text.format(accumulate=accumulate, data=data))
        return ["-m", "codi2", "train", str(config), "--out", str(tmp_path / name)]

    whole = curve([sys.executable, *command("whole", 1)], rich_home)
    passes = curve([sys.executable, *command("passes", 2)], rich_home)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--mixed_precision",
        "no",
    ]
    launch += ["--num_machines", "1", "--dynamo_backend", "no"]
    two = curve([*launch, *command("two", 1)], rich_home)
    assert len(set(whole)) == 20
    assert passes == pytest.approx(whole, abs=1.5e-4)  # four decimals are printed
    assert two == pytest.approx(whole, abs=1.5e-4)
