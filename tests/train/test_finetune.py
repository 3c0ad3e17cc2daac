"""Tuning a model on a user's own records: what is replayed, held out, printed and exported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from codi2 import CoDi2
from codi2.config import DEBUG
from codi2.errors import ConfigError
from codi2.heads.prior import Prior
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts.finetune import SHIPPED, build
from codi2.train.shares import WHOLE

from ..own_set import own_set


def config(folder: Path, steps: int = 2, **options: Any) -> TrainConfig:
    options = {"model": "debug", "data": {str(folder): 1.0}} | options
    return TrainConfig("finetune", steps, 4, 1e-3, warmup_steps=1, num_workers=0, options=options)


def test_half_of_the_samples_are_replayed_and_the_held_out_ones_never_drawn(tmp_path: Path) -> None:
    recipe = build(config(own_set(tmp_path, ["zant", "blick"] * 8, edits=8), replay_share=0.75))
    drawn = [example for step in range(250) for example in recipe.examples.batch(step)]
    replayed = [example for example in drawn if example.place.startswith(f"{SHIPPED.name}/")]
    assert len(replayed) == 750
    held = {example.place for examples in recipe.held_out.values() for example in examples}
    assert held and not held & {example.place for example in drawn}
    names = set(recipe.held_out)
    assert {"own/edit_image", "own/caption_image", "own/image_from_caption"} < names
    assert {"earlier/caption_image", "earlier/caption_audio", "earlier/edit_image"} < names


def test_the_time_is_said_before_it_starts_and_the_export_is_a_whole_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = config(own_set(tmp_path, ["zant", "blick"] * 8))
    figures = train(build(made), made, tmp_path / "out")
    said = capsys.readouterr().err
    told = re.search(r"2 steps of [\d.]+ s, about \d+ min: 28 of your records are learned and 4 held out", said)
    compared = re.search(r"held out, own/caption_image/loss: [\d.]+ → [\d.]+\n", said)
    assert told and compared and told.start() < said.index("training finetune 2/2") < compared.start()
    assert {name.split("/")[0] for name in figures} == {"own", "earlier"}
    tuned = CoDi2.from_pretrained(tmp_path / "out" / "export")
    assert tuned.generate("Draw a zant.", want="image").images


def test_the_passes_that_are_timed_change_nothing(tmp_path: Path) -> None:
    made = config(own_set(tmp_path, ["zant", "blick"] * 8))
    recipe = build(made)
    before = {name: value.clone() for name, value in recipe.model.state_dict().items()}
    recipe.begin(range(2), WHOLE)
    assert all(torch.equal(before[name], value) for name, value in recipe.model.state_dict().items())
    assert all(parameter.grad is None for parameter in recipe.model.parameters())


def test_what_is_replayed_has_the_tasks_of_the_users_records(tmp_path: Path) -> None:
    recipe = build(config(own_set(tmp_path, ["zant", "blick"] * 8), replay_share=0.6))
    drawn = [example for step in range(250) for example in recipe.examples.batch(step)]
    tasks = {mine: Counter(x.record.task for x in drawn if x.place.startswith("replay/") != mine) for mine in (0, 1)}
    assert tasks[1].total() == 400 and set(tasks[1]) == {"caption_image", "image_from_caption"}
    for task, count in tasks[1].items():
        assert tasks[0][task] >= count  # other captions are not crowded out
    assert len(tasks[0]) > 8 and recipe.replayed < recipe.examples.mixture.total


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data": {}}, "names no data"),
        ({"replay_share": 0}, "replay_share is 0; set a value more than 0 and less than 1"),
        ({"replays": 1}, "unknown key 'replays'"),
    ],
)
def test_what_a_config_cannot_say(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        build(config(tmp_path, **options))


def test_the_export_has_the_prior_of_the_tuned_model(tmp_path: Path) -> None:
    model = CoDi2.build(DEBUG)
    model.save_pretrained(tmp_path / "model")
    run_config = config(own_set(tmp_path, ["zant", "blick"] * 8), model=str(tmp_path / "model"))
    train(build(run_config), run_config, tmp_path / "out")
    tuned = CoDi2.from_pretrained(tmp_path / "out" / "export")
    assert isinstance(tuned.prior, Prior) and isinstance(model.prior, Prior)
    for name, value in model.prior.state_dict().items():
        torch.testing.assert_close(tuned.prior.state_dict()[name], value, rtol=1e-3, atol=1e-3)  # fp16


@pytest.mark.slow
def test_the_page_from_a_folder_to_a_picture(tmp_path: Path) -> None:
    """The commands of docs/finetune.md on the shipped model, with two steps."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "finetune.md").read_text()
    block = re.search(r"```sh\n(codi2 data build folder.*?)```", page, re.DOTALL)
    assert block
    own_set(tmp_path, ["zant", "blick"] * 8, edits=8)
    (tmp_path / "files").rename(tmp_path / "mine")
    (tmp_path / "photo.png").write_bytes((tmp_path / "mine" / "0.png").read_bytes())
    (tmp_path / "configs").symlink_to(root / "configs")
    short = {"codi2 train": "codi2 train --steps 2", "codi2 ": f"{sys.executable} -m codi2 "}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root / "src")}
    said = ""
    for command in block[1].strip().splitlines():
        for old, new in short.items():
            command = command.replace(old, new)
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said += done.stderr
    assert "2 steps of" in said and "own/edit_image" in said
    export, shipped = tmp_path / "out" / "tuned" / "export", root / "src" / "codi2" / "weights" / "tiny"
    kept = {p.relative_to(shipped).parent for p in shipped.rglob("*.safetensors")}
    assert {p.relative_to(export).parent for p in export.rglob("*.safetensors")} == kept
    assert len(list((tmp_path / "out").glob("**/*.png"))) >= 2
