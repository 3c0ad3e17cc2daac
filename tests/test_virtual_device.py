"""The virtual GPU refuses what a GPU refuses, and computes what the CPU computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from virtual_device import DeviceMismatch, virtual_gpu


def test_a_training_step_there_equals_one_on_the_cpu():
    def step(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        loss = net(torch.randn(3, 8).to(device)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return [parameter.detach().cpu() for parameter in net.parameters()]

    with virtual_gpu() as gpu:
        there = step("cuda")
        assert gpu.count > 50
    assert all(map(torch.equal, there, step("cpu")))


@pytest.mark.parametrize(
    "fault",
    [
        lambda gpu: gpu + torch.ones(3),
        lambda gpu: nn.Linear(3, 3)(gpu),
        lambda gpu: torch.cat([gpu, torch.ones(1, 3)]),
        lambda gpu: torch.where(torch.ones(2, 3, dtype=torch.bool), gpu, gpu),
        lambda gpu: gpu.index_put((torch.tensor([0]),), torch.ones(1, 3)),
        lambda gpu: gpu.add_(torch.ones(2, 3)),
    ],
)
def test_tensors_of_two_devices_do_not_mix(fault):
    with virtual_gpu(), pytest.raises(DeviceMismatch, match=r"on cuda:0.*on cpu|on cpu.*on cuda:0"):
        fault(torch.ones(2, 3, device="cuda"))


def test_two_gpus_do_not_mix_either():
    with virtual_gpu(2), pytest.raises(DeviceMismatch, match="cuda:1"):
        torch.ones(3, device="cuda:0") + torch.ones(3).to("cuda:1")


def test_a_clash_of_dtypes_raises():
    with virtual_gpu(), pytest.raises(RuntimeError, match="dtype"):
        nn.Linear(3, 3).to("cuda", torch.bfloat16)(torch.ones(2, 3, device="cuda"))


def test_numbers_leave_it_only_by_the_cpu():
    with virtual_gpu():
        there = torch.arange(3, device="cuda")
        for look in (torch.Tensor.numpy, np.asarray):
            with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
                look(there)
        assert (there.cpu().numpy() == [0, 1, 2]).all() and there.cpu().device.type == "cpu"
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device="cuda", generator=torch.Generator())


def test_what_a_gpu_allows_is_allowed():
    with virtual_gpu():
        there = torch.randn(4, 3, device="cuda")
        tensors = [
            there * torch.tensor(2.0),  # a number may be on the CPU
            there[torch.tensor([1, 2])],  # and so may indices
            there.new_zeros(2),
            there.new_tensor([1.0]),
            torch.zeros_like(there),
            torch.tensor([1.0], device=there.device),
            torch.ones(3).to(there),
            there.view(-1)[2:5],
            torch.stft(there.flatten(), 8, window=torch.hann_window(8, device="cuda"), return_complex=True),
        ]
        assert {str(tensor.device) for tensor in tensors} == {"cuda:0"}


def test_waiting_for_it_is_counted():
    with virtual_gpu() as gpu:
        there = torch.ones(3, device="cuda")
        there * 2
        assert not gpu.waits
        there.sum().item(), float(there[0]), bool(there.any()), there.tolist(), there.cpu()
        assert gpu.waits == {"item": 3, "tolist": 1, "to cpu": 1}
        torch.ones(3).tolist(), torch.ones(1).item(), torch.ones(3).to("cpu")
        assert sum(gpu.waits.values()) == 5


def test_autocast_acts_on_it():
    with virtual_gpu():
        net = nn.Linear(3, 3).to("cuda")
        with torch.autocast("cuda", torch.bfloat16):
            assert net(torch.ones(2, 3, device="cuda")).dtype == torch.bfloat16


def test_outside_of_the_block_nothing_has_changed():
    with virtual_gpu():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert torch.ones(2).device.type == "cpu" and torch.autocast("cpu").device == "cpu"
    if not torch.version.cuda:
        with pytest.raises((AssertionError, NotImplementedError), match="CUDA"):
            torch.ones(2, device="cuda")
