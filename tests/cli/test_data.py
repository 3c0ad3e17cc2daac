"""`codi2 data` as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_the_builders_are_listed(cli: Cli):
    run = cli("data", "list")
    assert run.returncode == 0
    for name in ("mimic-it", "laion", "audioset", "webvid", "open-images", "alpaca", "folder", "jsonl", "tasks"):
        assert f"\n{name}\n" in "\n" + run.stdout
    assert "--set  rate=0.3" in run.stdout


def test_own_pictures_become_a_set(cli: Cli, media: Path, tmp_path: Path):
    pictures = sorted(media.glob("*.png"))[:3]
    for path in pictures:
        shutil.copy(path, tmp_path)
    lines = [{"file_name": path.name, "text": path.stem.replace("-", " ")} for path in pictures]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = cli("data", "build", "jsonl", "--source", "mine.jsonl", "--out", "sets/mine", "--set", "licence=MIT")
    assert run.returncode == 0, run.stderr
    assert "6 records of 3 entries are in sets/mine." in run.stdout and "image_from_caption" in run.stdout
    assert json.loads((tmp_path / "sets" / "mine" / "build.json").read_text())["licences"] == {"MIT": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "coco"), "there is no builder 'coco'; there are mimic-it, laion"),
        (("build", "laion"), "laion needs --source, its official files, and --out"),
        (("build", "laion", "--source", "nowhere", "--out", "o"), "nowhere is not a folder; name the --output_folder"),
        (("build", "alpaca", "--source", "nowhere", "--out", "o"), "there is no "),
        (("build", "alpaca", "--source", ".", "--out", "o", "--set", "rate"), "--set takes KEY=VALUE, not 'rate'"),
        (("show", "nowhere"), "nowhere is not a data set"),
        (("fetch", "laion"), "'laion' cannot be fetched, only tiny"),
        (("build", "tasks"), "run `codi2 data fetch tiny && codi2 data build tiny`"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[str, ...], message: str, cli: Cli, tmp_path: Path):
    run = cli("data", *arguments, CODI2_HOME=tmp_path / "home")
    assert run.returncode == 2 and message in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert not list(tmp_path.iterdir()), "no empty folder is left"
