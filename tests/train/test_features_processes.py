"""Features encoded by several processes, on Ray, and after kills: the store is the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from codi2.processes import ALONE
from codi2.train.features.encode import encode_set
from codi2.train.features.store import FeatureStore

from .stores import encoding, names_in, pieces_of


@pytest.fixture
def data(task_set: Path) -> Path:
    return task_set


def command(data: Path, out: Path, *options: str) -> list[str]:
    return ["-m", "codi2", "data", "encode", str(data), "--model", "debug", "--out", str(out), *options]


def run_in(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(start, capture_output=True, text=True, env=env, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


@pytest.mark.slow
def test_launched_processes_make_the_store_that_one_makes(data: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        done = run_in(count, *command(data, tmp_path / str(count), "--workers", "1"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The features are in") == 1
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert FeatureStore(tmp_path / "2").read(*next((n, p.modality) for n, p in pieces_of(data).items())) is not None


@pytest.mark.slow
def test_ray_makes_the_store_that_one_process_makes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    encode_set(encoding(data, out=tmp_path / "one"), ALONE, print_line=lambda _: None)
    done = run_in(1, *command(data, tmp_path / "ray", "--ray", "local"))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


@pytest.mark.slow
def test_a_killed_run_continues_where_it_stopped(data: Path, tmp_path: Path) -> None:
    """Kills at random moments, most of them while shards are written; no finished shard is written again."""
    whole = encoding(data, out=tmp_path / "whole")
    encode_set(whole, ALONE, print_line=lambda _: None)
    slow = (
        "import time, sys; from codi2.train.features import worker, index, makers; index.SHARD_BYTES = 2000\n"
        "make = makers.FeatureMaker.make\n"
        "def slowly(*a): time.sleep(0.01); return make(*a)\n"
        "makers.FeatureMaker.make = slowly\n"
        "from codi2.cli import main; main()"
    )
    start = [sys.executable, "-c", slow, *command(data, tmp_path / "cut", "--workers", "1")[2:]]
    env, draw = os.environ | {"OMP_NUM_THREADS": "1"}, random.Random(0)
    written: dict[Path, float] = {}
    shards = tmp_path / "cut" / "shards"
    for _ in range(4):
        run = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
        more = len(written) + draw.randint(1, 3)
        while run.poll() is None and len(list(shards.glob("[!.]*"))) < more:
            time.sleep(0.002)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(timeout=60)
        assert not (tmp_path / "cut" / "features.json").exists()
        now = {path: path.stat().st_mtime_ns for path in shards.glob("[!.]*")}
        assert written.items() <= now.items() and len(now) >= more - 1
        written = now
    assert len(written) >= 4
    done = subprocess.run(start, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert written.items() <= {path: path.stat().st_mtime_ns for path in shards.iterdir()}.items()
    assert not list(shards.glob(".*")) and sorted(names_in(tmp_path / "cut")) == sorted(names_in(whole.folder))
    for name, piece in pieces_of(data).items():
        one, other = (FeatureStore(folder).read(name, piece.modality) for folder in (tmp_path / "cut", whole.folder))
        assert torch.equal(one, other)
