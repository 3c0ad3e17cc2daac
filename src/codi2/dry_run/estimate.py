"""Estimates of memory and time for `paper` on a GPU, computed and not measured.

Memory is the peak: weights at their precision and, for training, trained parameters with Adam's two moments, their
gradients, and the activations for the backward pass (one hidden state a layer with gradient checkpointing). Time is
operations divided by a GPU's speed in practice, a fixed fraction of its peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 1e9
UTILISATION = 0.4  # fraction of the peak that large matrix products reach in practice
BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.56}  # of a weight; 4-bit blocks have scales
# the other components stay in half precision: bitsandbytes is for linear maps of language models
QUANTISED = ("llama-2-7b-chat",)
RUNTIME_GB = 1.5  # of a process: kernels, allocator


@dataclass(frozen=True)
class GPU:
    name: str
    memory_gb: float
    peak: float  # dense bf16 operations a second


GPUS = (GPU("RTX 4090, 24 GB", 24, 165e12), GPU("A100, 40 GB", 40, 312e12), GPU("H100, 80 GB", 80, 989e12))


@dataclass(frozen=True)
class Language:
    """Sizes of the language model that training depends on."""

    layers: int = 32
    width: int = 4096
    hidden: int = 11_008
    vocabulary: int = 32_000
    rank: int = 128

    @property
    def lora(self) -> int:
        """Parameters of LoRA: rank × (in + out) of q, k, v, o and of the three maps of the MLP."""
        return self.layers * self.rank * (4 * 2 * self.width + 3 * (self.width + self.hidden))


@dataclass(frozen=True)
class Estimate:
    gpu: str
    precision: str
    what: str  # training or generation
    memory_gb: float
    seconds: float  # of a training step, or of a whole picture
    fits: bool


def estimates(
    parameters: Mapping[str, int], operations: Mapping[str, float], tokens: int = 512, batch_size: int = 1
) -> list[Estimate]:
    """For each GPU and precision: a training step of the image phase and the generation of one picture.

    Args:
        parameters, operations: of the components by name, operations of one call at batch size 1.
        tokens: of a training sequence, and of a prompt with its reply.
    """
    language = Language()
    rows = []
    for gpu in GPUS:
        for precision in BYTES:
            for what in ("training step", "picture"):
                training = what == "training step"
                memory = _weights(parameters, precision) + RUNTIME_GB
                memory += _training(language, tokens, batch_size) if training else _cache(language, tokens)
                work = (
                    _step(parameters, operations, tokens * batch_size)
                    if training
                    else _picture(parameters, operations, tokens)
                )
                seconds = work / (gpu.peak * UTILISATION)
                rows.append(Estimate(gpu.name, precision, what, memory, seconds, memory <= gpu.memory_gb))
    return rows


RESIDENT = ("imagebind", "llama-2-7b-chat", "unclip-unet", "clip-text", "picture-vae")
"""Components of a training step or a generation of pictures. Those of sounds and clips are loaded in their place."""


def _weights(parameters: Mapping[str, int], precision: str) -> float:
    sizes = (parameters[n] * BYTES[precision if n in QUANTISED else "bf16"] for n in RESIDENT)
    return sum(sizes) / GB


def _training(language: Language, tokens: int, batch_size: int) -> float:
    trained = language.lora + 2 * (1024 * 4096 + 4096 * language.width)  # LoRA and both projections
    states = trained * 16  # fp32: parameter, gradient, two moments
    positions = batch_size * tokens
    checkpoints = language.layers * positions * language.width * 2  # one bf16 hidden state a layer
    one_layer = positions * (4 * language.hidden + 12 * language.width) * 2  # activations of the recomputed layer
    logits = positions * language.vocabulary * (2 + 4)  # and their softmax in fp32
    network = batch_size * 4.0 * GB  # assumed: activations of the image network at 768 pixels, checkpointed
    return (states + checkpoints + one_layer + logits + network) / GB


def _cache(language: Language, tokens: int) -> float:
    keys = 2 * language.layers * tokens * language.width * 2
    return (keys + 1.5 * GB) / GB  # assumed: activations of the image network and its codec


def _step(parameters: Mapping[str, int], operations: Mapping[str, float], positions: int) -> float:
    """Operations of two forward passes (checkpointing) and of the gradients of activations; weights are frozen."""
    language = 2.0 * parameters["llama-2-7b-chat"] * positions * 3
    return language + operations["imagebind"] * 4 + operations["unclip-unet"] * 3


def _picture(parameters: Mapping[str, int], operations: Mapping[str, float], positions: int) -> float:
    from codi2.dry_run.parts import BY_NAME

    steps = BY_NAME["unclip-unet"].calls
    return (
        2.0 * parameters["llama-2-7b-chat"] * positions
        + operations["imagebind"] * 4
        + operations["unclip-unet"] * steps
    )
