"""Where a model runs: options that mean the same everywhere, a virtual GPU, and what a bad placement ends in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner
from virtual_device import DeviceMismatch, virtual_gpu

from codi2 import cli
from codi2.cli.placement import OPTIONS
from codi2.errors import ConfigError, DeviceMemoryError
from codi2.media import load
from codi2.model import CoDi2
from codi2.placement import Placement, check, out_of_memory
from codi2.prompt.parts import Audio, Image, Part, Video

COMMANDS = ("generate", "chat", "evaluate", "gallery", "serve")
REQUESTS: list[tuple[str | tuple[str, ...] | None, str, str]] = [
    ("text", "Say what [image0] shows.", "tiger.png"),
    ("image", "Take [image0] and make it night.", "tiger.png"),
    ("audio", "Add rain to [audio0].", "crow.wav"),
    ("video", "Let [image0] move.", "tiger.png"),
    (("video", "audio"), "Show what sounds like [audio0].", "crow.wav"),
    (None, "Describe [video0].", "rabbit.webp"),
]


def ask(model: CoDi2, want, words: str, file: Path) -> list[Part]:
    parts = model.generate(words, load(file), want=want, seed=3, max_new_tokens=4, negative_prompt="grey").parts
    return list(parts)


def numbers(part: Part) -> np.ndarray:
    match part:
        case Image():
            return np.asarray(part.pixels) / 255
        case Video():
            return np.stack([np.asarray(frame) for frame in part.frames]) / 255
        case Audio():
            return part.samples
    return np.zeros(0)


def same_but_for_rounding(a: Part, b: Part) -> bool:
    """Equal to 1e-3. In pictures, one number of a thousand may be rounded to the adjacent one of 255 levels: on a GPU
    the prior reads padded rows, which changes the last bits of features."""
    difference = np.abs(numbers(a) - numbers(b))
    rounded = difference >= 1e-3
    if isinstance(a, Image | Video):
        return bool(difference.max() < 1.01 / 255 and rounded.sum() <= rounded.size // 1000)
    return not rounded.any()


# on a virtual GPU


@pytest.mark.parametrize(("dtype", "offload"), [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_replies_of_every_kind_run_on_a_gpu(media: Path, dtype: str, offload: bool):
    """Every tensor that an operation meets is on the GPU, of a dtype that fits; in fp32 the reply is the CPU's."""
    on_cpu = CoDi2.from_pretrained("debug")
    with virtual_gpu() as gpu:
        model = CoDi2.from_pretrained("debug", device="cuda", dtype=dtype, offload=offload)
        devices = {str(p.device) for p in (*model.decoders["image"].parameters(), *model.encoder.parameters())}
        assert devices == {"cpu"} if offload else devices == {"cuda:0"}
        for want, words, file in REQUESTS:
            before = gpu.count
            parts = ask(model, want, words, media / file)
            assert gpu.count - before > 1000
            if dtype == "float32":
                for part, expected in zip(parts, ask(on_cpu, want, words, media / file), strict=True):
                    assert part.modality == expected.modality
                    assert same_but_for_rounding(part, expected)


def test_a_conversation_is_kept_on_a_gpu_saved_and_opened(media: Path, tmp_path: Path):
    from codi2.chat import Chat

    with virtual_gpu():
        model = CoDi2.from_pretrained("debug", device="cuda")
        chat = Chat(model, max_new_tokens=2)
        chat.send("Take [image0] and make it night.", image0=load(media / "tiger.png"), want="image")
        chat.send("And now turn it.", want="image")
        chat.save(tmp_path / "talk")
        assert Chat.open(model, tmp_path / "talk").send("Again.", want="image").images


