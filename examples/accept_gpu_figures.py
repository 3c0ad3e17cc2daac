"""The measurements of accept_gpu.py: differences between GPU and CPU, and replies a second."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codi2.diffuse.sampling import SampleOptions
from codi2.evaluate.context import EvalContext
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text

BATCH, TOKENS, STEPS = 8, 64, 4  # replies at once; of a text; denoising steps where outputs are compared
PEAKS = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "3090": 71e12, "V100": 125e12,
    "T4": 65e12,
}  # fmt: skip
"""Dense half-precision operations a second, by a part of the card's name; PEAK_TFLOPS in the environment goes first."""


@torch.no_grad()
def differences(name: str, device: str) -> dict[str, float]:
    """Largest difference between the GPU's fp32 outputs and the CPU's, over the CPU's largest number, by stage.

    Each stage starts from the CPU's outputs of the stage before. The GPU computes in whole fp32 here, not in TF32.
    """
    largest: dict[str, float] = {}
    with whole_precision():
        cpu, gpu = CoDi2.from_pretrained(name), CoDi2.from_pretrained(name, device=device)
        for modality in cpu.decoders:
            prompts = [(Text(f"Make a {modality} of a bell."),)]
            features = EvalContext(cpu).predict(prompts, modality)
            largest[f"{modality}: features"] = apart(features, EvalContext(gpu).predict(prompts, modality))
            ours, theirs = cpu.decoders[modality], gpu.decoders[modality]
            latents = ours.generate_latents(features, [1], SampleOptions(num_inference_steps=STEPS))
            drawn = theirs.generate_latents(features.to(device), [1], SampleOptions(num_inference_steps=STEPS))
            largest[f"{modality}: latents"] = apart(latents, drawn)
            largest[f"{modality}: decoded"] = apart(ours.codec.decode(latents), theirs.codec.decode(latents.to(device)))
    return largest


def apart(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.float().cpu(), theirs.float().cpu()
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))


@contextmanager
def whole_precision() -> Any:
    """While it lasts, matrix products and convolutions of fp32 numbers are not rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def speed(model: CoDi2, card: str) -> dict[str, Any]:
    """Tokens, pictures, sounds and clips a second in batches of BATCH, and the operations a second that this takes."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    figures: dict[str, Any] = {"batch": BATCH}
    for want, unit in {"text": "tokens", "image": "pictures", "audio": "sounds", "video": "clips"}.items():
        if want != "text" and want not in model.decoders:
            continue
        with FlopCounterMode(display=False) as counter:  # it slows the work down, and warms it up
            count = replies(model, want)
        began = time.perf_counter()
        replies(model, want)
        seconds = time.perf_counter() - began
        figures[f"{unit} a second"] = round(count / seconds, 2)
        operations = counter.get_total_flops() / seconds
        figures[f"{unit}: TFLOP a second"] = float(f"{operations / 1e12:.3g}")
        if (peak := peak_of(card)) and model.device.type == "cuda":
            figures[f"{unit}: model FLOPs utilisation"] = float(f"{operations / peak:.3g}")
    if model.device.type == "cuda":
        figures["peak memory, GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        if not peak_of(card):
            figures["model FLOPs utilisation"] = f"not measured: PEAK_TFLOPS of {card} is not known; set it"
    else:
        figures["model FLOPs utilisation"] = figures["peak memory, GB"] = "not measured: no GPU"
    return figures


def replies(model: CoDi2, want: str) -> int:
    """Answers BATCH prompts at once; the number of tokens or media in the replies."""
    conversations = [[Message("user", (Text(f"Tell me of bells, number {i}."),))] for i in range(BATCH)]
    options = [Options(want=want, seed=i, max_new_tokens=TOKENS if want == "text" else 0) for i in range(BATCH)]
    answers = model.answer(conversations, options)
    if want == "text":
        return sum(len(part.ids) for reply in answers for part in reply.parts if isinstance(part, Text))
    return sum(part.modality == want for reply in answers for part in reply.parts)


def peak_of(card: str) -> float:
    """Dense operations a second at best; 0: unknown."""
    configured = os.environ.get("PEAK_TFLOPS")
    return float(configured) * 1e12 if configured else next((peak for name, peak in PEAKS.items() if name in card), 0.0)
