"""The suite `prior`: sampled features against those that the language model regresses, and what needs no training.

Letters: n answers, K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import torch

from codi2.data import cache
from codi2.data.edits import HeldOut
from codi2.data.record import Record
from codi2.data.tasks import TaskSampler, to_record
from codi2.data.tasks.edits import instructed, shown
from codi2.data.tasks.sampler import Task
from codi2.errors import WeightsError
from codi2.evaluate.bench import BATCH, Bench
from codi2.evaluate.figure import Figure, Findings, known, mean
from codi2.evaluate.judge import ranks, similarity
from codi2.evaluate.suites.pictures import CANDIDATES, TOP
from codi2.evaluate.suites.smoke import Plan
from codi2.heads.prior import cosine, guesses
from codi2.llm.decode import FeatureSegment
from codi2.llm.sampled import context_of, items_read
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Image, Part, Prompt, Text

SEEDS = 4
WORDS, EDITS = 60, 60  # captions; edits of each kind
SPLITS = {"image": ("test_family",), "audio": ("test_family", "test_rendering")}
"""Held-out families are few among sounds."""
DRAWS = 91  # seed of the edits
UNLIKE = 0.85  # pictures of two seeds are at most so alike


def from_words(bench: Bench, split: str, n: int, bar: float) -> Findings:
    """Pictures of captions, each with `SEEDS` seeds: whether the concept is seen, and how much the seeds differ."""
    _needs_prior(bench.model)
    gallery = bench.draw("image", split, CANDIDATES)
    items = gallery[: bench.count(n)]
    prompts: list[Prompt] = [(Text(f"Draw {item.caption}."),) for item in items]
    truth = bench.judge([bench.part(item) for item in gallery])  # type: ignore[misc]
    ours = [_looks(bench, prompts, seed) for seed in range(SEEDS)]
    with without_prior(bench.model):
        theirs = [_looks(bench, prompts, seed) for seed in range(SEEDS)]
    found, regressed = (np.stack([ranks(seen, truth) < TOP for seen in some]) for some in (ours, theirs))
    top = mean(
        f"top-{TOP} among {len(gallery)}, mean of {SEEDS} seeds",
        found.mean(0),
        {"regression": regressed.mean(0)},
        seed=bench.seed,
    )
    top = top.beside(chance=known("chance", min(1.0, TOP / len(gallery)))).judged(f"≥ {bar:g}", top.value >= bar)
    worst = found.mean(1)
    each = known("the same, of the worst seed", float(worst.min()), n=len(items))
    spread, fixed = (
        np.mean([similarity(a, b, bench.centre) for a, b in combinations(some, 2)], axis=0) for some in (ours, theirs)
    )
    alike = mean("EffNet-sim between seeds", spread, {"regression": fixed}, seed=bench.seed)
    return Findings([top, each, alike.judged(f"≤ {UNLIKE:g}", alike.value <= UNLIKE)])


def by_instruction(bench: Bench, modality: str, n: int) -> Findings:
    """Edits of held-out items: of known kinds, of held-out values, of held-out kinds."""
    _needs_prior(bench.model)
    names: dict[HeldOut, str] = {"": "known edits", "values": "held-out values", "kinds": "held-out kinds"}
    return Findings([
        _nearness(bench, name, records(modality, instructed(modality), held_out, bench.count(n)))
        for held_out, name in names.items()
    ])  # fmt: skip


def by_examples(bench: Bench, modality: str, n: int) -> Findings:
    """Edits of held-out items that one or three examples show."""
    _needs_prior(bench.model)
    figures = []
    for count in (1, 3):
        drawn = records(modality, shown(modality, count), "", bench.count(n))
        figures.append(_nearness(bench, f"{count} example{'s' * (count > 1)}", drawn))
    one, three = figures
    gain = known("three examples over one", three.value - one.value, n=three.n)
    return Findings([one, three, gain.judged("above 0", gain.value > 0)])


def records(modality: str, task: Task, held_out: HeldOut, n: int) -> list[Record]:
    """`n` records of a task on items and edits that nothing was trained on."""
    sampler = TaskSampler(cache.corpus(), SPLITS[modality], held_out)
    return [to_record(task(sampler, np.random.default_rng((DRAWS, i))), f"{DRAWS}-{i}") for i in range(n)]


def _nearness(bench: Bench, name: str, drawn: Sequence[Record]) -> Figure:
    """Cosine of sampled features to the true ones, beside regression, arithmetic and a copy."""
    values = [measured(bench, record, DRAWS + i) for i, record in enumerate(drawn)]
    ours = [value.pop("sampled") for value in values]
    rivals = {key: [value[key] for value in values] for key in values[0]}
    figure = mean(f"{name}: cosine to the true features", ours, rivals, seed=bench.seed)
    bar = "arithmetic" if "arithmetic" in rivals else "copy"
    ahead = figure.baselines[bar].ahead
    return figure.judged(f"above {bar}, beyond the interval", ahead is not None and ahead[0] > 0)


@torch.no_grad()
def measured(bench: Bench, record: Record, seed: int) -> dict[str, float]:
    """The cosines of one answer."""
    model, (*asked, said) = bench.model, record.messages()
    (target,) = said.parts
    reading = model.read([asked])[0]
    options = Options(want=target.modality, seed=seed, max_new_tokens=0)
    sampled = _features(model, reading, options)
    with without_prior(model):
        regressed = _features(model, reading, options)
    slots = len(sampled.features)
    truth = model.encode([target])[:, :slots].float()
    assert sampled.states is not None
    context = context_of(sampled.states, target.modality, items_read(reading), 12, max(slots, _widest(model)))
    found = {"sampled": sampled.features, "regression": regressed.features}
    found |= guesses(context, 0, pairs=record.task.startswith("analogy"))
    return {name: float(cosine(features[None].float(), truth)) for name, features in found.items()}


@contextmanager
def without_prior(model: CoDi2) -> Iterator[None]:
    """While it lasts, decoders get the features that the language model regresses."""
    prior, model.prior = model.prior, None
    try:
        yield
    finally:
        model.prior = prior


def _features(model: CoDi2, reading: Any, options: Options) -> FeatureSegment:
    (segments,) = model.write([reading], [options])
    return next(segment for segment in segments if isinstance(segment, FeatureSegment))


def _looks(bench: Bench, prompts: Sequence[Prompt], seed: int) -> torch.Tensor:
    """The judge's features [n, C] of the model's pictures."""
    made: list[Part] = []
    for start in range(0, len(prompts), BATCH):
        some = [[Message("user", prompt)] for prompt in prompts[start : start + BATCH]]
        options = [Options(want="image", seed=1000 * seed + start + i, max_new_tokens=0) for i in range(len(some))]
        made += [next(p for p in reply.parts if isinstance(p, Image)) for reply in bench.model.answer(some, options)]
    return bench.judge(made)  # type: ignore[arg-type]


def _widest(model: CoDi2) -> int:
    """The most features of an item."""
    return max(model.config.encoder.num_features.values())


def _needs_prior(model: CoDi2) -> None:
    """Raises WeightsError: there is nothing to compare."""
    if model.prior is None:
        raise WeightsError(f"the model {model.config.name!r} has no prior; name one whose config has heads.prior")


BY_WORDS = "Held-out items. The cosine is of all features together; a copy is of the given item's features."
BY_PAIRS = "Held-out items, no instruction; arithmetic adds the mean difference of the examples to the given item."

PRIOR = (
    Plan(
        "Pictures from words, known concepts",
        f"Held-out renderings of known concepts, {SEEDS} seeds each. EfficientNet-Lite2 judges; regression draws the "
        "same captions from the features that the language model regresses.",
        lambda bench: from_words(bench, "test_rendering", WORDS, 0.6),
    ),
    Plan(
        "Pictures from words, unseen concepts",
        "Concepts of which training showed nothing.",
        lambda bench: from_words(bench, "test_family", WORDS, 0.25),
    ),
    Plan("Edits of pictures by instruction", BY_WORDS, lambda bench: by_instruction(bench, "image", EDITS)),
    Plan("Edits of sounds by instruction", BY_WORDS, lambda bench: by_instruction(bench, "audio", EDITS)),
    Plan("Edits of pictures by examples", BY_PAIRS, lambda bench: by_examples(bench, "image", EDITS)),
    Plan("Edits of sounds by examples", BY_PAIRS, lambda bench: by_examples(bench, "audio", EDITS)),
)
