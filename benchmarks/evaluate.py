"""Where scoring spends its time, and what batches bring to generation at equal output.

Prints the share of scoring that is inside the judging networks, outputs on disk being read included, and for each batch
size the time of one at a time over that of the batch, with the largest difference of a predicted feature.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codi2.evaluate import context as context_module
from codi2.evaluate.case import Case, Outputs
from codi2.evaluate.context import EvalContext
from codi2.evaluate.suites import CORPUS_SUITES
from codi2.model import CoDi2

SCORED = ("rounds", "audio-edit", "subject")
BATCHES, PROMPTS, ROUNDS = (2, 4, 8, 16), 16, 3


class Watch:
    """Seconds inside networks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def over(self, *networks: nn.Module) -> Iterator[None]:
        began: list[float] = []
        hooks = []
        for network in networks:
            hooks.append(network.register_forward_pre_hook(lambda *_: began.append(time.perf_counter())))
            hooks.append(network.register_forward_hook(lambda *_: self._add(began.pop())))
        yield
        for hook in hooks:
            hook.remove()

    def _add(self, began: float) -> None:
        self.seconds += time.perf_counter() - began


def scoring(context: EvalContext, name: str) -> float:
    """The share of a suite's scoring that its networks take; every system answers with a copy of its source."""
    suite = CORPUS_SUITES[name]
    cases = suite.cases(context)
    with tempfile.TemporaryDirectory() as folder:
        outputs = Outputs(Path(folder))
        for system in suite.systems:
            for case in cases:
                outputs.save(system, case, case.truth["source"], {})
        _ = context.centre
        judge = context.sound_judge
        watch, began = Watch(), time.perf_counter()
        with watch.over(context.judge.net, judge.trunk, judge.classifier):
            suite.score(context, cases, {system: outputs.load_all(system, cases) for system in suite.systems})
        return watch.seconds / (time.perf_counter() - began)


def batching(context: EvalContext, cases: list[Case], modality: str) -> None:
    prompts = [case.prompt for case in cases]

    def predict(size: int) -> torch.Tensor:
        context_module.BATCH = size
        return context.predict(prompts, modality)

    def decode(size: int) -> Any:
        context_module.BATCH = size
        return context.decode(features, prompts, modality)

    features = predict(1)
    for size in BATCHES:
        difference = float((predict(size) - features).abs().max())
        gains = [f"{name} {gain(work, size):.2f}" for name, work in (("predicting", predict), ("decoding", decode))]
        print(f"{modality}, batch of {size}: {', '.join(gains)} × one at a time; features differ by {difference:.1e}")


def gain(work: Callable[[int], object], size: int) -> float:
    """How many times faster batches are than one at a time: medians of turns."""
    seconds: dict[int, list[float]] = {1: [], size: []}
    for _ in range(ROUNDS):
        for batch, kept in seconds.items():
            began = time.perf_counter()
            work(batch)
            kept.append(time.perf_counter() - began)
    return statistics.median(seconds[1]) / statistics.median(seconds[size])


def main() -> None:
    context = EvalContext(CoDi2.from_pretrained("tiny"))
    for name in SCORED:
        print(f"scoring of {name}: {scoring(context, name):.0%} inside the networks")
    for name, modality in (("edits", "image"), ("audio-edit", "audio")):
        cases = [case for case in CORPUS_SUITES[name].cases(context) if case.want == modality]
        batching(context, cases[:: max(1, len(cases) // PROMPTS)][:PROMPTS], modality)


if __name__ == "__main__":
    main()