@pytest.mark.slow
def test_compiled_networks_draw_the_same(media: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a C++ compiler: what `torch.compile` captures is run as it is."""
    plain = ask(CoDi2.from_pretrained("debug"), "image", "Go on from [image0].", media / "tiger.png")
    captured = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        captured.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    model = CoDi2.from_pretrained("debug", compile=True)
    for part, expected in zip(ask(model, "image", "Go on from [image0].", media / "tiger.png"), plain, strict=True):
        assert np.abs(numbers(part) - numbers(expected)).max(initial=0) < 1e-2
    assert captured


PLANTS = {
    "a decoder": lambda model: _cpu(model.decoders["image"].unet),
    "a projection": lambda model: _cpu(model.mllm.input_projection),
    "the encoder": lambda model: _cpu(model.encoder),
    "the prior": lambda model: _cpu(model.prior),
    "the joint attention": lambda model: _cpu(model.joint),
    "the vocoder": lambda model: _cpu(model.decoders["audio"].codec.vocoder),
}


def _cpu(module: nn.Module) -> None:
    """Leaves the first parameter of a module behind."""
    parameter = next(module.parameters())
    parameter.data = parameter.data.cpu()


@pytest.mark.parametrize("plant", PLANTS)
def test_one_tensor_left_on_the_cpu_is_found(media: Path, plant: str):
    with virtual_gpu():
        model = CoDi2.from_pretrained("debug", device="cuda")
        PLANTS[plant](model)
        with pytest.raises(DeviceMismatch):
            ask(model, ("video", "image", "audio"), "Go on from [image0].", media / "tiger.png")


def test_one_tensor_of_another_dtype_is_found(media: Path):
    with virtual_gpu():
        model = CoDi2.from_pretrained("debug", device="cuda", dtype="bfloat16")
        model.decoders["image"].conditioner.float()
        with pytest.raises(RuntimeError, match=r"dtype|type"):
            ask(model, "image", "Go on from [image0].", media / "tiger.png")


# what the machine lacks


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement(device="gpu"), "'gpu'.*cpu, cuda, cuda:1 or mps"),
        (Placement(device="cuda:x"), "'cuda:x'"),
        (Placement(device="cuda:2"), "cuda:2.*cuda:0 to cuda:1; use one of these"),
        (Placement(dtype="float8"), "'float8'.*float32, bfloat16 or float16"),
        (Placement(bits=3), "3; expected 0"),  # type: ignore[arg-type]
        (Placement(device="cuda", dtype="bfloat16"), "bfloat16, which old GPU .* lacks; use float16"),
    ],
)
def test_a_placement_that_cannot_be_is_one_sentence(placement: Placement, message: str):
    with (
        virtual_gpu(2),
        mock.patch.object(torch.cuda, "get_device_capability", lambda *_: (7, 5)),
        mock.patch.object(torch.cuda, "get_device_name", lambda *_: "old GPU"),
    ):
        with pytest.raises(ConfigError, match=message):
            check(placement)
        check(Placement(device="cuda:1", dtype="float16"))


@pytest.fixture
def unloaded() -> Iterator[None]:
    """Loading a model fails."""
    with mock.patch.object(CoDi2, "from_pretrained", mock.Mock(side_effect=AssertionError("a model was loaded"))):
        yield


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_device_before_anything_is_loaded(command: str, unloaded: None, tmp_path: Path):
    words = {"generate": ["hi"], "evaluate": ["smoke"]}.get(command, [])
    with mock.patch.object(torch.cuda, "is_available", lambda: False):
        result = CliRunner().invoke(cli.app, [command, *words, "--device", "cuda:3"])
    assert result.exit_code == 2, result.output
    assert "'cuda:3'" in result.output and "use the device cpu" in result.output


def test_the_options_mean_one_placement_in_every_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    arguments = ["--device", "cuda:1", "--dtype", "bfloat16", "--bits", "4", "--compile", "--offload"]
    wanted = {"device": "cuda:1", "dtype": "bfloat16", "bits": 4, "compile": True, "offload": True}
    loaded: list[dict] = []

    class Loaded(Exception):
        pass

    def from_pretrained(name, on_demand=False, **placement):
        loaded.append(placement)
        raise Loaded

    monkeypatch.setattr(CoDi2, "from_pretrained", from_pretrained)
    monkeypatch.setenv("CODI2_HOME", str(tmp_path))
    monkeypatch.setattr("codi2.data.cache.corpus", lambda *_: None)  # which an evaluation asks for first
    with virtual_gpu(2):
        for command in COMMANDS:
            words = {"generate": ["hi"], "evaluate": ["smoke"]}.get(command, [])
            result = CliRunner().invoke(cli.app, [command, *words, *arguments])
            assert isinstance(result.exception, Loaded), (command, result.output)
    assert len(loaded) == len(COMMANDS)
    for placement in loaded:
        assert Placement(**placement) == Placement(**wanted)  # type: ignore[arg-type]


def test_the_group_is_of_fields_of_a_placement():
    assert set(OPTIONS) == set(inspect.signature(Placement).parameters) - {"device_map"}
    assert {name: default for name, (_, default) in OPTIONS.items()} == {
        name: getattr(Placement(), name) for name in OPTIONS
    }


# memory


@pytest.mark.parametrize("stage", ["read", "think", "diffuse"])
def test_full_memory_is_one_sentence_and_the_model_goes_on(stage: str, media: Path):
    model = CoDi2.from_pretrained("debug")
    parts = {"read": model.encoder, "think": model.mllm.backbone.model.base_model}
    part = parts.get(stage, model.decoders["image"].unet)
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    with (
        mock.patch.object(part, "forward", mock.Mock(side_effect=full)),
        pytest.raises(DeviceMemoryError, match=r"ran out while .*--dtype bfloat16, --bits 4 or --offload"),
    ):
        ask(model, "image", "Go on from [image0].", media / "tiger.png")
    assert ask(model, "image", "Go on from [image0].", media / "tiger.png")


def test_a_model_that_does_not_fit_is_one_sentence():
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with (
        virtual_gpu(),
        mock.patch("codi2.checkpoint.placing._move", full),
        pytest.raises(DeviceMemoryError, match=r"memory of cuda ran out while debug was loaded.*--offload"),
    ):
        CoDi2.from_pretrained("debug", device="cuda")


def test_other_faults_are_not_taken_for_full_memory():
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 must have the same dtype"))
    assert not out_of_memory(ValueError("out of memory"))
