"""Two processes, or a batch in several passes, give the curve of one process and one pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
diffusion_items = 2
lookahead = 4
phases = {{ text = 0.3, image = 0.4, audio = 0.3 }}
[options.data]
"{data}" = 1
[options.held_out]
"{data}" = 1
"""


def curve(command: list[str], home: Path) -> list[float]:
    """The losses that a run prints, step by step."""
    env = os.environ | {"CODI2_HOME": str(home), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    found = dict(re.findall(r"^training \w+ (\d+)/20 loss ([\d.]+)", run.stderr, re.MULTILINE))
    assert len(found) == 20, run.stderr[-3000:]
    return [float(loss) for loss in found.values()]


@pytest.mark.slow
def test_two_processes_and_two_passes_give_the_curve_of_one(task_set: Path, rich_home: Path, tmp_path: Path) -> None:
    def command(name: str, accumulate: int) -> list[str]:
        config = tmp_path / f"{name}.toml"
        config.write_text(LLM.format(accumulate=accumulate, data=task_set))
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


def sharded(rank: int, world: int, port: int, data: str, out: str) -> None:
    """Five steps of one of `world` processes over which the language model's weights are cut up."""
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor

    from codi2.train.config import TrainConfig
    from codi2.train.loop import _Loss
    from codi2.train.parts import llm
    from codi2.train.shares import Share, weigh

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    distributed.init_process_group("gloo", rank=rank, world_size=world)
    options = {"model": "debug", "data": {data: 1.0}, "held_out": {data: 1.0}, "diffusion_share": 0.0}
    recipe = llm.build(TrainConfig("llm", 5, 4, 1e-3, options=options))
    model = _Loss(recipe)
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for layer in recipe.mllm.backbone.model.base_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert isinstance(model, FSDPModule)
        assert all(isinstance(p, DTensor) for p in model.parameters())

    def total(values: torch.Tensor) -> torch.Tensor:
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(5):
        batch = recipe.batch(step, Share(rank, world))
        weigh([batch], torch.device("cpu"), world, total)
        loss = model(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total(loss.detach())) / world)
    if rank == 0:
        (Path(out) / f"{world}.txt").write_text(" ".join(map(str, losses)))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_weights_cut_up_over_two_processes_give_the_curve_of_one(
    task_set: Path, rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2's `fully_shard` over a mesh of CPUs, without accelerate, which may fall back to copies there."""
    import socket
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    monkeypatch.setenv("CODI2_HOME", str(rich_home))
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with ProcessPoolExecutor(world, mp_context=get_context("spawn")) as pool:
            runs = [pool.submit(sharded, rank, world, port, str(task_set), str(tmp_path)) for rank in range(world)]
            [run.result(timeout=200) for run in runs]
    one, two = ([float(x) for x in (tmp_path / f"{world}.txt").read_text().split()] for world in (1, 2))
    assert two == pytest.approx(one, abs=1e-4) and len(set(one)) == 5


def accelerated(rank: int, world: int, port: int, config: str, out: str, steps: int) -> None:
    """A run of one of `world` processes as `accelerate launch --use_fsdp --fsdp_version 2` would start it."""
    import torch
    from accelerate import state
    from accelerate.utils import DistributedType
    from torch.distributed.tensor import DTensor

    from codi2.train import loop, run

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    if world > 1:
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
        os.environ |= {
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
        }
        plain = state.AcceleratorState.__init__

        def sharding(self: state.AcceleratorState, *args: object, fsdp_plugin: object = None, **named: object) -> None:
            """accelerate shards on accelerators only: here its own code does so on processors."""
            plain(self, *args, fsdp_plugin=fsdp_plugin, **named)  # type: ignore[arg-type]
            if fsdp_plugin is not None:
                self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

        state.AcceleratorState.__init__ = sharding  # type: ignore[method-assign]
        kept = loop.save_checkpoint

        def checked(folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], *rest: object) -> Path:
            assert not any(isinstance(t, DTensor) for part in tensors.values() for t in part.values())
            return kept(folder, step, tensors, *rest)  # type: ignore[arg-type]

        loop.save_checkpoint = checked  # type: ignore[assignment]
        dissolved = loop.unshard_for_good

        def dissolve(model: torch.nn.Module) -> None:
            assert all(isinstance(p, DTensor) for p in model.parameters())
            dissolved(model)

        loop.unshard_for_good = dissolve
    run(Path(config), Path(out), steps=steps)


@pytest.mark.slow
def test_a_sharded_run_of_accelerate_is_that_of_one_process_and_either_resumes_the_other(
    task_set: Path, rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from safetensors.torch import load_file

    monkeypatch.setenv("CODI2_HOME", str(rich_home))
    config = tmp_path / "run.toml"
    text = LLM.format(accumulate=1, data=task_set).replace("save_every = 20", "save_every = 4")
    text = text.replace("diffusion_share = 0.5", "diffusion_share = 1.0")  # the same steps of a shorter run
    config.write_text(text.replace("warmup_steps = 2", "warmup_steps = 2\nema_decay = 0.9"))

    def go(world: int, out: str, steps: int) -> dict[str, object]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with ProcessPoolExecutor(world, mp_context=get_context("spawn")) as pool:
            args = (world, port, str(config), str(tmp_path / out), steps)
            runs = [pool.submit(accelerated, rank, *args) for rank in range(world)]
            [run.result(timeout=300) for run in runs]
        last = tmp_path / out / "checkpoints" / f"step-{steps:07d}"
        return {name: load_file(last / f"{name}.safetensors") for name in ("model", "average")}

    one = go(1, "one", 8)
    go(2, "two", 4)
    for first, then in (("two", 2), ("one-after-two", 1)):
        if first != "two":
            shutil.copytree(tmp_path / "two", tmp_path / first)
            shutil.rmtree(tmp_path / first / "checkpoints" / "step-0000008")
        resumed = go(then, first, 8)
        for part, tensors in one.items():
            for name, value in tensors.items():  # type: ignore[attr-defined]
                torch_close(resumed[part][name], value)  # type: ignore[index]
    assert (tmp_path / "two" / "export" / "heads.safetensors").is_file()


def torch_close(ours: object, theirs: object) -> None:
    import torch

    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
