"""`caption` and `perceive`: text answers about pictures and sounds, beside the true ones and among 80."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from codi2.data.record import decode_pieces
from codi2.data.tasks.sampler import TaskSampler
from codi2.data.tasks.texts import difference
from codi2.evaluate.case import Case, System
from codi2.evaluate.cider import cider
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Figure, Findings, known, mean
from codi2.evaluate.suites.answers import ours
from codi2.prompt.parts import Part, Phrase, Text

NUMBER, EXAMPLES = 80, 12
TOP, AMONG = 5, 80
CAPTIONS = {"image": 0.65, "audio": 0.4}  # least share of captions with the true one in the top 5
REQUESTS = {"image": ("Describe ", "."), "audio": ("Say what ", " is."), "video": ("Describe ", ".")}
CHANGES = 60


def caption_cases(context: EvalContext) -> list[Case]:
    """Held-out renderings of known concepts, and held-out recordings and clips."""
    cases = []
    for modality, (before, after) in REQUESTS.items():
        for i, item in enumerate(context.draw(modality, "test_rendering", context.count(NUMBER))):
            prompt = (Text(before), context.part(item), Text(after))
            truth = {"target": Text(item.caption), "source": context.part(item)}
            cases.append(Case(f"{modality}-{i:03d}", prompt, "text", truth, modality))
    return cases


def perceive_cases(context: EvalContext) -> list[Case]:
    """Two held-out media, the second an edit of the first: what changed?"""
    cases = []
    for modality in ("image", "audio"):
        sampler = TaskSampler(context.corpus, context.splits("test_family", "test_rendering"))
        task = difference(modality)
        for i in range(context.count(CHANGES)):
            turns = task(sampler, np.random.default_rng((context.seed, 9, i))).turns
            prompt, (target,) = (decode_pieces(pieces) for _, pieces in turns)
            source = next(part for part in prompt if part.modality == modality)
            cases.append(Case(f"{modality}-{i:03d}", prompt, "text", {"target": target, "source": source}, modality))
    return cases


def of_another(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The answer of the next case: fluent words about something else."""
    return [cases[(i + 1) % len(cases)].target for i in range(len(cases))]


SYSTEMS: dict[str, System] = {"ours": ours, "the true answer to another question": of_another}


def score(name: str) -> Callable[[EvalContext, Sequence[Case], Mapping[str, Sequence[Part]]], Findings]:
    """CIDEr, and whether the answer is nearest to its own truth: top 5 of at most 80, by MiniLM's sentence vectors."""

    def measure(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
        main, *others = outputs
        figures: list[Figure] = []
        for modality in dict.fromkeys(case.group for case in cases):
            rows = [i for i, case in enumerate(cases) if case.group == modality]
            truth = [_words(cases[i].target) for i in rows]
            texts = {system: [_words(parts[i]) for i in rows] for system, parts in outputs.items()}
            scores = {system: cider(words, truth) for system, words in texts.items()}
            beside = {system: scores[system] for system in others}
            figures.append(mean(f"{name} of {modality}: CIDEr", scores[main], beside, seed=context.seed))
            hits = {system: among(context, words, truth) < TOP for system, words in texts.items()}
            size = min(AMONG, len(truth))
            top = mean(
                f"{name} of {modality}: the true one in the top {TOP} of {size}",
                hits[main],
                {system: hits[system] for system in others},
                seed=context.seed,
            )
            top = top.beside(chance=known("chance", min(1.0, TOP / size)))
            least = CAPTIONS.get(modality) if name == "caption" else None
            figures.append(top if least is None else top.judged(f"≥ {least:g}", top.value >= least))
        examples = [
            Example(case.id, case.prompt, {"target": case.target, **{s: parts[i] for s, parts in outputs.items()}})
            for i, case in enumerate(cases)
            if i % max(1, len(cases) // EXAMPLES) == 0
        ]
        return Findings(figures, examples)

    return measure


def among(context: EvalContext, texts: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """How many of at most 80 true answers are nearer to an answer than its own: int [n]. Equal answers are one."""
    vectors = context.cached(("words", tuple(truth)), lambda: _sentences(context, truth))
    answers = _sentences(context, texts)
    cosines = (answers @ vectors.T).numpy()
    draw, ranks = np.random.default_rng(context.seed), []
    for i, row in enumerate(cosines):
        others = np.array([j for j in range(len(truth)) if truth[j] != truth[i]], dtype=int)
        rivals = draw.choice(others, min(AMONG - 1, len(others)), replace=False) if len(others) else others
        ranks.append(int((row[rivals] > row[i]).sum()))
    return np.array(ranks)


def _sentences(context: EvalContext, texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors [n, C] of a sentence encoder that is no part of the language model."""
    from codi2.encode.trunks import load_trunk

    trunk = context.cached("sentences", lambda: load_trunk("phrase"))
    with torch.inference_mode():
        return torch.nn.functional.normalize(trunk([text or "nothing" for text in texts])[:, 0], dim=-1)


def _words(part: Part) -> str:
    assert isinstance(part, (Text, Phrase))
    return part.text.strip().rstrip(".").lower()
