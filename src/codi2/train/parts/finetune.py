"""Fine-tunes a trained model on a user's records: LoRA, the rows of the new tokens and the projections.

A model that is tuned on the user's records alone forgets the others. So most samples replay records of the earlier
training (experience replay, arXiv:1811.11682), two thirds of these with the tasks of the user's records. An eighth of
each set is held out and validated: `own/…` shows whether the user's records are learned, `earlier/…` whether the
earlier tasks are kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from codi2.checkpoint import locate
from codi2.data.find import find_set
from codi2.data.held_out import by_task, hold_out
from codi2.data.mixture import MixturePart
from codi2.errors import ConfigError
from codi2.progress import tracked
from codi2.tensors import device_of
from codi2.train.config import TrainConfig, options_of
from codi2.train.examples import ExampleSet, TrainingExample, encodings_for, read_stores
from codi2.train.parts.llm import VALIDATED, LLMOptions, LLMRecipe, held_out_by_task
from codi2.train.place import moved
from codi2.train.shares import Share

SHIPPED = Path(__file__).parents[2] / "data" / "replay"  # made by examples/replay_set.py
ALIKE = 2 / 3  # share of the replayed samples that have the user's tasks
RARE = 0.005  # share of all samples below which a user's task is ignored
BATCH = 16  # media that are encoded at a time
TIMED = 3  # passes from which the duration is computed, after one more


@dataclass(frozen=True)
class FinetuneOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set of the user → share of the user's samples
    replay: dict[str, float] = field(default_factory=dict)  # the same, of earlier records; empty: the shipped set
    replay_share: float = 0.75  # of all samples
    held_out_share: float = 0.125  # of the entries of each task, in the user's sets and in the earlier ones
    diffusion_share: float = 0.0  # this and the next four: as in the part `llm`
    diffusion_items: int = 4
    lookahead: int = 4
    kept_texts: int = 0
    gradient_checkpointing: bool = False
    model: str = "tiny"  # preset or folder that is tuned

    def as_language(self) -> LLMOptions:
        """Options of the part `llm`. Raises ConfigError: no data, or a bad share."""
        if not self.data:
            raise ConfigError("the config names no data; set [options.data] to the folder of a data set = weight")
        if not 0 < self.replay_share < 1:
            raise ConfigError(f"replay_share is {self.replay_share}; set a value more than 0 and less than 1")
        named = {f.name for f in fields(LLMOptions)}
        return LLMOptions(**{name: value for name, value in asdict(self).items() if name in named})


class FinetuneRecipe(LLMRecipe):
    def __init__(self, config: TrainConfig) -> None:
        self.tuned = options_of(FinetuneOptions, config)
        self.before: dict[str, float] = {}  # figures of the model that is tuned
        super().__init__(config, self.tuned.as_language())
        if self.folder is not None:
            self.codi2_config = replace(self.codi2_config, heads=locate(self.tuned.model)[0].heads)  # with its prior
            self.restore(self.folder)

    def _data(self) -> tuple[ExampleSet, ExampleSet]:
        """The examples for training, and the held-out examples of the earlier records."""
        options, seed = self.tuned, self.config.seed
        replay = options.replay or {str(SHIPPED): 1.0}
        parts = {
            "own": _divided(options.data, 1 - options.replay_share, options.held_out_share, seed),
            "earlier": _divided(replay, options.replay_share, options.held_out_share, seed),
        }
        encodings = encodings_for(self.codi2_config, self.folder)
        own, earlier = parts["own"][0], parts["earlier"][0]
        self.replayed = sum(map(count, earlier))
        learned = [*own, *balanced(own, earlier)]
        sets = {str(source.folder): 1.0 for source in learned}
        read_stores(encodings, self.codi2_config, replace(self.options, data=sets, held_out={}))
        self.judged = {name: ExampleSet(held, encodings, VALIDATED, None, 1) for name, (_, held) in parts.items()}
        self.own = ExampleSet(own, encodings, 1, None, seed)
        self.drawn = ExampleSet(learned, encodings, self.config.batch_size, None, seed)
        return self.drawn, self.judged["earlier"]

    @cached_property
    def held_out(self) -> dict[str, list[TrainingExample]]:
        """`own/TASK` or `earlier/TASK` → examples."""
        return {
            f"{name}/{task}": examples
            for name, judged in self.judged.items()
            for task, examples in held_out_by_task(judged).items()
        }

    def begin(self, steps: range, share: Share) -> None:
        """Encodes the media of the steps, and prints the numbers of records and the expected time."""
        self._encode(steps)
        seconds, start = self._seconds(steps, share), time.monotonic()
        if share.index:
            return
        if steps.start == 0:  # a resumed run cannot compute them
            self.model.eval()
            self.before = self.validate()
        seconds_in_all = len(steps) * seconds + time.monotonic() - start  # with a validation at the end
        own, earlier = (self.judged[name].mixture.total for name in ("own", "earlier"))
        learned, minutes = self.own.mixture.total, max(1, round(seconds_in_all / 60))
        print(
            f"codi2: {len(steps)} steps of {seconds:.1f} s, about {minutes} min: {learned} of your records are learned "
            f"and {own} held out; {self.replayed} earlier ones are replayed in "
            f"{self.tuned.replay_share:.2g} of the samples and {earlier} held out",
            file=sys.stderr,
            flush=True,
        )

    def _encode(self, steps: range) -> None:
        held_out = [example for examples in self.held_out.values() for example in examples]
        pieces = [piece for example in (*self.drawn.of_steps(steps), *held_out) for piece in example.pieces]
        encodings, device = self.examples.encodings, device_of(self.mllm.input_projection)
        missing = [piece for piece, value in zip(pieces, encodings.known(pieces), strict=True) if value is None]
        unique = list(dict.fromkeys(missing))
        title = f"encoding {len(unique)} media and texts, {BATCH} at a time"
        for start in tracked(range(0, len(unique), BATCH), title):
            encodings.encode_on(device, unique[start : start + BATCH])

    def _seconds(self, steps: range, share: Share) -> float:
        """Seconds of a step, from passes that do not change the model."""
        device, passes = device_of(self.mllm.input_projection), []
        self.model.train()
        for step in steps[: TIMED + 1]:
            start = time.monotonic()
            self.losses(self.model, moved(self.batch(step, share), device))["loss"].backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # kernels run asynchronously
            passes.append(time.monotonic() - start)
        self.model.zero_grad(set_to_none=True)
        timed = passes[1:] or passes
        return sum(timed) / len(timed) * self.config.accumulate

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.examples.provenance(), "held_out_share": self.tuned.held_out_share}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """A whole model, with the prior of the tuned model as it is."""
        super().export(folder, provenance | {"figures_before": self.before})
        for name, value in provenance["figures"].items():
            before = f"{self.before[name]:.3f} → " if name in self.before else ""
            print(f"codi2: held out, {name}: {before}{value:.3f}", file=sys.stderr, flush=True)


def _divided(
    sets: Mapping[str, float], share: float, held_out: float, seed: int
) -> tuple[list[MixturePart], list[MixturePart]]:
    """Divides sets into training sources, which are `share` of the samples, and held-out sources."""
    total = sum(sets.values())
    parts = [
        hold_out(MixturePart(find_set(name), weight / total * share), held_out, seed) for name, weight in sets.items()
    ]
    return [learned for learned, _ in parts], [held for _, held in parts]


def count(source: MixturePart) -> int:
    """Number of records of a source."""
    return sum(len(numbers) for _, _, numbers in source.shards())


def balanced(own: list[MixturePart], earlier: list[MixturePart]) -> list[MixturePart]:
    """The earlier sources. Two thirds of their samples have the user's tasks, in the same shares, as the answers to
    these tasks change most; the others are drawn from all records.
    """
    shares: dict[str, float] = {}
    for source in own:
        for task, part in by_task(source).items():
            shares[task] = shares.get(task, 0) + source.weight * count(part) / count(source)
    sources = []
    for source in earlier:
        parts = {task: part for task, part in by_task(source).items() if shares.get(task, 0) > RARE}
        total = sum(shares[task] for task in parts)
        sources.append(replace(source, weight=source.weight * (1 - ALIKE * bool(parts))))
        sources += [replace(part, weight=source.weight * ALIKE * shares[task] / total) for task, part in parts.items()]
    return sources


def build(config: TrainConfig) -> FinetuneRecipe:
    return FinetuneRecipe(config)
