"""Seconds and memory of single replies, as a user sees them."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from codi2.errors import WeightsError
from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Figure, Findings, known, mean
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Prompt, Text

ASKS = {"image": ("Draw a strawberry.", 3.0), "audio": ("Make the sound of a bell.", 4.0)}
"""Modality → prompt, and the seconds that a reply may take on two cores."""
STAGES = ("encode", "think", "diffuse")


def cost(bench: Bench, n: int) -> Findings:
    """Seconds of a picture and of a sound once the model is warm, by stage; peak memory; seconds of `--help`.

    Runs before the other sections: peak memory is the process's, and theirs is not a user's.
    """
    figures: list[Figure] = []
    for modality, (words, limit) in ASKS.items():
        if modality in bench.model.decoders:
            figures += _seconds(bench, modality, (Text(words),), limit, bench.count(n))
    if not figures:
        raise WeightsError(f"the model {bench.model.config.name!r} has no decoder to measure")
    memory = known("peak memory of the process", peak_gigabytes(), n=1, unit="GB")
    started = mean("codi2 --help", [_help_seconds() for _ in range(3)], unit="s")
    return Findings([
        *figures,
        memory.judged("≤ 2.5 GB", memory.value <= 2.5),
        started.judged("≤ 0.5 s", started.value <= 0.5),
    ])  # fmt: skip


def peak_gigabytes() -> float:
    """Largest resident set of this process so far, in units of 1e9 bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # macOS counts bytes, Linux kibibytes


def _seconds(bench: Bench, modality: str, prompt: Prompt, limit: float, n: int) -> list[Figure]:
    whole, stages = [], []
    for i in range(n + 1):
        began = time.perf_counter()
        reply = bench.model.answer([[Message("user", prompt)]], [Options(want=modality, seed=i)])[0]
        whole.append(time.perf_counter() - began)
        stages.append([reply.recipe["seconds"][stage] for stage in STAGES])
    # the first reply warms up
    total = mean(f"{modality}: whole reply", whole[1:], unit="s")
    shares = np.array(stages[1:]) / np.maximum(np.sum(stages[1:], axis=1, keepdims=True), 1e-9)
    parts = [mean(f"{modality}: share of {stage}", share) for stage, share in zip(STAGES, shares.T, strict=True)]
    return [total.judged(f"≤ {limit:g} s on two cores", total.value <= limit), *parts]


def _help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "codi2", "--help"], check=True, capture_output=True)
    return time.perf_counter() - began
