"""What a disk does to a run: a damaged checkpoint is named and the one before resumed, nothing is half there, and two
runs do not share a folder."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from codi2.errors import OutputError, WeightsError
from codi2.folders import atomic_folder, filled_folder, locked
from codi2.train.checkpoint import SUMS, list_checkpoints, load_checkpoint, load_newest
from codi2.train.loop import train

from .test_loop import CONFIG, Line, weights

FILES = ("model.safetensors", "average.safetensors", "optimizer.pt", "state.json", SUMS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 30 steps with checkpoints at 10, 20 and 30."""
    train(Line(), CONFIG, tmp_path / "run")
    return tmp_path / "run"


def flip(path: Path, draw: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: flip(path, np.random.default_rng(0)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_resumed(
    name: str, damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = weights(run)
    DAMAGE[damage](list_checkpoints(run / "checkpoints")[-1] / name)
    capsys.readouterr()
    recipe = Line()
    train(recipe, CONFIG, run)
    assert recipe.steps == list(range(20, 30))
    assert all(torch.equal(weights(run)[key], truth[key]) for key in truth)
    said = capsys.readouterr().err.splitlines()[0]
    assert "step-0000030 is damaged: " in said and name in said and said.endswith("continues from step-0000020")
    assert len(list_checkpoints(run / "checkpoints")) == 3
    load_checkpoint(list_checkpoints(run / "checkpoints")[-1])  # it is whole again


def test_every_flipped_bit_is_found(run: Path) -> None:
    newest, draw = list_checkpoints(run / "checkpoints")[-1], np.random.default_rng(1)
    for n in range(200):
        file = newest / FILES[n % len(FILES)]
        whole = file.read_bytes()
        flip(file, draw)
        with pytest.raises(WeightsError, match=r"step-0000030 is damaged: .*"):
            load_checkpoint(newest)
        file.write_bytes(whole)
    load_checkpoint(newest)


def test_the_newest_whole_one_is_found_or_all_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = list_checkpoints(run / "checkpoints")
    for path in checkpoints[1:]:
        (path / "optimizer.pt").unlink()
    assert load_newest(checkpoints)[0] == checkpoints[0]
    assert "step-0000030 is damaged: optimizer.pt" in capsys.readouterr().err
    (checkpoints[0] / "state.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"step-0000030 is damaged: .*, and no earlier one is whole; delete"):
        train(Line(), CONFIG, run)


def test_a_checkpoint_of_before_the_sums_is_resumed(run: Path) -> None:
    for path in list_checkpoints(run / "checkpoints"):
        (path / SUMS).unlink()
        state = json.loads((path / "state.json").read_text())
        del state["format"]
        (path / "state.json").write_text(json.dumps(state))
    recipe = Line()
    train(recipe, replace(CONFIG, steps=40), run)
    assert recipe.steps == list(range(30, 40))


def test_the_sums_are_those_of_sha256sum(run: Path) -> None:
    for path in list_checkpoints(run / "checkpoints"):
        subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=path, check=True, capture_output=True)


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path, "a training run"),
        pytest.raises(OutputError, match=rf"is in use by a training run \(process {os.getpid()}\); wait for it, or"),
    ):
        train(Line(), CONFIG, tmp_path)
    train(Line(), CONFIG, tmp_path)
    assert not list(tmp_path.glob(".*"))


HOLDS = """
import sys, time
from pathlib import Path
from codi2.folders import locked
with locked(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_kill_lets_go_of_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"process {holder.pid}"), locked(tmp_path, "a test"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path, "a test"):
        pass


def test_only_one_of_many_gets_the_folder(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        holders = [
            subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(4)
        ]
        end = time.monotonic() + 60
        while sum(holder.poll() is None for holder in holders) > 1 and time.monotonic() < end:
            time.sleep(0.05)
        took.append(sum(holder.poll() is None for holder in holders))
        for holder in holders:
            holder.kill()
            holder.communicate()
    assert took == [1, 1, 1]


@pytest.mark.parametrize("write", ["torch", "safetensors", "python"])
def test_a_folder_on_a_full_disk_is_as_it_was(write: str, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "old").write_text("whole")
    values = {"w": torch.zeros(100_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        message = r"cannot write .*export: .*; free some space or choose another folder"
        with pytest.raises(OutputError, match=message), atomic_folder(tmp_path / "export") as aside:
            (aside / "first").write_text("written")
            if write == "torch":
                torch.save(values, aside / "w.pt")
            elif write == "safetensors":
                save_file(values, aside / "w.safetensors")
            else:
                (aside / "w.bin").write_bytes(bytes(400_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "old"]


def test_an_export_replaces_the_one_before(tmp_path: Path) -> None:
    for content in ("a", "b"):
        with atomic_folder(tmp_path / "export") as aside:
            (aside / content).write_text(content)
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["b"]


def test_a_model_is_saved_beside_other_files_and_its_config_comes_last(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "old.safetensors").write_text("old")
    (folder / "README.md").write_text("mine")
    (folder / "config.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), filled_folder(folder, "config.json") as aside:
        (aside / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "config.json").read_text() == "old" and not list(folder.glob(".*"))
    with filled_folder(folder, "config.json") as aside:
        (aside / "adapter").mkdir()
        (aside / "adapter" / "new.safetensors").write_text("new")
        (aside / "config.json").write_text("new")
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {"adapter/new.safetensors": "new", "README.md": "mine", "config.json": "new"}


def test_a_model_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "from codi2 import CoDi2\nfrom codi2.errors import OutputError\n"
        "try: CoDi2.from_pretrained('debug').save_pretrained(sys.argv[1])\n"
        "except OutputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True)
    assert done.returncode == 0 and "cannot write" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
