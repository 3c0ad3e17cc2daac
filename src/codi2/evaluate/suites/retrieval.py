"""`retrieval`: recall of held-out items in the encoder's joint space. No language model takes part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from codi2.errors import DataError
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure, Findings, known
from codi2.metrics.retrieval import recall_at
from codi2.prompt.parts import Part, Phrase

CANDIDATES, TOP = 100, 5
ALL = 10_000  # items: more than any split has


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Text → image, and audio → image where a concept has both."""
    figures = []
    for split, name in (("test_rendering", "known concepts, held-out renderings"), ("test_family", "unseen concepts")):
        items = context.draw("image", split, context.count(ALL))
        queries = _joint(context, [Phrase(item.caption) for item in items])
        pictures = _joint(context, [context.part(item) for item in items])
        figures.append(_recall(f"text → image, {name}", queries, pictures, context.seed))
    return Findings([*figures, _from_sounds(context)])


def _from_sounds(context: EvalContext) -> Figure:
    """Audio → image: held-out recordings against a picture of each concept that has both.

    A held-out picture stands for its concept where there is one. Pictures of further concepts complete the candidates.
    """
    pictures = {item.concept: item for item in context.shuffled(context.corpus.select(modality="image", split="train"))}
    held_out = [item for split in ("test_rendering", "test_family") for item in context.draw("image", split, ALL)]
    pictures |= {item.concept: item for item in held_out}
    sounds = context.draw("audio", "test_rendering", ALL)
    sounds = [sound for sound in sounds if sound.concept in pictures][: context.count(ALL)]
    if not sounds:
        raise DataError("the corpus holds no held-out sound of a concept that is also pictured")
    concepts = {sound.concept for sound in sounds}
    more = [item for item in held_out if item.concept not in concepts]
    gallery = [pictures[sound.concept] for sound in sounds] + more[: max(0, CANDIDATES - len(sounds))]
    queries, candidates = (_joint(context, [context.part(item) for item in items]) for items in (sounds, gallery))
    return _recall("audio → image, concepts that have both", queries, candidates, context.seed)


def _joint(context: EvalContext, parts: Sequence[Part]) -> Tensor:
    """Joint vectors [n, D]."""
    return context.encode(parts)[:, 0].cpu()


def _recall(name: str, queries: Tensor, gallery: Tensor, seed: int) -> Figure:
    recall = recall_at(TOP, queries, gallery, CANDIDATES, seed=seed)
    chance = {"chance": known("chance", min(1.0, recall["chance"]))}
    title = f"{name}: R@{TOP} among {min(CANDIDATES, len(gallery))}"
    return Figure(title, recall["mean"], recall["low"], recall["high"], int(recall["n"]), baselines=chance)
