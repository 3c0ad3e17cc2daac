"""The joint space and what the language model regresses in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codi2.errors import DataError
from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Example, Figure, Findings, known, mean
from codi2.evaluate.judge import similarity
from codi2.evaluate.suites.analogies import EXAMPLES, analogies_of
from codi2.evaluate.suites.from_words import captions
from codi2.metrics.retrieval import recall_at
from codi2.prompt.parts import Phrase, Prompt, Text

CANDIDATES, TOP = 100, 5


def retrieval(bench: Bench) -> Findings:
    """Recall of held-out items in the encoder's joint space: text → image, and audio → image where both exist."""
    figures = []
    for split, name in (("test_rendering", "known concepts, held-out renderings"), ("test_family", "unseen concepts")):
        items = bench.draw("image", split, bench.count(10_000))
        words = bench.encode([Phrase(item.caption) for item in items])[:, 0]
        figures.append(_recall(f"text → image, {name}", words, bench.joint(items), bench.seed))
    return Findings([*figures, heard(bench)])


def heard(bench: Bench) -> Figure:
    """Audio → image: held-out recordings against a picture of each concept that is both heard and seen.

    A held-out picture stands for its concept where there is one. Pictures of further concepts fill the gallery up.
    """
    pictures = {item.concept: item for item in bench.shuffled(bench.corpus.select(modality="image", split="train"))}
    held = [item for split in ("test_rendering", "test_family") for item in bench.draw("image", split, 10_000)]
    pictures |= {item.concept: item for item in held}
    sounds = bench.draw("audio", "test_rendering", 10_000)
    sounds = [sound for sound in sounds if sound.concept in pictures][: bench.count(10_000)]
    if not sounds:
        raise DataError("the corpus holds no held-out sound of a concept that is also pictured")
    asked = {sound.concept for sound in sounds}
    more = [item for item in held if item.concept not in asked]
    gallery = [pictures[sound.concept] for sound in sounds] + more[: max(0, CANDIDATES - len(sounds))]
    return _recall("audio → image, concepts that have both", bench.joint(sounds), bench.joint(gallery), bench.seed)


def _recall(name: str, queries: Tensor, gallery: Tensor, seed: int) -> Figure:
    found = recall_at(TOP, queries.cpu(), gallery.cpu(), CANDIDATES, seed=seed)
    chance = {"chance": known("chance", min(1.0, found["chance"]))}
    title = f"{name}: R@{TOP} among {min(CANDIDATES, len(gallery))}"
    return Figure(title, found["mean"], found["low"], found["high"], int(found["n"]), baselines=chance)


def picture_features(bench: Bench, drawn: int, shown: int) -> Findings:
    """Predicted against true features of pictures, and what the decoder makes of either."""
    bench.decoder("image")
    slots = bench.num_slots("image")
    drawn_, asked = captions(bench, "test_rendering", bench.count(drawn), seeds=1), analogies_of(bench, shown)
    prompts, targets = [case.prompt for case in drawn_], [case.target for case in drawn_]
    predicted, true = bench.think(prompts, "image"), bench.encode(targets)[:, :slots]
    goals = bench.encode([bench.part(case.target) for case in asked.cases])[:, :slots]
    pictures = {name: bench.decode(told, prompts, "image") for name, told in (("predicted", predicted), ("true", true))}
    truth = bench.see(targets)
    near = {name: similarity(bench.see(parts), truth, bench.centre) for name, parts in pictures.items()}
    quality = mean(
        "caption → image: EffNet-sim with predicted features",
        near["predicted"],
        {"true features": near["true"]},
        seed=bench.seed,
    )
    examples = [
        Example(
            case.about["words"], case.prompt, {"target": case.target, "predicted features": ours, "true features": best}
        )
        for case, ours, best in zip(drawn_, pictures["predicted"], pictures["true"], strict=True)
    ]
    figures = [
        *_compared("caption → image", predicted, true, bench.seed),
        *_compared("analogy", asked.features, goals, bench.seed),
        quality,
    ]
    return Findings(figures, examples[:EXAMPLES])


def sound_features(bench: Bench, n: int) -> Findings:
    """Predicted against true features of held-out sounds, asked for by caption."""
    sounds = [bench.part(item) for item in bench.draw("audio", "test_rendering", bench.count(n))]
    prompts: Sequence[Prompt] = [(Text(f"Make the sound of {sound.name}."),) for sound in sounds]
    predicted, true = bench.think(prompts, "audio"), bench.encode(sounds)[:, : bench.num_slots("audio")]
    return Findings(_compared("caption → sound", predicted, true, bench.seed))


def _compared(name: str, predicted: Tensor, true: Tensor, seed: int) -> list[Figure]:
    """Norm and direction of joint vectors, from features [n, K, D]."""
    ours, truth = predicted[:, 0].cpu(), true[:, 0].cpu()
    norms = mean(f"{name}: norm, predicted", ours.norm(dim=-1), {"true": truth.norm(dim=-1)}, seed=seed)
    strangers = torch.cosine_similarity(truth, truth.roll(1, 0), dim=-1)
    cosine = torch.cosine_similarity(ours, truth, dim=-1)
    return [norms, mean(f"{name}: cosine, predicted and true", cosine, {"two true ones": strangers}, seed=seed)]
