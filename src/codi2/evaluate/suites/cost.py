"""`cost`: seconds and memory of single replies."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from codi2.errors import WeightsError
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure, Findings, known, mean
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Part, Prompt, Text

REQUESTS = {
    "picture": ("Draw a strawberry.", ("image",), 3.0),
    "sound": ("Make the sound of a bell.", ("audio",), 4.0),
    "clip": ("Make a clip of a rooster.", ("video",), 12.0),
    "clip with its sound": ("Make a clip of a rooster, with its sound.", ("video", "audio"), 20.0),
}
"""Reply → prompt, modalities, and the seconds that it may take on two cores."""
NUMBER = 5  # replies of each kind
TOGETHER = 1.2  # times as long as one by one, in the same number of steps
STAGES = ("read", "write", "decode")


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Seconds of a reply of each kind once the model is warm, by stage; peak memory; seconds of `--help`."""
    figures: list[Figure] = []
    for name, (words, want, limit) in REQUESTS.items():
        if set(want) <= context.model.decoders.keys():
            figures += _seconds(context, name, (Text(words),), want, limit, context.count(NUMBER))
    if not figures:
        raise WeightsError(f"the model {context.model.config.name!r} has no decoder to measure")
    if context.model.joint is not None and {"video", "audio"} <= context.model.decoders.keys():
        figures.append(_together(context, context.count(NUMBER)))
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


def _seconds(
    context: EvalContext, name: str, prompt: Prompt, want: tuple[str, ...], limit: float, n: int
) -> list[Figure]:
    whole, stages = [], []
    for i in range(n + 1):
        began = time.perf_counter()
        reply = context.model.answer([[Message("user", prompt)]], [Options(want=want, seed=i, max_new_tokens=1)])[0]
        whole.append(time.perf_counter() - began)
        stages.append([reply.recipe["seconds"][stage] for stage in STAGES])
    # the first reply warms up
    total = mean(f"{name}: whole reply", whole[1:], unit="s")
    shares = np.array(stages[1:]) / np.maximum(np.sum(stages[1:], axis=1, keepdims=True), 1e-9)
    parts = [mean(f"{name}: share of {stage}", share) for stage, share in zip(STAGES, shares.T, strict=True)]
    return [total.judged(f"≤ {limit:g} s on two cores", total.value <= limit), *parts]


def _together(context: EvalContext, n: int) -> Figure:
    """Seconds of drawing a clip and its sound together, over those of drawing one after the other."""
    assert context.model.config.joint is not None
    words, want, _ = REQUESTS["clip with its sound"]
    ratios = []
    for i in range(n + 1):
        seconds = {}
        for kinds in (want, *((kind,) for kind in want)):
            options = Options(
                want=kinds, seed=i, max_new_tokens=1, num_inference_steps=context.model.config.joint.num_inference_steps
            )
            reply = context.model.answer([[Message("user", (Text(words),))]], [options])[0]
            seconds[kinds] = reply.recipe["seconds"]["decode"]
        ratios.append(seconds.pop(want) / sum(seconds.values()))
    ratio = mean("together: seconds of drawing, over those of one by one", ratios[1:])
    return ratio.judged(f"≤ {TOGETHER:g}", ratio.value <= TOGETHER)


def _help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "codi2", "--help"], check=True, capture_output=True)
    return time.perf_counter() - began
